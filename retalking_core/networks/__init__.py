"""nn.Module only, one architecture a file."""
