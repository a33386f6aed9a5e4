"""One pass over the frames for all metrics: each file is decoded only once.

Observations by name: `points`, the 68 landmarks of the result; `lines`, those of each line's face on its frames;
`ssim`, the toolkit's similarity frame by frame; `outside`, the error outside the faces that are drawn; `sharpness`,
that of the face on some frames. They fail independently: a damaged reference makes `ssim` and `outside`
unavailable, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence, Set
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import InputError, MetricUnavailableError
from retalking_core.evaluation.clip import EvaluatedClip
from retalking_core.evaluation.face_points import PointFinder
from retalking_core.evaluation.frames import BgrOfFrames, Picture, read_bgr
from retalking_core.evaluation.image_quality import BLOCK_PX, SIDE_PX, SimilarityMeter, cpbd, toolkit_gray
from retalking_core.faces.landmarks import bounding_box
from retalking_core.media.encoder import badge_box
from retalking_core.media.sources import PrefetchingFrameSource
from retalking_core.threads import disable_opencv_threads
from retalking_core.types import Frame

# Growth of the box around the 68 points on each side, in its own width and height: forehead, ears and neck are inside.
MARGIN = 0.5


@dataclass(frozen=True)
class OutsideError:
    """squared: sum of squared luma differences outside the face; pixels: how many were compared, on `frames` frames."""

    squared: float
    pixels: int
    frames: int

    @property
    def psnr_db(self) -> float:
        """Infinite for equal pixels."""
        return float("inf") if self.squared == 0 else float(10 * np.log10(255**2 * self.pixels / self.squared))


Box = tuple[int, int, int, int]
"""Left, top, right, bottom px."""


class OutsideMeter:
    """Adds up paired frames of one size. left_out: what was drawn on purpose (a badge), and is not counted."""

    def __init__(self, left_out: Sequence[Box] = ()) -> None:
        self.error = OutsideError(0.0, 0, 0)
        self._left_out = left_out

    def add(self, one: Frame, other: Frame, faces: Sequence[NDArray[np.float32]]) -> None:
        """faces: f32 [68, 2] px of each face that is drawn on the result's frame."""
        height, width = one.y.shape
        boxes = [*(face_box(marks, width, height) for marks in faces), *self._left_out]
        squared, pixels = self.error.squared, self.error.pixels
        for part in boxes_around(boxes, width, height):
            found, count = _squares(one, other, part)
            squared, pixels = squared + found, pixels + count
        self.error = OutsideError(squared, pixels, self.error.frames + 1)


def boxes_around(boxes: Sequence[Box], width: int, height: int) -> Iterator[Box]:
    """Boxes that do not overlap and together are all of the picture that lies in none of the given ones."""
    edges = {0, height, *(side for box in boxes for side in (box[1], box[3]))}
    for top, bottom in pairwise(sorted(edges)):
        begin = 0
        for left, right in sorted((box[0], box[2]) for box in boxes if box[1] <= top and bottom <= box[3]):
            if left > begin:
                yield begin, top, left, bottom
            begin = max(begin, right)
        if begin < width:
            yield begin, top, width, bottom


def _squares(one: Frame, other: Frame, box: Box) -> tuple[float, int]:
    """Sum of squared differences, and how many pixels. Sums of squares of bytes are exact in float64."""
    left, top, right, bottom = box
    part = np.s_[top:bottom, left:right]
    return cv2.norm(one.y[part], other.y[part], cv2.NORM_L2SQR), one.y[part].size


def face_box(marks: NDArray[np.float32], width: int, height: int, margin: float = MARGIN) -> tuple[int, int, int, int]:
    """Left, top, right, bottom px around 68 points, grown by the margin and cut to the picture."""
    left, top, right, bottom = (float(side) for side in bounding_box(marks))
    grow_x, grow_y = margin * (right - left), margin * (bottom - top)
    return (
        int(np.clip(np.floor(left - grow_x), 0, width)),
        int(np.clip(np.floor(top - grow_y), 0, height)),
        int(np.clip(np.ceil(right + grow_x), 0, width)),
        int(np.clip(np.ceil(bottom + grow_y), 0, height)),
    )


