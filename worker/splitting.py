"""A long job, rendered by every worker that is idle. Its owner analyzes, renders segments as the others do, and joins.

Why leased items in the store and no Celery chord: a chord counts results, and a killed worker gives none, so it would
never end. Here a segment whose lease ran out is due again, the owner takes it, and no third party has to notice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from jobs.models import Job, WorkerInfo
from jobs.names import scene_key, shared_video_key
from jobs.store import LeaseLostError, SplitPlan, SplitState
from retalking_core.engine import DrawingReport, Engine, SegmentedEngine
from retalking_core.media.segments import plan_segments
from retalking_core.media.timeline import plan_timeline
from retalking_core.notes import Note
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ProgressHook
from retalking_core.types import AudioInfo, RenderReport, VideoInfo
from worker.fetch import Inputs
from worker.outcome import core_notes
from worker.patience import insist, patiently
from worker.segments import SplitClip, held, render_segment, renderer_of

if TYPE_CHECKING:
    from worker.runner import Attempt, RunContext

log = logging.getLogger(__name__)

# How often the sum of all segments is told, and how often idle workers are looked for.
LOOK_EVERY_S = 0.5
ASK_EVERY_S = 3.0
# What joining is, of the progress of the render.
JOIN_SHARE = 0.03


@dataclass(frozen=True)
class RenderTask:
    """One job's render, with everything it needs. result: the file to write. tell: takes the progress of the render."""

    attempt: Attempt
    job: Job
    engine: Engine
    inputs: Inputs
    options: RenderOptions
    folder: Path
    result: Path
    tell: ProgressHook


def render(task: RenderTask, video: VideoInfo, audio: AudioInfo) -> RenderReport:
    """By this worker alone, or by several. Raises what the engine raises, and what the keeper's checks raise."""
    context, options = task.attempt.context, task.options
    if isinstance(task.engine, SegmentedEngine) and context.settings.split_min_s:
        state = _earlier_split(task, context)
        timeline = plan_timeline(video, audio.duration_s, options.length_mode, options.output.fps)
        is_long = timeline.duration_s > context.settings.split_min_s
        if state is not None or (is_long and _helpers(task.engine, context)):
            return SharedRender(task, task.engine).run(len(timeline.source_index), state)
    return task.engine.render(task.inputs.video, task.inputs.audio, task.result, options, task.tell)


