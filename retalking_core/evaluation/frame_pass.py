"""One pass over the frames for all metrics: each file is decoded only once.

Observations by name: `points`, the 68 landmarks of the result; `ssim`, the toolkit's similarity frame by frame;
`outside`, the error outside the face; `crops`, the face on the frames whose sharpness is measured. They fail
independently: a damaged reference makes `ssim` and `outside` unavailable, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Set
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import InputError, MetricUnavailableError
from retalking_core.evaluation.clip import EvaluatedClip
from retalking_core.evaluation.face_points import PointFinder
from retalking_core.evaluation.frames import BgrOfFrames, Picture, read_bgr
from retalking_core.evaluation.image_quality import SIDE_PX, SimilarityMeter, toolkit_gray
from retalking_core.faces.landmarks import bounding_box
from retalking_core.media.badge import badge_box
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

    def __init__(self, left_out: Box | None = None) -> None:
        self.error = OutsideError(0.0, 0, 0)
        self._left_out = left_out

    def add(self, one: Frame, other: Frame, marks: NDArray[np.float32]) -> None:
        """marks: f32 [68, 2] px of the result's face."""
        height, width = one.y.shape
        left, top, right, bottom = face_box(marks, width, height)
        around = ((0, 0, width, top), (0, bottom, width, height), (0, top, left, bottom), (right, top, width, bottom))
        squared, pixels = self.error.squared, self.error.pixels
        for box in around:
            for sign, part in ((1, box), (-1, _shared(box, self._left_out))):
                if part is not None:
                    found, count = _squares(one, other, part)
                    squared, pixels = squared + sign * found, pixels + sign * count
        self.error = OutsideError(squared, pixels, self.error.frames + 1)


def _squares(one: Frame, other: Frame, box: Box) -> tuple[float, int]:
    """Sum of squared differences, and how many pixels. Sums of squares of bytes are exact in float64."""
    left, top, right, bottom = box
    part = np.s_[top:bottom, left:right]
    return (cv2.norm(one.y[part], other.y[part], cv2.NORM_L2SQR), one.y[part].size) if one.y[part].size else (0.0, 0)


def _shared(one: Box, other: Box | None) -> Box | None:
    """What lies in both boxes; None where nothing does."""
    if other is None:
        return None
    left, top, right, bottom = (
        max(one[0], other[0]),
        max(one[1], other[1]),
        min(one[2], other[2]),
        min(one[3], other[3]),
    )
    return (left, top, right, bottom) if left < right and top < bottom else None


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
Crop = NDArray[np.uint8]
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

    def see(self, number: int, frame: Frame, marks: Marks) -> None:
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
    """Luma error outside the face against the frame that each one was made from. Raises MetricUnavailableError when the
    sizes differ."""

    def __init__(self, clip: EvaluatedClip, feed: ReferenceFeed) -> None:
        sizes = [(video.info.width, video.info.height) for video in (clip.video, clip.reference_video)]
        if sizes[0] != sizes[1]:
            (width, height), (other_width, other_height) = sizes
            raise MetricUnavailableError(
                f"the result is {width}x{height} and the reference {other_width}x{other_height}: "
                "pixels cannot be paired"
            )
        self._feed = feed
        self._meter = OutsideMeter(badge_box(*sizes[0]) if clip.has_badge else None)

    def see(self, number: int, frame: Frame, marks: Marks) -> None:
        other = self._feed.frame(number)
        if other is not None and np.isfinite(marks).all():
            self._meter.add(frame, other, marks)

    def found(self) -> OutsideError:
        return self._meter.error


class FaceCrops:
    """The luma of the face on frames spread over the clip."""

    def __init__(self, count: int) -> None:
        self._numbers = set(spread(np.arange(count)).tolist())
        self._crops: dict[int, Crop] = {}

    def see(self, number: int, frame: Frame, marks: Marks) -> None:
        if number in self._numbers and np.isfinite(marks).all():
            self._crops[number] = face_crop(frame, marks)

    def found(self) -> dict[int, Crop]:
        return self._crops


def spread(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ten of these numbers, or all where there are fewer, as far apart as can be."""
    return numbers[np.linspace(0, len(numbers) - 1, min(len(numbers), SHARPNESS_FRAMES)).round().astype(int)]


def face_crop(frame: Frame, marks: Marks) -> Crop:
    """The luma of the face and a fifth around it, u8 [h, w], a copy."""
    height, width = frame.y.shape
    left, top, right, bottom = face_box(marks, width, height, SHARPNESS_MARGIN)
    return frame.y[top:bottom, left:right].copy()


REFERENCE_POINTS = "reference_points"
"""The landmarks of the reference, which have a pass of their own."""
OBSERVERS = ("ssim", "outside", "crops")
NEED_POINTS = frozenset({"points", "outside", "crops"})
UNSEEN = np.full((68, 2), np.nan, np.float32)
# What costs one look, and not the whole pass.
LOOK_FAULTS = (InputError, MetricUnavailableError)

Findings = dict[str, Any]


class Observer(Protocol):
    """Sees every frame of the result in order. marks: f32 [68, 2] px, NaN without a face."""

    def see(self, number: int, frame: Frame, marks: Marks) -> None: ...

    def found(self) -> Any: ...


def look_once(clip: EvaluatedClip, wanted: Set[str], marks: Marks | None) -> Findings:
    """Results by observation; an exception of `LOOK_FAULTS` in place of one that is unavailable.

    marks: f32 [M, 68, 2] where the points are known; with None they are looked for, and are in the findings.
    """
    disable_opencv_threads()
    findings: Findings = {}
    points: list[Marks] = []
    finder = PointFinder(clip.rendered_face) if marks is None and wanted & NEED_POINTS else None
    with ExitStack() as stack:
        observers = _make_observers(clip, wanted, findings, stack)
        try:
            count = clip.video.info.frame_count
            frames = PrefetchingFrameSource(clip.video).frames()
            if isinstance(frames, Generator):
                stack.enter_context(closing(frames))
            for number, frame in enumerate(clip.reporter.watch(frames, count)):
                seen = UNSEEN if marks is None else marks[number]
                if finder is not None:
                    seen = finder.step(frame.y)
                    points.append(seen)
                _show(observers, findings, number, frame, seen)
        except InputError as error:
            return dict.fromkeys(wanted, error) | findings
        for name, observer in observers.items():
            if name not in findings:
                findings[name] = _found(observer)
    return findings | ({"points": np.stack(points)} if finder is not None else {})


def _make_observers(clip: EvaluatedClip, wanted: Set[str], findings: Findings, stack: ExitStack) -> dict[str, Observer]:
    """Who looks; why others cannot is put into the findings."""
    observers: dict[str, Observer] = {}
    feed: ReferenceFeed | None = None
    for name in OBSERVERS:
        if name not in wanted:
            continue
        try:
            if name == "crops":
                observers[name] = FaceCrops(clip.video.info.frame_count)
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


def _show(observers: dict[str, Observer], findings: Findings, number: int, frame: Frame, marks: Marks) -> None:
    for name, observer in observers.items():
        if name not in findings:
            try:
                observer.see(number, frame, marks)
            except LOOK_FAULTS as error:
                findings[name] = error
