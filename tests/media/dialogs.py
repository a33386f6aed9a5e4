"""A scene of two people beside each other, and what each of them says, made on the spot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.clip_plan import ClipPlan, plan_clip
from retalking_core.evaluation.face_points import find_points
from retalking_core.evaluation.measurement import Measurement
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.landmarks import inner_gap
from retalking_core.faces.track import TrackRequest
from retalking_core.lines import Line, LineInput
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.options import RenderOptions
from tests.faces.clips import backdrop, place_face, write_clip
from tests.preview.speech import make_sound, write_wav

WIDTH, HEIGHT, FPS = 480, 224, 25
SECONDS = 7.6
# Each says a line alone, then both speak at once: start and end in seconds.
FIRST_ALONE, SECOND_ALONE, BOTH = (0.4, 2.2), (2.4, 4.2), (4.4, 7.2)


@dataclass(frozen=True)
class Dialog:
    """first, second: speeches of the person on the left and on the right, of 3 s each."""

    video: Path
    first: Path
    second: Path

    @property
    def lines(self) -> list[LineInput]:
        """Four: each alone, then both at once."""
        spoken = (
            (self.first, FIRST_ALONE, "left_most"),
            (self.second, SECOND_ALONE, "right_most"),
            (self.first, BOTH, "left_most"),
            (self.second, BOTH, "right_most"),
        )
        return [LineInput(audio, start_s, end_s, face=face) for audio, (start_s, end_s), face in spoken]


def make_dialog(folder: Path, seconds: float = SECONDS) -> Dialog:
    """Two heads of one portrait, the right one mirrored, swaying a little; and two speeches of different rhythm."""
    pictures = []
    for k in range(round(seconds * FPS)):
        canvas = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        for side, sway in ((0, 3 * np.sin(k / 11)), (1, 3 * np.cos(k / 13))):
            half = backdrop(WIDTH // 2, HEIGHT)
            place_face(half, 92, 120 + sway, 108)
            canvas[:, side * WIDTH // 2 :][:, : WIDTH // 2] = cv2.flip(half, 1) if side else half
        pictures.append(canvas)
    video = write_clip(folder / "two.mp4", pictures, FPS)
    quick = [(sound, length) for vowel in "aaaaaaa" for sound, length in ((vowel, 0.22), (" ", 0.2))]
    slow = [(sound, length) for vowel in "aaaa" for sound, length in ((" ", 0.45), (vowel, 0.4))]
    first = write_wav(folder / "first.wav", make_sound(quick))
    second = write_wav(folder / "second.wav", make_sound(slow, seed=11))
    return Dialog(video, first, second)


REAL_SIDE = 480
# A mouth may come so many frames after its speech.
LAGS = range(3)


def make_real_dialog(media: Path, folder: Path) -> Dialog:
    """1.mp4 and 3.mp4 side by side, each played to and fro; what is said is 1.wav and the sound of 3.mp4."""
    count = round(SECONDS * FPS)
    halves = [list(_swung(media / name, count)) for name in ("1.mp4", "3.mp4")]
    video = write_clip(folder / "real.mp4", [np.hstack(pair) for pair in zip(*halves, strict=True)], FPS)
    return Dialog(video, media / "1.wav", media / "3.mp4")


def _swung(path: Path, count: int) -> Iterator[NDArray[np.uint8]]:
    """BGR pictures u8 [REAL_SIDE, REAL_SIDE, 3] at FPS, forward and backward again."""
    with av.open(str(path)) as media:
        rate = float(media.streams.video[0].average_rate or FPS)
        pictures = [
            cv2.resize(frame.to_ndarray(format="bgr24"), (REAL_SIDE, REAL_SIDE), interpolation=cv2.INTER_AREA)
            for frame in media.decode(video=0)
        ]
    order = [int(k * rate / FPS) for k in range(int(len(pictures) * FPS / rate))]
    cycle = order + order[-2:0:-1]
    for number in range(count):
        yield pictures[cycle[number % len(cycle)]]


@dataclass(frozen=True)
class Following:
    """Pearson r of a face's mouth with its own speech on all frames of its lines, and with the other's where both
    speak, each at the best of LAGS. changed_in_silence: luma pixels of its half of the picture that differ from the
    video on frames on which it does not speak; outside: the most that a luma pixel differs far from both faces."""

    own: float
    other: float
    changed_in_silence: int
    outside: int


def measure_result(dialog: Dialog, result: Path) -> list[Following]:
    """Of the left and the right face of a `Dialog`, from the two files alone."""
    with plan_clip(dialog.video, dialog.lines, RenderOptions(), DEFAULT_LIMITS) as clip:
        return _measure(clip, result)


def _measure(clip: ClipPlan, result: Path) -> list[Following]:
    lines, count = clip.lines, clip.frames
    sides, tracker = ("left_most", "right_most"), DlibFaceTracker()
    requests = [TrackRequest(range(count), side) for side in sides]
    boxes = [tracker.track(clip.source, request, lambda _done, _total: None).boxes for request in requests]
    source, drawn = (open_video(path, DEFAULT_LIMITS) for path in (clip.video, result))
    gaps = [
        inner_gap(find_points(drawn.frames_at(list(line.frames)), _on(boxes[line.number % 2], line))) for line in lines
    ]
    levels = [Measurement(result, line.speech).speech_level[: len(line.frames)] for line in lines]
    silent, outside = [0, 0], 0
    spoken = [np.any([np.isin(range(count), line.frames) for line in lines[side::2]], axis=0) for side in (0, 1)]
    for k, (one, other) in enumerate(zip(source.frames(), drawn.frames(), strict=True)):
        changed = np.abs(one.y.astype(np.int16) - other.y)
        halves = np.split(changed, [changed.shape[1] // 2], axis=1)
        for side in (0, 1):
            silent[side] += 0 if spoken[side][k] else int(np.count_nonzero(halves[side]))
            _blank(changed, boxes[side][k])
        outside = max(outside, int(changed.max()))
    return [
        Following(
            _best([gaps[alone], gaps[both]], [levels[alone], levels[both]]),
            _best([gaps[both]], [levels[foreign]]),
            silent[side],
            outside,
        )
        for side, (alone, both, foreign) in enumerate(((0, 2, 3), (1, 3, 2)))
    ]


def _on(boxes: NDArray[np.float64], line: Line) -> NDArray[np.float32]:
    return boxes[line.frames.start : line.frames.stop].astype(np.float32)


def _blank(changed: NDArray[np.int16], box: NDArray[np.float64]) -> None:
    """Zero where a face may have been drawn: its box and half of its size around it."""
    left, top, right, bottom = box
    grow_x, grow_y = (right - left) / 2, (bottom - top) / 2
    rows = slice(max(0, int(top - grow_y)), int(bottom + grow_y) + 1)
    changed[rows, max(0, int(left - grow_x)) : int(right + grow_x) + 1] = 0


def _best(mouths: list[NDArray[np.float32]], levels: list[NDArray[np.float32]]) -> float:
    def correlation(lag: int) -> float:
        late = np.concatenate([mouth[lag:] for mouth in mouths])
        early = np.concatenate([level[: len(level) - lag] for level in levels])
        seen = np.isfinite(late)
        return float(np.corrcoef(late[seen], early[seen])[0, 1])

    return max(correlation(lag) for lag in LAGS)
