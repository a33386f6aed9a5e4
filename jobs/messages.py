"""The broker: one configuration for every process, and the two messages there are, sent by task name.

A message is a task name and an id; the truth is in the job store. So a message may come twice, late, or not at all:
claims refuse the second, and the janitor sends again what was lost.
"""

from __future__ import annotations

import ssl

import redis
from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError

from jobs.broker import TRANSPORT
from jobs.models import Job
from jobs.names import (
    BROKER_PRIORITY,
    PRIORITY_STEPS,
    RENDER_QUEUE,
    RENDER_TASK,
    SEGMENTS_TASK,
)
from jobs.settings import Settings
from jobs.traces import span


class MessageNotSentError(Exception):
    """The broker did not take the message. The job is in the outbox: the janitor will send it."""


def visibility_timeout_s(settings: Settings) -> int:
    """After this a message that nobody acknowledged is handed out again. Must be above the longest render, and the same
    in every process: the shortest one wins."""
    return int(1.25 * settings.render_limit_s) + 600


def make_celery(settings: Settings) -> Celery:
    """Connects to nothing by itself."""
    url = settings.redis_url.get_secret_value()
    uses_tls_defaults = url.startswith("rediss:") and "ssl_" not in url
    celery = Celery("retalking", broker=url, set_as_current=False)
    celery.conf.update(
        _delivery_rules(),
        broker_transport=TRANSPORT,
        # Certificates are checked, as redis-py does for the job store; kombu's own default is not to
        broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED} if uses_tls_defaults else None,
        broker_transport_options=_redis_options(settings),
        task_queues=(Queue(RENDER_QUEUE),),
        task_default_queue=RENDER_QUEUE,
        task_create_missing_queues=False,
        task_routes={
            RENDER_TASK: {"queue": RENDER_QUEUE},
            SEGMENTS_TASK: {"queue": RENDER_QUEUE},
        },
        # JSON only: a pickled message would be code
        task_serializer="json",
        accept_content=["json"],
        # Reconnect for ever: a worker that gives up its broker is a worker lost (the default gives up after 100)
        broker_connection_retry_on_startup=True,
        broker_connection_retry=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=5,
        # A publish fails within about 2 s: callers wait for it, and the outbox makes up for it
        task_publish_retry=True,
        task_publish_retry_policy={"max_retries": 3, "interval_start": 0.1, "interval_step": 0.3, "interval_max": 1},
        # Workers are known by the job store's registry; broadcast and events would add connections that can break
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_proc_alive_timeout=600,  # a pool process is up once its models are loaded; the default is 4 s
        enable_utc=True,
        timezone="UTC",
    )
    return celery


def _delivery_rules() -> dict[str, object]:
    """Acknowledged after the work, one at a time, never as a result: a message only wakes a worker up."""
    return {
        "task_acks_late": True,
        # A failed or killed task is done with its message: the job's lease decides whether it runs again
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        "task_reject_on_worker_lost": False,
        "worker_prefetch_multiplier": 1,
        "task_ignore_result": True,
        "result_backend": None,
        "task_store_errors_even_if_ignored": False,
        # The render goes on through a lost broker: the message may come again, and the claim will refuse it
        "worker_cancel_long_running_tasks_on_connection_loss": False,
    }


def _redis_options(settings: Settings) -> dict[str, object]:
    return {
        "visibility_timeout": visibility_timeout_s(settings),
        "priority_steps": PRIORITY_STEPS,
        "queue_order_strategy": "priority",
        # Without a timeout a command on a half-open connection waits for ever, and the health checks never get
        # their turn. Well above the 1 s of a blocking read.
        "socket_timeout": 15.0,
        "socket_connect_timeout": 5.0,
        "socket_keepalive": True,
        # A consumer whose read is overdue by this reconnects (kombu >= 5.7): back within about 21 s
        "health_check_interval": 10,
        "retry_on_timeout": True,
        # Named for us: another Celery application on the same Redis must not hand out our unacknowledged messages
        "unacked_key": "retalking.unacked",
        "unacked_index_key": "retalking.unacked_index",
        "unacked_mutex_key": "retalking.unacked_mutex",
        "fanout_prefix": True,
        "fanout_patterns": True,
    }


def send_render(celery: Celery, job: Job) -> None:
    """Wake a render worker. Raises MessageNotSentError; the caller goes on, the outbox holds the job."""
    with span("send", kind="producer", parent=job.traceparent, job=job.id):
        _send(celery, RENDER_TASK, job.id, queue=RENDER_QUEUE, priority=BROKER_PRIORITY[job.spec.request.priority])


def waiting_renders(celery: Celery) -> dict[int, int]:
    """Messages in the render queue, by the priority of their jobs. Raises MessageNotSentError."""
    try:
        with celery.connection_for_read() as connection:
            lengths = connection.default_channel.lengths(RENDER_QUEUE)
    except (OperationalError, redis.RedisError, OSError) as error:
        raise MessageNotSentError("the broker can not be reached") from error
    return {priority: lengths[step] for priority, step in BROKER_PRIORITY.items()}


def ask_for_help(celery: Celery, job: Job) -> None:
    """Wake a render worker for the segments of a split job. Raises MessageNotSentError; its owner asks again."""
    _send(celery, SEGMENTS_TASK, job.id, queue=RENDER_QUEUE, priority=BROKER_PRIORITY[job.spec.request.priority])


def _send(celery: Celery, task: str, subject: str, *, queue: str, priority: int) -> None:
    try:
        celery.send_task(task, args=[subject], queue=queue, priority=priority, ignore_result=True)
    except (OperationalError, redis.RedisError, OSError) as error:
        raise MessageNotSentError(f"{task} for {subject}: the broker can not be reached") from error
