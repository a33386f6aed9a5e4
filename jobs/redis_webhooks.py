"""The log of webhook deliveries. Scripts of the transitions create them; here they are read, held and recorded."""

from __future__ import annotations

import secrets

from jobs.models import Delivery, DeliveryAttempt
from jobs.redis_quarantine import Quarantine
from jobs.redis_records import UNREADABLE, delivery_of, pairs, stored_json


class WebhookLog(Quarantine):
    def deliveries(self, job_id: str) -> list[Delivery]:
        return self._rows("deliveries", job_id)

    def due_deliveries(self, limit: int = 100) -> list[str]:
        return self._due("webhooks_due", limit)

    def claim_delivery(self, delivery_id: str, hold_s: float) -> Delivery | None:
        """None: delivered, given up, deleted, not due yet, held by another, or unreadable."""
        reply = self._call("claim_delivery", delivery_id, int(hold_s * 1000), secrets.token_hex(8))
        return None if reply is None else self._readable(pairs(reply[0]), reply[1])

    def record_attempt(
        self, delivery_id: str, attempt: DeliveryAttempt, *, state: str, retry_in_s: float | None
    ) -> Delivery:
        if state not in ("pending", "delivered", "given_up") or (state == "pending") != (retry_in_s is not None):
            raise ValueError(f"state {state!r} with retry_in_s {retry_in_s!r}: only `pending` has a next attempt")
        retry_ms = "" if retry_in_s is None else int(retry_in_s * 1000)
        fields, attempts = self._call("record_attempt", delivery_id, stored_json(attempt), state, retry_ms)
        return delivery_of(pairs(fields), attempts)

    def redeliver(self, job_id: str) -> list[Delivery]:
        return self._rows("redeliver", job_id)

    def _rows(self, script: str, job_id: str) -> list[Delivery]:
        (rows,) = self._call(script, job_id)
        found = (self._readable(pairs(fields), attempts) for fields, attempts in rows)
        return [delivery for delivery in found if delivery is not None]

    def _readable(self, fields: dict[str, str], attempts: list[str]) -> Delivery | None:
        """None for a record that can not be read: it is set aside, and is due no more."""
        try:
            return delivery_of(fields, attempts)
        except UNREADABLE as fault:
            if "id" in fields:
                self._set_aside("delivery", fields["id"], fault)
            return None
