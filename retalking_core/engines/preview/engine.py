"""The preview engine: real pixels moved by landmarks, on any CPU, without a checkpoint.

Pass one (`PreviewEngine.analyze`) tracks each speaker's face and learns its own mouth; pass two (`synthesize`) draws
every frame. It is labeled `preview` in the report and in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retalking_core import __version__
from retalking_core.audio.visemes import recognize_visemes
from retalking_core.clip_plan import ClipPlan, coverage_of, report_lines, track_speakers
from retalking_core.engine import (
    DrawingReport,
    EngineCapabilities,
    load_analysis,
    refuse_unsupported,
    save_analysis,
    sum_of_times,
)
from retalking_core.engines.preview.mouth_motion import MouthMotion, plan_mouth_motion
from retalking_core.engines.preview.mouth_render import (
    MouthInterior,
    box_around,
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
from retalking_core.faces.track import FaceTracker, TrackRequest, covered_notes, effect_strength
from retalking_core.lines import Speaker
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.sources import CachingFrameSource, PrefetchingFrameSource
from retalking_core.media.writer import ResultWriter, SegmentWriter, join_segments, output_size
from retalking_core.notes import Note, merge_notes
from retalking_core.options import FaceChoice, RenderOptions
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
            draws_lines=True,
        )

    def warm_up(self) -> None:
        """Load the face models (1.3 s)."""
        self._tracker.warm_up()

    def render(self, clip: ClipPlan, result: Path, options: RenderOptions, progress: ProgressHook) -> RenderReport:
        """See `Engine.render`. Raises: media errors, face_not_found, face_missing, unsupported_option, engine_fault."""
        clock, timeline = StageClock(), clip.timeline
        source = self._begin(clip, options, progress)
        # The writer comes first: it encodes the speech while the analysis keeps no more than one core busy.
        with ResultWriter(result, source.info, timeline, clip.sound, options.output, METADATA, clip.tap) as writer:
            with clock.stage("analyze"):
                scene, notes = self.analyze(clip, source, options, progress)
            if clip.tap is not None:
                boxes = _face_boxes(scene, source.info, options)
                clip.tap.announce(boxes[0], source.held(clip.video), report_lines(clip, boxes, None))
            with clock.stage("synthesize"):
                self._synthesize(scene, source, writer, progress, clock)
        count = len(timeline.source_index)
        progress(Progress("synthesize", 1.0, count, count))
        report = _report(clip, scene, options, clock.times_s)
        return replace(report, notes=[*report.notes, *notes], held=source.held(clip.video))

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
            found, notes = self.analyze(clip, source, options, progress)
            save_analysis(scene, found)
        return DrawingReport(dict(clock.times_s), notes)

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
            join_segments(result, parts, learned.timeline, clip.sound, options.output, METADATA, progress)
        report = _report(clip, learned, options, sum_of_times([*drawn, DrawingReport(clock.times_s)]))
        noted = [note for each in drawn for note in each.notes]
        return replace(report, notes=merge_notes([*report.notes, *noted]))

    def _begin(self, clip: ClipPlan, options: RenderOptions, progress: ProgressHook) -> CachingFrameSource:
        """The clip's frames, decoded ahead and kept."""
        refuse_unsupported(options, self.capabilities)
        disable_opencv_threads()
        progress(Progress("analyze", 0.0))
        return CachingFrameSource(PrefetchingFrameSource(clip.source), self._limits.max_held_bytes)

    def analyze(
        self, clip: ClipPlan, source: FrameSource, options: RenderOptions, progress: ProgressHook
    ) -> tuple[PreviewAnalysis, list[Note]]:
        """Follow each speaker's face and learn its mouth; and what there is to say about the speech. Reads only frames
        that the timeline shows."""
        total_lines = len(clip.lines)
        heard = 0

        def listen(speaker: Speaker) -> tuple[MouthMotion, list[Note]]:
            nonlocal heard
            before, heard = heard, heard + len(speaker.lines)

            def on_share(share: float) -> None:
                progress(Progress("analyze", LISTEN_SHARE * (before + share * len(speaker.lines)) / total_lines))

            return plan_speech(speaker, clip.frames, on_share)

        motions, notes = zip(*(listen(speaker) for speaker in clip.speakers), strict=True)
        indices = np.unique(clip.timeline.source_index)
        choices = list(dict.fromkeys(speaker.face for speaker in clip.speakers))

        def track(number: int, choice: FaceChoice) -> FaceTrack:
            def on_frame(done: int, total: int) -> None:
                if done % REPORT_EVERY == 0 or done == total:
                    share = (number + done / total) / len(choices)
                    share = LISTEN_SHARE + (ANALYZE_SHARE - LISTEN_SHARE) * share
                    progress(Progress("analyze", share, done, total))

            return self._tracker.track(source, TrackRequest(indices.tolist(), choice, options.crop), on_frame)

        tracks = track_speakers(clip, options, track)
        learned = tuple(
            learn_speaker(source, clip.timeline, tracks[speaker.face], motion, speaker.speaks(clip.frames))
            for speaker, motion in zip(clip.speakers, motions, strict=True)
        )
        analysis = PreviewAnalysis(clip.timeline, learned, options.pads, black_level(source.info))
        return analysis, merge_notes(note for each in notes for note in each)


