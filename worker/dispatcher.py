"""Works on what waits for somebody else's server: takes due items from the store, which shares them out fairly, and
works on each in a thread of its own.

There is no message for a webhook, a fetch or an export, so there is no queue that grows while a receiver is away: what
is due lies in the store, and a dispatcher takes as many as it has free threads.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from redis.exceptions import RedisError

from jobs.models import Delivery, Export
from jobs.settings import Settings
from jobs.store import Fetch, JobStore, ReceiverRules
from worker.delivery import WebhookDeliverer
from worker.egress import tls_context
from worker.export import ResultExporter, hold_s
from worker.fetch import InputFetcher

log = logging.getLogger(__name__)

# How late an item may be noticed; a look costs a fifth of a millisecond.
POLL_S = 0.1
STORE_AWAY_S = 1.0
# A request ends within webhook_timeout_s. The rest is for the store, which may have to be asked again before and after.
HOLD_MARGIN_S = 30.0
# Fetches take longer than webhooks: one at a time would serialize a caller's first jobs from a new host.
FETCHES_PER_UNTRUSTED = 4
EXPORTS_PER_UNTRUSTED = 2

Item = TypeVar("Item")


class Dispatcher(Generic[Item]):
    """start() and stop() run it in a thread. Any number may run on one store.

    name: of its threads. take: at most so many due items. work: on one item; what it raises is logged, and the item is
    due again when its hold ends. prepare: done once, before anything is taken.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        take: Callable[[int], list[Item]],
        work: Callable[[Item], object],
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        self._name = name
        self._slots = slots
        self._take = take
        self._work = work
        self._prepare = prepare
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._working: set[Future[None]] = set()
        self._over = threading.Event()
        self._look = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{name}-dispatcher", daemon=True)

    def start(self) -> None:
        tls_context()  # now, and not in every thread of the first burst: that took two seconds
        self._thread.start()

    def close(self) -> None:
        """Takes nothing more."""
        self._over.set()
        self._look.set()

    def stop(self, grace_s: float) -> None:
        """Takes nothing more, and waits for what is in work. What takes longer is due again when its hold ends."""
        self.close()
        self._thread.join(grace_s)
        wait(self._in_work(), grace_s)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        is_prepared = False
        while not self._over.is_set():
            self._look.clear()
            try:
                if not is_prepared:
                    self._prepare()
                    is_prepared = True
                is_idle = not self._take_due()
            except RedisError as fault:
                log.warning("the job store did not answer: %s", type(fault).__name__)
                self._over.wait(STORE_AWAY_S)
            except Exception:
                log.exception("%s: nothing could be taken from the store", self._name)
                self._over.wait(STORE_AWAY_S)
            else:
                if is_idle:
                    self._look.wait(POLL_S)

    def _take_due(self) -> int:
        """Returns how many were taken."""
        free = self._slots - len(self._in_work())
        taken = self._take(free) if free > 0 else []
        for item in taken:
            working = self._pool.submit(self._work_on, item)
            with self._lock:
                self._working.add(working)
            working.add_done_callback(self._done)
        return len(taken)

    def _in_work(self) -> set[Future[None]]:
        with self._lock:
            return set(self._working)

    def _work_on(self, item: Item) -> None:
        try:
            self._work(item)
        except Exception as fault:
            log.error(
                "%s: an item waits for the end of its hold: %s",
                self._name,
                type(fault).__name__,
                exc_info=None if isinstance(fault, RedisError) else fault,
            )

    def _done(self, working: Future[None]) -> None:
        with self._lock:
            self._working.discard(working)
        self._look.set()


def webhook_dispatcher(store: JobStore, deliverer: WebhookDeliverer, settings: Settings) -> Dispatcher[Delivery]:
    rules = ReceiverRules(settings.webhook_slots, settings.webhook_timeout_s + HOLD_MARGIN_S)

    def adopt() -> None:
        while count := store.webhooks.adopt():
            log.info("deliveries of an earlier version taken over", extra={"count": count})

    return Dispatcher(
        "webhook", rules.slots, lambda free: store.webhooks.take(free, rules), deliverer.deliver, prepare=adopt
    )


def fetch_dispatcher(store: JobStore, fetcher: InputFetcher, settings: Settings) -> Dispatcher[Fetch]:
    rules = ReceiverRules(settings.fetch_slots, settings.lease_s, per_untrusted=FETCHES_PER_UNTRUSTED)
    return Dispatcher("fetch", rules.slots, lambda free: store.fetches.take(free, rules), fetcher.fetch)


def export_dispatcher(store: JobStore, exporter: ResultExporter, settings: Settings) -> Dispatcher[Export]:
    rules = ReceiverRules(settings.export_slots, hold_s(settings), per_untrusted=EXPORTS_PER_UNTRUSTED)
    return Dispatcher("export", rules.slots, lambda free: store.exports.take(free, rules), exporter.export)
