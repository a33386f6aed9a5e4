"""One attempt at one job, top to bottom: claim, fetch, probe, render, evaluate, publish, succeed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from celery.exceptions import SoftTimeLimitExceeded
from redis.exceptions import RedisError

from jobs.models import Job, MetricResult, ResultInfo
from jobs.names import curves_key, result_key
from jobs.objects import ObjectStore, ObjectStoreError
from jobs.settings import Settings
from jobs.store import JobNotFoundError, JobStore, Lease, LeaseLostError, WrongStateError
from retalking_core.engine import Engine
from retalking_core.errors import RenderCanceled
from retalking_core.evaluation.models import EvaluationModels
from retalking_core.media.limits import MediaLimits
from retalking_core.media.probe import probe_audio, probe_video
from retalking_core.progress import Progress
from retalking_core.types import RenderReport
from worker.egress import Egress
from worker.engines import choose_engine
from worker.faults import describe_fault, is_passing, is_unexpected
from worker.fetch import IDLE_S, Fetcher, Inputs
from worker.lease import LeaseKeeper
from worker.memory import MemoryMeter, release_frames
from worker.metrics import measure, measurement_of, write_curves
from worker.options import render_options
from worker.outcome import render_info, result_info
from worker.patience import insist, patiently
from worker.provenance import open_signer
from worker.scratch import attempt_folder, scratch_root
from worker.shutdown import HandBackError, ShutdownNotice
from worker.splitting import RenderTask, render

log = logging.getLogger(__name__)

# Where each stage ends, in the progress of the whole job.
FETCHED, RENDERED, EVALUATED = 0.05, 0.85, 0.95


@dataclass(frozen=True)
class RunContext:
    """What a render process holds for all its jobs.

    models: what judges the results. memory: is told of failures. storage_pauses_s: between tries at the object store; a
    render is expensive, so a store that is away for half a minute does not cost it.
    ask_for_help: called with a split job and how many idle workers could render segments of it.
    """

    settings: Settings
    store: JobStore
    objects: ObjectStore
    engines: Mapping[str, Engine]
    limits: MediaLimits
    worker_id: str
    notice: ShutdownNotice
    models: EvaluationModels
    memory: MemoryMeter = field(default_factory=MemoryMeter)
    storage_pauses_s: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 15.0)
    ask_for_help: Callable[[Job, int], None] = lambda _job, _count: None


@dataclass
class Attempt:
    """written: keys of the objects that this attempt has begun to write. Their names hold its fence, so they are nobody
    else's."""

    context: RunContext
    lease: Lease
    keeper: LeaseKeeper
    began: float = field(default_factory=time.monotonic)
    written: list[str] = field(default_factory=list)

    def log(self, level: int, message: str, exc_info: BaseException | None = None, **extra: object) -> None:
        tags = {"job": self.lease.job_id, "attempt": self.lease.attempt}
        tags["seconds"] = round(time.monotonic() - self.began, 2)
        log.log(level, message, exc_info=exc_info, extra=tags | extra)


def run_job(job_id: str, context: RunContext) -> None:
    """Work on a job if it is to be had. Every end of the attempt is told to the store; nothing but SystemExit escapes.

    Raises RedisError when the store did not even answer the claim.
    """
    settings = context.settings
    lease = patiently(lambda: context.store.jobs.claim(job_id, context.worker_id, settings.lease_s))
    if lease is None:
        log.info("nothing to do: over, canceled, past its deadline or in other hands", extra={"job": job_id})
        return
    keeper = LeaseKeeper(
        context.store.jobs, lease, lease_s=settings.lease_s, stall_s=settings.stall_s, notice=context.notice
    )
    attempt = Attempt(context, lease, keeper)
    attempt.log(logging.INFO, "attempt started")
    with ExitStack() as held:
        try:
            held.enter_context(keeper)  # starts a thread, which may be refused
            _produce(attempt)
        except LeaseLostError:
            _withdraw(attempt)
        except RenderCanceled:
            _settle(attempt, "canceled", lambda: context.store.jobs.cancel(lease, retention_s=settings.retention_s))
        except HandBackError:
            _settle(attempt, "handed back", lambda: context.store.jobs.release(lease, count_attempt=False))
        except RedisError:
            log.exception("the job store is away; the lease will run out", extra={"job": job_id})
        except Exception as fault:
            _give_up(attempt, fault)
        except SystemExit:
            _hand_back_in_haste(attempt)
            raise


