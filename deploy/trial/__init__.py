"""Tries the images, the compose file and the README's first commands with podman on roots made by debootstrap.

Podman takes the place of Docker: it needs no daemon and runs as root in a machine that is a container itself.
"""
