"""How a command says no: a stable name, one sentence, and an exit code. Printed once, by `cli.main`."""

from __future__ import annotations

EXIT_FAILED = 1
"""The job failed, or the request was refused."""
EXIT_USAGE = 2
"""The command line is wrong (also what Typer uses)."""
EXIT_UNAVAILABLE = 3
"""A service could not be reached, or a part of the embedded stack could not be started."""
EXIT_DENIED = 4
"""The service wants an API key (RETALKING_API_KEY), or this one may not do that."""


class CommandError(Exception):
    """Ends a command. code: stable name, from the public table where the service said it; message: what to do now."""

    def __init__(self, code: str, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.exit_code = exit_code


class MissingExtraError(CommandError):
    """An import failed because an optional part of the package is not installed."""

    def __init__(self, extra: str, module: str | None) -> None:
        super().__init__(
            "extra_missing",
            f"This command needs the `{extra}` extra ({module} is missing): pip install 'retalking[{extra}]'",
            EXIT_USAGE,
        )
