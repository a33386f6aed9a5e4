"""The broker: one Celery configuration for all processes, and the three messages, sent by task name.

A message is a task name and an id; the job store is the truth. A message may arrive twice, late, or not at all: claims
refuse the second, and the janitor sends lost ones again.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import cast

import redis
from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError
from kombu.transport import redis as transport
from kombu.transport import virtual

from jobs.models import Job, JobStatus
from jobs.names import (
    BROKER_PRIORITY,
    EVALUATE_TASK,
    PRIORITY_STEPS,
    RENDER_QUEUE,
    RENDER_TASK,
    SEGMENTS_TASK,
)
from jobs.settings import Settings
from jobs.store import JobStore
from jobs.telemetry import span


class MessageNotSentError(Exception):
    """The broker did not accept the message. The job is in the outbox: the janitor will send it."""


def visibility_timeout_s(settings: Settings) -> int:
    """After this, an unacknowledged message is redelivered. Must be above the longest render, and the same in every
    process: the shortest one wins."""
    return int(1.25 * settings.render_limit_s) + 600


def make_celery(settings: Settings) -> Celery:
    """Does not connect yet."""
    url = settings.redis_url.get_secret_value()
    uses_tls_defaults = url.startswith("rediss:") and "ssl_" not in url
    celery = Celery("retalking", broker=url, set_as_current=False)
    celery.conf.update(
        _delivery_rules(),
        broker_transport=f"{__name__}:{Transport.__name__}",
        # Verify certificates, as redis-py does for the job store; kombu does not by default
        broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED} if uses_tls_defaults else None,
        broker_transport_options=_redis_options(settings),
        task_queues=(Queue(RENDER_QUEUE),),
        task_default_queue=RENDER_QUEUE,
        task_create_missing_queues=False,
        task_routes={
            RENDER_TASK: {"queue": RENDER_QUEUE},
            SEGMENTS_TASK: {"queue": RENDER_QUEUE},
            EVALUATE_TASK: {"queue": RENDER_QUEUE},
        },
        # JSON only: unpickling a message would execute code
        task_serializer="json",
        accept_content=["json"],
        # Reconnect forever (the default gives up after 100 attempts): a worker without a broker is lost
        broker_connection_retry_on_startup=True,
        broker_connection_retry=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=5,
        # Publishing fails within about 2 s: callers wait for it, and the janitor sends from the outbox
        task_publish_retry=True,
        task_publish_retry_policy={"max_retries": 3, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1},
        # The job store registers workers; broadcast and events would add connections that can break
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_proc_alive_timeout=600,  # a pool process is up when its models are loaded; the default is 4 s
        enable_utc=True,
        timezone="UTC",
    )
    return celery


def _delivery_rules() -> dict[str, object]:
    """Acknowledge after the work, one message at a time, no results: a message only wakes a worker."""
    return {
        "task_acks_late": True,
        # Acknowledge messages of failed and killed tasks: the job's lease decides whether it runs again
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        "task_reject_on_worker_lost": False,
        "worker_prefetch_multiplier": 1,
        "task_ignore_result": True,
        "result_backend": None,
        "task_store_errors_even_if_ignored": False,
        # Continue the render when the broker is lost: the message may be redelivered, and its claim is refused
        "worker_cancel_long_running_tasks_on_connection_loss": False,
    }


def _redis_options(settings: Settings) -> dict[str, object]:
    return {
        "visibility_timeout": visibility_timeout_s(settings),
        "priority_steps": PRIORITY_STEPS,
        "queue_order_strategy": "priority",
        # Without a timeout, a command on a half-open connection blocks forever, and health checks never run. Well
        # above the 1 s of a blocking read.
        "socket_timeout": 15.0,
        "socket_connect_timeout": 5.0,
        "socket_keepalive": True,
        # A consumer whose read is overdue by this reconnects (kombu >= 5.7): within about 21 s
        "health_check_interval": 10,
        "retry_on_timeout": True,
        # Own names: another Celery application on the same Redis must not redeliver our unacknowledged messages
        "unacked_key": "retalking.unacked",
        "unacked_index_key": "retalking.unacked_index",
        "unacked_mutex_key": "retalking.unacked_mutex",
        "fanout_prefix": True,
        "fanout_patterns": True,
    }


def send_render(celery: Celery, job: Job) -> None:
    """Wake a render worker. Raises MessageNotSentError, which callers may ignore: the job stays in the outbox."""
    with span("send", kind="producer", parent=job.traceparent, job=job.id):
        _send(celery, RENDER_TASK, job.id, queue=RENDER_QUEUE, priority=BROKER_PRIORITY[job.spec.request.priority])


def waiting_renders(celery: Celery) -> dict[int, int]:
    """Messages in the render queue, by the priority of their jobs. Raises MessageNotSentError."""
    try:
        with celery.connection_for_read() as connection:
            lengths = cast("_Channel", connection.default_channel).lengths(RENDER_QUEUE)
    except (OperationalError, redis.RedisError, OSError) as error:
        raise MessageNotSentError("the broker cannot be reached") from error
    return {priority: lengths[step] for priority, step in BROKER_PRIORITY.items()}


def ask_for_help(celery: Celery, job: Job) -> None:
    """Wake a render worker for the segments of a split job. Raises MessageNotSentError; the owner tries again."""
    _send(celery, SEGMENTS_TASK, job.id, queue=RENDER_QUEUE, priority=BROKER_PRIORITY[job.spec.request.priority])


def ask_to_evaluate(celery: Celery, job: Job) -> None:
    """Wake a render worker for the pending evaluation of a job. Raises MessageNotSentError; the janitor tries again."""
    _send(celery, EVALUATE_TASK, job.id, queue=RENDER_QUEUE, priority=BROKER_PRIORITY[job.spec.request.priority])


def send_job(celery: Celery, store: JobStore, job: Job) -> None:
    """Send the message of a queued job and take the job out of the outbox. Raises MessageNotSentError, RedisError."""
    if job.status is JobStatus.QUEUED:
        send_render(celery, job)
        store.jobs.mark_message_sent(job.id)


def _send(celery: Celery, task: str, subject: str, *, queue: str, priority: int) -> None:
    try:
        celery.send_task(task, args=[subject], queue=queue, priority=priority, ignore_result=True)
    except (OperationalError, redis.RedisError, OSError) as error:
        raise MessageNotSentError(f"{task} for {subject}: the broker cannot be reached") from error


class _QoS(transport.QoS):
    """An acknowledgment that fails gives its prefetch slot back.

    Found with kombu 5.7.0 and tests/jobs/test_messages.py: Redis fails while a worker with late acknowledgment and
    prefetch 1 is working. Its acknowledgment fails and is only logged; the message still counts as prefetched, so the
    worker polls for no other, and never notices that its connection is dead. With the slot free it polls again, notices
    the dead connection, and reconnects. The message is redelivered after the visibility timeout; its claim is refused.
    """

    def ack(self, delivery_tag: str) -> None:
        try:
            super().ack(delivery_tag)
        except Exception:
            virtual.QoS.ack(self, delivery_tag)
            raise


class _Channel(transport.Channel):
    QoS = _QoS
    _q_for_pri: Callable[[str, int], str]

    def lengths(self, queue: str) -> dict[int, int]:
        """Messages in a queue by priority step, without those that a consumer holds."""
        with self.conn_or_acquire() as client, client.pipeline() as pipe:
            for step in self.priority_steps:
                pipe.llen(self._q_for_pri(queue, step))
            return dict(zip(self.priority_steps, pipe.execute(), strict=True))

    def _brpop_start(self, timeout: float | None = None) -> None:
        super()._brpop_start(timeout)  # type: ignore[misc]  # not in celery-types
        if _watcher is not None:
            _watcher()


_watcher: Callable[[], None] | None = None


def watch_polls(watcher: Callable[[], None]) -> None:
    """Call `watcher` each time this process polls for messages: about once a second while it has a free slot."""
    global _watcher  # noqa: PLW0603  # kombu creates the channels itself
    _watcher = watcher


class Transport(transport.Transport):
    """For `broker_transport`: overrides the transport that the URL scheme selects."""

    Channel = _Channel
