"""Scenes in which it is known who speaks: faces side by side, each with a behavior, and the sound of one of them.

A mouth that chews, smiles or keeps shut is drawn by the preview engine onto the frames of a clip; a face that speaks is
as it was filmed, or drawn to other speech.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from retalking_core.audio.visemes import recognize_visemes
from retalking_core.engines.preview.engine import PreviewAnalysis, black_level, learn_speaker, synthesize
from retalking_core.engines.preview.mouth_motion import MouthMotion, plan_mouth_motion
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.track import TrackRequest
from retalking_core.progress import StageClock
from retalking_core.types import Frame, FrameSource, Timeline, Waveform

FPS = 25
PADS = (0, 20, 0, 0)
Picture = NDArray[np.uint8]


def still_motion(count: int) -> MouthMotion:
    """Lips that stay shut."""
    nothing = np.zeros(count, np.float32)
    return MouthMotion(*[nothing] * 6)


def chewing_motion(count: int, seed: int) -> MouthMotion:
    """The jaw goes up and down about one and a half times a second, with parted and closed lips by turns."""
    rng = np.random.default_rng(seed)
    phase = np.cumsum(2 * np.pi * (1.5 + 0.25 * np.convolve(rng.normal(size=count), np.ones(9) / 3, "same")) / FPS)
    open_now = (0.3 + 0.15 * rng.random()) * np.clip(np.sin(phase), 0, None) ** 2
    nothing = np.zeros(count)
    tracks = (open_now, 0.5 + 0.4 * np.sin(phase), 0.2 * np.sin(phase / 2), nothing, nothing, nothing)
    return MouthMotion(*(np.asarray(track, np.float32) for track in tracks))


def smiling_motion(count: int) -> MouthMotion:
    """A smile that comes, stays and goes, with the lips slightly parted."""
    smile = np.clip(1.5 * np.sin(np.pi * np.arange(count) / count), 0, 1)
    nothing = np.zeros(count)
    tracks = (0.25 * smile, 0.2 * smile, smile, nothing, nothing, nothing)
    return MouthMotion(*(np.asarray(track, np.float32) for track in tracks))


def speaking_motion(speech: Waveform, count: int) -> MouthMotion:
    timeline = Timeline(np.zeros(count, np.int64), Fraction(FPS))
    return plan_mouth_motion(speech, timeline, recognize_visemes(speech))


class Face:
    """Frames of one face, `FPS` a second, onto which mouths can be drawn. numbers: of the source's frames to show."""

    def __init__(self, source: FrameSource, numbers: Sequence[int]) -> None:
        self._source, self._numbers = source, np.asarray(numbers, np.int64)
        request = TrackRequest(np.unique(self._numbers).tolist())
        self._track = DlibFaceTracker().track(source, request, lambda done, total: None)
        drawn = np.flatnonzero(self._track.visible)
        points = self._track.landmarks[drawn]
        self.center = tuple(float(v) for v in points.reshape(-1, 2).mean(axis=0))

    def filmed(self) -> list[Picture]:
        """BGR, as they are."""
        return [_to_bgr(frame) for frame in self._source.frames_at(self._numbers.tolist())]

    def moving(self, motion: MouthMotion) -> list[Picture]:
        """BGR, with a mouth that moves like this."""
        timeline = Timeline(self._numbers, Fraction(FPS))
        spoken = np.ones(len(self._numbers), bool)
        face = learn_speaker(self._source, timeline, self._track, motion, spoken)
        scene = PreviewAnalysis(timeline, (face,), PADS, black_level(self._source.info))
        return [_to_bgr(frame) for frame, _ in synthesize(scene, self._source, StageClock())]


def swayed(pictures: Sequence[Picture], seed: int, reach: float = 0.02) -> list[Picture]:
    """A head that nods and turns about: shifted and scaled a little, slowly."""
    rng = np.random.default_rng(seed)
    height, width = pictures[0].shape[:2]
    time_s = np.arange(len(pictures)) / FPS
    x, y, zoom = (np.sin(2 * np.pi * rng.uniform(0.4, 1.1) * time_s + rng.uniform(0, 6)) for _ in range(3))
    moved = []
    for k, picture in enumerate(pictures):
        scale = 1 + reach * zoom[k]
        matrix = np.array(
            [
                [scale, 0, width * (reach * x[k] + (1 - scale) / 2)],
                [0, scale, height * (reach * y[k] + (1 - scale) / 2)],
            ]
        )
        moved.append(cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE))
    return moved


@dataclass(frozen=True)
class Placed:
    """One face of a shot. pictures: square, one a frame. side_px: its size in the scene; left, top: px."""

    pictures: Sequence[Picture]
    side_px: int
    left: int
    top: int

    def contains(self, x: float, y: float) -> bool:
        return self.left <= x < self.left + self.side_px and self.top <= y < self.top + self.side_px


def draw_shot(placed: Sequence[Placed], width: int, height: int, start: int, stop: int) -> list[Picture]:
    """Frames start to stop of the faces on a plain wall, BGR."""
    shot = []
    for k in range(start, stop):
        canvas = np.full((height, width, 3), (150, 140, 130), np.uint8)
        for face in placed:
            size = (face.side_px, face.side_px)
            picture = cv2.resize(face.pictures[k], size, interpolation=cv2.INTER_AREA)
            canvas[face.top : face.top + face.side_px, face.left : face.left + face.side_px] = picture
        shot.append(canvas)
    return shot


def make_music(count: int, rate_hz: int, seed: int) -> NDArray[np.float32]:
    """Chords, a bass and a drum, f32 [count], RMS 0.1."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(count) / rate_hz
    sound = np.zeros(count)
    for beat in range(int(count / rate_hz / 0.5) + 1):
        here = slice(int(beat * 0.5 * rate_hz), min(count, int((beat + 1) * 0.5 * rate_hz)))
        since_s = time_s[here] - beat * 0.5
        root_hz = 110 * 2 ** (rng.choice([0, 3, 5, 7]) / 12)
        for ratio in (1, 1.25, 1.5, 2, 3, 4):
            sound[here] += np.sin(2 * np.pi * root_hz * ratio * since_s) * np.exp(-2 * since_s) / ratio
        sound[here] += 0.5 * rng.normal(size=len(since_s)) * np.exp(-30 * since_s)
    return (0.1 * sound / max(float(np.sqrt(np.square(sound).mean())), 1e-9)).astype(np.float32)


def write_scene(path: Path, pictures: Sequence[Picture], sound: Waveform | None) -> Path:
    """An MP4 of BGR pictures, `FPS` a second, with its sound."""
    with av.open(str(path), "w") as out:
        film = out.add_stream("libx264", rate=FPS, options={"crf": "18", "preset": "veryfast"})
        film.height, film.width = pictures[0].shape[:2]
        film.pix_fmt = "yuv420p"
        track: Any = None if sound is None else out.add_stream("aac", rate=sound.rate_hz, layout="mono")
        for picture in pictures:
            out.mux(film.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="bgr24")))
        out.mux(film.encode(None))
        if sound is not None:
            samples = np.ascontiguousarray(sound.samples[None], np.float32)
            frame = AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = sound.rate_hz, 0
            out.mux(track.encode(frame))
            out.mux(track.encode(None))
    return path


def _to_bgr(frame: Frame) -> Picture:
    planes = np.concatenate([frame.y.reshape(-1), frame.u.reshape(-1), frame.v.reshape(-1)])
    height, width = frame.y.shape
    return np.asarray(cv2.cvtColor(planes.reshape(height * 3 // 2, width), cv2.COLOR_YUV2BGR_I420), np.uint8)
