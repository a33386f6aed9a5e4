"""Entry of the webhook worker: `celery -A worker.webhooks worker`. It also runs the janitor.

Threads, not processes: the work is waiting for receivers. Needs no media library and no torch.
"""

from __future__ import annotations

import logging

from celery import Celery, signals
from standardwebhooks import Webhook

from jobs.journal import write_journal
from jobs.keyring import link_secret, webhook_secret
from jobs.messages import make_celery
from jobs.names import DELIVER_TASK, WEBHOOK_QUEUE
from jobs.opening import open_objects, open_store
from jobs.settings import Settings
from jobs.traces import start_traces
from jobs.view import view_job
from worker.delivery import Courier
from worker.janitor import Janitor
from worker.quiet import keep_quiet

log = logging.getLogger(__name__)

# Receivers are slow, not heavy: this many deliveries wait for answers at once.
COURIERS = 8


class WebhookProcess:
    """Opened when the worker starts, so that importing this module connects to nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._courier: Courier | None = None
        self._janitor: Janitor | None = None

    def open(self, app: Celery) -> None:
        settings = self._settings
        start_traces(settings, "webhook-worker")
        store, objects = open_store(settings), open_objects(settings)
        signer = Webhook(webhook_secret(settings))
        link_key = link_secret(settings)
        self._courier = Courier(store, settings, signer, lambda job: view_job(job, store, objects, settings, link_key))
        self._janitor = Janitor(app, store, objects, settings)

    def start_janitor(self) -> None:
        if self._janitor is not None:
            self._janitor.start()

    def close(self) -> None:
        if self._janitor is not None:
            self._janitor.stop()

    def deliver(self, delivery_id: str) -> None:
        if self._courier is None:
            raise RuntimeError("the webhook worker is not open")
        self._courier.deliver(delivery_id)


def build(settings: Settings) -> Celery:
    """The application of a webhook worker. Call it once a process."""
    app = make_celery(settings)
    app.conf.update(task_default_queue=WEBHOOK_QUEUE, worker_pool="threads", worker_concurrency=COURIERS)
    keep_quiet(app)
    # As `-Q` would: a message for a render worker must not end here.
    app.amqp.queues.select([WEBHOOK_QUEUE])
    process = WebhookProcess(settings)

    @app.task(name=DELIVER_TASK, acks_late=True, ignore_result=True)
    def deliver_webhook(delivery_id: str) -> None:
        process.deliver(delivery_id)

    @signals.setup_logging.connect(weak=False)
    def on_logging(**_: object) -> None:
        write_journal(settings.log_format)

    @signals.worker_init.connect(weak=False)
    def on_init(**_: object) -> None:
        try:
            process.open(app)
        except Exception:
            # Celery logs what a receiver raises and goes on; a worker that can not sign must not stand there.
            log.critical("the webhook worker could not be opened", exc_info=True)
            raise SystemExit(1) from None

    @signals.worker_ready.connect(weak=False)
    def on_ready(**_: object) -> None:
        process.start_janitor()

    @signals.worker_shutdown.connect(weak=False)
    def on_shutdown(**_: object) -> None:
        process.close()

    return app


app = build(Settings())
