"""Connection, key names and Lua scripts that all parts of the job store share."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any, cast

import redis
from redis.commands.core import Script

from jobs.store.records import pairs
from jobs.store.types import (
    ArrivalLostError,
    IdempotencyConflictError,
    JobNotFoundError,
    LeaseLostError,
    QuotaExceededError,
    ReceiverRules,
    StorageQuotaError,
    UnknownCursorError,
    WrongStateError,
)

# Scripts of every request, which need jobs/lua/basics.lua alone: to define the functions of the prelude takes Redis
# longer than they run
_WITHOUT_PRELUDE = frozenset({"consume_token", "read_job", "read_key", "read_queue"})


class RedisBase:
    """A Redis client with a key prefix.

    Calls raise redis.RedisError if Redis cannot be reached; the client has retried by then, and every transition is
    safe to repeat.
    """

    def __init__(self, client: redis.Redis, prefix: str) -> None:
        """client: must decode responses, see jobs/opening.py. prefix: contains a hash tag, so that all keys share one
        cluster slot."""
        if not client.get_encoder().decode_responses:
            raise ValueError("The store needs a client with decode_responses=True; use jobs.opening.connect_redis")
        self.client = client
        self.prefix = prefix
        self._scripts: dict[str, Script] = {}

    def key(self, kind: str, item: str | None = None) -> str:
        return f"{self.prefix}{kind}" if item is None else f"{self.prefix}{kind}:{item}"

    def call(self, script: str, subject: str, *args: str | int | float) -> list[Any]:
        """Run a script that always has a reply, see call_optional()."""
        reply = self.call_optional(script, subject, *args)
        if reply is None:
            raise RuntimeError(f"jobs/lua/{script}.lua returned no reply")
        return reply

    def call_optional(self, script: str, subject: str, *args: str | int | float) -> list[Any] | None:
        """Run jobs/lua/<script>.lua about `subject` (an id). Returns its reply after the outcome word, None for the
        outcome `none`. Raises the error that the outcome stands for."""
        if script not in self._scripts:
            self._scripts[script] = self.client.register_script(_source(script))
        reply: list[Any]
        outcome, *reply = self._scripts[script](keys=[self.prefix], args=[subject, *args])
        match outcome:
            case "ok":
                return reply
            case "none":
                return None
            case "missing":
                raise JobNotFoundError(f"There is no {subject}")
            case "lost":
                raise LeaseLostError(f"{subject} is over or leased to another worker")
            case "conflict":
                raise IdempotencyConflictError("The idempotency key was used for a different request")
            case "full":
                raise StorageQuotaError(is_owners=reply[0] == "owner")
            case "late":
                raise ArrivalLostError(f"{subject} was discarded before its files had arrived")
            case "quota":
                raise QuotaExceededError("The account has as many live jobs as allowed")
        raise WrongStateError(f"{subject}: {reply[0]}")

    def take_shared(self, kind: str, free: int, rules: ReceiverRules) -> list[tuple[dict[str, str], list[str]]]:
        """Fields and attempts of due items of a kind (jobs/lua/prelude.lua), held under a new `holder`."""
        token = secrets.token_hex(8)
        sizes = (free, rules.slots, int(rules.hold_s * 1000), rules.per_receiver, rules.per_untrusted)
        (rows,) = self.call("take_shared", token, kind, *sizes)
        return [(pairs(fields), attempts) for fields, attempts in rows]

    def now_ms(self) -> int:
        """The clock of Redis, which all times in the store are taken from, in ms since 1970."""
        seconds, micros = self.client.time()
        return seconds * 1000 + micros // 1000

    def now(self) -> datetime:
        """now_ms() as a time in UTC."""
        return datetime.fromtimestamp(self.now_ms() / 1000, UTC)

    def due(self, queue: str, limit: int, *, before_ms: int | None = None) -> list[str]:
        """Members of a sorted set whose time is not after before_ms (None: now), earliest first."""
        latest = self.now_ms() if before_ms is None else before_ms
        return [member for member, _ in self.range_by_score(self.key(queue), "-inf", latest, limit)]

    def page(self, index: str, after: str | None, limit: int) -> tuple[list[str], str | None]:
        """Members of a sorted set after a member (None: from the start), and the last one of them if there are more.
        Raises UnknownCursorError if `after` is not in the set."""
        start = 0
        if after is not None:
            rank = cast("int | None", self.client.zrank(self.key(index), after))
            if rank is None:
                raise UnknownCursorError(index)
            start = rank + 1
        found = cast("list[str]", self.client.zrange(self.key(index), start, start + limit))
        return found[:limit], found[limit - 1] if len(found) > limit else None

    # Replies of redis-py are typed as bytes or text; with decode_responses they are text.

    def range_by_score(self, key: str, low: str | float, high: str | float, limit: int) -> list[tuple[str, float]]:
        """(member, score) in ascending order of scores."""
        rows = self.client.zrangebyscore(key, low, high, start=0, num=limit, withscores=True)
        return cast("list[tuple[str, float]]", rows)

    def members(self, index: str, item: str | None = None) -> list[str]:
        """Of a sorted set, in its order."""
        return cast("list[str]", self.client.zrange(self.key(index, item), 0, -1))

    def text(self, key: str) -> str | None:
        return cast("str | None", self.client.get(key))

    def field(self, key: str, name: str) -> str | None:
        return cast("str | None", self.client.hget(key, name))

    def fields(self, key: str) -> dict[str, str]:
        return cast("dict[str, str]", self.client.hgetall(key))


@cache
def _source(script: str) -> str:
    folder = resources.files("jobs") / "lua"
    names = ("basics", script) if script in _WITHOUT_PRELUDE else ("basics", "prelude", script)
    return "\n".join((folder / f"{name}.lua").read_text("utf-8") for name in names)