def _produce(attempt: Attempt) -> None:
    """Fetch, render, evaluate, publish, and mark the job as succeeded."""
    context, lease, keeper = attempt.context, attempt.lease, attempt.keeper
    job = patiently(lambda: context.store.jobs.get(lease.job_id))
    container = job.spec.request.output.container
    signer = open_signer(context.settings, job.spec.request)
    with attempt_folder(scratch_root(context.settings.work_dir), job.id, lease.attempt) as folder:
        inputs = _fetch(attempt, job, folder)
        engine = choose_engine(job.spec.request.engine, context.settings, context.engines)
        file = folder / f"result.{container}"
        options = render_options(job.spec.request, inputs.expression_image, job.owner)
        with keeper.expecting_progress():  # also of the first look: a demuxer can hang as well as a decoder
            video = probe_video(inputs.video, context.limits, job.spec.request.fps)
            audio = probe_audio(inputs.audio, context.limits)
            tell = partial(_tell_render, keeper)
            report = render(RenderTask(attempt, job, engine, inputs, options, folder, file, tell), video, audio)
        curves = folder / "curves.json"
        began = time.perf_counter()
        metrics = _evaluate(attempt, job, file, inputs, report, curves)
        if metrics:
            report = replace(report, stage_times_s=report.stage_times_s | {"evaluate": time.perf_counter() - began})
        if signer is not None:
            with keeper.expecting_progress():
                file = signer.sign(file, inputs.video, inputs.audio, report)
        result = result_info(file, result_key(job.id, lease.fence, container), container, report)
        _publish(attempt, file, result, curves)
    try:
        patiently(
            lambda: context.store.jobs.succeed(
                lease,
                result=result,
                render=render_info(report),
                evaluation=metrics,
                retention_s=context.settings.retention_s,
            )
        )
    except WrongStateError:
        _delete_published(attempt)
        raise RenderCanceled("The job was canceled.") from None
    attempt.log(logging.INFO, "succeeded")


def _fetch(attempt: Attempt, job: Job, folder: Path) -> Inputs:
    settings, keeper = attempt.context.settings, attempt.keeper
    fetcher = Fetcher(
        objects=attempt.context.objects,
        egress=Egress(
            tuple(settings.allow_private_hosts),
            idle_s=IDLE_S,
            total_s=settings.fetch_limit_s,
            min_bytes_per_s=settings.fetch_min_bytes_per_s,
        ),
        max_bytes=settings.max_upload_bytes,
        beat=lambda stage, fraction, detail: keeper.beat(stage, FETCHED * fraction, detail),
        wait=keeper.wait,
        storage_pauses_s=attempt.context.storage_pauses_s,
    )
    return fetcher.fetch_all(job.spec, folder)


def _tell_render(keeper: LeaseKeeper, told: Progress) -> None:
    keeper.beat(told.stage, FETCHED + (RENDERED - FETCHED) * told.fraction, (told.done, told.total))


def _evaluate(
    attempt: Attempt, job: Job, file: Path, inputs: Inputs, report: RenderReport, curves: Path
) -> list[MetricResult]:
    """A metric that breaks must not cost the render: the numbers are then null, with the reason. What was measured
    frame by frame goes to the file `curves`."""
    request, context, keeper = job.spec.request, attempt.context, attempt.keeper
    if request.evaluate == []:
        return []
    keeper.beat("evaluate", RENDERED)
    with keeper.expecting_progress():
        measurement = measurement_of(
            *(file, inputs.video, inputs.audio, report, request, context.limits, context.models),
            progress=lambda told: _tell_evaluation(keeper, told),
        )
        metrics = measure(measurement, request.evaluate, attempt.log)
        write_curves(measurement, curves, attempt.log)
    keeper.beat("evaluate", EVALUATED)
    return metrics


