"""The log of webhook deliveries. Scripts of the transitions create them; here they are read, held and recorded."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Any

from jobs.models import Delivery, DeliveryAttempt
from jobs.redis_quarantine import Quarantine, is_record_fault
from jobs.redis_records import UNREADABLE, delivery_of, pairs, stored_json, time_of
from jobs.store import DeliveryPage, JobNotFoundError, ReceiverRules, WebhookBacklog, WebhookSecretState

_CURSOR = re.compile(r"c\d{1,15}")


class WebhookLog(Quarantine):
    def deliveries(self, job_id: str) -> list[Delivery]:
        return self._rows("deliveries", job_id)

    def due_deliveries(self, limit: int = 100) -> list[str]:
        return self._due("webhooks_due", limit)

    def take_deliveries(self, free: int, rules: ReceiverRules) -> list[Delivery]:
        return self._all_readable(self._take_shared("webhook", free, rules))

    def record_attempt(
        self,
        delivery_id: str,
        attempt: DeliveryAttempt,
        *,
        state: str,
        retry_in_s: float | None,
        holder: str = "",
        receiver_did: str = "",
        breaker_s: float = 0.0,
    ) -> Delivery:
        if state not in ("pending", "delivered", "given_up") or (state == "pending") != (retry_in_s is not None):
            raise ValueError(f"state {state!r} with retry_in_s {retry_in_s!r}: only `pending` has a next attempt")
        retry_ms = "" if retry_in_s is None else int(retry_in_s * 1000)
        health = (receiver_did, int(breaker_s * 1000))
        line = stored_json(attempt)
        fields, attempts = self._call("record_attempt", delivery_id, line, state, retry_ms, holder, *health)
        return delivery_of(pairs(fields), attempts)

    def redeliver(self, job_id: str, delivery_id: str = "") -> list[Delivery]:
        return self._rows("redeliver", job_id, delivery_id)

    def find_delivery(self, delivery_id: str) -> Delivery:
        fields = self._client.hgetall(self._key("delivery", delivery_id))
        attempts = self._client.lrange(self._key("attempts", delivery_id), 0, -1)
        delivery = self._readable(fields, attempts) if fields else None
        if delivery is None:
            raise JobNotFoundError(f"There is no {delivery_id}")
        return delivery

    def undelivered(self, *, state: str, cursor: str | None, limit: int, owner: str | None = None) -> DeliveryPage:
        if state not in ("pending", "given_up") or not 1 <= limit <= 200:
            raise ValueError(f"state {state!r}, limit {limit}: pending or given_up, 1 to 200")
        if cursor is not None and not _CURSOR.fullmatch(cursor):
            raise ValueError("The cursor is not one that a page gave; start again without it")
        line = self._key("deliveries", state if not owner else f"{state}:{owner}")
        lowest = "-inf" if cursor is None else f"({cursor[1:]}"
        rows = self._client.zrangebyscore(line, lowest, "+inf", start=0, num=limit + 1, withscores=True)
        with self._client.pipeline(transaction=False) as pipe:
            for delivery_id, _ in rows[:limit]:
                pipe.hgetall(self._key("delivery", delivery_id))
                pipe.lrange(self._key("attempts", delivery_id), 0, -1)
            told = pipe.execute(raise_on_error=False)
        found = self._all_readable(
            _told(delivery_id, fields, log)
            for (delivery_id, _), fields, log in zip(rows[:limit], told[::2], told[1::2], strict=True)
            if fields
        )
        return DeliveryPage(found, f"c{int(rows[limit - 1][1])}" if len(rows) > limit else None)

    def webhook_backlog(self) -> WebhookBacklog:
        now_ms = self._now_ms()
        with self._client.pipeline(transaction=False) as pipe:
            pipe.zcard(self._key("webhooks_due"))
            pipe.zcount(self._key("webhooks_due"), "-inf", now_ms)
            pipe.zcard(self._key("deliveries", "given_up"))
            return WebhookBacklog(*pipe.execute())

    def expire_deliveries(self, window_s: float, limit: int = 100) -> list[str]:
        oldest = self._client.zrange(self._key("deliveries", "pending"), 0, limit - 1)
        replies = [self._call("expire_delivery", delivery_id, int(window_s * 1000)) for delivery_id in oldest]
        return [reply[0] for reply in replies if reply is not None]

    def adopt_deliveries(self, limit: int = 1000) -> int:
        (count,) = self._call("adopt_deliveries", "", limit)
        return int(count)

    def webhook_secret_state(self, owner: str) -> WebhookSecretState:
        return _secret_state(self._call("webhook_secret", owner))

    def rotate_webhook_secret(self, owner: str, overlap_s: float) -> WebhookSecretState:
        token = secrets.token_hex(8)
        return _secret_state(self._call("rotate_webhook_secret", owner, token, int(overlap_s * 1000)))

    def _rows(self, script: str, job_id: str, *args: object) -> list[Delivery]:
        (rows,) = self._call(script, job_id, *args)
        return self._all_readable((pairs(fields), attempts) for fields, attempts in rows)

    def _all_readable(self, rows: Iterable[tuple[dict[str, str], list[str]]]) -> list[Delivery]:
        found = (self._readable(fields, attempts) for fields, attempts in rows)
        return [delivery for delivery in found if delivery is not None]

    def _readable(self, fields: dict[str, str], attempts: list[str]) -> Delivery | None:
        """None for a record that cannot be read: it is set aside, and is due no more."""
        try:
            return delivery_of(fields, attempts)
        except UNREADABLE as fault:
            if "id" in fields:
                self._set_aside("delivery", fields["id"], fault)
            return None


def _told(delivery_id: str, *replies: Any) -> tuple[dict[str, str], list[str]]:
    """Fields and attempts of a delivery. A record of another type is told by its id alone, so that it is set aside."""
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
