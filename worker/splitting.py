"""A split job, from its owner's side: analyze the clip, render segments as helpers do, wait for theirs, and join.

Why leased segments in the store and no Celery chord: a chord counts results, and a killed worker gives none, so it
would never end. Here a segment whose lease expired is due again, and the owner takes it over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from celery import Celery
from redis.exceptions import RedisError

from jobs.messages import MessageNotSentError, ask_for_help
from jobs.models import Job, WorkerInfo
from jobs.names import scene_key
from jobs.store import LeaseLostError, SplitPlan, SplitState
from retalking_core.clip_plan import ClipPlan
from retalking_core.engine import DrawingReport, Engine, SegmentedEngine
from retalking_core.media.segments import plan_segments
from retalking_core.notes import Note
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ProgressHook
from retalking_core.types import RenderReport
from worker.context import Attempt, RunContext
from worker.faults import retry_redis, retry_storage
from worker.segments import SplitClip, render_segment, renderer_of, segment_lease
from worker.translation import core_notes

log = logging.getLogger(__name__)

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
