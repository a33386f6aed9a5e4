"""Entry of the webhook worker: `python -m worker.webhooks`. It also fetches inputs, exports results, feeds
batches and runs the janitor.

Needs no media library and no torch.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType
from typing import Any

from jobs.messages import make_celery
from jobs.opening import open_objects, open_store, watched_space
from jobs.settings import Settings
from jobs.signing import WebhookSecrets, link_secret
from jobs.telemetry import configure_logging, start_traces
from jobs.view import view_batch, view_job
from worker.batches import BatchFeeder
from worker.delivery import WebhookDeliverer
from worker.dispatcher import Dispatcher, export_dispatcher, fetch_dispatcher, webhook_dispatcher
from worker.export import ResultExporter
from worker.fetch import InputFetcher
from worker.janitor import Janitor
from worker.supervision import ShutdownNotice

log = logging.getLogger(__name__)


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
