"""The preview engine: real pixels moved by landmarks, on any CPU, without a checkpoint.

Pass one (`PreviewEngine.analyze`) tracks the face and learns the clip's own mouth; pass two (`synthesize`) draws every
frame. It is labeled `preview` in the report and in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retalking_core import __version__
from retalking_core.analysis_file import load_analysis, save_analysis
from retalking_core.audio.visemes import VisemeTrack, recognize_visemes
from retalking_core.clip_plan import ClipPlan
from retalking_core.engine import DrawingReport, EngineCapabilities, refuse_unsupported, sum_of_times
from retalking_core.engines.preview.mouth_motion import MouthMotion, plan_mouth_motion
from retalking_core.engines.preview.mouth_render import (
    MouthInterior,
    draw_mouth,
    paint_interior,
    rank_open_frames,
    sharpest,
    skin_light,
    take_interior,
)
from retalking_core.engines.preview.mouth_shape import MouthRest, face_axes, gap_of, learn_rest, plan_shape
from retalking_core.engines.preview.mouth_warp import region_box, solve_field
from retalking_core.errors import EngineFaultError
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.track import (
    FADE_S,
    FaceTracker,
    TrackRequest,
    covered_notes,
    faceless_ranges_s,
    fade_strength,
    refuse_faceless,
)
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.segments import SegmentWriter, join_segments
from retalking_core.media.sources import CachingFrameSource, PrefetchingFrameSource
from retalking_core.media.writer import ResultWriter, output_size
from retalking_core.notes import Note, merge_notes
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ProgressHook, StageClock
from retalking_core.threads import ReadAhead, disable_opencv_threads
from retalking_core.types import FaceTrack, Frame, FrameSource, RenderReport, Timeline, VideoInfo

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
# Of it, recognizing the visemes of the speech.
LISTEN_SHARE = 0.1
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
            unsupported_options=UNSUPPORTED,
            face_margin=0.5,
        )

    def warm_up(self) -> None:
        """Load the face models (1.3 s)."""
        self._tracker.warm_up()

    def render(self, clip: ClipPlan, result: Path, options: RenderOptions, progress: ProgressHook) -> RenderReport:
        """See `Engine.render`. Raises: media errors, face_not_found, face_missing, unsupported_option, engine_fault."""
        clock, timeline = StageClock(), clip.timeline
        source = self._begin(clip, options, progress)
        # The writer comes first: it encodes the speech while the analysis keeps no more than one core busy.
        with ResultWriter(result, source.info, timeline, clip.speech, options.output, METADATA, clip.tap) as writer:
            with clock.stage("analyze"):
                motion, visemes = _plan_motion(clip, options, progress)
                scene = self.analyze(source, motion, timeline, options, progress)
            if clip.tap is not None:
                clip.tap.announce(_face_boxes(scene, source.info, options), source.held(clip.video))
            with clock.stage("synthesize"):
                self._synthesize(scene, source, writer, progress, clock)
        count = len(timeline.source_index)
        progress(Progress("synthesize", 1.0, count, count))
        report = _report(scene, source.info, options, clock.times_s)
        return replace(report, notes=[*report.notes, *visemes.notes], held=source.held(clip.video))

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
            motion, visemes = _plan_motion(clip, options, progress)
            save_analysis(scene, self.analyze(source, motion, clip.timeline, options, progress))
        return DrawingReport(dict(clock.times_s), list(visemes.notes))

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
        noted = [note for each in drawn for note in each.notes]
        return replace(report, notes=merge_notes([*report.notes, *noted]))

    def _begin(self, clip: ClipPlan, options: RenderOptions, progress: ProgressHook) -> CachingFrameSource:
        """The clip's frames, decoded ahead and kept."""
        refuse_unsupported(options, self.capabilities)
        disable_opencv_threads()
        progress(Progress("analyze", 0.0))
        return CachingFrameSource(PrefetchingFrameSource(clip.source), self._limits.max_held_bytes)

    def analyze(
        self,
        source: FrameSource,
        motion: MouthMotion,
        timeline: Timeline,
        options: RenderOptions,
        progress: ProgressHook,
    ) -> PreviewAnalysis:
        """Follow the face and learn the clip's mouth. Reads only frames that the timeline shows."""
        indices = np.unique(timeline.source_index)

        def on_frame(done: int, total: int) -> None:
            if done % REPORT_EVERY == 0 or done == total:
                share = LISTEN_SHARE + (ANALYZE_SHARE - LISTEN_SHARE) * done / total
                progress(Progress("analyze", share, done, total))

        request = TrackRequest(indices.tolist(), options.face, options.crop)
        track = self._tracker.track(source, request, on_frame)
        if options.missing_face == "fail":
            refuse_faceless(track, indices, source)
        return prepare_scene(source, timeline, track, motion, options.pads)


