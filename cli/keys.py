"""`retalking keys`: who may call the service. Works on the job store itself, so it needs no key."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from cli.extras import MissingExtraError
from jobs.models import MAX_PRIORITY, USUAL_PRIORITY
from jobs.store import JobStore, KeyNotFoundError
from jobs.store.keys import ApiKey, Scope, digest_of, is_key_id, key_id_of, new_key_text
from retalking_client.cli.failures import EXIT_UNAVAILABLE, EXIT_USAGE, CommandError

if TYPE_CHECKING:
    from jobs.settings import Settings

T = TypeVar("T")
app = typer.Typer(help="API keys: create, list, revoke; the secrets that sign their webhooks.", no_args_is_help=True)

DataOption = Annotated[
    Path | None,
    typer.Option(help="Data folder of a `retalking up` that runs now  [default: RETALKING_DATA_DIR, else data]"),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, for people")],
    scope: Annotated[
        list[str] | None, typer.Option(help="submit, read or admin; may be repeated  [default: submit and read]")
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, max=60000, help="Instead of RETALKING_REQUESTS_PER_MINUTE")
    ] = None,
    live_jobs: Annotated[int | None, typer.Option(min=1, help="Instead of RETALKING_LIVE_JOBS_PER_KEY")] = None,
    max_priority: Annotated[
        int, typer.Option(min=0, max=MAX_PRIORITY, help="Most urgent priority that its jobs may have")
    ] = USUAL_PRIORITY,
    stored_bytes: Annotated[
        int | None, typer.Option(min=1024, help="Instead of RETALKING_STORED_BYTES_PER_KEY")
    ] = None,
    data: DataOption = None,
) -> None:
    """Make a key. It is printed once, on stdout, and can not be shown again: only its hash is kept."""
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise CommandError("invalid_name", "A name has 1 to 100 printable characters.", EXIT_USAGE)
    scopes = _scopes(scope or ["submit", "read"])
    text = make_key(_open(data), name, scopes, requests_per_minute, live_jobs, max_priority, stored_bytes)
    Console(stderr=True).print("The key, which is shown this once; send it as `Authorization: Bearer ...`:")
    typer.echo(text)


@app.command(name="list")
def show(data: DataOption = None) -> None:
    """All keys, oldest first. Never their secret part."""
    titles = ("id", "name", "scopes", "requests/min", "live jobs", "stored bytes", "max priority", "created", "revoked")
    table = Table(*titles, box=None)
    for key in _call(_open(data).keys.all):
        limits = (
            str(limit) if limit else "usual" for limit in (key.requests_per_minute, key.live_jobs, key.stored_bytes)
        )
        moments = (f"{at:%Y-%m-%d %H:%M}" if at else "" for at in (key.created_at, key.revoked_at))
        table.add_row(key.id, key.name, ", ".join(sorted(key.scopes)), *limits, str(key.max_priority), *moments)
    (Console() if sys.stdout.isatty() else Console(width=200)).print(table)  # in a pipe no cell is cut


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `retalking keys list` shows it")],
    data: DataOption = None,
) -> None:
    """End a key, from the next request on. Its jobs go on, and an admin key still sees them."""
    store = _open(data)
    try:
        if not is_key_id(key_id):
            raise KeyNotFoundError(key_id)
        key = _call(lambda: store.keys.revoke(key_id))
    except KeyNotFoundError:
        raise CommandError("key_not_found", "There is no key with this id: see `retalking keys list`.") from None
    typer.echo(f"{key.id}  {key.name}  revoked")


@app.command(name="webhook-secret")
def webhook_secret(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `retalking keys list` shows it")],
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new one")] = False,
    overlap_s: Annotated[
        int, typer.Option(min=0, max=7 * 86400, help="How long the secret until now signs beside the new one")
    ] = 86400,
    data: DataOption = None,
) -> None:
    """Print the secret that signs the webhooks of a key's jobs; while it is rotated, the one before on a second line.

    Needs the RETALKING_WEBHOOK_SECRET of the service, or its data folder: the secrets of keys are derived from it."""
    store, settings = _open(data), _settings(data)
    is_known = settings.webhook_secret.get_secret_value() or (settings.data_dir / "secrets" / "webhook_secret").exists()
    if not is_known:  # one that was made here and now would be another than the service has
        message = "Set RETALKING_WEBHOOK_SECRET as the service has it, or pass its data folder with --data."
        raise CommandError("webhook_secret_unknown", message, EXIT_USAGE)
    if not is_key_id(key_id) or _call(lambda: store.keys.find(key_id)) is None:
        raise CommandError("key_not_found", "There is no key with this id: see `retalking keys list`.")
    rotated = partial(store.webhooks.rotate_secret, key_id, overlap_s)
    state = _call(rotated if rotate else partial(store.webhooks.secret_state, key_id))
    from jobs.signing import WebhookSecrets

    for secret in WebhookSecrets(settings, store.webhooks.secret_state).at(key_id, state):
        typer.echo(secret)


def make_key(
    store: JobStore,
    name: str,
    scopes: frozenset[Scope],
    requests_per_minute: int | None = None,
    live_jobs: int | None = None,
    max_priority: int = USUAL_PRIORITY,
    stored_bytes: int | None = None,
) -> str:
    """The text of a new key that the store knows from now on."""
    text = new_key_text()
    key = ApiKey(
        id=str(key_id_of(text)),
        name=name,
        digest=digest_of(text),
        scopes=scopes,
        requests_per_minute=requests_per_minute,
        live_jobs=live_jobs,
        max_priority=max_priority,
        stored_bytes=stored_bytes,
        created_at=datetime.now(UTC),
    )
    _call(lambda: store.keys.add(key))
    return text


def _scopes(names: list[str]) -> frozenset[Scope]:
    try:
        return frozenset(Scope(name) for name in names)
    except ValueError:
        known = ", ".join(Scope)
        raise CommandError("invalid_scope", f"A scope is one of {known}.", EXIT_USAGE) from None


def _settings(data: Path | None) -> Settings:
    try:
        from cli.store_address import store_settings
    except ImportError as error:
        raise MissingExtraError("jobs", error.name) from error
    return store_settings(data)


def _open(data: Path | None) -> JobStore:
    try:
        from jobs.opening import open_store
    except ImportError as error:
        raise MissingExtraError("jobs", error.name) from error
    return open_store(_settings(data))


def _call(call: Callable[[], T]) -> T:
    from redis.exceptions import RedisError

    try:
        return call()
    except RedisError as error:
        raise CommandError(
            "service_unreachable",
            f"Redis does not answer ({type(error).__name__}). Set RETALKING_REDIS_URL, or pass --data of a "
            "`retalking up` that runs now.",
            EXIT_UNAVAILABLE,
        ) from None
