"""The commands that talk to a service over HTTP. The service's own `retalking` command mounts the same ones."""
