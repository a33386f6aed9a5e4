"""Weight files: table, fetching, verification, loading, synthetic checkpoints."""