Item = TypeVar("Item")


class InOrder(Generic[Item]):
    """Items of a generator by ascending number; the last one may be asked for again. None beyond the end.

    Every later call raises the same error.
    """

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._number = -1
        self._item: Item | None = None
        self._fault: InputError | None = None

    def at(self, number: int) -> Item | None:
        if self._fault is not None:
            raise self._fault
        try:
            while self._number < number:
                self._item = next(self._items, None)
                self._number += 1
        except InputError as error:
            self._fault = error
            raise
        return self._item

    def close(self) -> None:
        if isinstance(self._items, Generator):
            self._items.close()


class ReferenceFeed:
    """Frames and pictures of the reference for ascending numbers of result frames.

    Nothing is decoded before it is asked for. Raises MetricUnavailableError without a reference, and media errors.
    """

    def __init__(self, clip: EvaluatedClip) -> None:
        source = clip.reference_video
        plan = clip.paired_index
        self._numbers = source.info.frame_count
        self._planned = len(plan)
        both = min(clip.video.info.frame_count, self._numbers)
        # Where the plan starts with every frame in its turn, the two pairings want the same frames.
        is_shared = len(plan) >= both and np.array_equal(plan[:both], np.arange(both))
        self._frames = InOrder(source.frames_at(plan.tolist()))
        self._bgr = BgrOfFrames(clip.reference_file, source.info, clip.limits, may_share=is_shared)

    def frame(self, number: int) -> Frame | None:
        """What this result frame was made from."""
        return self._frames.at(number) if number < self._planned else None

    def picture(self, number: int) -> Callable[[], Picture | None]:
        """Makes the reference's own frame of this number, in any one thread; None beyond the end."""
        if not self._bgr.is_shared:
            return partial(self._bgr.decoded, number)
        frame = self._frames.at(number) if number < self._numbers else None
        return lambda: None if frame is None else self._bgr.of(frame)

    def close(self) -> None:
        self._frames.close()
        self._bgr.close()


# Sharpness changes slowly and is expensive: this many frames, spread over the clip.
SHARPNESS_FRAMES = 10
SHARPNESS_MARGIN = 0.2
# Frames scored together: at most this many, and this many pixels of either video.
SSIM_FRAMES, SSIM_PIXELS = 16, 1 << 24

Marks = NDArray[np.float32]
MakePicture = Callable[[], Picture | None]


