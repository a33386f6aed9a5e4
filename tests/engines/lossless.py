"""The engine through its public seat: `render`, and what the encoder was handed, read back from a lossless file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from retalking_core.clip_plan import plan_timeline
from retalking_core.engine import render_files
from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.media.speech import load_waveform
from retalking_core.options import RenderOptions
from retalking_core.progress import ignore_progress
from retalking_core.types import Frame, RenderReport
from tests.engines.stand_ins import StandIns
from tests.faces.clips import place_face


@dataclass(frozen=True)
class Rendered:
    """frames: as they were handed to the encoder. plain: the source frames behind them, as decoded."""

    report: RenderReport
    frames: list[Frame]
    plain: list[Frame]
    result: Path

    def changed(self, k: int) -> np.ndarray:
        """Where output frame k is not what was decoded, bool [H, W] (a chroma sample counts for its four pixels)."""
        made, plain = self.frames[k], self.plain[k]
        color = np.kron((made.u != plain.u) | (made.v != plain.v), np.ones((2, 2), bool))
        return (made.y != plain.y) | color

    def same(self, k: int) -> bool:
        return not self.changed(k).any()

    def center(self, k: int) -> tuple[float, float]:
        """(x, y) of the changed pixels, weighed by how much they changed."""
        change = np.abs(self.frames[k].y.astype(float) - self.plain[k].y)
        rows, columns = np.mgrid[: change.shape[0], : change.shape[1]]
        return float((columns * change).sum() / change.sum()), float((rows * change).sum() / change.sum())


def render_lossless(
    networks: StandIns, video: Path, speech: Path, folder: Path, options: RenderOptions | None = None, **settings: Any
) -> Rendered:
    """Renders into `folder`, with x264 at crf 0, which keeps every sample of the planes that it is given. settings: of
    the engine."""
    options = options or RenderOptions()
    options = replace(options, output=replace(options.output, crf=0))
    result = folder / "result.mp4"
    report = render_files(VideoRetalkingEngine(networks, **settings), video, speech, result, options, ignore_progress)
    source = open_video(video, DEFAULT_LIMITS, options.fps)
    speech_s = load_waveform(speech, DEFAULT_LIMITS).duration_s
    timeline = plan_timeline(source.info, speech_s, options.length_mode, options.output.fps)
    frames = list(open_video(result, DEFAULT_LIMITS).frames())
    assert len(frames) == len(timeline.source_index) == report.frames
    return Rendered(report, frames, list(source.frames_at(timeline.source_index.tolist())), result)


def darkened(sound: Any, six: Any, reference: Any, noises: Any = None) -> tuple[Any, Any]:
    """A lip network whose effect is seen on every face it is given."""
    return reference * 0.6, reference


def with_faces(canvas: np.ndarray, face_px: float, places: Sequence[tuple[float, float]]) -> np.ndarray:
    """A picture with a face at each place, the later ones in front."""
    picture = canvas.copy()
    for x, y in places:
        place_face(picture, face_px, x, y)
    return picture
