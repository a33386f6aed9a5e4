"""The render worker as a Celery application: a parent that passes messages on, children that hold the models.

Start one for each device, without `--concurrency`: `RETALKING_GPU_SLOTS` says how many children share the device. The
parent imports no engine and makes no CUDA call: a CUDA context does not survive a fork. Engines are loaded in
`worker_process_init`, in the child.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from billiard.pool import EX_RECYCLE
from celery import Celery, signals
from celery.exceptions import Reject
from celery.utils.nodenames import nodename
from redis.exceptions import RedisError

from jobs.messages import make_celery, send_job, watch_polls
from jobs.names import EVALUATE_TASK, RENDER_QUEUE, RENDER_TASK, SEGMENTS_TASK
from jobs.opening import open_objects, open_store
from jobs.settings import Settings
from jobs.store import JobNotFoundError
from jobs.telemetry import configure_logging, log_context, span, staged, start_traces
from worker.engines import PREVIEW, LoadEngines, kernels_of, media_limits, warm_up_engines
from worker.memory import data_bytes, gpu_memory, limit_memory
from worker.supervision import (
    STORE_TIMEOUT_S,
    ChildDeathWatch,
    Heartbeat,
    PollStamp,
    ShutdownNotice,
    WatchedPool,
    disable_gossip,
)

if TYPE_CHECKING:
    from worker.context import RunContext

log = logging.getLogger(__name__)

# Time for the child to stop after the soft limit, before the parent kills it.
HARD_LIMIT_MARGIN_S = 30.0


class RenderProcess:
    """State of one child process, from its start to its end."""

    def __init__(self, settings: Settings, load_engines: LoadEngines, notice: ShutdownNotice, polls: PollStamp) -> None:
        self._settings = settings
        self._load_engines = load_engines
        self._notice = notice
        self._polls = polls
        self._suffix = uuid.uuid4().hex[:8]
        self.context: RunContext | None = None
        self.heartbeat: Heartbeat | None = None

    def worker_id(self, pid: int) -> str:
        """Name of the child with this process id; the parent can compute it too."""
        return f"{socket.gethostname()}-{pid}-{self._suffix}"

    def open(self, app: Celery) -> None:
        """Load and warm up the engines, then start the heartbeat. Heavy imports are here, after the fork.

        The preview engine's face models (1.3 s) come last: meanwhile the service is ready, and a first job waits in its
        queue until this returns.
        """
        from retalking_core.evaluation.clip import EvaluationModels
        from worker.context import RunContext
        from worker.scratch import scratch_root, sweep_orphans
        from worker.splitting import call_helpers
        from worker.translation import metric_names

        settings = self._settings
        start_traces(settings.traces_endpoint, "render-worker")
        limit_memory(settings.worker_memory_bytes)
        removed = sweep_orphans(scratch_root(settings.work_dir))
        if removed:
            log.warning("temporary folders of dead attempts removed", extra={"count": removed})
        engines = warm_up_engines(self._load_engines(settings), later=PREVIEW)
        store = open_store(settings)
        worker_id = self.worker_id(os.getpid())
        self.heartbeat = Heartbeat(
            # Hardly retried: the next heartbeat does it, and a shutdown without Redis took 8 s with the usual retries.
            open_store(settings, retries=1, timeout_s=STORE_TIMEOUT_S),
            worker_id,
            [engine.capabilities.public() for engine in engines.by_name.values()],
            metric_names(),
            settings.worker_ttl_s,
            is_closing=lambda: self._notice.is_given,
            unavailable=engines.unavailable,
            condition=lambda: {
                "polled_at": self._polls.at,
                "gpu_memory": gpu_memory(),
                "kernels": kernels_of(engines),
            },
        )
        self.heartbeat.start()
        if PREVIEW in engines.by_name:
            engines.by_name[PREVIEW].warm_up()
        self.context = RunContext(
            settings=settings,
            store=store,
            objects=open_objects(settings),
            engines=engines,
            limits=media_limits(settings),
            worker_id=worker_id,
            notice=self._notice,
            models=EvaluationModels(settings.models_dir),
            call_helpers=partial(call_helpers, app),
            send_again=lambda job: send_job(app, store, job),
        )
        log.info("ready: %s", ", ".join(engines.by_name) or "no engine", extra={"worker": worker_id})

    @contextmanager
    def _traced(self, job_id: str, context: RunContext) -> Iterator[None]:
        """The attempt as a span of its submission's trace; its log lines carry the submission's request id."""
        try:
            job = context.store.jobs.get(job_id)
        except JobNotFoundError:  # deleted: the claim finds nothing either
            yield
            return
        with (
            log_context(job=job_id, request=job.request_id),
            span("render", kind="consumer", parent=job.traceparent, job=job_id, worker=context.worker_id),
            staged(),
        ):
            yield

    def close(self) -> None:
        if self.heartbeat is not None:
            self.heartbeat.stop()

    def run(self, job_id: str) -> None:
        from worker.runner import run_job

        self._work(job_id, run_job)

    def help(self, job_id: str) -> None:
        from worker.splitting import help_job

        self._work(job_id, help_job)

    def evaluate(self, job_id: str) -> None:
        from worker.evaluation import resume_evaluation

        self._work(job_id, resume_evaluation)

    def _work(self, job_id: str, work: Callable[[str, RunContext], None]) -> None:
        if self.context is None or self.heartbeat is None or self._notice.is_given:
            raise Reject("worker shutting down", requeue=True)
        with self.heartbeat.working_on(job_id):
            try:
                with self._traced(job_id, self.context):
                    work(job_id, self.context)
            except RedisError as fault:
                raise Reject(f"job store unreachable: {type(fault).__name__}", requeue=True) from fault
            except MemoryError:
                # While a failure was handled. Reported to Celery's parent, it would be raised there once more.
                self._replace_process("out of memory in the handling of a failure")
            finally:
                self._polls.mark()  # the parent did not poll while its child was busy
        if self.context.memory.must_replace():
            self._replace_process("out of memory")

    def _replace_process(self, reason: str) -> NoReturn:
        """Exit; Celery forks another child. Inside the task, so that the parent, which still counts this process as
        busy, has given it no other message; with the exit code of a recycled process, which Celery does not count among
        the crashes that end a worker."""
        log.warning("process is replaced: %s", reason, extra={"process_bytes": data_bytes()})
        self.close()
        os._exit(EX_RECYCLE)


def build(settings: Settings, load_engines: LoadEngines) -> Celery:
    """The application of a render worker. Call it once per process, in the entry module that `celery -A` names."""
    app = make_celery(settings)
    app.conf.update(
        task_default_queue=RENDER_QUEUE,
        task_soft_time_limit=settings.render_limit_s,
        task_time_limit=settings.render_limit_s + HARD_LIMIT_MARGIN_S,
        worker_pool=f"{WatchedPool.__module__}:{WatchedPool.__qualname__}",
        worker_concurrency=settings.gpu_slots,
    )
    disable_gossip(app)
    # Like `-Q`: both queues are known, for sending, and only one is consumed.
    app.amqp.queues.select([RENDER_QUEUE])
    notice, polls = ShutdownNotice(), PollStamp()
    watch_polls(polls.mark)
    process = RenderProcess(settings, load_engines, notice, polls)
    # celery-types knows only the name of a class.
    app.Task.Request = ChildDeathWatch(settings, process.worker_id).request_class()  # type: ignore[assignment]

    @app.task(name=RENDER_TASK, acks_late=True, ignore_result=True)
    def render_job(job_id: str) -> None:
        process.run(job_id)

    @app.task(name=SEGMENTS_TASK, acks_late=True, ignore_result=True)
    def render_segments(job_id: str) -> None:
        process.help(job_id)

    @app.task(name=EVALUATE_TASK, acks_late=True, ignore_result=True)
    def evaluate_job(job_id: str) -> None:
        process.evaluate(job_id)

    _connect(app, process, notice, settings)
    return app


def work(app: Celery, arguments: Sequence[str]) -> int:
    """Take jobs until SIGTERM, and return the exit code: `celery -A ... worker` without Celery's command line, whose
    imports take a tenth of the CPU time of the start."""
    parser = argparse.ArgumentParser(description="A render worker of Retalking.")
    parser.add_argument("--name", default="celery", help="name of the node, unique on this host and its broker")
    name = parser.parse_args(arguments).name
    worker = app.Worker(hostname=nodename(name, socket.gethostname()))
    worker.start()
    return worker.exitcode or 0


def _connect(app: Celery, process: RenderProcess, notice: ShutdownNotice, settings: Settings) -> None:
    """Bind the process to Celery's signals. weak=False: nothing else refers to these functions."""

    @signals.setup_logging.connect(weak=False)
    def on_logging(**_: object) -> None:
        configure_logging(settings.log_format)

    @signals.worker_shutting_down.connect(weak=False)
    def on_shutting_down(**_: object) -> None:
        notice.give(settings.shutdown_grace_s)

    @signals.worker_process_init.connect(weak=False)
    def on_child(**_: object) -> None:
        try:
            process.open(app)
        except Exception:
            # Celery logs what a receiver raises and continues; a child without engines must not take jobs.
            log.critical("engines not loaded: the worker exits", exc_info=True)
            process.close()  # no job is waiting for this process
            with contextlib.suppress(ProcessLookupError):
                os.kill(os.getppid(), signal.SIGTERM)
            raise SystemExit(1) from None

    @signals.worker_process_shutdown.connect(weak=False)
    def on_child_end(**_: object) -> None:
        process.close()
