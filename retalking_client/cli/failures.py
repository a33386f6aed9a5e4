"""Errors that end a command: a stable code, one sentence and an exit code. `exit_on_error` prints them once."""

from __future__ import annotations

EXIT_FAILED = 1
"""The job failed, or the request was refused."""
EXIT_USAGE = 2
"""The command line is wrong (also what Typer uses)."""
EXIT_UNAVAILABLE = 3
"""A service is unreachable, or a part of the embedded stack did not start."""
EXIT_DENIED = 4
"""The service wants an API key (RETALKING_API_KEY), or this key lacks the permission."""


class CommandError(Exception):
    """Ends a command. code: stable name, from the public table if the service sent it; message: what to do now."""

    def __init__(self, code: str, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.exit_code = exit_code
