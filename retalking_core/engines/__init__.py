"""Engines: a video and a speech track in, a lip-synced video out."""
