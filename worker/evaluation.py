"""Evaluation of a render: before the job succeeds, or after it under a lease of its own (jobs/store/leases.py).

After it, the worker that rendered goes on with what it has at hand. If it dies or shuts down, the janitor wakes another
one, which evaluates the same frames from the object store. The numbers are the same on all ways.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from redis.exceptions import RedisError

from jobs.models import Job, MetricResult
from jobs.names import curves_key, targets_key
from jobs.objects import ObjectStoreError
from jobs.store import JobNotFoundError, LeaseLostError
from jobs.store.leases import FIRST_FENCE, EvaluationLease, Evaluations
from retalking_core.clip_plan import ClipPlan, plan_clip
from retalking_core.evaluation.measurement import EarlyLooks, Measurement
from retalking_core.face_choice import settle_faces
from retalking_core.progress import EVALUATE, Progress, ProgressHook
from retalking_core.types import RenderReport
from worker.context import Attempt, RunContext
from worker.faults import describe_fault, retry_redis, retry_storage
from worker.lease import LeaseKeeper, ShutdownRequestedError
from worker.memory import release_frames
from worker.scratch import InputLoader, attempt_folder, scratch_root
from worker.translation import Targets, measure, measurement_of, metrics_of, render_options, spoken, write_curves

log = logging.getLogger(__name__)

# An evaluation that ended so many attempts without a number is given up: each metric says so.
MAX_ATTEMPTS = 3
_GIVEN_UP = f"The evaluation did not end in {MAX_ATTEMPTS} attempts; the log of the workers has the details."


@dataclass(frozen=True)
class RenderedClip:
    """What one attempt at a job has rendered, and what belongs to its evaluation."""

    job: Job
    file: Path
    clip: ClipPlan
    report: RenderReport
    early: EarlyLooks | None
    curves: Path
    """File to write."""

    def evaluate(self, context: RunContext, progress: ProgressHook, say: Callable[..., None]) -> list[MetricResult]:
        """Also writes the curves. A metric that fails must not cost the render: it is null, with the reason."""
        request = self.job.spec.request
        measurement = measurement_of(
            *(self.file, self.clip, self.report, request, context.limits, context.models),
            progress=progress,
            early=self.early,
        )
        return _evaluate(measurement, self.job, self.curves, say)


def is_wanted(job: Job) -> bool:
    return job.spec.request.evaluate_policy != "none" and job.spec.request.evaluate != []


def follows(job: Job) -> bool:
    """Whether the job succeeds before its evaluation."""
    return is_wanted(job) and job.spec.request.evaluate_policy == "after"


def evaluate_after(rendered: RenderedClip, result: str, attempt: Attempt) -> None:
    """By the worker that has just succeeded. result: key of the published file. Only SystemExit escapes."""
    job_id, context = rendered.job.id, attempt.context
    lease = EvaluationLease(job_id, context.worker_id, FIRST_FENCE, attempt=1)

    def work(keeper: LeaseKeeper) -> list[MetricResult]:
        return rendered.evaluate(context, _progress_of(keeper), attempt.log)

    _attend(lease, context, work, result, rendered.curves)


def resume_evaluation(job_id: str, context: RunContext) -> None:
    """By any worker, for one that died or shut down. Raises RedisError when the store does not answer the claim."""
    lease = retry_redis(lambda: context.store.evaluations.claim(job_id, context.worker_id, context.settings.lease_s))
    if lease is None:
        log.info("nothing to evaluate: done, deleted, or owned by another worker", extra={"job": job_id})
        return
    job = retry_redis(lambda: context.store.jobs.get(job_id))
    assert job.result is not None  # it has succeeded
    result = job.result.key
    if lease.attempt > MAX_ATTEMPTS:
        names = metrics_of(context.models, job.spec.request.evaluate)
        nulls = [MetricResult(name=name, value=None, reason=_GIVEN_UP) for name in names]
        retry_redis(lambda: context.store.evaluations.finish(lease, nulls))
        log.error("evaluation given up", extra={"job": job_id})
        return
    log.info("evaluating what another process rendered", extra={"job": job_id, "attempt": lease.attempt})
    with attempt_folder(scratch_root(context.settings.work_dir), job_id, lease.attempt) as folder:
        curves = folder / "curves.json"

        def work(keeper: LeaseKeeper) -> list[MetricResult]:
            return _evaluate_stored(job, result, folder, curves, context, keeper)

        _attend(lease, context, work, result, curves)


def _evaluate_stored(
    job: Job, result: str, folder: Path, curves: Path, context: RunContext, keeper: LeaseKeeper
) -> list[MetricResult]:
    """From the inputs and the result in the object store."""
    request, progress = job.spec.request, _progress_of(keeper)
    loader = InputLoader(
        objects=context.objects,
        max_bytes=context.settings.max_upload_bytes,
        beat=lambda _stage, fraction, detail: keeper.beat(EVALUATE, 0.0, (fraction, detail)),
        wait=keeper.wait,
        pauses_s=context.storage_pauses_s,
    )
    inputs = loader.load(job, folder)
    file, stated = folder / Path(result).name, folder / "targets.npz"
    for key, path in ((result, file), (targets_key(result), stated)):
        retry_storage(partial(context.objects.fetch, key, path), context.storage_pauses_s, keeper.wait)
    options = render_options(request.options, inputs.expression_image, job.owner)
    with ExitStack() as opened:
        planned = opened.enter_context(plan_clip(inputs.video, spoken(job.spec, inputs), options, context.limits))
        # How many faces speak depends on whom the choices mean. Found again: only an evaluation that lost its worker
        # comes here.
        clip = settle_faces(
            planned, options, context.limits, lambda found: keeper.beat(EVALUATE, 0.0, (found.stage, found.done))
        ).clip
        targets = Targets.load(stated)
        measurement = measurement_of(
            *(file, clip, None, request, context.limits, context.models), progress=progress, targets=targets
        )
        return _evaluate(measurement, job, curves, partial(_say, job.id))


def _evaluate(measurement: Measurement, job: Job, curves: Path, say: Callable[..., None]) -> list[MetricResult]:
    metrics = measure(measurement, job.spec.request.evaluate, say)
    write_curves(measurement, curves, say)
    return metrics


def _attend(
    lease: EvaluationLease,
    context: RunContext,
    work: Callable[[LeaseKeeper], list[MetricResult]],
    result: str,
    curves: Path,
) -> None:
    """Keep the lease during the work, publish the curves, then the numbers. What fails is tried again by whoever claims
    the evaluation next."""
    settings, evaluations, tags = context.settings, context.store.evaluations, {"job": lease.job_id}
    keeper = LeaseKeeper(
        EvaluationLeaseBackend(evaluations),
        lease,
        lease_s=settings.lease_s,
        stall_s=settings.stall_s,
        notice=context.notice,
    )
    try:
        with keeper:
            with keeper.expecting_progress():
                metrics = work(keeper)
            if curves.exists():
                put = partial(context.objects.put_file, curves_key(result), curves, "application/json")
                retry_storage(put, context.storage_pauses_s, keeper.wait)
            keeper.check()
            retry_redis(lambda: evaluations.finish(lease, metrics))
        log.info("evaluated", extra=tags)
    except (LeaseLostError, JobNotFoundError):
        log.warning("evaluation lost: deleted, or owned by another worker", extra=tags)
        _delete_late(lease.job_id, curves_key(result), context)
    except ShutdownRequestedError:
        _release(lease, context, count_attempt=False)
    except RedisError:
        log.exception("job store unreachable: the lease of the evaluation will expire", extra=tags)
    except Exception as fault:
        error = describe_fault(fault, is_memory_full=context.memory.is_full)
        release_frames(fault)
        context.memory.note_failure(error.code)
        log.error("evaluation failed, will be tried again: %s", type(fault).__name__, exc_info=fault, extra=tags)
        _release(lease, context, count_attempt=True)
    except SystemExit:
        _release(lease, context, count_attempt=False)
        raise


class EvaluationLeaseBackend:
    """Renews the lease of an evaluation for a LeaseKeeper. It cannot be canceled: deleting the job ends it."""

    def __init__(self, evaluations: Evaluations) -> None:
        self._evaluations = evaluations

    def report(self, lease: EvaluationLease, *, stage: str, progress: float, lease_s: float) -> bool:
        """The job is over: its progress is 1."""
        return self.renew(lease, lease_s)

    def renew(self, lease: EvaluationLease, lease_s: float) -> bool:
        self._evaluations.renew(lease, lease_s)
        return False


def _progress_of(keeper: LeaseKeeper) -> ProgressHook:
    def report(progress: Progress) -> None:
        keeper.beat(progress.stage, progress.fraction, (progress.done, progress.total))

    return report


def _release(lease: EvaluationLease, context: RunContext, *, count_attempt: bool) -> None:
    """If the store stays unreachable, the lease expires instead."""
    try:
        retry_redis(lambda: context.store.evaluations.release(lease, count_attempt=count_attempt), limit_s=5.0)
    except RedisError:
        log.error("job store unreachable: the lease of the evaluation will expire", extra={"job": lease.job_id})


def _delete_late(job_id: str, key: str, context: RunContext) -> None:
    """Curves of a deleted job. Those of a job that another worker evaluates are its own: the values are the same."""
    try:
        context.store.jobs.get(job_id)
    except JobNotFoundError:
        try:
            context.objects.delete(key)
        except ObjectStoreError:
            log.error("late curves not deleted; the janitor deletes them", extra={"job": job_id})
    except RedisError:
        log.error("job store unreachable: late curves are not deleted", extra={"job": job_id})


def _say(job_id: str, level: int, message: str, exc_info: BaseException | None = None) -> None:
    log.log(level, message, exc_info=exc_info, extra={"job": job_id})
