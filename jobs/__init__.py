"""The contract between the processes: Job, store, objects, queue names, settings."""
