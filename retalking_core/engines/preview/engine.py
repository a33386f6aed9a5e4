"""The preview engine: real pixels moved by landmarks, on any CPU, without a checkpoint.

It is labelled `preview` in the report and in the file, and never passes for the neural engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from retalking_core import __version__
from retalking_core.analysis_file import load_analysis, save_analysis
from retalking_core.clip_plan import ClipPlan
from retalking_core.engine import DrawingReport, EngineCapabilities, sum_of_times
from retalking_core.engines.presence import faceless_ranges_s, refuse_faceless
from retalking_core.engines.preview.analysis import PreviewAnalysis, prepare_scene, synthesize
from retalking_core.engines.preview.mouth_motion import plan_mouth_motion
from retalking_core.errors import OptionUnsupportedError
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.track import FaceTracker, TrackRequest
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.segments import SegmentWriter, join_segments
from retalking_core.media.sources import CachingFrameSource, PrefetchingFrameSource
from retalking_core.media.writer import ResultWriter, output_size
from retalking_core.notes import Note, merge_notes
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ProgressHook, StageClock
from retalking_core.threads import ReadAhead, disable_opencv_threads
from retalking_core.types import FrameSource, RenderReport, Timeline, VideoInfo, Waveform

# Options that only a network can honor.
UNSUPPORTED: dict[str, tuple[str, ...]] = {"expression": (), "upper_face": (), "one_shot": ()}
METADATA = {
    "title": "Retalking preview",
    "comment": "Synthetic media: lip-sync by Retalking, engine preview (landmark warp, no neural network).",
}
PAINTED = Note(
    "mouth_interior_painted", "The inside of the mouth is painted, because the clip never shows an open mouth."
)
# Share of the whole render that the analysis takes (measured on a 700x700 clip).
ANALYZE_SHARE = 0.4
REPORT_EVERY = 4


class PreviewEngine:
    """An `Engine` on dlib and OpenCV."""

    def __init__(self, limits: MediaLimits = DEFAULT_LIMITS, tracker: FaceTracker | None = None) -> None:
        self._limits = limits
        self._tracker = tracker or DlibFaceTracker()
        self.capabilities = EngineCapabilities(
            name="preview",
            version=__version__,
            device="cpu",
            description="Landmark-driven mouth warp on real pixels; runs anywhere, needs no checkpoint.",
            unsupported_options=dict(UNSUPPORTED),
        )

    def warm_up(self) -> None:
        """Load the face models (1.3 s)."""
        self._tracker.warm_up()

    def render(self, clip: ClipPlan, result: Path, options: RenderOptions, progress: ProgressHook) -> RenderReport:
        """See `Engine.render`. Raises: media errors, face_not_found, face_missing, unsupported_option, engine_fault."""
        clock, timeline = StageClock(), clip.timeline
        source = self._begin(clip, options, progress)
        # The writer comes first: it encodes the speech while the analysis keeps no more than one core busy.
        with ResultWriter(result, source.info, timeline, clip.speech, options.output, METADATA) as writer:
            with clock.stage("analyze"):
                scene = self.analyze(source, clip.speech.waveform, timeline, options, progress)
            with clock.stage("synthesize"):
                self._synthesize(scene, source, writer, progress, clock)
        count = len(timeline.source_index)
        progress(Progress("synthesize", 1.0, count, count))
        return replace(_report(scene, source.info, options, clock.times_s), held=source.held(clip.video))

    def _synthesize(
        self,
        scene: PreviewAnalysis,
        source: FrameSource,
        writer: ResultWriter,
        progress: ProgressHook,
        clock: StageClock,
    ) -> None:
        count = len(scene.timeline.source_index)
        with ReadAhead(synthesize(scene, source, clock)) as drawn:
            for done, (frame, _) in enumerate(drawn, start=1):
                with clock.stage("encode"):
                    writer.write(frame)
                if done % REPORT_EVERY == 0 or done == count:
                    share = ANALYZE_SHARE + (1 - ANALYZE_SHARE) * done / (count + 1)
                    progress(Progress("synthesize", share, done, count))
        with clock.stage("encode"):
            writer.finish()

    def analyze_clip(
        self, clip: ClipPlan, scene: Path, options: RenderOptions, progress: ProgressHook
    ) -> DrawingReport:
        """See `SegmentedEngine`."""
        clock = StageClock()
        source = self._begin(clip, options, progress)
        with clock.stage("analyze"):
            found = self.analyze(source, clip.speech.waveform, clip.timeline, options, progress)
            save_analysis(scene, found)
        return DrawingReport(dict(clock.times_s))

    def render_segment(
        self, scene: Path, video: Path, segment: range, result: Path, options: RenderOptions, progress: ProgressHook
    ) -> DrawingReport:
        disable_opencv_threads()
        clock, learned = StageClock(), load_analysis(scene, PreviewAnalysis)
        source = PrefetchingFrameSource(open_video(video, self._limits, options.fps))
        with (
            clock.stage("synthesize"),
            SegmentWriter(result, source.info, learned.timeline, segment, options.output) as writer,
            ReadAhead(synthesize(learned, source, clock, segment)) as drawn,
        ):
            for done, (frame, _) in enumerate(drawn, start=1):
                with clock.stage("encode"):
                    writer.write(frame)
                if done % REPORT_EVERY == 0 or done == len(segment):
                    progress(Progress("synthesize", done / len(segment), done, len(segment)))
        return DrawingReport(dict(clock.times_s))

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
        clock, learned = StageClock(), load_analysis(scene, PreviewAnalysis)
        with clock.stage("join"):
            join_segments(result, parts, learned.timeline, clip.speech, options.output, METADATA, progress)
        report = _report(learned, clip.source.info, options, sum_of_times([*drawn, DrawingReport(clock.times_s)]))
        told = [note for each in drawn for note in each.notes]
        return replace(report, notes=merge_notes([*report.notes, *told]))

    def _begin(self, clip: ClipPlan, options: RenderOptions, progress: ProgressHook) -> CachingFrameSource:
        """The clip's frames, decoded ahead and kept."""
        refuse_unsupported(options)
        disable_opencv_threads()
        progress(Progress("analyze", 0.0))
        return CachingFrameSource(PrefetchingFrameSource(clip.source), self._limits.max_held_bytes)

    def analyze(
        self,
        source: FrameSource,
        speech: Waveform,
        timeline: Timeline,
        options: RenderOptions,
        progress: ProgressHook,
    ) -> PreviewAnalysis:
        """Follow the face, read the speech, learn the clip's mouth. Reads only frames that the timeline shows."""
        indices = np.unique(timeline.source_index)

        def on_frame(done: int, total: int) -> None:
            if done % REPORT_EVERY == 0 or done == total:
                progress(Progress("analyze", ANALYZE_SHARE * done / total, done, total))

        request = TrackRequest(indices.tolist(), options.face, options.crop)
        track = self._tracker.track(source, request, on_frame)
        if options.missing_face == "fail":
            refuse_faceless(track, indices, source)
        return prepare_scene(source, timeline, track, plan_mouth_motion(speech, timeline), options.pads)


