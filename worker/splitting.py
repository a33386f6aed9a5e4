"""Split jobs, from both sides. The owner analyzes the clip, renders segments as helpers do, waits for theirs, and
joins. A helper keeps a segment's lease, renders it, and stores its frames. It decides nothing about the job: it leaves
a segment that fails to the owner, whose error counts.

Why leased segments in the store and no Celery chord: a chord counts results, and a killed worker gives none, so it
would never end. Here a segment whose lease expired is due again, and the owner takes it over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from celery import Celery
from redis.exceptions import RedisError

from jobs.messages import MessageNotSentError, ask_for_help
from jobs.models import Job, WorkerInfo
from jobs.names import scene_key, segment_key
from jobs.objects import ObjectStore, ObjectStoreError
from jobs.store import JobNotFoundError, LeaseLostError, SegmentLease, SegmentOutcome, SplitPlan, SplitState
from jobs.store.leases import Segments
from retalking_core.clip_plan import ClipPlan
from retalking_core.engine import DrawingReport, Engine, SegmentedEngine
from retalking_core.errors import RenderCanceled
from retalking_core.media.encoder import encoder_version
from retalking_core.media.writer import plan_segments
from retalking_core.notes import Note
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ProgressHook
from retalking_core.types import RenderReport
from retalking_core.vocabulary.containers import OUTPUTS
from worker.context import Attempt, RunContext
from worker.faults import describe_fault, is_unexpected, retry_redis, retry_storage
from worker.lease import LeaseKeeper, ShutdownRequestedError
from worker.memory import release_frames
from worker.scratch import attempt_folder, scratch_root
from worker.translation import core_notes, render_notes, render_options

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitClip:
    """What a worker needs of a split job to render its segments."""

    job_id: str
    engine: SegmentedEngine
    plan: SplitPlan
    analysis: Path
    """File that `SegmentedEngine.analyze_clip` wrote."""
    video: Path
    options: RenderOptions
    folder: Path
    """For temporary files."""


class SegmentLeaseBackend:
    """Renews the lease of a segment for a LeaseKeeper."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments

    def report(self, lease: SegmentLease, *, stage: str, progress: float, lease_s: float) -> bool:
        """A segment has one stage; the owner reports the progress of the job."""
        return self._segments.report(lease, progress, lease_s)

    def renew(self, lease: SegmentLease, lease_s: float) -> bool:
        return self._segments.report(lease, None, lease_s)


def renderer_of(engine: Engine) -> str:
    """Workers for which this is equal render and encode a frame to the same bytes, as far as versions can tell."""
    info = engine.capabilities
    return f"{info.name} {info.version} {info.device.partition(':')[0]} {info.fingerprint} {encoder_version()}"


@contextmanager
def segment_lease(lease: SegmentLease, context: RunContext) -> Iterator[LeaseKeeper]:
    """Renews the segment's lease inside the block, and releases it when an exception leaves the block.

    Raises LeaseLostError, RenderCanceled, ShutdownRequestedError from the keeper's checks.
    """
    settings = context.settings
    keeper = LeaseKeeper(
        SegmentLeaseBackend(context.store.segments),
        lease,
        lease_s=settings.lease_s,
        stall_s=settings.stall_s,
        notice=context.notice,
    )
    try:
        with keeper:
            yield keeper
    except LeaseLostError:
        raise
    except (ShutdownRequestedError, SystemExit):
        _release(lease, context, count_attempt=False)
        raise
    except BaseException:
        _release(lease, context, count_attempt=True)
        raise


def render_segment(
    clip: SplitClip, lease: SegmentLease, keeper: LeaseKeeper, context: RunContext, on_progress: Callable[[], None]
) -> None:
    """Render and store one segment. on_progress: called after each progress report.

    Raises what the engine raises, ObjectStoreError, and LeaseLostError when another worker took the segment over: then
    its file is deleted.
    """
    file = clip.folder / f"rendered-{lease.number}.mp4"
    frames = plan_segments(clip.plan.frames)[lease.number]

    def report(progress: Progress) -> None:
        keeper.beat(progress.stage, progress.fraction, progress.done)
        on_progress()

    with keeper.expecting_progress():
        drawn = clip.engine.render_segment(clip.analysis, clip.video, frames, file, clip.options, report)
    key = segment_key(lease.job_id, lease.number, lease.fence)
    put = context.objects.put_file
    retry_storage(lambda: put(key, file, OUTPUTS["mp4"].content_type), context.storage_pauses_s, keeper.wait)
    file.unlink()
    outcome = SegmentOutcome(
        key=key, worker=context.worker_id, stage_times_s=drawn.stage_times_s, notes=render_notes(drawn.notes)
    )
    try:
        retry_redis(lambda: context.store.segments.finish(lease, outcome))
    except LeaseLostError:
        _delete_late(context.objects, key, lease.job_id)
        raise
    log.info("segment finished", extra=_tags(lease))