def plan_speech(
    speaker: Speaker, frames: int, on_share: Callable[[float], None] = lambda _share: None
) -> tuple[MouthMotion, list[Note]]:
    """What the mouth of a speaker does on each of `frames` output frames, at rest between the lines. on_share: gets the
    share of the speaker's lines that was heard, 0..1."""
    tracks = {field.name: np.zeros(frames, np.float32) for field in fields(MouthMotion)}
    notes: list[Note] = []
    count = len(speaker.lines)
    for number, line in enumerate(speaker.lines):

        def report(share: float, before: int = number) -> None:
            on_share((before + share) / count)

        visemes = recognize_visemes(line.speech, line.transcript, report)
        spoken = plan_mouth_motion(line.speech, line.timeline, visemes)
        for name, track in tracks.items():
            track[line.frames.start : line.frames.stop] = getattr(spoken, name)
        notes += visemes.notes
    return MouthMotion(**tracks), notes


def _report(
    clip: ClipPlan, scene: PreviewAnalysis, options: RenderOptions, stage_times_s: dict[str, float]
) -> RenderReport:
    timeline, info = scene.timeline, clip.source.info
    width, height = output_size(info, options.output.max_height)
    order = timeline.source_index
    visible = [speaker.track.visible[order] for speaker in scene.speakers]
    covered = [speaker.track.covered[order] for speaker in scene.speakers if speaker.track.covered is not None]
    targets = [speaker.motion.opening * speaker.strength for speaker in scene.speakers]
    boxes = _face_boxes(scene, info, options)
    notes = [PAINTED] if any(speaker.interior.drawn for speaker in scene.speakers) else []
    if covered:
        notes += covered_notes(np.any(covered, axis=0), timeline.fps)
    coverage, faceless = coverage_of(clip, visible)
    return RenderReport(
        engine="preview",
        engine_version=__version__,
        device="cpu",
        frames=clip.frames,
        fps=timeline.fps,
        duration_s=timeline.duration_s,
        width=width,
        height=height,
        face_coverage=coverage,
        faceless_ranges_s=faceless,
        stage_times_s=dict(stage_times_s),
        mouth_target=targets[0],
        notes=notes,
        face_boxes=boxes[0],
        lines=report_lines(clip, boxes, targets),
    )


def _face_boxes(scene: PreviewAnalysis, info: VideoInfo, options: RenderOptions) -> list[NDArray[np.float32]]:
    """See `RenderReport.face_boxes`, of each speaker."""
    scale = np.float32(output_size(info, options.output.max_height)[0] / info.width)
    return [speaker.track.boxes[scene.timeline.source_index] * scale for speaker in scene.speakers]


Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class SpeakerAnalysis:
    """What drawing needs of one speaker. strength: f32 [M], 0 where its face passes through .. 1 in full effect."""

    track: FaceTrack
    motion: MouthMotion
    rest: MouthRest
    interior: MouthInterior
    strength: NDArray[np.float32]


@dataclass(frozen=True)
class PreviewAnalysis:
    """Everything that drawing needs. speakers: in the order in which they are drawn. black: luma of black."""

    timeline: Timeline
    speakers: tuple[SpeakerAnalysis, ...]
    pads: tuple[int, int, int, int]
    black: float


def black_level(info: VideoInfo) -> float:
    """Luma of black."""
    return 0.0 if info.color.full_range else 16.0


def learn_speaker(
    source: FrameSource, timeline: Timeline, track: FaceTrack, motion: MouthMotion, speaks: NDArray[np.bool_]
) -> SpeakerAnalysis:
    """Learn the face's own mouth and pick the inside of it. speaks: bool [M], on which output frames."""
    bare = track.uncovered()
    rest = learn_rest(bare)
    interior = _find_interior(source, bare, rest, black_level(source.info))
    strength = effect_strength(bare.visible[timeline.source_index], speaks, timeline.fps)
    return SpeakerAnalysis(track, motion, rest, interior, strength)


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
        drawn: Frame = frame
        changed: Box | None = None
        for speaker in scene.speakers:
            if speaker.strength[k] > 0:
                with clock.stage("draw"):
                    drawn, box = _draw(scene, speaker, k, drawn)
                changed = box if changed is None else box_around(changed, box)
        yield drawn, changed


def _draw(scene: PreviewAnalysis, speaker: SpeakerAnalysis, k: int, frame: Frame) -> tuple[Frame, Box]:
    """One speaker's mouth onto a frame, and the box of it."""
    marks, rest = speaker.track.landmarks[frame.index], speaker.rest
    strength = float(speaker.strength[k])
    shape = plan_shape(marks, rest, float(rest.widths[frame.index]), speaker.motion.pose(k), strength)
    box = region_box(shape, scene.pads, *frame.y.shape)
    try:
        field = solve_field(shape, box)
    except np.linalg.LinAlgError as error:
        raise EngineFaultError("The face of one frame could not be warped; try another clip.") from error
    light = skin_light(frame, marks, scene.black)
    return draw_mouth(frame, shape, field, speaker.interior, light, scene.black, strength), box
