"""Accounts, their keys, and what they used. Admins manage them; every caller sees its own usage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Self

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from api.access import Caller, WithCaller
from api.account_bodies import AccountChanges, NewKey, receive
from api.dependencies import Dependencies, WithDependencies
from api.jobs import NextCursor, view_response
from api.openapi import json_body
from api.problems import refusals
from jobs.errors import ServiceError
from jobs.store import AccountNotFoundError, KeyNotFoundError, KeyRevokedError, TooManyKeysError, UnknownCursorError
from jobs.store.keys import MAX_KEYS, MAX_MONTHS, Account, ApiKey, MonthUsage, Scope

router = APIRouter(tags=["accounts"])
usage_router = APIRouter(tags=["accounts"])

OVERLAP_S = 86400
KeyPath = Annotated[str, Path(max_length=64, description="Id of a key, as lists show it", examples=["0" * 16])]
AccountPath = Annotated[str, Path(max_length=64, description="Id of an account", examples=["0" * 16])]
Cursor = Annotated[
    str | None, Query(pattern=r"^[0-9a-f]{16}$", description="`next_cursor` of the page before; none: the first page")
]
_BODY = ("unsupported_media_type", "body_too_large", "request_timeout", "malformed_json", "value_out_of_bounds")


class KeyView(BaseModel):
    """A key without its secret."""

    id: str = Field(description="The part of the key after `rtk_`; not secret")
    account: str = Field(description="Id of its account")
    name: str
    scopes: list[Scope]
    max_priority: int = Field(description="The most urgent priority that its jobs may have")
    created_at: datetime
    revoked_at: datetime | None = Field(
        description="When it stops being valid; in the future while a rotation overlaps"
    )

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        fields = key.model_dump(exclude={"digest", "scopes"})
        return cls(scopes=sorted(key.scopes), **fields)


class IssuedKey(KeyView):
    """A new key. `key` is shown this once and cannot be shown again."""

    key: str = Field(description="Send it as `Authorization: Bearer rtk_...`")


class KeyList(BaseModel):
    """One page of keys, oldest first."""

    keys: list[KeyView]
    next_cursor: NextCursor


class AccountView(BaseModel):
    """An account with the limits that apply to it."""

    id: str = Field(description="Also `owner` in webhooks")
    name: str
    created_at: datetime
    requests_per_minute: int = Field(description="Of all its keys together")
    live_jobs: int = Field(description="Most unfinished jobs")
    stored_bytes: int = Field(description="Most bytes of uploads, inputs and results")


class AccountList(BaseModel):
    """One page of accounts, oldest first."""

    accounts: list[AccountView]
    next_cursor: NextCursor


class AccountUsage(BaseModel):
    """What an account uses now, and what it used by month."""

    account: str | None = Field(
        description="Id of the account; null: all callers together, where keys are not required"
    )
    name: str | None
    live_jobs: int = Field(description="Unfinished jobs now")
    stored_bytes: int = Field(description="Bytes of uploads, inputs and results now")
    months: list[MonthUsage] = Field(description="The current month first")


class UsageReport(BaseModel):
    """One page of accounts with their usage, oldest account first."""

    accounts: list[AccountUsage]
    next_cursor: NextCursor


@router.get(
    "/keys",
    operation_id="listKeys",
    summary="List keys, oldest first",
    response_model=KeyList,
    responses=refusals("account_not_found", "key_not_found", "service_unavailable"),
)
def list_keys(
    parts: WithDependencies,
    account: Annotated[str | None, Query(max_length=64, description="Only those of this account, all at once")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Keys a page")] = 100,
    cursor: Cursor = None,
) -> Response:
    """Including revoked ones, of which an account keeps the newest."""
    with _problems():
        if account is not None:
            keys, following = parts.store.keys.of_account(parts.store.accounts.get(account).id), None
        else:
            keys, following = parts.store.keys.page(after=cursor, limit=limit)
    return view_response(KeyList(keys=[KeyView.of(key) for key in keys], next_cursor=following))


@router.post(
    "/keys",
    operation_id="createKey",
    summary="Create a key",
    status_code=201,
    response_model=IssuedKey,
    responses=refusals(*_BODY, "account_not_found", "too_many_keys", "keys_not_required", "service_unavailable"),
    openapi_extra=json_body(NewKey, {"name": "studio", "scopes": ["submit", "read"]}),
)
async def create_key(request: Request, parts: WithDependencies, caller: WithCaller) -> Response:
    """For an account that exists, or with a new one. The key is in this answer alone: only its hash is stored."""
    _check_keys_required(caller)
    body = await receive(NewKey, request, parts)

    def create() -> tuple[ApiKey, str]:
        with _problems():
            return parts.store.keys.create(**{**body.model_dump(), "scopes": frozenset(body.scopes)})

    return _issued(*await run_in_threadpool(create))


@router.post(
    "/keys/{key_id}/rotate",
    operation_id="rotateKey",
    summary="Replace a key",
    status_code=201,
    response_model=IssuedKey,
    responses=refusals("key_not_found", "key_revoked", "too_many_keys", "keys_not_required", "service_unavailable"),
)
def rotate_key(
    key_id: KeyPath,
    parts: WithDependencies,
    caller: WithCaller,
    overlap_s: Annotated[int, Query(ge=0, le=7 * 86400, description="How long the old key stays valid")] = OVERLAP_S,
) -> Response:
    """The new key has the account and the permissions of the old one. Use `overlap_s=0` for a leaked key."""
    _check_keys_required(caller)
    with _problems():
        key, text = parts.store.keys.rotate(key_id, overlap_s)
    return _issued(key, text)


@router.post(
    "/keys/{key_id}/revoke",
    operation_id="revokeKey",
    summary="Revoke a key",
    response_model=KeyView,
    responses=refusals("key_not_found", "service_unavailable"),
)
def revoke_key(key_id: KeyPath, parts: WithDependencies) -> Response:
    """From the next request on, with its event streams and links; may be repeated. Jobs stay with the account."""
    with _problems():
        return view_response(KeyView.of(parts.store.keys.revoke(key_id)))


@router.get(
    "/accounts",
    operation_id="listAccounts",
    summary="List accounts, oldest first",
    response_model=AccountList,
    responses=refusals("account_not_found", "service_unavailable"),
)
def list_accounts(
    parts: WithDependencies,
    limit: Annotated[int, Query(ge=1, le=1000, description="Accounts a page")] = 100,
    cursor: Cursor = None,
) -> Response:
    with _problems():
        accounts, following = parts.store.accounts.page(after=cursor, limit=limit)
    views = [_account_view(parts, account) for account in accounts]
    return view_response(AccountList(accounts=views, next_cursor=following))


@router.patch(
    "/accounts/{account_id}",
    operation_id="changeAccount",
    summary="Change the name or the limits of an account",
    response_model=AccountView,
    responses=refusals(*_BODY, "account_not_found", "service_unavailable"),
    openapi_extra=json_body(AccountChanges, {"live_jobs": 20, "stored_bytes": None}),
)
async def change_account(account_id: AccountPath, request: Request, parts: WithDependencies) -> Response:
    """What is left out stays as it is; a limit of null becomes that of the deployment."""
    changes = (await receive(AccountChanges, request, parts)).given

    def change() -> Account:
        with _problems():
            return parts.store.accounts.change(account_id, **changes)

    return view_response(_account_view(parts, await run_in_threadpool(change)))


@usage_router.get(
    "/usage",
    operation_id="getUsage",
    summary="What the account used, by month",
    response_model=UsageReport,
    responses=refusals("account_not_found", "service_unavailable"),
)
def get_usage(
    parts: WithDependencies,
    caller: WithCaller,
    months: Annotated[int, Query(ge=1, le=MAX_MONTHS, description="How many, counted from the current one")] = 1,
    account: Annotated[
        str | None,
        Query(max_length=64, description="Only this account; any but the caller's own needs the scope `admin`"),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Accounts a page")] = 100,
    cursor: Cursor = None,
) -> Response:
    """Callers with the scope `admin` get all accounts, others their own; without keys, all callers are one.
    Totals outlive the jobs: 25 months."""
    following = None
    if account is None and caller.key is None:
        rows = [_usage_of_everyone(parts, months)]
    elif account is None and caller.sees_all:
        with _problems():
            accounts, following = parts.store.accounts.page(after=cursor, limit=limit)
        rows = _usage_of(parts, accounts, months)
    elif caller.account is not None and account in (None, caller.owner):
        rows = _usage_of(parts, [caller.account], months)
    elif caller.sees_all:
        with _problems():
            rows = _usage_of(parts, [parts.store.accounts.get(str(account))], months)
    else:
        raise ServiceError("forbidden", "The usage of another account needs a key with the scope `admin`.")
    return view_response(UsageReport(accounts=rows, next_cursor=following))


def _usage_of(parts: Dependencies, accounts: list[Account], months: int) -> list[AccountUsage]:
    totals = parts.store.usage.months([account.id for account in accounts], months)
    return [
        AccountUsage(
            account=account.id,
            name=account.name,
            live_jobs=parts.store.jobs.count_live(account.id),
            stored_bytes=parts.store.uploads.stored_bytes(account.id),
            months=used,
        )
        for account, used in zip(accounts, totals, strict=True)
    ]


def _usage_of_everyone(parts: Dependencies, months: int) -> AccountUsage:
    """Where keys are not required, jobs belong to no account."""
    (used,) = parts.store.usage.months([""], months)
    live = sum(count for status, count in parts.store.jobs.count_by_status().items() if not status.is_over)
    stored = parts.store.uploads.stored_bytes()
    return AccountUsage(account=None, name=None, live_jobs=live, stored_bytes=stored, months=used)


def _account_view(parts: Dependencies, account: Account) -> AccountView:
    settings = parts.settings
    return AccountView(
        id=account.id,
        name=account.name,
        created_at=account.created_at,
        requests_per_minute=account.requests_per_minute or settings.requests_per_minute,
        live_jobs=account.live_jobs or settings.live_jobs_per_key,
        stored_bytes=account.stored_bytes or settings.stored_bytes_per_key,
    )


def _issued(key: ApiKey, text: str) -> Response:
    view: dict[str, Any] = KeyView.of(key).model_dump()
    return view_response(IssuedKey(key=text, **view), 201, headers={"Cache-Control": "no-store"})


def _check_keys_required(caller: Caller) -> None:
    """Where anyone may call, anyone could make a key that is valid once keys are required. Raises keys_not_required."""
    if caller.key is None:
        raise ServiceError("keys_not_required", "This service requires no keys, so it creates none over HTTP.")


@contextmanager
def _problems() -> Iterator[None]:
    try:
        yield
    except KeyNotFoundError:
        raise ServiceError("key_not_found", "There is no key with this id.") from None
    except AccountNotFoundError:
        raise ServiceError("account_not_found", "There is no account with this id.") from None
    except KeyRevokedError:
        raise ServiceError("key_revoked", "This key is revoked, so it cannot be replaced.") from None
    except TooManyKeysError:
        raise ServiceError("too_many_keys", f"This account has {MAX_KEYS} valid keys, which is the limit.") from None
    except UnknownCursorError as fault:
        code = "key_not_found" if fault.index == "api_keys" else "account_not_found"
        raise ServiceError(code, f"cursor: {fault}.") from None
