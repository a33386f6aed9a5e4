"""The original's arithmetic, kept for the golden vectors and for `compat=original`."""
