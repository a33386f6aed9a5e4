"""`retalking up`: the whole service on this machine, until Ctrl-C."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from cli.extras import MissingExtraError
from retalking_client.cli.common import EXIT_USAGE, CommandError

_LOOPBACK = ("127.", "localhost", "::1")


def up(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all of this machine")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the API; 0: any free one")] = 8000,
    data: Annotated[
        Path | None, typer.Option(help="Folder of queue, inputs and results  [default: RETALKING_DATA_DIR, else data]")
    ] = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Allow everyone who can reach the host, without API keys")
    ] = False,
) -> None:
    """Run Redis, a render worker, a webhook worker and the API, and restart what dies. Ctrl-C stops all of them.

    RETALKING_REDIS_URL and RETALKING_S3_BUCKET (in the environment or in .env) replace the embedded servers. Queued
    jobs survive a restart.
    """
    try:
        from cli.stack.embedded import StoppedError, catch_signals, open_stack
        from cli.stack.processes import StackAddress
        from jobs.settings import Settings
    except ImportError as error:
        raise MissingExtraError("embedded", error.name) from error

    console = Console(stderr=True)
    settings = Settings()
    _require_keys_or_consent(host, settings.require_keys or without_keys)
    folder = (data or settings.data_dir).expanduser()
    redis_url = settings.redis_url.get_secret_value() if "redis_url" in settings.model_fields_set else None
    with catch_signals() as stop:
        try:
            with open_stack(settings, StackAddress(host, port), folder, stop, console.print, redis_url) as stack:
                _set_up_log(console, stack.folder / "logs" / "up.log")
                _print_address(console, stack.address.url, stack.folder, settings.require_keys)
                if settings.require_keys:
                    _create_first_key(console, folder if redis_url is None else None)
                stack.supervise(until=lambda: False)
        except StoppedError:
            console.print("Stopped. Queued jobs are kept.")


def _require_keys_or_consent(host: str, is_decided: bool) -> None:
    """Faces and voices are personal data, and a GPU costs money: opening them to a network must be explicit."""
    if not is_decided and not host.startswith(_LOOPBACK):
        raise CommandError(
            "keys_required",
            f"Others can reach {host}, and calls need no API key. Set RETALKING_REQUIRE_KEYS=true, or pass "
            "--without-keys if a proxy authenticates callers, or if everyone may use the service.",
            EXIT_USAGE,
        )


def _create_first_key(console: Console, data: Path | None) -> None:
    """Without any key nobody could call the service, so create one with the scope admin."""
    from cli.keys import make_key
    from cli.stack.redis_server import store_settings
    from jobs.opening import open_store
    from jobs.store.keys import Scope

    store = open_store(store_settings(data))
    if any(key.is_valid for key in store.keys.all()):
        return
    text = make_key(store, "first", frozenset({Scope.ADMIN}))
    console.print("\nThe first API key (scope admin), shown only once. `retalking keys` creates others:")
    typer.echo(text)


def _print_address(console: Console, url: str, folder: Path, needs_key: bool) -> None:
    console.print(
        f"[bold green]Ready[/] at [bold]{url}[/]  (console {url}/  API docs {url}/docs)",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"Logs and data: {folder}", highlight=False, soft_wrap=True, markup=False)
    console.print("\nTry it:\n")
    # stdout, unwrapped: for copying.
    key = "-H 'Authorization: Bearer rtk_...' " if needs_key else ""
    typer.echo(f"curl {key}-F video=@face.mp4 -F audio=@speech.wav {url}/jobs")
    console.print("\nCtrl-C stops everything.")


def _set_up_log(console: Console, path: Path) -> None:
    """Log restarts by the supervisor to the terminal and to a file."""
    to_file = logging.FileHandler(path)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("cli")
    logger.setLevel(logging.INFO)
    logger.handlers = [to_file, RichHandler(console=console, show_path=False)]
    logger.propagate = False
