"""How the service is put on machines: manifests, and the trial that builds and runs the images without Docker."""
