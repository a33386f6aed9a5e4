"""Celery workers that do not talk to each other.

Gossip, mingle and heartbeats tell workers about workers over Redis pub/sub. Here the job store does that. And they
cost: measured with celery and kombu 5.7.0, when all connections are cut while a task runs, the parent reads from a new
pub/sub connection that is subscribed to nothing, and hangs there for good (tests/worker: lost connections).
There is no setting for it, only options of the command line, which every way of starting a worker would have to know.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.apps.worker import Worker


class QuietWorker(Worker):
    def __init__(self, app: Celery | None = None, **asked: Any) -> None:
        super().__init__(app, **asked | {"without_gossip": True, "without_mingle": True, "without_heartbeat": True})


def keep_quiet(app: Celery) -> None:
    """Make `celery -A ... worker` start a QuietWorker."""
    app.Worker = app.subclass_with_self(QuietWorker, name="Worker")
