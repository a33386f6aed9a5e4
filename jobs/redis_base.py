"""What every part of the Redis store stands on: the client, the key prefix, and the scripts with their replies."""

from __future__ import annotations

import secrets
from functools import cache
from importlib import resources
from typing import Any

import redis

from jobs.redis_records import pairs
from jobs.store import (
    ArrivalLostError,
    IdempotencyConflictError,
    JobNotFoundError,
    LeaseLostError,
    QuotaExceededError,
    ReceiverRules,
    StorageQuotaError,
    WrongStateError,
)

DEFAULT_RETENTION_S = 7 * 86400


class RedisPart:
    """client: must decode responses, see jobs/opening.py. prefix: with a hash tag, so that all keys share one cluster
    slot. retention_s: for jobs that end without a caller who names one (lost workers, deadlines).

    Calls raise redis.RedisError when Redis can not be reached; the client has retried by then, and every transition
    is safe to repeat.
    """

    def __init__(
        self, client: redis.Redis, prefix: str = "{retalking}:", *, retention_s: int = DEFAULT_RETENTION_S
    ) -> None:
        if not client.get_encoder().decode_responses:
            raise ValueError("The store needs a client with decode_responses=True, as jobs.opening makes it")
        self._client = client
        self._prefix = prefix
        self._retention_ms = retention_s * 1000
        self._scripts: dict[str, Any] = {}

    def _key(self, kind: str, item: str | None = None) -> str:
        return f"{self._prefix}{kind}" if item is None else f"{self._prefix}{kind}:{item}"

    def _call(self, script: str, subject: str, *args: object) -> list[Any] | None:
        """Run a script about `subject` (an id). Returns its reply after the outcome word, None for outcome `none`."""
        if script not in self._scripts:
            self._scripts[script] = self._client.register_script(_source(script))
        outcome, *reply = self._scripts[script](keys=[self._prefix], args=[subject, *args])
        if outcome == "ok":
            return reply
        if outcome == "none":
            return None
        if outcome == "missing":
            raise JobNotFoundError(f"There is no {subject}")
        if outcome == "lost":
            raise LeaseLostError(f"{subject} is over, or another worker holds it")
        if outcome == "conflict":
            raise IdempotencyConflictError("The idempotency key was used for another request")
        if outcome == "full":
            raise StorageQuotaError(is_owners=reply[0] == "owner")
        if outcome == "late":
            raise ArrivalLostError(f"{subject} was given up while its files arrived")
        if outcome == "quota":
            raise QuotaExceededError("The key has as many live jobs as it may have")
        raise WrongStateError(f"{subject}: {reply[0]}")

    def _take_shared(self, kind: str, free: int, rules: ReceiverRules) -> list[tuple[dict[str, str], list[str]]]:
        """Fields and attempts of due items of a kind (jobs/lua/prelude.lua), held under a new `holder`."""
        token = secrets.token_hex(8)
        sizes = (free, rules.slots, int(rules.hold_s * 1000), rules.per_receiver, rules.per_untrusted)
        (rows,) = self._call("take_shared", token, kind, *sizes)
        return [(pairs(fields), attempts) for fields, attempts in rows]

    def _now_ms(self) -> int:
        """The store's clock, which all times in it are taken from."""
        seconds, micros = self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    def _due(self, line: str, limit: int, *, before_ms: int | None = None) -> list[str]:
        """Members of a sorted set whose time is not after before_ms (None: now), earliest first."""
        latest = self._now_ms() if before_ms is None else before_ms
        return self._client.zrangebyscore(self._key(line), "-inf", latest, start=0, num=limit)


@cache
def _source(script: str) -> str:
    folder = resources.files("jobs.lua")
    return "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in ("prelude", script))