def refuse_unsupported(options: RenderOptions) -> None:
    """Raises: OptionUnsupportedError for what only the neural engine can do."""
    default = RenderOptions()
    for name in (*UNSUPPORTED, "compat"):
        if getattr(options, name) != getattr(default, name):
            raise OptionUnsupportedError(
                f"The preview engine cannot honor `{name}`; leave it out or use engine=videoretalking.", option=name
            )


def _report(
    scene: PreviewAnalysis, info: VideoInfo, options: RenderOptions, stage_times_s: dict[str, float]
) -> RenderReport:
    timeline = scene.timeline
    count = len(timeline.source_index)
    width, height = output_size(info, options.output.max_height)
    shown = scene.track.visible[timeline.source_index]
    times_s = np.arange(count) / float(timeline.fps)
    notes = [PAINTED] if scene.interior.drawn else []
    return RenderReport(
        engine="preview",
        engine_version=__version__,
        device="cpu",
        frames=count,
        fps=timeline.fps,
        duration_s=timeline.duration_s,
        width=width,
        height=height,
        face_coverage=float(shown.mean()),
        faceless_ranges_s=faceless_ranges_s(shown, times_s, timeline.duration_s),
        stage_times_s=dict(stage_times_s),
        mouth_target=scene.motion.opening * scene.strength,
        notes=notes,
    )
