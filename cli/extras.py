"""Error for an optional part of the package that is not installed."""

from __future__ import annotations

from retalking_client.cli.common import EXIT_USAGE, CommandError


class MissingExtraError(CommandError):
    """An import failed because an optional part of the package is not installed."""

    def __init__(self, extra: str, module: str | None) -> None:
        super().__init__(
            "extra_missing",
            f"This command needs the `{extra}` extra ({module} is missing). Run this in the repository: "
            f"pip install '.[{extra}]'",
            EXIT_USAGE,
        )