def _plan_motion(clip: ClipPlan, options: RenderOptions, progress: ProgressHook) -> tuple[MouthMotion, VisemeTrack]:
    speech = clip.speech.waveform
    visemes = recognize_visemes(
        speech, options.transcript, lambda share: progress(Progress("analyze", LISTEN_SHARE * share))
    )
    return plan_mouth_motion(speech, clip.timeline, visemes), visemes


def _report(
    scene: PreviewAnalysis, info: VideoInfo, options: RenderOptions, stage_times_s: dict[str, float]
) -> RenderReport:
    timeline = scene.timeline
    count = len(timeline.source_index)
    width, height = output_size(info, options.output.max_height)
    shown = scene.track.visible[timeline.source_index]
    times_s = np.arange(count) / float(timeline.fps)
    notes = [PAINTED] if scene.interior.drawn else []
    if scene.track.covered is not None:
        notes += covered_notes(scene.track.covered[timeline.source_index], timeline.fps)
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
        face_boxes=_face_boxes(scene, info, options),
    )


def _face_boxes(scene: PreviewAnalysis, info: VideoInfo, options: RenderOptions) -> NDArray[np.float32]:
    """See `RenderReport.face_boxes`."""
    width, _ = output_size(info, options.output.max_height)
    return scene.track.boxes[scene.timeline.source_index] * np.float32(width / info.width)


Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class PreviewAnalysis:
    """Everything that drawing needs. strength: f32 [M], 0 where the frame passes through .. 1 in full effect."""

    timeline: Timeline
    track: FaceTrack
    motion: MouthMotion
    rest: MouthRest
    interior: MouthInterior
    strength: NDArray[np.float32]
    pads: tuple[int, int, int, int]
    black: float


def prepare_scene(
    source: FrameSource, timeline: Timeline, track: FaceTrack, motion: MouthMotion, pads: tuple[int, int, int, int]
) -> PreviewAnalysis:
    """Learn the clip's own mouth and pick the inside of it."""
    bare = track.uncovered()
    rest = learn_rest(bare)
    black = 0.0 if source.info.color.full_range else 16.0
    interior = _find_interior(source, bare, rest, black)
    shown = bare.visible[timeline.source_index]
    strength = fade_strength(shown, round(FADE_S * float(timeline.fps)))
    return PreviewAnalysis(timeline, track, motion, rest, interior, strength, pads, black)


def _find_interior(source: FrameSource, track: FaceTrack, rest: MouthRest, black: float) -> MouthInterior:
    candidates = sorted(rank_open_frames(gap_of(track), rest.closed_gap))
    if not candidates:
        first = int(np.flatnonzero(track.visible)[0])
        frame = next(iter(source.frames_at([first])))
        return paint_interior(frame, track.landmarks[first], black)
    frames = list(source.frames_at(candidates))
    best = sharpest(frames, [track.landmarks[k] for k in candidates])
    marks = track.landmarks[candidates[best]]
    return take_interior(frames[best], marks, face_axes(marks)[1], black)


def synthesize(
    scene: PreviewAnalysis, source: FrameSource, clock: StageClock, segment: range | None = None
) -> Iterator[tuple[Frame, Box | None]]:
    """Every output frame (of the segment) with the box inside which it was changed (None: untouched), in order.

    Bytes of all three planes outside the box are those that `source` gave. Raises: EngineFaultError.
    """
    shown = segment or range(len(scene.timeline.source_index))
    order = scene.timeline.source_index[shown.start : shown.stop].tolist()
    for k, frame in zip(shown, source.frames_at(order), strict=True):
        if scene.strength[k] <= 0:
            yield frame, None
            continue
        with clock.stage("draw"):
            drawn = _draw(scene, k, frame)
        yield drawn


def _draw(scene: PreviewAnalysis, k: int, frame: Frame) -> tuple[Frame, Box]:
    marks = scene.track.landmarks[frame.index]
    strength = float(scene.strength[k])
    shape = plan_shape(marks, scene.rest, float(scene.rest.widths[frame.index]), scene.motion.pose(k), strength)
    box = region_box(shape, scene.pads, *frame.y.shape)
    try:
        field = solve_field(shape, box)
    except np.linalg.LinAlgError as error:
        raise EngineFaultError("The face of one frame could not be warped; try another clip.") from error
    light = skin_light(frame, marks, scene.black)
    return draw_mouth(frame, shape, field, scene.interior, light, scene.black, strength), box
