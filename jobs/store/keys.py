"""Accounts and their API keys: the identity of a caller, its permissions and limits, its rate limit, and what it used.

An account owns jobs, uploads, idempotency keys, quotas and webhook secrets; keys come and go. A key carries
permissions: scopes and the highest priority. An account has the id of its first key. A key that an earlier version
stored is the first key of its own account, and holds that account's limits: `Accounts.find` makes the record of such an
account.

A key is `rtk_<id>_<secret>`. The id (64 bits) is public: it names the key in lists and logs, and finds the record. The
secret has 256 random bits; only the SHA-256 of the whole key is stored. A slow password hash (bcrypt, Argon2) would add
nothing: it protects secrets with few bits, and would cost tens of milliseconds per request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any

import redis
from pydantic import Field, model_validator

from jobs.models import FrozenModel, JobStatus
from jobs.names import MAX_PRIORITY, USUAL_PRIORITY
from jobs.store.base import RedisBase
from jobs.store.quarantine import Quarantine, is_record_fault
from jobs.store.records import UNREADABLE, read_json, stored_json
from jobs.store.types import AccountNotFoundError, Allowance, KeyNotFoundError, KeyRevokedError, TooManyKeysError

# Of one account; at most so many are valid, and older revoked ones are forgotten.
MAX_KEYS = 100
_KEY = re.compile(r"rtk_([0-9a-f]{16})_[0-9a-f]{64}")
_KEY_ID = re.compile(r"[0-9a-f]{16}")


class Scope(StrEnum):
    SUBMIT = "submit"  # create, cancel and delete jobs and uploads
    READ = "read"  # read them
    ADMIN = "admin"  # both, for the jobs of every account; and the keys


class Account(FrozenModel):
    """An account as it is stored. A limit of None means that of the deployment."""

    id: str
    name: str = Field(description="For people: who it is")
    requests_per_minute: int | None = Field(None, description="Of all its keys together")
    live_jobs: int | None = None
    stored_bytes: int | None = None
    created_at: datetime


class ApiKey(FrozenModel):
    """A key as it is stored."""

    id: str
    account: str
    name: str = Field(description="For people: who uses it")
    digest: str = Field(repr=False, description="SHA-256 of the whole key, hex")
    scopes: frozenset[Scope]
    max_priority: int = Field(USUAL_PRIORITY, ge=0, le=MAX_PRIORITY, description="The most urgent that it may request")
    created_at: datetime
    revoked_at: datetime | None = Field(
        None, description="From then on it is not valid; in the future while a rotation overlaps"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_its_own_account(cls, fields: Any) -> Any:
        """A key without an account is the first of its own."""
        return {"account": fields.get("id")} | fields if isinstance(fields, dict) else fields

    def allows(self, scope: Scope) -> bool:
        return Scope.ADMIN in self.scopes or scope in self.scopes

    def matches(self, text: str) -> bool:
        """Compared in constant time."""
        return hmac.compare_digest(self.digest, digest_of(text))

    @property
    def is_valid(self) -> bool:
        return self.revoked_at is None or self.revoked_at > datetime.now(UTC)


def new_key_text() -> str:
    """A new key. Show it once; it is not stored."""
    return f"rtk_{secrets.token_hex(8)}_{secrets.token_hex(32)}"


def key_id_of(text: str) -> str | None:
    """The public part of a key; None if the text is not formed like a key."""
    found = _KEY.fullmatch(text)
    return found[1] if found else None


def is_key_id(text: str) -> bool:
    return _KEY_ID.fullmatch(text) is not None


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Keys:
    def __init__(self, base: RedisBase, quarantine: Quarantine) -> None:
        self._redis, self._quarantine = base, quarantine
        self._accounts = Accounts(base, quarantine)

    def create(
        self,
        name: str,
        scopes: frozenset[Scope],
        *,
        max_priority: int = USUAL_PRIORITY,
        account: str | None = None,
        requests_per_minute: int | None = None,
        live_jobs: int | None = None,
        stored_bytes: int | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key, and its text, which is not stored. account: the id of an existing one; None: a new account of the
        same name with these limits. Raises AccountNotFoundError, TooManyKeysError, RecordNotStorableError."""
        text = new_key_text()
        key_id, now = str(key_id_of(text)), datetime.now(UTC)
        if account is None:
            limits = {"requests_per_minute": requests_per_minute, "live_jobs": live_jobs, "stored_bytes": stored_bytes}
            self._accounts.save(Account(id=key_id, name=name, created_at=now, **limits))
        else:
            self._accounts.get(account)
        key = ApiKey(
            id=key_id,
            account=account or key_id,
            name=name,
            digest=digest_of(text),
            scopes=scopes,
            max_priority=max_priority,
            created_at=now,
        )
        self.add(key)
        return key, text

    def add(self, key: ApiKey, *, replaced: ApiKey | None = None) -> None:
        """Store a key of an account that exists. replaced: a key that is changed in the same step. Raises
        TooManyKeysError."""
        others = self.of_account(key.account)
        ended = [other.id for other in others if not other.is_valid]
        if len(others) - len(ended) >= MAX_KEYS:
            raise TooManyKeysError(f"The account has {MAX_KEYS} keys that are valid")
        surplus = ended[: max(0, len(others) + 1 - MAX_KEYS)]
        with self._redis.client.pipeline() as pipe:
            pipe.set(self._redis.key("api_key", key.id), stored_json(key))
            if replaced is not None:
                pipe.set(self._redis.key("api_key", replaced.id), stored_json(replaced))
            for index in (self._redis.key("api_keys"), self._redis.key("account_keys", key.account)):
                pipe.zadd(index, {key.id: _milliseconds(key.created_at)})
                if surplus:
                    pipe.zrem(index, *surplus)
            if surplus:
                pipe.delete(*(self._redis.key("api_key", key_id) for key_id in surplus))
            pipe.execute()

    def find(self, key_id: str) -> ApiKey | None:
        """Also a revoked key: check `is_valid`. None: unknown, or its record cannot be read."""
        return self._quarantine.read_record("api_key", key_id, ApiKey) if is_key_id(key_id) else None

    def find_with_account(self, key_id: str) -> tuple[ApiKey | None, Account | None]:
        """find(), and the account of the key, usually in one round trip: every request reads both."""
        if not is_key_id(key_id):
            return None, None
        try:
            record, account_record = self._redis.call("read_key", key_id)
            if record is not None and account_record is not None:
                return read_json(ApiKey, record), read_json(Account, account_record)
        except (redis.ResponseError, *UNREADABLE) as fault:
            if not is_record_fault(fault):
                raise
        key = self.find(key_id)
        return key, self._accounts.find(key.account) if key else None

    def get(self, key_id: str) -> ApiKey:
        """Raises KeyNotFoundError."""
        key = self.find(key_id)
        if key is None:
            raise KeyNotFoundError(f"There is no key {key_id[:64]}")
        return key

    def all(self) -> list[ApiKey]:
        """Oldest first, including revoked ones."""
        return self._quarantine.read_records("api_key", self._redis.members("api_keys"), ApiKey)

    def page(self, *, after: str | None, limit: int) -> tuple[list[ApiKey], str | None]:
        """Oldest first, and the cursor of the next page. after: a cursor; UnknownCursorError if no page returned it."""
        ids, cursor = self._redis.page("api_keys", after, limit)
        return self._quarantine.read_records("api_key", ids, ApiKey), cursor

    def of_account(self, account_id: str) -> list[ApiKey]:
        """Oldest first, including revoked ones."""
        ids = self._redis.members("account_keys", account_id) or [account_id]
        return self._quarantine.read_records("api_key", ids, ApiKey)

    def revoke(self, key_id: str) -> ApiKey:
        """Takes effect from the next request; may be repeated. Raises KeyNotFoundError."""
        key = self.get(key_id)
        if key.is_valid:
            key = key.model_copy(update={"revoked_at": datetime.now(UTC)})
            self._redis.client.set(self._redis.key("api_key", key_id), stored_json(key))
        return key

    def rotate(self, key_id: str, overlap_s: float) -> tuple[ApiKey, str]:
        """A new key of the same account with the same permissions, and its text. The old key stays valid for overlap_s.
        Raises KeyNotFoundError, KeyRevokedError, TooManyKeysError."""
        old = self.get(key_id)
        if not old.is_valid:
            raise KeyRevokedError(f"The key {key_id} is revoked")
        self._accounts.get(old.account)
        text, now = new_key_text(), datetime.now(UTC)
        ends_at = min(now + timedelta(seconds=overlap_s), old.revoked_at or datetime.max.replace(tzinfo=UTC))
        fresh = {"id": str(key_id_of(text)), "digest": digest_of(text), "created_at": now, "revoked_at": None}
        key = old.model_copy(update=fresh)
        self.add(key, replaced=old.model_copy(update={"revoked_at": ends_at}))
        return key, text

    def consume_token(self, account_id: str, per_minute: int) -> Allowance:
        """Rate limit of one request of an account (token bucket); an allowed request is counted."""
        allowed, left, retry_ms, full_ms = self._redis.call("consume_token", account_id, per_minute)
        return Allowance(allowed == 1, int(left), retry_in_s=int(retry_ms) / 1000, full_in_s=int(full_ms) / 1000)


