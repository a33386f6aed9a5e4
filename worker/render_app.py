"""The render worker as a Celery application: a parent that only passes messages on, children that hold the models.

Start one for each device, without `--concurrency`: `RETALKING_GPU_SLOTS` says how many children share the device. The
parent imports no engine and makes no CUDA call: a CUDA context does not survive a fork. Engines are loaded in
`worker_process_init`, in the child.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from billiard.pool import EX_RECYCLE
from celery import Celery, signals
from celery.exceptions import Reject
from redis.exceptions import RedisError

from jobs.logging_config import configure_logging, log_context
from jobs.messages import make_celery, watch_polls
from jobs.names import RENDER_QUEUE, RENDER_TASK, SEGMENTS_TASK
from jobs.opening import open_objects, open_store
from jobs.settings import Settings
from jobs.store import JobNotFoundError
from jobs.traces import span, staged, start_traces
from worker.deaths import DeathNotice
from worker.engines import LoadEngines, engine_info, unavailable_engines
from worker.memory import data_bytes, limit_memory
from worker.polling import PollStamp
from worker.quiet import keep_quiet
from worker.shutdown import ShutdownNotice

if TYPE_CHECKING:
    from worker.presence import Presence
    from worker.runner import RunContext

log = logging.getLogger(__name__)

# What the child has to come to rest after the soft limit, before the parent kills it.
HARD_LIMIT_MARGIN_S = 30.0


class RenderProcess:
    """What one child holds, from its start to its end."""

    def __init__(self, settings: Settings, load_engines: LoadEngines, notice: ShutdownNotice, polls: PollStamp) -> None:
        self._settings = settings
        self._load_engines = load_engines
        self._notice = notice
        self._polls = polls
        self._family = uuid.uuid4().hex[:8]
        self.context: RunContext | None = None
        self.presence: Presence | None = None

    def worker_id(self, pid: int) -> str:
        """Of the child with this process id: the parent knows its name without asking it."""
        return f"{socket.gethostname()}-{pid}-{self._family}"

    def open(self, app: Celery) -> None:
        """Load and warm up the engines, then sign on. Everything heavy is imported here, after the fork."""
        from retalking_core.evaluation.models import EvaluationModels
        from retalking_core.media.limits import MediaLimits
        from worker.gpu_memory import gpu_memory
        from worker.metrics import metric_names
        from worker.notices import call_helpers
        from worker.presence import Presence
        from worker.runner import RunContext
        from worker.scratch import scratch_root, sweep_orphans

        settings = self._settings
        start_traces(settings, "render-worker")
        limit_memory(settings.worker_memory_bytes)
        swept = sweep_orphans(scratch_root(settings.work_dir))
        if swept:
            log.warning("temporary folders of dead attempts removed", extra={"count": swept})
        engines = self._load_engines(settings)
        if not engines:
            raise RuntimeError("no engine can run here")
        for engine in engines.values():
            engine.warm_up()
        store = open_store(settings)
        worker_id = self.worker_id(os.getpid())
        cards = [engine_info(engine.capabilities) for engine in engines.values()]
        self.presence = Presence(
            store,
            worker_id,
            cards,
            metric_names(),
            settings.worker_ttl_s,
            is_closing=lambda: self._notice.is_given,
            unavailable=unavailable_engines(settings, engines),
            condition=lambda: {"polled_at": self._polls.at, "gpu_memory": gpu_memory()},
        )
        self.context = RunContext(
            settings=settings,
            store=store,
            objects=open_objects(settings),
            engines=engines,
            limits=MediaLimits(max_video_s=settings.max_video_s, max_audio_s=settings.max_audio_s),
            worker_id=worker_id,
            notice=self._notice,
            models=EvaluationModels(settings.models_dir),
            ask_for_help=partial(call_helpers, app),
        )
        self.presence.start()
        log.info("ready: %s", ", ".join(engines), extra={"worker": worker_id})

    @contextmanager
    def _traced(self, job_id: str, context: RunContext) -> Iterator[None]:
        """The attempt as a span of its submission's trace, and its lines under the submission's request id."""
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
        if self.presence is not None:
            self.presence.stop()

    def run(self, job_id: str) -> None:
        from worker.runner import run_job

        self._work(job_id, run_job)

    def help(self, job_id: str) -> None:
        from worker.helping import help_job

        self._work(job_id, help_job)

    def _work(self, job_id: str, work: Callable[[str, RunContext], None]) -> None:
        if self.context is None or self.presence is None or self._notice.is_given:
            raise Reject("the worker is going down", requeue=True)
        with self.presence.working_on(job_id):
            try:
                with self._traced(job_id, self.context):
                    work(job_id, self.context)
            except RedisError as fault:
                raise Reject(f"the job store is away: {type(fault).__name__}", requeue=True) from fault
            except MemoryError:
                # While a failure was handled. Told to Celery's parent, it would be raised there once more.
                self._end_process("out of memory in the handling of a failure")
            finally:
                self._polls.mark()  # the parent asked for nothing meanwhile, and is asked of anew from here on
        if self.context.memory.is_spent():
            self._end_process("out of memory")

    def _end_process(self, reason: str) -> NoReturn:
        """Celery forks another one. Inside the task, so that the parent, which still counts this process as busy, has
        given it no other message; with the exit code of a process that has served its time, which Celery does not count
        among the deaths that end a worker."""
        log.warning("this process is replaced: %s", reason, extra={"process_bytes": data_bytes()})
        self.close()
        os._exit(EX_RECYCLE)


def build(settings: Settings, load_engines: LoadEngines) -> Celery:
    """The application of a render worker. Call it once a process, in the entry module that `celery -A` names."""
    app = make_celery(settings)
    app.conf.update(
        task_default_queue=RENDER_QUEUE,
        task_soft_time_limit=settings.render_limit_s,
        task_time_limit=settings.render_limit_s + HARD_LIMIT_MARGIN_S,
        worker_pool="prefork",
        worker_concurrency=settings.gpu_slots,
    )
    keep_quiet(app)
    # As `-Q` would: both queues are known, for sending, and only one is consumed.
    app.amqp.queues.select([RENDER_QUEUE])
    notice, polls = ShutdownNotice(), PollStamp()
    watch_polls(polls.mark)
    process = RenderProcess(settings, load_engines, notice, polls)

    deaths = DeathNotice(settings, process.worker_id)
    app.Task.Request = deaths.request_class()

    @app.task(name=RENDER_TASK, acks_late=True, ignore_result=True)
    def render_job(job_id: str) -> None:
        process.run(job_id)

    @app.task(name=SEGMENTS_TASK, acks_late=True, ignore_result=True)
    def render_segments(job_id: str) -> None:
        process.help(job_id)

    _connect(app, process, notice, settings)
    return app


def _connect(app: Celery, process: RenderProcess, notice: ShutdownNotice, settings: Settings) -> None:
    """Hang the process's life on Celery's signals. weak=False: nothing else holds these functions."""

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
            # Celery logs what a receiver raises and goes on; a child without engines must not take jobs.
            log.critical("the engines could not be loaded: the worker ends", exc_info=True)
            with contextlib.suppress(ProcessLookupError):
                os.kill(os.getppid(), signal.SIGTERM)
            raise SystemExit(1) from None

    @signals.worker_process_shutdown.connect(weak=False)
    def on_child_end(**_: object) -> None:
        process.close()