def _release(lease: SegmentLease, context: RunContext, *, count_attempt: bool) -> None:
    """If the store stays unreachable, the lease expires instead."""
    try:
        retry_redis(lambda: context.store.segments.release(lease, count_attempt=count_attempt), limit_s=5.0)
        log.info("segment released", extra=_tags(lease))
    except RedisError:
        log.error("job store unreachable: the segment's lease will expire", extra=_tags(lease))


def _delete_late(objects: ObjectStore, key: str, job_id: str) -> None:
    try:
        objects.delete(key)
    except ObjectStoreError:
        log.error("late segment not deleted; it is deleted with the job's files", extra={"job": job_id})


def _tags(lease: SegmentLease) -> dict[str, object]:
    return {"job": lease.job_id, "segment": lease.number, "attempt": lease.attempt, "worker": lease.worker_id}


def help_job(job_id: str, context: RunContext) -> None:
    """Render segments of another worker's job while there are any and no other job waits. Only SystemExit escapes.

    Raises RedisError when the store does not answer the first call.
    """
    state = retry_redis(lambda: context.store.segments.state(job_id))
    engine = None if state is None else context.engines.by_name.get(state.plan.engine)
    if state is None or not isinstance(engine, SegmentedEngine) or renderer_of(engine) != state.plan.renderer:
        log.info("no segments to render: job ended, or another renderer", extra={"job": job_id})
        return
    lease = retry_redis(lambda: context.store.segments.claim(job_id, context.worker_id, context.settings.lease_s))
    if lease is None:
        log.info("no segments to render: all are taken", extra={"job": job_id})
        return
    try:
        with attempt_folder(scratch_root(context.settings.work_dir), job_id, lease.attempt) as folder:
            _render_segments(lease, engine, state.plan, folder, context)
    except (LeaseLostError, JobNotFoundError):
        log.info("job continued without this helper", extra={"job": job_id})
    except (RenderCanceled, ShutdownRequestedError) as end:
        log.info("helper stops: %s", type(end).__name__, extra={"job": job_id})
    except RedisError:
        log.exception("job store unreachable: the segment's lease will expire", extra={"job": job_id})
    except Exception as fault:
        error = describe_fault(fault, is_memory_full=context.memory.is_full)
        release_frames(fault)
        context.memory.note_failure(error.code)
        log.error(
            "segment failed: left to the owner of the job",
            exc_info=fault if is_unexpected(error) else None,
            extra={"job": job_id, "code": error.code},
        )


def _render_segments(
    first: SegmentLease, engine: SegmentedEngine, plan: SplitPlan, folder: Path, context: RunContext
) -> None:
    store, clip = context.store, None
    lease: SegmentLease | None = first
    while lease is not None:
        with segment_lease(lease, context) as keeper:
            clip = clip or _fetch_clip(lease.job_id, engine, plan, folder, keeper, context)
            render_segment(clip, lease, keeper, context, on_progress=lambda: None)
        if sum(retry_redis(store.jobs.queue_depths).values()):
            log.info("another job waits: helper stops", extra={"job": first.job_id})
            return
        lease = retry_redis(lambda: store.segments.claim(first.job_id, context.worker_id, context.settings.lease_s))