def _tell_evaluation(keeper: LeaseKeeper, told: Progress) -> None:
    keeper.beat(told.stage, RENDERED + (EVALUATED - RENDERED) * told.fraction, (told.done, told.total))


def _publish(attempt: Attempt, file: Path, result: ResultInfo, curves: Path) -> None:
    """Raises ObjectStoreError when the store stayed away. The curves go first: the result is what makes them count."""
    attempt.keeper.beat("publish", EVALUATED)
    if curves.exists():
        _put(attempt, curves_key(result.key), curves, "application/json")
    _put(attempt, result.key, file, result.content_type)
    attempt.keeper.check()


def _put(attempt: Attempt, key: str, path: Path, content_type: str) -> None:
    """Noted before the first byte: a store that answers with an error may hold the object all the same."""
    context = attempt.context
    attempt.written.append(key)
    insist(lambda: context.objects.put_file(key, path, content_type), context.storage_pauses_s, attempt.keeper.wait)


def _give_up(attempt: Attempt, fault: Exception) -> None:
    """Back to the line after a passing fault while attempts are left; else failed, with a public reason."""
    context, lease = attempt.context, attempt.lease
    error = describe_fault(fault, is_memory_full=context.memory.is_full)
    release_frames(fault)
    context.memory.note_failure(error.code)
    attempt.log(logging.ERROR, "attempt failed", fault if is_unexpected(error) else None, code=error.code)
    if is_passing(fault) and lease.attempt < patiently(lambda: context.store.jobs.get(lease.job_id)).max_attempts:
        _settle(attempt, "back to the line", lambda: context.store.jobs.release(lease, count_attempt=True))
    else:
        retention_s = context.settings.retention_s
        _settle(attempt, "failed", lambda: context.store.jobs.fail(lease, error, retention_s=retention_s))


def _hand_back_in_haste(attempt: Attempt) -> None:
    """SIGTERM reached this process. Celery sends it at the hard time limit too, 0.1 s before SIGKILL: an engine that
    swallowed the soft limit must not get its job back for ever."""
    if time.monotonic() - attempt.began > attempt.context.settings.render_limit_s:
        _give_up(attempt, SoftTimeLimitExceeded())
    else:
        _settle(attempt, "handed back", lambda: attempt.context.store.jobs.release(attempt.lease, count_attempt=False))


def _settle(attempt: Attempt, outcome: str, call: Callable[[], object]) -> None:
    """The last word about an attempt. Nobody is harmed when it is not heard: the lease runs out."""
    try:
        patiently(call)
        attempt.log(logging.INFO, outcome)
    except (LeaseLostError, WrongStateError, JobNotFoundError):
        attempt.log(logging.INFO, "the job went on without this attempt")
    except RedisError:
        attempt.log(logging.ERROR, f"the job store is away: `{outcome}` could not be told, the lease will run out")
    _delete_published(attempt)


def _withdraw(attempt: Attempt) -> None:
    """The lease is gone. Remove what was published, unless the store names it: then an answer got lost on the way."""
    attempt.log(logging.WARNING, "the lease is lost: this attempt ends")
    _delete_published(attempt)


def _delete_published(attempt: Attempt) -> None:
    if not attempt.written:
        return
    try:
        result = patiently(lambda: attempt.context.store.jobs.get(attempt.lease.job_id)).result
    except JobNotFoundError:
        result = None
    except RedisError:
        attempt.log(logging.ERROR, "the job store is away: the result stays where it is")
        return
    if result is not None and result.key in attempt.written:
        return
    try:
        while attempt.written:
            attempt.context.objects.delete(attempt.written[-1])
            attempt.written.pop()
    except ObjectStoreError:
        attempt.log(logging.ERROR, "a withdrawn result could not be deleted; it goes with the job's files")
