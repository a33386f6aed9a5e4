"""The embedded stack: Redis, workers and API as supervised processes on one machine."""
