"""Webhook deliveries: taking due ones, recording attempts, redelivery, and which secret signs.

A transition of a job creates the delivery of its event in the same atomic step (jobs/lua/prelude.lua).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Any, Literal

from jobs.models import Delivery, DeliveryAttempt, DeliveryState
from jobs.store.base import RedisBase
from jobs.store.quarantine import Quarantine, is_record_fault
from jobs.store.records import UNREADABLE, delivery_of, pairs, stored_json, time_of
from jobs.store.types import (
    DeliveryPage,
    JobNotFoundError,
    ReceiverRules,
    UndeliveredState,
    WebhookBacklog,
    WebhookSecretState,
)

_CURSOR = re.compile(r"c\d{1,15}")


class Webhooks:
    def __init__(self, base: RedisBase, quarantine: Quarantine) -> None:
        self._redis, self._quarantine = base, quarantine

    def deliveries(self, job_id: str) -> list[Delivery]:
        """All deliveries of a job, oldest first. Raises JobNotFoundError."""
        return self._rows("deliveries", job_id)

    def due(self, limit: int = 100) -> list[str]:
        """Ids of deliveries whose time has come and that no process holds."""
        return self._redis.due("webhooks_due", limit)

    def take(self, free: int, rules: ReceiverRules) -> list[Delivery]:
        """At most `free` due deliveries, shared among receivers by the rules, each held by its `holder` for
        rules.hold_s."""
        return self._all_readable(self._redis.take_shared("webhook", free, rules))

    def record_attempt(
        self,
        delivery_id: str,
        attempt: DeliveryAttempt,
        *,
        state: DeliveryState,
        retry_in_s: float | None,
        holder: str = "",
        receiver_did: Literal["answered", "failed", ""] = "",
        breaker_s: float = 0.0,
    ) -> Delivery:
        """Append an attempt to the log. state: `pending` with retry_in_s, `delivered` or `given_up`.

        holder: of the delivery when it was taken. The outcome of a former holder is logged, and takes effect only if
        the event arrived.
        receiver_did: three `failed` in a row open the circuit breaker: the receiver is not tried for breaker_s, doubled
        at each further failure, up to ten times breaker_s.
        """
        if state not in ("pending", "delivered", "given_up") or (state == "pending") != (retry_in_s is not None):
            raise ValueError(f"state {state!r} with retry_in_s {retry_in_s!r}: only `pending` has a next attempt")
        retry_ms = "" if retry_in_s is None else int(retry_in_s * 1000)
        health = (receiver_did, int(breaker_s * 1000))
        line = stored_json(attempt)
        fields, attempts = self._redis.call("record_attempt", delivery_id, line, state, retry_ms, holder, *health)
        return delivery_of(pairs(fields), attempts)

    def redeliver(self, job_id: str, delivery_id: str = "") -> list[Delivery]:
        """Make one delivery due again under its id; without delivery_id, the job's terminal one and any given up.

        Raises JobNotFoundError, and WrongStateError if there is no such delivery.
        """
        return self._rows("redeliver", job_id, delivery_id)

    def find(self, delivery_id: str) -> Delivery:
        """Raises JobNotFoundError."""
        fields = self._redis.fields(self._redis.key("delivery", delivery_id))
        attempts = self._redis.client.lrange(self._redis.key("attempts", delivery_id), 0, -1)
        delivery = self._readable(fields, [str(attempt) for attempt in attempts]) if fields else None
        if delivery is None:
            raise JobNotFoundError(f"There is no {delivery_id}")
        return delivery

    def undelivered(
        self, *, state: UndeliveredState, cursor: str | None, limit: int, owner: str | None = None
    ) -> DeliveryPage:
        """Events that did not arrive, oldest first. owner None: of all owners. Raises ValueError as jobs.page()."""
        if state not in ("pending", "given_up") or not 1 <= limit <= 200:
            raise ValueError(f"state {state!r}, limit {limit}: pending or given_up, 1 to 200")
        if cursor is not None and not _CURSOR.fullmatch(cursor):
            raise ValueError("The cursor was not returned by a page; start again without it")
        index = self._redis.key("deliveries", state if not owner else f"{state}:{owner}")
        lowest = "-inf" if cursor is None else f"({cursor[1:]}"
        rows = self._redis.range_by_score(index, lowest, "+inf", limit + 1)
        with self._redis.client.pipeline(transaction=False) as pipe:
            for delivery_id, _ in rows[:limit]:
                pipe.hgetall(self._redis.key("delivery", delivery_id))
                pipe.lrange(self._redis.key("attempts", delivery_id), 0, -1)
            replies = pipe.execute(raise_on_error=False)
        found = self._all_readable(
            _checked_replies(delivery_id, fields, log)
            for (delivery_id, _), fields, log in zip(rows[:limit], replies[::2], replies[1::2], strict=True)
            if fields
        )
        return DeliveryPage(found, f"c{int(rows[limit - 1][1])}" if len(rows) > limit else None)

    def backlog(self) -> WebhookBacklog:
        now_ms = self._redis.now_ms()
        with self._redis.client.pipeline(transaction=False) as pipe:
            pipe.zcard(self._redis.key("webhooks_due"))
            pipe.zcount(self._redis.key("webhooks_due"), "-inf", now_ms)
            pipe.zcard(self._redis.key("deliveries", "given_up"))
            return WebhookBacklog(*pipe.execute())

    def expire(self, window_s: float, limit: int = 100) -> list[str]:
        """Give up deliveries that have been pending that long, tried or not. Returns their ids."""
        oldest = self._redis.client.zrange(self._redis.key("deliveries", "pending"), 0, limit - 1)
        window_ms = int(window_s * 1000)
        replies = [self._redis.call_optional("expire_delivery", str(each), window_ms) for each in oldest]
        return [reply[0] for reply in replies if reply is not None]

    def adopt(self, limit: int = 1000) -> int:
        """Queue pending deliveries of a version that had no queues per receiver. Returns how many."""
        (count,) = self._redis.call("adopt_deliveries", "", limit)
        return int(count)

    def secret_state(self, owner: str) -> WebhookSecretState:
        return _secret_state(self._redis.call("webhook_secret", owner))

    def rotate_secret(self, owner: str, overlap_s: float) -> WebhookSecretState:
        """The next version signs from now on, and for overlap_s the present one as well."""
        token = secrets.token_hex(8)
        return _secret_state(self._redis.call("rotate_webhook_secret", owner, token, int(overlap_s * 1000)))

    def _rows(self, script: str, job_id: str, *args: str) -> list[Delivery]:
        (rows,) = self._redis.call(script, job_id, *args)
        return self._all_readable((pairs(fields), attempts) for fields, attempts in rows)

    def _all_readable(self, rows: Iterable[tuple[dict[str, str], list[str]]]) -> list[Delivery]:
        found = (self._readable(fields, attempts) for fields, attempts in rows)
        return [delivery for delivery in found if delivery is not None]

    def _readable(self, fields: dict[str, str], attempts: list[str]) -> Delivery | None:
        """None for a record that cannot be read: it is set aside and no longer due."""
        try:
            return delivery_of(fields, attempts)
        except UNREADABLE as fault:
            if "id" in fields:
                self._quarantine.set_aside("delivery", fields["id"], fault)
            return None


def _checked_replies(delivery_id: str, *replies: Any) -> tuple[dict[str, str], list[str]]:
    """Fields and attempts of a delivery. For a record of another Redis type only the id, so that it is set aside."""
    for reply in replies:
        if isinstance(reply, Exception):
            if not is_record_fault(reply):
                raise reply
            return {"id": delivery_id}, []
    fields, attempts = replies
    return fields, attempts


def _secret_state(reply: list[str]) -> WebhookSecretState:
    version, previous, previous_until = reply
    return WebhookSecretState(int(version), int(previous) if previous else None, time_of(previous_until))