def _fetch_clip(
    job_id: str,
    engine: SegmentedEngine,
    plan: SplitPlan,
    folder: Path,
    keeper: LeaseKeeper,
    context: RunContext,
) -> SplitClip:
    """Raises ObjectStoreError, ObjectNotFoundError, JobNotFoundError."""
    analysis, video = folder / "analysis", folder / "video"
    for key, path in ((plan.scene_key, analysis), (plan.video_key, video)):
        retry_storage(partial(context.objects.fetch, key, path), context.storage_pauses_s, keeper.wait)
    request = retry_redis(lambda: context.store.jobs.get(job_id)).spec.request
    return SplitClip(job_id, engine, plan, analysis, video, render_options(request.options, None), folder)


# How often the progress of all segments is reported, and how often idle workers are called.
REPORT_EVERY_S = 0.5
CALL_EVERY_S = 3.0
# Share of joining in the progress of the render.
JOIN_SHARE = 0.03


@dataclass(frozen=True)
class RenderTask:
    """One job's render, with everything it needs."""

    attempt: Attempt
    job: Job
    engine: Engine
    clip: ClipPlan
    options: RenderOptions
    folder: Path
    """For temporary files."""
    result: Path
    """File to write."""
    on_progress: ProgressHook


def render(task: RenderTask) -> RenderReport:
    """Render by this worker alone, or as a split job. Raises what the engine and the keeper's checks raise."""
    context, options = task.attempt.context, task.options
    if isinstance(task.engine, SegmentedEngine) and context.settings.split_min_s:
        state = _earlier_split(task, context)
        is_long = task.clip.timeline.duration_s > context.settings.split_min_s
        if state is not None or (is_long and _helpers(task.engine, context)):
            return task.clip.complete(SplitRender(task, task.engine).run(state))
    return task.clip.complete(task.engine.render(task.clip, task.result, options, task.on_progress))


