"""The webhook worker: `python -m worker.webhooks`. It also fetches inputs, exports results, feeds batches and runs the
janitor.

There is no message for a webhook, a fetch or an export, so there is no queue that grows while a receiver is away: what
is due lies in the store, which shares it out fairly, and the dispatcher takes as many items as it has free threads.

Needs no media library and no torch.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import FrameType
from typing import Any, Generic, TypeVar

from redis.exceptions import RedisError

from jobs.messages import make_celery
from jobs.models import Delivery, Export
from jobs.opening import open_objects, open_store, watched_space
from jobs.settings import Settings
from jobs.signing import WebhookSecrets, link_secret
from jobs.store import Fetch, JobStore, ReceiverRules
from jobs.telemetry import configure_logging, start_traces
from jobs.view import view_batch, view_job
from worker.batches import BatchFeeder
from worker.delivery import WebhookDeliverer
from worker.egress import tls_context
from worker.export import ResultExporter, hold_s
from worker.fetch import InputFetcher
from worker.janitor import Janitor
from worker.supervision import ShutdownNotice

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


def open_parts(settings: Settings, notice: ShutdownNotice) -> tuple[list[Dispatcher[Any]], BatchFeeder, Janitor]:
    """Connects to nothing yet. notice: of fetches that are to be handed back. Raises SecretInvalidError."""
    store, objects, app = open_store(settings), open_objects(settings), make_celery(settings)
    link_key = link_secret(settings)
    deliverer = WebhookDeliverer(
        store,
        settings,
        WebhookSecrets(settings, store.webhooks.secret_state),
        lambda job, at: view_job(job, store, objects, settings, link_key, at=at),
        lambda batch: view_batch(batch, store, settings),
    )
    space = watched_space(settings, store)
    fetcher = InputFetcher(app, store, objects, space, settings, notice)
    return (
        [
            webhook_dispatcher(store, deliverer, settings),
            fetch_dispatcher(store, fetcher, settings),
            export_dispatcher(store, ResultExporter(store, objects, settings), settings),
        ],
        BatchFeeder(app, store, objects, space, settings),
        Janitor(app, store, objects, settings),
    )


def main() -> None:
    settings = Settings()
    configure_logging(settings.log_format)
    start_traces(settings.traces_endpoint, "webhook-worker")
    is_over, notice = threading.Event(), ShutdownNotice()

    def end(_number: int, _frame: FrameType | None) -> None:
        is_over.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        dispatchers, batches, janitor = open_parts(settings, notice)
    except Exception:
        log.critical("the webhook worker could not be opened", exc_info=True)
        raise SystemExit(1) from None
    for dispatcher in dispatchers:
        dispatcher.start()
    batches.start()
    janitor.start()
    is_over.wait()
    notice.give(settings.shutdown_grace_s / 2)
    ends_at = time.monotonic() + settings.shutdown_grace_s
    for dispatcher in dispatchers:
        dispatcher.close()
    janitor.stop()
    batches.stop()
    for dispatcher in dispatchers:
        dispatcher.stop(max(0.0, ends_at - time.monotonic()))


if __name__ == "__main__":
    main()