class SharedRender:
    """The owner's part of one split job."""

    def __init__(self, task: RenderTask, engine: SegmentedEngine) -> None:
        self._task, self._engine = task, engine
        self._context, self._keeper = task.attempt.context, task.attempt.keeper
        self._scene = task.folder / "scene"
        self._looked_at = self._asked_at = 0.0

    def run(self, frames: int, state: SplitState | None) -> RenderReport:
        """state: of the split that an earlier attempt left."""
        began, analysis = time.monotonic(), DrawingReport()
        if state is None:
            plan, analysis = self._analyze(frames)
        else:
            plan = state.plan
            self._fetch(plan.scene_key, self._scene)
            self._task.attempt.log(logging.INFO, "taking up the segments of an earlier attempt")
        clip = SplitClip(
            self._task.job.id, self._engine, plan, self._scene, self._task.inputs.video, self._task.options,
            self._task.folder,
        )  # fmt: skip
        state = self._render_all(clip)
        report = self._join(state, analysis)
        self._task.attempt.log(logging.INFO, "segments joined", count=plan.segments)
        workers = len({outcome.worker for outcome in state.done.values()})
        took_s = round(time.monotonic() - began, 1)
        sentence = f"Rendered as {plan.segments} segments by {workers} workers in {took_s} s."
        note = Note("split_render", sentence)
        return replace(report, notes=[*report.notes, note])

    def _analyze(self, frames: int) -> tuple[SplitPlan, DrawingReport]:
        task, job, analyzed = self._task, self._task.job, 0.0

        def hear(told: Progress) -> None:
            nonlocal analyzed
            analyzed = told.fraction
            task.tell(told)

        report = self._engine.analyze_clip(task.inputs.video, task.inputs.audio, self._scene, task.options, hear)
        fence, source = task.attempt.lease.fence, job.spec.video
        plan = SplitPlan(
            engine=self._engine.capabilities.name,
            renderer=renderer_of(self._engine),
            frames=frames,
            segments=len(plan_segments(frames)),
            scene_key=scene_key(job.id, fence),
            video_key=str(source.key) if source.kind == "object" else shared_video_key(job.id, fence),
            analyzed=min(1.0, analyzed),
        )
        self._put(plan.scene_key, self._scene)
        if source.kind != "object":
            self._put(plan.video_key, task.inputs.video)
        patiently(lambda: self._context.store.segments.open(task.attempt.lease, plan))
        task.attempt.log(logging.INFO, "split into segments", count=plan.segments)
        return plan, report

    def _render_all(self, clip: SplitClip) -> SplitState:
        """Every segment is done when this returns. One that a helper holds is waited for; a lost one is taken over."""
        context, lease = self._context, self._task.attempt.lease
        while not (state := self._look()).is_complete:
            segment = patiently(
                lambda: context.store.segments.claim(
                    clip.job_id, context.worker_id, context.settings.lease_s, owner=lease
                )
            )
            if segment is None:
                self._keeper.excuse()  # who holds the rest has a lease that ends when nothing moves
                self._keeper.wait(LOOK_EVERY_S / 2)
                continue
            try:
                with held(segment, context) as keeper:
                    render_segment(clip, segment, keeper, context, tell=self._glance)
            except LeaseLostError:
                self._keeper.check()  # the job's own lease: only a segment is lost otherwise, and it is in good hands
        return state

    def _glance(self) -> None:
        """Between two batches: now and then a look; the store may be away for a moment."""
        if time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return
        try:
            self._tell(self._context.store.segments.state(self._task.job.id))
        except RedisError as fault:
            # Each call waits for seconds before it gives up; the render must not wait with every batch.
            self._looked_at = time.monotonic() + self._context.settings.lease_s / 3
            log.warning("the job store did not answer: %s", type(fault).__name__)
            self._keeper.check()

    def _look(self) -> SplitState:
        """Between two segments: the answer is waited for."""
        return self._tell(patiently(lambda: self._context.store.segments.state(self._task.job.id)))

    def _tell(self, state: SplitState | None) -> SplitState:
        """Where all segments stand is the job's progress, and workers without work are called for the rest. Raises
        LeaseLostError when the job is over."""
        self._looked_at = time.monotonic()
        context, job = self._context, self._task.job
        if state is None:
            raise LeaseLostError(job.id)
        analyzed = state.plan.analyzed
        share = analyzed + (1 - analyzed - JOIN_SHARE) * state.progress
        frames = state.plan.frames
        self._task.tell(Progress("synthesize", max(0.0, share), int(state.progress * frames), frames))
        if state.waiting and self._looked_at - self._asked_at >= ASK_EVERY_S:
            self._asked_at = self._looked_at
            idle = [card for card in _helpers(self._engine, context) if card.busy_with is None]
            context.ask_for_help(job, min(len(idle), state.waiting))
        return state

    def _join(self, state: SplitState, analysis: DrawingReport) -> RenderReport:
        task, parts, drawn = self._task, [], [analysis]
        for number, outcome in sorted(state.done.items()):
            parts.append(task.folder / f"segment-{number}.mp4")
            self._fetch(outcome.key, parts[-1])
            self._keeper.check()
            drawn.append(DrawingReport(outcome.stage_times_s, core_notes(outcome.notes)))

        def hear(told: Progress) -> None:
            task.tell(replace(told, fraction=1 - JOIN_SHARE * (1 - told.fraction)))

        inputs = task.inputs
        return self._engine.join_clip(
            self._scene, inputs.video, inputs.audio, parts, task.result, task.options, drawn, hear
        )

    def _fetch(self, key: str, path: Path) -> None:
        self._insist(lambda: self._context.objects.fetch(key, path))

    def _put(self, key: str, path: Path) -> None:
        self._insist(lambda: self._context.objects.put_file(key, path, "application/octet-stream"))

    def _insist(self, call: Callable[[], object]) -> None:
        insist(call, self._context.storage_pauses_s, self._keeper.wait)


def _earlier_split(task: RenderTask, context: RunContext) -> SplitState | None:
    """What an attempt that was lost or handed back has left, if this worker can go on with it."""
    state = patiently(lambda: context.store.segments.state(task.job.id))
    usable = state is not None and state.plan.renderer == renderer_of(task.engine)
    return state if usable else None


def _helpers(engine: Engine, context: RunContext) -> list[WorkerInfo]:
    """The other live workers that hold the engine."""
    told = engine.capabilities
    try:
        cards = context.store.workers.live()
    except RedisError:
        return []
    return [
        card
        for card in cards
        if card.id != context.worker_id
        and any((each.name, each.version) == (told.name, told.version) for each in card.engines)
    ]
