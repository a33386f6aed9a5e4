"""What `make check` asks beyond style and imports: secrets in the repository, and the state of the dependencies."""
