"""Where a result comes from, said in the file itself: C2PA manifests and container tags."""
