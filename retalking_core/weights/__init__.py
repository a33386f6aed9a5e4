"""Weight files: the table of them, fetching, checking, loading, and synthetic stand-ins."""
