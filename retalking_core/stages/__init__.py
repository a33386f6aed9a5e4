"""A network with its pre- and post-processing, one stage a file."""
