"""An engine that changes nothing and takes its time: `seed` milliseconds a frame. Its renders can be shared.

It leaves marks of what it began, so that a test sees what was done twice.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from retalking_core.clip_plan import ClipPlan
from retalking_core.engine import DrawingReport, EngineCapabilities, load_analysis, save_analysis, sum_of_times
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.media.writer import ResultWriter, SegmentWriter, join_segments, plan_segments
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ProgressHook
from retalking_core.types import RenderReport, Timeline, VideoInfo

BATCH = 10


class SlowEngine:
    def __init__(self, marks: Path) -> None:
        self.capabilities = EngineCapabilities(
            name="preview", version="slow", device="cpu", description="Waits.", unsupported_options={}
        )
        self._marks = marks

    def warm_up(self) -> None:
        self._marks.mkdir(parents=True, exist_ok=True)

    def render(self, clip: ClipPlan, result: Path, options: RenderOptions, progress: ProgressHook) -> RenderReport:
        self._mark("whole")
        info, timeline = clip.source.info, clip.timeline
        with ResultWriter(result, info, timeline, clip.sound, options.output, {}) as writer:
            self._work(writer, clip.video, timeline, range(len(timeline.source_index)), options, progress)
        return _report(info, timeline, {})

    def analyze_clip(
        self, clip: ClipPlan, scene: Path, options: RenderOptions, progress: ProgressHook
    ) -> DrawingReport:
        self._mark("analyze")
        save_analysis(scene, clip.timeline)
        progress(Progress("analyze", 0.02))
        return DrawingReport({"analyze": 0.5})

    def render_segment(
        self, scene: Path, video: Path, segment: range, result: Path, options: RenderOptions, progress: ProgressHook
    ) -> DrawingReport:
        timeline = load_analysis(scene, Timeline)
        self._mark(f"segment-{plan_segments(len(timeline.source_index)).index(segment)}")
        info = open_video(video, DEFAULT_LIMITS).info
        with SegmentWriter(result, info, timeline, segment, options.output) as writer:
            self._work(writer, video, timeline, segment, options, progress)
        return DrawingReport({"draw": 1.0})

    def join_clip(
        self,
        clip: ClipPlan,
        scene: Path,
        parts: Sequence[Path],
        result: Path,
        options: RenderOptions,
        drawn: Sequence[DrawingReport],
        progress: ProgressHook,
    ) -> RenderReport:
        self._mark("join")
        timeline, info = load_analysis(scene, Timeline), clip.source.info
        join_segments(result, parts, timeline, clip.sound, options.output, {}, progress)
        return _report(info, timeline, sum_of_times(drawn))

    def _work(
        self,
        writer: ResultWriter | SegmentWriter,
        video: Path,
        timeline: Timeline,
        shown: range,
        options: RenderOptions,
        progress: ProgressHook,
    ) -> None:
        frames = open_video(video, DEFAULT_LIMITS).frames_at(timeline.source_index[shown.start : shown.stop])
        due_s = time.monotonic()
        for done, frame in enumerate(frames, start=1):
            writer.write(frame)
            due_s += options.seed / 1000
            if done % BATCH == 0 or done == len(shown):
                time.sleep(max(0.0, due_s - time.monotonic()))
                progress(Progress("synthesize", done / len(shown), done, len(shown)))

    def _mark(self, what: str) -> None:
        (self._marks / f"{what}.{uuid.uuid4().hex}").touch()


def _report(info: VideoInfo, timeline: Timeline, stage_times_s: dict[str, float]) -> RenderReport:
    return RenderReport(
        engine="preview",
        engine_version="slow",
        device="cpu",
        frames=len(timeline.source_index),
        fps=timeline.fps,
        duration_s=timeline.duration_s,
        width=info.width,
        height=info.height,
        face_coverage=1.0,
        faceless_ranges_s=[],
        stage_times_s=stage_times_s,
    )
