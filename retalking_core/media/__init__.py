"""Decode, time and encode pictures and sound (PyAV)."""