class Accounts:
    def __init__(self, base: RedisBase, quarantine: Quarantine) -> None:
        self._redis, self._quarantine = base, quarantine

    def find(self, account_id: str) -> Account | None:
        """None: unknown, or its record cannot be read."""
        if not is_key_id(account_id):
            return None
        if not self._redis.client.exists(self._redis.key("account", account_id)):
            return self._adopt(account_id)
        return self._quarantine.read_record("account", account_id, Account)

    def get(self, account_id: str) -> Account:
        """Raises AccountNotFoundError."""
        account = self.find(account_id)
        if account is None:
            raise AccountNotFoundError(f"There is no account {account_id[:64]}")
        return account

    def page(self, *, after: str | None, limit: int) -> tuple[list[Account], str | None]:
        """Oldest first, and the cursor of the next page. after: a cursor; UnknownCursorError if no page returned it."""
        if after is None:
            for key_id in set(self._redis.members("api_keys")) - set(self._redis.members("accounts")):
                self._adopt(key_id)
        ids, cursor = self._redis.page("accounts", after, limit)
        return self._quarantine.read_records("account", ids, Account), cursor

    def save(self, account: Account) -> None:
        with self._redis.client.pipeline() as pipe:
            pipe.set(self._redis.key("account", account.id), stored_json(account))
            pipe.zadd(self._redis.key("accounts"), {account.id: _milliseconds(account.created_at)})
            pipe.execute()

    def change(self, account_id: str, **changes: str | int | None) -> Account:
        """Another name, or other limits. Raises AccountNotFoundError, RecordNotStorableError."""
        account = self.get(account_id).model_copy(update=changes)
        self.save(account)
        return account

    def _adopt(self, key_id: str) -> Account | None:
        """Make the account of a key that an earlier version stored: its record has the name and limits of both. None:
        it is a key of another account, or there is none. Callers at the same time write the same."""
        key = self._quarantine.read_record("api_key", key_id, ApiKey)
        if key is None or key.account != key_id:
            return None
        account = self._quarantine.read_record("api_key", key_id, Account)
        if account is not None:
            with self._redis.client.pipeline() as pipe:
                pipe.set(self._redis.key("account", key_id), stored_json(account), nx=True)
                for index in (self._redis.key("accounts"), self._redis.key("account_keys", key_id)):
                    pipe.zadd(index, {key_id: _milliseconds(account.created_at)})
                pipe.execute()
        return account


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


