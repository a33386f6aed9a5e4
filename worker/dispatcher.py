"""Sends due webhooks: takes them from the store, which shares them out fairly, and posts each in a thread of its own.

There is no message for a delivery, so there is no queue that grows while a receiver is away: what is due lies in the
store, and a dispatcher takes as many as it has free threads.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait

from redis.exceptions import RedisError

from jobs.models import Delivery
from jobs.settings import Settings
from jobs.store import JobStore, ReceiverRules
from worker.delivery import WebhookDeliverer
from worker.egress import tls_context

log = logging.getLogger(__name__)

# How late an event may be noticed; a look costs a fifth of a millisecond.
POLL_S = 0.1
STORE_AWAY_S = 1.0
# A request ends within webhook_timeout_s. The rest is for the store, which may have to be asked again before and after.
HOLD_MARGIN_S = 30.0


class WebhookDispatcher:
    """start() and stop() run it in a thread. Any number may run on one store."""

    def __init__(self, store: JobStore, deliverer: WebhookDeliverer, settings: Settings) -> None:
        self._store = store
        self._deliverer = deliverer
        self._rules = ReceiverRules(settings.webhook_slots, settings.webhook_timeout_s + HOLD_MARGIN_S)
        self._pool = ThreadPoolExecutor(settings.webhook_slots, thread_name_prefix="webhook")
        self._lock = threading.Lock()
        self._sending: set[Future[None]] = set()
        self._over = threading.Event()
        self._look = threading.Event()
        self._thread = threading.Thread(target=self._work, name="webhook-dispatcher", daemon=True)

    def start(self) -> None:
        tls_context()  # now, and not in every thread of the first burst: that took two seconds
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Takes nothing more, and waits for what is being sent. What takes longer is sent again when its hold ends."""
        self._over.set()
        self._look.set()
        self._thread.join(grace_s)
        wait(self._sending_now(), grace_s)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _work(self) -> None:
        is_adopted = False
        while not self._over.is_set():
            self._look.clear()
            try:
                is_adopted = is_adopted or self._adopt()
                is_idle = not self._send_due()
            except RedisError as fault:
                log.warning("the job store did not answer: %s", type(fault).__name__)
                self._over.wait(STORE_AWAY_S)
            except Exception:
                log.exception("webhooks could not be taken from the store")
                self._over.wait(STORE_AWAY_S)
            else:
                if is_idle:
                    self._look.wait(POLL_S)

    def _adopt(self) -> bool:
        while count := self._store.webhooks.adopt():
            log.info("deliveries of an earlier version taken over", extra={"count": count})
        return True

    def _send_due(self) -> int:
        """Returns how many were taken."""
        free = self._rules.slots - len(self._sending_now())
        taken = self._store.webhooks.take(free, self._rules) if free > 0 else []
        for delivery in taken:
            sending = self._pool.submit(self._send, delivery)
            with self._lock:
                self._sending.add(sending)
            sending.add_done_callback(self._sent)
        return len(taken)

    def _sending_now(self) -> set[Future[None]]:
        with self._lock:
            return set(self._sending)

    def _send(self, delivery: Delivery) -> None:
        try:
            self._deliverer.deliver(delivery)
        except Exception as fault:
            log.error(
                "a delivery waits for the end of its hold: %s",
                type(fault).__name__,
                exc_info=None if isinstance(fault, RedisError) else fault,
                extra={"delivery": delivery.id},
            )

    def _sent(self, sending: Future[None]) -> None:
        with self._lock:
            self._sending.discard(sending)
        self._look.set()
