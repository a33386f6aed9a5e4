"""How good is a result: metrics with direction, range and source."""
