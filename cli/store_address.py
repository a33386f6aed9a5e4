"""Where the job store of the service is, for commands that work on it directly."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from cli.stack.redis_server import running_url
from jobs.settings import Settings
from retalking_client.cli.failures import EXIT_USAGE, CommandError


def store_settings(data: Path | None) -> Settings:
    """The settings; their Redis is the one that is configured, else the embedded one of a data folder, if it runs.

    data: the folder that was asked for by name: then it is that one or none.
    """
    settings = Settings()
    if data is None and "redis_url" in settings.model_fields_set:
        return settings
    folder = (data or settings.data_dir).expanduser()
    url = running_url(folder / "redis")
    if url is None:
        raise CommandError(
            "store_not_found",
            f"No `retalking up` runs on {folder}: start it, pass its folder with --data, or set RETALKING_REDIS_URL.",
            EXIT_USAGE,
        )
    return settings.model_copy(update={"redis_url": SecretStr(url), "data_dir": folder})