class SplitRender:
    """The render of one split job, by its owner."""

    def __init__(self, task: RenderTask, engine: SegmentedEngine) -> None:
        self._task, self._engine = task, engine
        self._context, self._keeper = task.attempt.context, task.attempt.keeper
        self._analysis = task.folder / "analysis"
        self._reported_at = self._called_at = 0.0

    def run(self, state: SplitState | None) -> RenderReport:
        """state: of the split that an earlier attempt left."""
        started_s, analysis = time.monotonic(), DrawingReport()
        if state is None:
            plan, analysis = self._analyze()
        else:
            plan = state.plan
            self._fetch(plan.scene_key, self._analysis)
            self._task.attempt.log(logging.INFO, "resuming the segments of an earlier attempt")
        task = self._task
        clip = SplitClip(task.job.id, self._engine, plan, self._analysis, task.clip.video, task.options, task.folder)
        state = self._render_all(clip)
        report = self._join(state, analysis)
        self._task.attempt.log(logging.INFO, "segments joined", count=plan.segments)
        workers = len({outcome.worker for outcome in state.done.values()})
        took_s = round(time.monotonic() - started_s, 1)
        sentence = f"Rendered as {plan.segments} segments by {workers} workers in {took_s} s."
        note = Note("split_render", sentence)
        return replace(report, notes=[*report.notes, note])

    def _analyze(self) -> tuple[SplitPlan, DrawingReport]:
        task, job, frames, analyzed = self._task, self._task.job, self._task.clip.frames, 0.0

        def report_progress(progress: Progress) -> None:
            nonlocal analyzed
            analyzed = progress.fraction
            task.on_progress(progress)

        report = self._engine.analyze_clip(task.clip, self._analysis, task.options, report_progress)
        plan = SplitPlan(
            engine=self._engine.capabilities.name,
            renderer=renderer_of(self._engine),
            frames=frames,
            segments=len(plan_segments(frames)),
            scene_key=scene_key(job.id, task.attempt.lease.fence),
            video_key=str(job.inputs["video"].key),
            analyzed=min(1.0, analyzed),
        )
        self._put(plan.scene_key, self._analysis)
        retry_redis(lambda: self._context.store.segments.open(task.attempt.lease, plan))
        task.attempt.log(logging.INFO, "split into segments", count=plan.segments)
        return plan, report

    def _render_all(self, clip: SplitClip) -> SplitState:
        """Returns when every segment is done: waits for those of helpers, and takes over lost ones."""
        context, lease = self._context, self._task.attempt.lease
        while not (state := self._report()).is_complete:
            segment = retry_redis(
                lambda: context.store.segments.claim(
                    clip.job_id, context.worker_id, context.settings.lease_s, owner=lease
                )
            )
            if segment is None:
                self._keeper.count_as_progress()
                self._keeper.wait(REPORT_EVERY_S / 2)
                continue
            try:
                with segment_lease(segment, context) as keeper:
                    render_segment(clip, segment, keeper, context, on_progress=self._report_between_batches)
            except LeaseLostError:
                self._keeper.check()  # of the job; if it holds, another worker took over the segment alone
        return state

    def _report_between_batches(self) -> None:
        """At most every REPORT_EVERY_S, without waiting for a store that is unreachable for a moment."""
        if time.monotonic() - self._reported_at < REPORT_EVERY_S:
            return
        try:
            self._report_state(self._context.store.segments.state(self._task.job.id))
        except RedisError as fault:
            # Each call waits for seconds before it gives up; the render must not wait in every batch.
            self._reported_at = time.monotonic() + self._context.settings.lease_s / 3
            log.warning("job store unreachable: %s", type(fault).__name__)
            self._keeper.check()

    def _report(self) -> SplitState:
        """Between two segments: retries until the store answers."""
        return self._report_state(retry_redis(lambda: self._context.store.segments.state(self._task.job.id)))

    def _report_state(self, state: SplitState | None) -> SplitState:
        """Report the progress of all segments as the job's, and call idle workers for the waiting ones.

        Raises LeaseLostError when the job is over.
        """
        self._reported_at = time.monotonic()
        context, job = self._context, self._task.job
        if state is None:
            raise LeaseLostError(job.id)
        analyzed = state.plan.analyzed
        share = analyzed + (1 - analyzed - JOIN_SHARE) * state.progress
        frames = state.plan.frames
        self._task.on_progress(Progress("synthesize", max(0.0, share), int(state.progress * frames), frames))
        if state.waiting and self._reported_at - self._called_at >= CALL_EVERY_S:
            self._called_at = self._reported_at
            idle = [worker for worker in _helpers(self._engine, context) if worker.busy_with is None]
            context.call_helpers(job, min(len(idle), state.waiting))
        return state

    def _join(self, state: SplitState, analysis: DrawingReport) -> RenderReport:
        task, segments, reports = self._task, [], [analysis]
        for number, outcome in sorted(state.done.items()):
            segments.append(task.folder / f"segment-{number}.mp4")
            self._fetch(outcome.key, segments[-1])
            self._keeper.check()
            reports.append(DrawingReport(outcome.stage_times_s, core_notes(outcome.notes)))

        def report_progress(progress: Progress) -> None:
            task.on_progress(replace(progress, fraction=1 - JOIN_SHARE * (1 - progress.fraction)))

        return self._engine.join_clip(
            task.clip, self._analysis, segments, task.result, task.options, reports, report_progress
        )

    def _fetch(self, key: str, path: Path) -> None:
        self._retry(lambda: self._context.objects.fetch(key, path))

    def _put(self, key: str, path: Path) -> None:
        self._retry(lambda: self._context.objects.put_file(key, path, "application/octet-stream"))

    def _retry(self, call: Callable[[], object]) -> None:
        retry_storage(call, self._context.storage_pauses_s, self._keeper.wait)


def _earlier_split(task: RenderTask, context: RunContext) -> SplitState | None:
    """State of the split that a lost or released attempt left, if this worker can continue it."""
    state = retry_redis(lambda: context.store.segments.state(task.job.id))
    return state if state is not None and state.plan.renderer == renderer_of(task.engine) else None


def _helpers(engine: Engine, context: RunContext) -> list[WorkerInfo]:
    """The other live workers that have the engine."""
    wanted = (engine.capabilities.name, engine.capabilities.version)
    try:
        workers = context.store.workers.live()
    except RedisError:
        return []
    return [
        worker
        for worker in workers
        if worker.id != context.worker_id and any((each.name, each.version) == wanted for each in worker.engines)
    ]


def call_helpers(app: Celery, job: Job, count: int) -> None:
    """Wake up to `count` workers for the job's segments. Never raises: the owner calls again."""
    try:
        for _ in range(count):
            ask_for_help(app, job)
    except MessageNotSentError as fault:
        log.warning("helpers not called: %s", type(fault).__name__, extra={"job": job.id})
