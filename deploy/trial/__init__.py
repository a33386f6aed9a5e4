"""Builds the Dockerfiles in clean Debian roots and runs the compose file's services from them: `deploy/try-images`.

The Dockerfiles and docker-compose.yml are read, not repeated: what is tried is what stands there.
"""
