"""The `retalking` command."""
