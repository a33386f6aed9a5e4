"""What looks at the frames of a result in one pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retalking_core.evaluation.bgr_frames import BgrOfFrames, Picture, read_bgr
from retalking_core.evaluation.outside import OutsideError, OutsideMeter, face_box
from retalking_core.evaluation.reference_feed import ReferenceFeed
from retalking_core.evaluation.ssim import SIDE_PX, SimilarityMeter, toolkit_gray
from retalking_core.evaluation.unmeasurable import UnmeasurableError
from retalking_core.media.badge import badge_box
from retalking_core.types import Frame

if TYPE_CHECKING:
    from retalking_core.evaluation.measurement import Measurement

# Sharpness changes slowly and is dear: this many frames, spread over the clip.
SHARPNESS_FRAMES = 10
SHARPNESS_MARGIN = 0.2
# Frames whose similarity is reckoned together: at most so many, and so many pixels of either video.
SSIM_FRAMES, SSIM_PIXELS = 16, 1 << 24

Marks = NDArray[np.float32]
Crop = NDArray[np.uint8]
MakePicture = Callable[[], Picture | None]


class SsimObserver:
    """The toolkit's SSIM of frame k of the result against frame k of the reference, as long as both have one.

    Some frames at a time: the landmark model's megabytes and these pictures push each other out of the processor's
    cache. Frame by frame, or side by side in two threads, a frame took 0.9 ms more of CPU time.
    """

    def __init__(self, measurement: Measurement, feed: ReferenceFeed) -> None:
        self._measurement, self._feed = measurement, feed
        self._bgr = BgrOfFrames(measurement.result, measurement.video.info, measurement.limits)
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
            pictures = [make() for make in makers]
            if any(picture is None for picture in pictures):
                self._is_over = True
                return
            self._scores.append(self._meter(*map(toolkit_gray, pictures)))

    def found(self) -> NDArray[np.float64]:
        """f64 [frames]. A frame that did not decode is a repeat here, and is no frame to the toolkit: then all anew."""
        self._score()
        self._bgr.close()
        measurement = self._measurement
        if not (measurement.video.damaged or measurement.reference_video.damaged):
            return np.array(self._scores)
        files = (measurement.result, measurement.reference_file)
        pairs = zip(*(read_bgr(file, measurement.limits) for file in files), strict=False)
        return np.array([self._meter(toolkit_gray(one), toolkit_gray(other)) for one, other in pairs])


class OutsideObserver:
    """Luma error outside the face against the frame that each one was made from. Raises UnmeasurableError when the
    sizes differ."""

    def __init__(self, measurement: Measurement, feed: ReferenceFeed) -> None:
        sizes = [(video.info.width, video.info.height) for video in (measurement.video, measurement.reference_video)]
        if sizes[0] != sizes[1]:
            (width, height), (other_width, other_height) = sizes
            raise UnmeasurableError(
                f"the result is {width}x{height} and the reference {other_width}x{other_height}: "
                "pixels can not be paired"
            )
        self._feed = feed
        self._meter = OutsideMeter(badge_box(*sizes[0]) if measurement.has_badge else None)

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