class SsimObserver:
    """The toolkit's SSIM of frame k of the result against frame k of the reference, as long as both have one.

    Some frames at a time: the landmark model's megabytes and these pictures push each other out of the processor's
    cache. Frame by frame, or side by side in two threads, a frame took 0.9 ms more of CPU time.
    """

    def __init__(self, clip: EvaluatedClip, feed: ReferenceFeed) -> None:
        self._clip, self._feed = clip, feed
        first = None if clip.tap is None else clip.tap.first_picture
        self._bgr = BgrOfFrames(clip.result, clip.video.info, clip.limits, first=first)
        self._meter = SimilarityMeter((SIDE_PX, SIDE_PX))
        self._waiting: list[tuple[MakePicture, MakePicture]] = []
        self._scores: list[float] = []
        self._is_over = False

    def see(self, number: int, frame: Frame, faces: Faces) -> None:
        if self._is_over:
            return
        other = self._feed.picture(number)
        one = partial(self._bgr.of, frame) if self._bgr.is_shared else partial(self._bgr.decoded, number)
        self._waiting.append((one, other))
        if len(self._waiting) >= min(SSIM_FRAMES, SSIM_PIXELS // frame.y.size):
            self._score()

    def _score(self) -> None:
        waiting, self._waiting = self._waiting, []
        for makers in waiting:
            one, other = (make() for make in makers)
            if one is None or other is None:
                self._is_over = True
                return
            self._scores.append(self._meter(toolkit_gray(one), toolkit_gray(other)))

    def found(self) -> NDArray[np.float64]:
        """f64 [frames]. A frame that did not decode is a repeat here, and is no frame to the toolkit: then all anew."""
        self._score()
        self._bgr.close()
        clip = self._clip
        if not (clip.video.damaged or clip.reference_video.damaged):
            return np.array(self._scores)
        files = (clip.result, clip.reference_file)
        pairs = zip(*(read_bgr(file, clip.limits) for file in files), strict=False)
        return np.array([self._meter(toolkit_gray(one), toolkit_gray(other)) for one, other in pairs])


class OutsideObserver:
    """Luma error outside the faces that are drawn, against the frame that each one was made from. A frame on which one
    of them is not seen is not counted. Raises MetricUnavailableError when the sizes differ."""

    def __init__(self, clip: EvaluatedClip, feed: ReferenceFeed) -> None:
        sizes = [(video.info.width, video.info.height) for video in (clip.video, clip.reference_video)]
        if sizes[0] != sizes[1]:
            (width, height), (other_width, other_height) = sizes
            raise MetricUnavailableError(
                f"the result is {width}x{height} and the reference {other_width}x{other_height}: "
                "pixels cannot be paired"
            )
        self._feed = feed
        self._meter = OutsideMeter([badge_box(*sizes[0])] if clip.has_badge else [])

    def see(self, number: int, frame: Frame, faces: Faces) -> None:
        other = self._feed.frame(number)
        if other is not None and all(np.isfinite(marks).all() for marks in faces.drawn):
            self._meter.add(frame, other, faces.drawn)

    def found(self) -> OutsideError:
        return self._meter.error


class SharpnessObserver:
    """Sharpness of the face (`face_sharpness`) on frames spread over the clip, by frame."""

    def __init__(self, count: int) -> None:
        self._numbers = set(spread(np.arange(count)).tolist())
        self._found: dict[int, float | None] = {}

    def see(self, number: int, frame: Frame, faces: Faces) -> None:
        if number in self._numbers and np.isfinite(faces.measured).all():
            self._found[number] = face_sharpness(frame, faces.measured)

    def found(self) -> dict[int, float | None]:
        return self._found


def spread(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ten of these numbers, or all where there are fewer, as far apart as can be."""
    return numbers[np.linspace(0, len(numbers) - 1, min(len(numbers), SHARPNESS_FRAMES)).round().astype(int)]


def face_sharpness(frame: Frame, marks: Marks) -> float | None:
    """CPBD of the luma of the face and a fifth around it; None where that is smaller than a block of the measure."""
    height, width = frame.y.shape
    left, top, right, bottom = face_box(marks, width, height, SHARPNESS_MARGIN)
    crop = frame.y[top:bottom, left:right]
    return cpbd(crop) if min(crop.shape) >= BLOCK_PX else None


REFERENCE_POINTS = "reference_points"
"""The landmarks of the reference, which have a pass of their own."""
OBSERVERS = ("ssim", "outside", "sharpness")
LINES = "lines"
UNSEEN = np.full((68, 2), np.nan, np.float32)
# What costs one look, and not the whole pass.
LOOK_FAULTS = (InputError, MetricUnavailableError)

Findings = dict[str, Any]


class Faces(NamedTuple):
    """Points on one frame, f32 [68, 2] px each, NaN where the face is not seen. measured: of the face that the metrics
    are about. drawn: of each face that was changed."""

    measured: Marks
    drawn: Sequence[Marks]


class Observer(Protocol):
    """Sees every frame of the result in order."""

    def see(self, number: int, frame: Frame, faces: Faces) -> None: ...

    def found(self) -> Any: ...


class FaceWatch:
    """Finds the points of the measured face, and of the face of each line on the frames of the line: the same as an
    evaluation of these frames alone finds. Without lines, the measured face is the one that is drawn.

    known: findings of an earlier pass; what is in them is not looked for again.
    """

    def __init__(self, clip: EvaluatedClip, wanted: Set[str], known: Findings) -> None:
        self._known_points = known.get("points")
        needs_points = wanted & {"points", "sharpness"} or ("outside" in wanted and not clip.lines)
        self._finder = PointFinder(clip.rendered_face) if needs_points and self._known_points is None else None
        self._points: list[Marks] = []
        self._ranges = [line.frames for line in clip.lines]
        self._known_lines = known.get(LINES)
        self._finders: list[PointFinder] = []
        self._line_points: list[list[Marks]] = [[] for _ in self._ranges]
        concerned = wanted & {LINES, "outside"} if clip.lines else set[str]()
        if concerned and self._known_lines is None:
            try:
                self._finders = [PointFinder(report.face_boxes) for report in clip.line_reports]
            except MetricUnavailableError as error:
                self._known_lines = error
        is_unknown = isinstance(self._known_lines, Exception)
        self.faults: Findings = dict.fromkeys(concerned, self._known_lines) if is_unknown else {}

    def step(self, number: int, frame: Frame) -> Faces:
        """Of the next frame."""
        measured = UNSEEN
        if self._finder is not None:
            measured = self._finder.step(frame.y)
            self._points.append(measured)
        elif self._known_points is not None:
            measured = self._known_points[number]
        return Faces(measured, self._spoken(number, frame) if self._ranges else [measured])

    def _spoken(self, number: int, frame: Frame) -> list[Marks]:
        found = []
        for line, frames in enumerate(self._ranges):
            if number not in frames:
                continue
            if self._finders:
                self._line_points[line].append(self._finders[line].step(frame.y))
                found.append(self._line_points[line][-1])
            elif isinstance(self._known_lines, list):
                found.append(self._known_lines[line][number - frames.start])
        return found

    def found(self) -> Findings:
        """`points` and `lines`, as far as they were looked for."""
        found: Findings = {} if self._finder is None else {"points": np.stack(self._points)}
        if self._finders:
            found[LINES] = [np.array(points, np.float32).reshape(-1, 68, 2) for points in self._line_points]
        return found | self.faults


def look_once(clip: EvaluatedClip, wanted: Set[str], known: Findings) -> Findings:
    """Results by observation; an exception of `LOOK_FAULTS` in place of one that is unavailable. known: findings of an
    earlier pass."""
    disable_opencv_threads()
    watch = FaceWatch(clip, wanted, known)
    findings: Findings = dict(watch.faults)
    with ExitStack() as stack:
        observers = _make_observers(clip, wanted, findings, stack)
        try:
            count = clip.video.info.frame_count
            frames = PrefetchingFrameSource(clip.video).frames()
            if isinstance(frames, Generator):
                stack.enter_context(closing(frames))
            for number, frame in enumerate(clip.reporter.watch(frames, count)):
                _show(observers, findings, number, frame, watch.step(number, frame))
        except InputError as error:
            return dict.fromkeys(wanted, error) | findings
        for name, observer in observers.items():
            if name not in findings:
                findings[name] = _found(observer)
    return findings | watch.found()


def _make_observers(clip: EvaluatedClip, wanted: Set[str], findings: Findings, stack: ExitStack) -> dict[str, Observer]:
    """Who looks; why others cannot is put into the findings."""
    observers: dict[str, Observer] = {}
    feed: ReferenceFeed | None = None
    for name in OBSERVERS:
        if name not in wanted or name in findings:
            continue
        try:
            if name == "sharpness":
                observers[name] = SharpnessObserver(clip.video.info.frame_count)
                continue
            feed = feed or stack.enter_context(closing(ReferenceFeed(clip)))
            kind = SsimObserver if name == "ssim" else OutsideObserver
            observers[name] = kind(clip, feed)
        except LOOK_FAULTS as error:
            findings[name] = error
    return observers


def _found(observer: Observer) -> Any:
    try:
        return observer.found()
    except LOOK_FAULTS as error:
        return error


def _show(observers: dict[str, Observer], findings: Findings, number: int, frame: Frame, faces: Faces) -> None:
    for name, observer in observers.items():
        if name not in findings:
            try:
                observer.see(number, frame, faces)
            except LOOK_FAULTS as error:
                findings[name] = error
