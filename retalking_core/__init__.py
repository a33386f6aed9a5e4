"""The lip-sync pipeline as a pure library: paths in, paths out. Knows no server."""

__version__ = "0.1.0"
