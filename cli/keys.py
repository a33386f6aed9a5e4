"""`retalking keys`: accounts of the service, their API keys, and what they used. Works on the job store
directly, so it needs no key."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from cli.extras import MissingExtraError
from jobs.names import MAX_PRIORITY, USUAL_PRIORITY
from retalking_client.cli.common import EXIT_UNAVAILABLE, EXIT_USAGE, CommandError

# The job store is imported by the commands themselves: `retalking` also starts where only the client is installed.
if TYPE_CHECKING:
    from jobs.settings import Settings
    from jobs.store import JobStore
    from jobs.store.keys import Account, Scope

T = TypeVar("T")
app = typer.Typer(
    help="API keys and their accounts: create, list, rotate, revoke; limits, usage, webhook secrets.",
    no_args_is_help=True,
)

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
    account: Annotated[
        str | None, typer.Option(help="Id of the account that the key is for  [default: a new account]")
    ] = None,
    data: DataOption = None,
) -> None:
    """Create a key, with a new account that has the limits given here, or for an existing one.

    It is printed once, on stdout, and cannot be shown again: only its hash is stored."""
    if not 1 <= len(name) <= 100 or not name.isprintable():
        raise CommandError("invalid_name", "A name has 1 to 100 printable characters.", EXIT_USAGE)
    store = _open(data)
    scopes = _scopes(scope or ["submit", "read"])
    limits = (requests_per_minute, live_jobs, stored_bytes)
    if account is not None and limits != (None, None, None):
        message = "An account has its limits already; change them with `retalking keys limits`."
        raise CommandError("limits_of_account", message, EXIT_USAGE)
    with _refusals():
        text = make_key(store, name, scopes, requests_per_minute, live_jobs, max_priority, stored_bytes, account)
    _show_key(text)


@app.command(name="list")
def show(data: DataOption = None) -> None:
    """List all keys, oldest first, without their secret part."""
    titles = ("id", "name", "scopes", "requests/min", "live jobs", "stored bytes", "max priority", "created", "revoked")
    table = Table(*titles, "account", box=None)
    store = _open(data)
    accounts: dict[str, Account | None] = {}
    for key in _call(store.keys.all):
        if key.account not in accounts:
            accounts[key.account] = _call(partial(store.accounts.find, key.account))
        account = accounts[key.account]
        limits = (
            str(limit) if limit else "default"
            for limit in (
                (account.requests_per_minute, account.live_jobs, account.stored_bytes) if account else (None,) * 3
            )
        )
        moments = (f"{at:%Y-%m-%d %H:%M}" if at else "" for at in (key.created_at, key.revoked_at))
        scopes, owner = ", ".join(sorted(key.scopes)), f"{key.account} {account.name if account else '?'}"
        table.add_row(key.id, key.name, scopes, *limits, str(key.max_priority), *moments, owner)
    _print(table)


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `retalking keys list` shows it")],
    overlap_s: Annotated[int, typer.Option(min=0, max=7 * 86400, help="How long the old key stays valid")] = 86400,
    data: DataOption = None,
) -> None:
    """Replace a key by one with the same account and permissions, printed once, on stdout."""
    store = _open(data)
    with _refusals():
        _, text = _call(lambda: store.keys.rotate(key_id, overlap_s))
    _show_key(text)


@app.command()
def limits(
    account: Annotated[str, typer.Argument(help="Id of the account, as `retalking keys list` shows it")],
    requests_per_minute: Annotated[int | None, typer.Option(min=0, max=60000, help="0: the default")] = None,
    live_jobs: Annotated[int | None, typer.Option(min=0, help="0: the default")] = None,
    stored_bytes: Annotated[int | None, typer.Option(min=0, help="At least 1024; 0: the default")] = None,
    data: DataOption = None,
) -> None:
    """Change the limits of an account; those not given stay as they are."""
    given = {"requests_per_minute": requests_per_minute, "live_jobs": live_jobs, "stored_bytes": stored_bytes}
    changes = {name: value or None for name, value in given.items() if value is not None}
    if 0 < (stored_bytes or 0) < 1024:
        raise CommandError("invalid_limit", "--stored-bytes is at least 1024, or 0 for the default.", EXIT_USAGE)
    store = _open(data)
    with _refusals():
        changed = _call(lambda: store.accounts.change(account, **changes))
    values = (f"{name}={getattr(changed, name) or 'default'}" for name in given)
    typer.echo(f"{changed.id}  {changed.name}  {'  '.join(values)}")


@app.command()
def usage(
    months: Annotated[int, typer.Option(min=1, max=24, help="How many, counted from the current one")] = 1,
    data: DataOption = None,
) -> None:
    """What every account used, by month (UTC). An account without an id is that of jobs made without keys."""
    titles = (
        "account",
        "name",
        "month",
        "succeeded",
        "failed",
        "canceled",
        "video s",
        "worker s",
        "GPU s",
        "bytes made",
    )
    table = Table(*titles, "bytes stored now", box=None)
    store = _open(data)
    rows, cursor = [("", "")], None
    while True:
        accounts, cursor = _call(partial(store.accounts.page, after=cursor, limit=1000))
        rows += [(account.id, account.name) for account in accounts]
        if cursor is None:
            break
    totals = _call(lambda: store.usage.months([account for account, _ in rows], months))
    for (account, name), used in zip(rows, totals, strict=True):
        stored = _call(partial(store.uploads.stored_bytes, account)) if account else 0
        for month in used:
            jobs = (month.jobs.succeeded, month.jobs.failed, month.jobs.canceled)
            if account or any(jobs) or month.worker_s:
                seconds = (f"{each:.1f}" for each in (month.video_s, month.worker_s, month.gpu_s))
                numbers = (*map(str, jobs), *seconds, str(month.result_bytes), str(stored))
                table.add_row(account, name, month.month, *numbers)
    _print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `retalking keys list` shows it")],
    data: DataOption = None,
) -> None:
    """Revoke a key, from the next request on. Its jobs continue, and stay with the account."""
    store = _open(data)
    with _refusals():
        key = _call(lambda: store.keys.revoke(key_id))
    typer.echo(f"{key.id}  {key.name}  revoked")


@app.command(name="webhook-secret")
def webhook_secret(
    key_id: Annotated[str, typer.Argument(help="Id of a key of the account, as `retalking keys list` shows it")],
    rotate: Annotated[bool, typer.Option("--rotate", help="Create a new one")] = False,
    overlap_s: Annotated[
        int, typer.Option(min=0, max=7 * 86400, help="How long the old secret signs beside the new one")
    ] = 86400,
    data: DataOption = None,
) -> None:
    """Print the secret that signs the webhooks of an account's jobs; during a rotation, the old one on a second line.

    Needs the RETALKING_WEBHOOK_SECRET of the service, or its data folder: those of accounts are derived from it."""
    store, settings = _open(data), _settings(data)
    is_known = settings.webhook_secret.get_secret_value() or (settings.data_dir / "secrets" / "webhook_secret").exists()
    if not is_known:  # one created here would differ from that of the service
        message = "Set RETALKING_WEBHOOK_SECRET to the value of the service, or pass its data folder with --data."
        raise CommandError("webhook_secret_unknown", message, EXIT_USAGE)
    from jobs.signing import WebhookSecrets

    with _refusals():
        owner = _call(lambda: store.keys.get(key_id)).account
    rotated = partial(store.webhooks.rotate_secret, owner, overlap_s)
    state = _call(rotated if rotate else partial(store.webhooks.secret_state, owner))
    for secret in WebhookSecrets(settings, store.webhooks.secret_state).at(owner, state):
        typer.echo(secret)


def make_key(
    store: JobStore,
    name: str,
    scopes: frozenset[Scope],
    requests_per_minute: int | None = None,
    live_jobs: int | None = None,
    max_priority: int = USUAL_PRIORITY,
    stored_bytes: int | None = None,
    account: str | None = None,
) -> str:
    """Create a key, of a new account with these limits unless one is given. Returns its text."""
    _, text = _call(
        lambda: store.keys.create(
            name,
            scopes,
            max_priority=max_priority,
            account=account,
            requests_per_minute=requests_per_minute,
            live_jobs=live_jobs,
            stored_bytes=stored_bytes,
        )
    )
    return text


def _show_key(text: str) -> None:
    Console(stderr=True).print("The API key, shown only once; send it as `Authorization: Bearer ...`:")
    typer.echo(text)


def _print(table: Table) -> None:
    (Console() if sys.stdout.isatty() else Console(width=240)).print(table)  # in a pipe no cell is cut


@contextmanager
def _refusals() -> Iterator[None]:
    from jobs.store import AccountNotFoundError, KeyNotFoundError, KeyRevokedError, TooManyKeysError

    try:
        yield
    except KeyNotFoundError:
        raise CommandError("key_not_found", "There is no key with this id: see `retalking keys list`.") from None
    except AccountNotFoundError:
        raise CommandError(
            "account_not_found", "There is no account with this id: see `retalking keys list`."
        ) from None
    except KeyRevokedError:
        raise CommandError("key_revoked", "This key is revoked: create another one for its account.") from None
    except TooManyKeysError as fault:
        raise CommandError("too_many_keys", f"{fault}: revoke some first.") from None


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
