"""The engine: follow the face, measure how loud the speech is, drop the chin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retalking_core.clip_plan import ClipPlan
from retalking_core.engine import EngineCapabilities, refuse_unsupported
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.track import TrackRequest, faceless_ranges_s, refuse_faceless
from retalking_core.media.writer import ResultWriter, output_size
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ProgressHook, StageClock
from retalking_core.types import Frame, RenderReport, Timeline, Waveform

LEFT_CORNER, RIGHT_CORNER, CHIN = 48, 54, 8  # of the 68 landmarks (iBUG 300-W)
DROP = 0.15  # of the face's height, at the loudest
DARK_LUMA, GRAY = 30, 128
ANALYZE_SHARE = 0.5


class PuppetEngine:
    """An `Engine`."""

    def __init__(self) -> None:
        self._tracker = DlibFaceTracker()
        self.capabilities = EngineCapabilities(
            name="puppet",
            version="1.0.0",
            device="cpu",
            description="The chin drops with the loudness of the speech, as that of a ventriloquist's dummy.",
            unsupported_options={"expression": (), "upper_face": (), "one_shot": (), "pads": (), "transcript": ()},
            face_margin=0.25,
        )

    def warm_up(self) -> None:
        self._tracker.warm_up()

    def render(self, clip: ClipPlan, result: Path, options: RenderOptions, progress: ProgressHook) -> RenderReport:
        refuse_unsupported(options, self.capabilities)
        clock = StageClock()
        source, timeline, count = clip.source, clip.timeline, clip.frames
        with clock.stage("analyze"):
            shown = np.unique(timeline.source_index)

            def on_frame(done: int, total: int) -> None:
                progress(Progress("analyze", ANALYZE_SHARE * done / total, done, total))

            track = self._tracker.track(source, TrackRequest(shown.tolist(), options.face, options.crop), on_frame)
            if options.missing_face == "fail":
                refuse_faceless(track, shown, source)
            loudness = measure_loudness(clip.speech, timeline)
        metadata = {"comment": "Synthetic media: lip-sync by Retalking, engine puppet."}
        # Leaves no file behind when anything in the block raises, the progress hook included.
        with (
            clock.stage("synthesize"),
            ResultWriter(result, source.info, timeline, clip.sound, options.output, metadata) as writer,
        ):
            frames = source.frames_at(timeline.source_index.tolist())
            for done, (number, frame) in enumerate(zip(timeline.source_index, frames, strict=True), start=1):
                writer.write(drop_chin(frame, track.landmarks[number], loudness[done - 1]))
                progress(Progress("synthesize", ANALYZE_SHARE + (1 - ANALYZE_SHARE) * done / (count + 1), done, count))
        progress(Progress("synthesize", 1.0, count, count))
        visible = track.visible[timeline.source_index]
        times_s = np.arange(count) / float(timeline.fps)
        width, height = output_size(source.info, options.output.max_height)
        return RenderReport(
            engine=self.capabilities.name,
            engine_version=self.capabilities.version,
            device=self.capabilities.device,
            frames=count,
            fps=timeline.fps,
            duration_s=timeline.duration_s,
            width=width,
            height=height,
            face_coverage=float(visible.mean()),
            faceless_ranges_s=faceless_ranges_s(visible, times_s, timeline.duration_s),
            stage_times_s=clock.times_s,
            mouth_target=np.where(visible, loudness, 0).astype(np.float32),
        )


def measure_loudness(speech: Waveform, timeline: Timeline) -> NDArray[np.float32]:
    """Root mean square of the speech under each output frame, f32 [M], 0..1 of the loudest."""
    edges = np.arange(len(timeline.source_index) + 1) / float(timeline.fps) * speech.rate_hz
    levels = np.zeros(len(timeline.source_index), np.float32)
    for number, (start, end) in enumerate(zip(edges[:-1].astype(int), edges[1:].astype(int), strict=True)):
        samples = speech.samples[start:end]
        levels[number] = np.sqrt(np.mean(samples**2)) if len(samples) else 0.0
    return levels / max(float(levels.max()), 1e-6)


def drop_chin(frame: Frame, landmarks: NDArray[np.float32], opening: float) -> Frame:
    """The frame with everything between mouth and chin moved down, and a dark gap above it.

    landmarks: f32 [68, 2], NaN where the frame shows no face: then it is returned as it is. opening: 0..1.
    """
    if np.isnan(landmarks[0, 0]):
        return frame
    face_px = float(landmarks[CHIN, 1] - landmarks[:, 1].min())
    drop = even(opening * DROP * face_px)
    left, right = even(landmarks[LEFT_CORNER, 0]), even(landmarks[RIGHT_CORNER, 0])
    top = even(float(landmarks[[LEFT_CORNER, RIGHT_CORNER], 1].mean()))
    bottom = min(even(landmarks[CHIN, 1]) + drop, frame.y.shape[0])
    if drop == 0 or left < 0 or top < 0 or right > frame.y.shape[1] or bottom - drop <= top:
        return frame
    planes = []
    # Chroma planes have half the sides of the luma plane.
    for plane, scale, gap in ((frame.y, 1, DARK_LUMA), (frame.u, 2, GRAY), (frame.v, 2, GRAY)):
        moved = plane.copy()
        columns = slice(left // scale, right // scale)
        moved[(top + drop) // scale : bottom // scale, columns] = plane[
            top // scale : (bottom - drop) // scale, columns
        ]
        moved[top // scale : (top + drop) // scale, columns] = gap
        planes.append(moved)
    return Frame(frame.index, *planes)


def even(value: float) -> int:
    return int(value) // 2 * 2
