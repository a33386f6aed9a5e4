"""Find, follow and align faces."""
