"""Entry of the webhook worker: `python -m worker.webhooks`. It also runs the janitor.

Needs no media library and no torch.
"""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType

from jobs.logging_config import configure_logging
from jobs.messages import make_celery
from jobs.opening import open_objects, open_store
from jobs.settings import Settings
from jobs.signing import WebhookSecrets, link_secret
from jobs.traces import start_traces
from jobs.view import view_job
from worker.delivery import WebhookDeliverer
from worker.dispatcher import WebhookDispatcher
from worker.janitor import Janitor

log = logging.getLogger(__name__)


def open_dispatcher(settings: Settings) -> tuple[WebhookDispatcher, Janitor]:
    """Connects to nothing yet. Raises SecretInvalidError."""
    store, objects = open_store(settings), open_objects(settings)
    link_key = link_secret(settings)
    deliverer = WebhookDeliverer(
        store,
        settings,
        WebhookSecrets(settings, store.webhooks.secret_state),
        lambda job, at: view_job(job, store, objects, settings, link_key, at=at),
    )
    return WebhookDispatcher(store, deliverer, settings), Janitor(make_celery(settings), store, objects, settings)


def main() -> None:
    settings = Settings()
    configure_logging(settings.log_format)
    start_traces(settings, "webhook-worker")
    is_over = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        is_over.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        dispatcher, janitor = open_dispatcher(settings)
    except Exception:
        log.critical("the webhook worker could not be opened", exc_info=True)
        raise SystemExit(1) from None
    dispatcher.start()
    janitor.start()
    is_over.wait()
    janitor.stop()
    dispatcher.stop(settings.shutdown_grace_s)


if __name__ == "__main__":
    main()