MAX_MONTHS = 24


class JobOutcomes(FrozenModel):
    """Jobs that ended."""

    succeeded: int
    failed: int
    canceled: int


class MonthUsage(FrozenModel):
    """Totals of one account and month."""

    month: str = Field(description="Year and month in UTC", examples=["2026-11"])
    jobs: JobOutcomes
    video_s: float = Field(description="Seconds of finished video")
    result_bytes: int = Field(description="Bytes of finished video")
    worker_s: float = Field(
        description="Seconds that render workers worked: every attempt, also those that failed, were canceled or were "
        "returned; segments of split jobs; evaluations after the job"
    )
    gpu_s: float = Field(description="The part of `worker_s` on workers with a CUDA device")


class UsageTotals:
    """What accounts used: totals by month (UTC), which the Lua scripts add up in the step in which a job ends. They
    outlive the jobs, and are kept for 25 months.
    """

    def __init__(self, base: RedisBase) -> None:
        self._redis = base

    def months(self, owners: Sequence[str], count: int) -> list[list[MonthUsage]]:
        """For each owner the last `count` months, the current one first. owner '': jobs without an account. Raises
        ValueError for a count outside 1..24."""
        if not 1 <= count <= MAX_MONTHS:
            raise ValueError(f"count is {count}; it must be 1 to {MAX_MONTHS}")
        months = list(_months_back(datetime.fromtimestamp(self._redis.now_ms() / 1000, UTC).date(), count))
        with self._redis.client.pipeline(transaction=False) as pipe:
            for owner in owners:
                for month in months:
                    pipe.hgetall(self._redis.key("usage", f"{owner}:{month}"))
            rows: Iterator[dict[str, str]] = iter(pipe.execute())
        return [[_usage_of(month, next(rows)) for month in months] for _ in owners]


def _usage_of(month: str, fields: dict[str, str]) -> MonthUsage:
    def number(name: str) -> int:
        return int(fields.get(name, 0))

    return MonthUsage(
        month=month,
        jobs=JobOutcomes(
            succeeded=number(JobStatus.SUCCEEDED), failed=number(JobStatus.FAILED), canceled=number(JobStatus.CANCELED)
        ),
        video_s=number("video_ms") / 1000,
        result_bytes=number("result_bytes"),
        worker_s=number("worker_ms") / 1000,
        gpu_s=number("gpu_ms") / 1000,
    )


def _months_back(day: date, count: int) -> Iterator[str]:
    first = day.year * 12 + day.month - 1
    for number in range(first, first - count, -1):
        yield f"{number // 12:04d}-{number % 12 + 1:02d}"
