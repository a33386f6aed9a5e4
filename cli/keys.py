"""`retalking keys`: API keys of the service. Works on the job store directly, so it needs no key."""

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
from retalking_client.cli.failures import EXIT_UNAVAILABLE, EXIT_USAGE, CommandError

# The job store is imported by the commands themselves: `retalking` also starts where only the client is installed.
if TYPE_CHECKING:
    from jobs.settings import Settings
    from jobs.store import JobStore
    from jobs.store.keys import Scope

T = TypeVar("T")
app = typer.Typer(help="API keys: create, list, revoke; the secrets that sign their webhooks.", no_args_is_help=True)

DataOption = Annotated[
    Path | None,
    typer.Option(help="Data folder of a running `retalking up`  [default: RETALKING_DATA_DIR, else data]"),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is")],
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
    """Create a key. It is printed once, on stdout, and cannot be shown again: only its hash is stored."""
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise CommandError("invalid_name", "A name has 1 to 100 printable characters.", EXIT_USAGE)
    store = _open(data)
    scopes = _scopes(scope or ["submit", "read"])
    text = make_key(store, name, scopes, requests_per_minute, live_jobs, max_priority, stored_bytes)
    Console(stderr=True).print("The API key, shown only once; send it as `Authorization: Bearer ...`:")
    typer.echo(text)


@app.command(name="list")
def show(data: DataOption = None) -> None:
    """List all keys, oldest first, without their secret part."""
    titles = ("id", "name", "scopes", "requests/min", "live jobs", "stored bytes", "max priority", "created", "revoked")
    table = Table(*titles, box=None)
    for key in _call(_open(data).keys.all):
        limits = (
            str(limit) if limit else "default" for limit in (key.requests_per_minute, key.live_jobs, key.stored_bytes)
        )
        moments = (f"{at:%Y-%m-%d %H:%M}" if at else "" for at in (key.created_at, key.revoked_at))
        table.add_row(key.id, key.name, ", ".join(sorted(key.scopes)), *limits, str(key.max_priority), *moments)
    (Console() if sys.stdout.isatty() else Console(width=200)).print(table)  # in a pipe no cell is cut


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `retalking keys list` shows it")],
    data: DataOption = None,
) -> None:
    """Revoke a key, from the next request on. Its jobs continue, and admin keys still see them."""
    store = _open(data)
    from jobs.store import KeyNotFoundError
    from jobs.store.keys import is_key_id

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
    rotate: Annotated[bool, typer.Option("--rotate", help="Create a new one")] = False,
    overlap_s: Annotated[
        int, typer.Option(min=0, max=7 * 86400, help="How long the old secret signs beside the new one")
    ] = 86400,
    data: DataOption = None,
) -> None:
    """Print the secret that signs the webhooks of a key's jobs; during a rotation, the old one on a second line.

    Needs the RETALKING_WEBHOOK_SECRET of the service, or its data folder: the secrets of keys are derived from it."""
    store, settings = _open(data), _settings(data)
    is_known = settings.webhook_secret.get_secret_value() or (settings.data_dir / "secrets" / "webhook_secret").exists()
    if not is_known:  # one created here would differ from that of the service
        message = "Set RETALKING_WEBHOOK_SECRET to the value of the service, or pass its data folder with --data."
        raise CommandError("webhook_secret_unknown", message, EXIT_USAGE)
    from jobs.signing import WebhookSecrets
    from jobs.store.keys import is_key_id

    if not is_key_id(key_id) or _call(lambda: store.keys.find(key_id)) is None:
        raise CommandError("key_not_found", "There is no key with this id: see `retalking keys list`.")
    rotated = partial(store.webhooks.rotate_secret, key_id, overlap_s)
    state = _call(rotated if rotate else partial(store.webhooks.secret_state, key_id))
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
    """Create a key and store it. Returns its text."""
    from jobs.store.keys import ApiKey, digest_of, key_id_of, new_key_text

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
    from jobs.store.keys import Scope

    try:
        return frozenset(Scope(name) for name in names)
    except ValueError:
        known = ", ".join(Scope)
        raise CommandError("invalid_scope", f"A scope is one of {known}.", EXIT_USAGE) from None


def _settings(data: Path | None) -> Settings:
    try:
        from cli.stack.redis_server import store_settings
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
            "running `retalking up`.",
            EXIT_UNAVAILABLE,
        ) from None
