"""68 points on every frame of a finished file, found without any help from the engine that made it."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.faces.dlib_models import Box, DlibModels, Gray, resident_models
from retalking_core.faces.follower import implied_box
from retalking_core.faces.landmarks import face_scale, iou, is_plausible
from retalking_core.types import Frame

# Longest side of the picture in which a face is looked for afresh.
SEARCH_PX = 480
# Detecting costs as much as fitting: a face that stays where it was is detected anew every so many frames.
DETECT_EVERY = 25
# Correlation of the face with itself one frame ago, below which it is detected anew at once.
STEADY, PATCH_PX = 0.7, 24
SMALLEST_SCALE_PX = 12
# Around a face that was there a frame ago: share of its size on each side, and of its size that is looked for at least.
# The narrow window costs a third of the wide one, which is the next thing that is tried.
NARROW, WIDE = (0.35, 0.85), (0.6, 0.75)
# Overlap with the detector's box (intersection over union) from which the face is still the one that is followed.
SAME_PLACE = 0.5


def find_points(frames: Iterable[Frame], wanted: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """f32 [M, 68, 2] px, NaN where dlib sees no face. Fitted anew on each frame and not smoothed.

    wanted: f32 [M, 4], where the face is that is meant; NaN where that is unknown. Without it, the largest face."""
    finder = PointFinder(wanted)
    return np.stack([finder.step(frame.y) for frame in frames])


class PointFinder:
    """The points frame by frame. wanted: see `find_points`."""

    def __init__(self, wanted: NDArray[np.float32] | None = None) -> None:
        self._wanted = None if wanted is None else _filled(wanted)
        self._number = -1
        self._models = resident_models()
        self._marks: NDArray[np.float32] | None = None
        self._box: Box | None = None
        self._patch: NDArray[np.float32] | None = None
        self._unchecked = 0

    def step(self, gray: Gray) -> NDArray[np.float32]:
        """f32 [68, 2] px on the next frame, NaN where dlib sees no face."""
        self._number += 1
        marks = None
        if self._marks is not None and self._is_meant(self._marks) and self._is_steady(gray, self._marks):
            marks = self._follow(gray, implied_box(self._marks))
        if marks is None:
            marks, self._unchecked = self._start(gray), 0
        self._marks = marks
        self._patch = None
        if marks is not None:
            self._box = implied_box(marks)
            self._patch = _patch(gray, self._box)
        return np.full((68, 2), np.nan, np.float32) if marks is None else marks

    def _follow(self, gray: Gray, box: Box) -> NDArray[np.float32] | None:
        """From where the face was; every so many frames only if the detector still sees it there."""
        self._unchecked += 1
        if self._unchecked >= DETECT_EVERY:
            seen = _detect_near(self._models, gray, box, NARROW)
            if seen is None or iou(seen, box) < SAME_PLACE:
                return None
            self._unchecked = 0
        return self._fit(gray, box)

    def _start(self, gray: Gray) -> NDArray[np.float32] | None:
        meant = self._meant
        self._box = _find_face(self._models, gray, self._box) if meant is None else self._find_meant(gray, meant)
        # The fit depends a little on the box: a second one starts where the first one says, as on later frames.
        first = None if self._box is None else self._fit(gray, self._box)
        return None if first is None else self._fit(gray, implied_box(first))

    @property
    def _meant(self) -> Box | None:
        if self._wanted is None:
            return None
        return self._wanted[min(self._number, len(self._wanted) - 1)]

    def _is_meant(self, marks: NDArray[np.float32]) -> bool:
        return self._meant is None or _is_same_face(implied_box(marks), self._meant)

    def _find_meant(self, gray: Gray, meant: Box) -> Box | None:
        """The detected face that lies where the wanted one is; no other one stands in for it."""
        size = max(meant[2] - meant[0], meant[3] - meant[1])
        window = meant + np.array([-WIDE[0], -WIDE[0], WIDE[0], WIDE[0]], np.float32) * size
        for least in (WIDE[1], 0.5):
            seen = self._models.detect(gray, window, max(40.0, least * size))
            same = [box for box in seen if _is_same_face(box, meant)]
            if same:
                return max(same, key=lambda box: iou(box, meant))
        return None

    def _is_steady(self, gray: Gray, marks: NDArray[np.float32]) -> bool:
        """Whether the same face is still about where it was."""
        now = _patch(gray, implied_box(marks))
        return now is not None and self._patch is not None and float((now * self._patch).mean()) > STEADY

    def _fit(self, gray: Gray, box: Box) -> NDArray[np.float32] | None:
        marks = self._models.landmarks(gray, box)
        usable = is_plausible(marks, *gray.shape) and float(face_scale(marks)) >= SMALLEST_SCALE_PX
        return marks if usable else None


def _filled(boxes: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Unknown boxes get those of the nearest frame in time; None where all are unknown."""
    known = np.flatnonzero(np.isfinite(boxes).all(axis=1))
    if len(known) == 0:
        return None
    numbers = np.arange(len(boxes))
    after = np.clip(np.searchsorted(known, numbers), 0, len(known) - 1)
    before = np.maximum(after - 1, 0)
    is_before = np.abs(known[before] - numbers) <= np.abs(known[after] - numbers)
    return boxes[np.where(is_before, known[before], known[after])]


def _is_same_face(one: Box, other: Box) -> bool:
    """Whether the center of each box lies in the other: detector's and landmark boxes differ in extent."""
    centers = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (one, other)]
    pairs = ((centers[0], other), (centers[1], one))
    return all(box[0] <= x <= box[2] and box[1] <= y <= box[3] for (x, y), box in pairs)


def _patch(gray: Gray, box: Box) -> NDArray[np.float32] | None:
    """The face in a box, small, mean 0 and deviation 1; None where nothing of it can be compared."""
    height, width = gray.shape
    left, top = max(0, int(box[0])), max(0, int(box[1]))
    right, bottom = min(width, int(box[2])), min(height, int(box[3]))
    if right - left < 4 or bottom - top < 4:
        return None
    # Four pixels for each of the patch's are enough to tell a face by, and picked in a tenth of the time of all.
    picked = cv2.resize(gray[top:bottom, left:right], (2 * PATCH_PX, 2 * PATCH_PX), interpolation=cv2.INTER_NEAREST)
    patch = cv2.resize(picked, (PATCH_PX, PATCH_PX), interpolation=cv2.INTER_AREA)
    patch = patch.astype(np.float32) - float(patch.mean())
    deviation = float(patch.std())
    return patch / deviation if deviation > 1 else None


def _detect_near(models: DlibModels, gray: Gray, box: Box, how: tuple[float, float]) -> Box | None:
    """The largest face around a box."""
    room, least = how
    size = float(box[2] - box[0])
    window = box + np.array([-room, -room, room, room], np.float32) * size
    return _largest(models.detect(gray, window, max(40.0, least * size)))


def _find_face(models: DlibModels, gray: Gray, last: Box | None) -> Box | None:
    """The largest face: near the last one if there was one, else anywhere."""
    near = None if last is None else _detect_near(models, gray, last, WIDE)
    if near is not None:
        return near
    height, width = gray.shape
    whole = np.array([0, 0, width, height], np.float32)
    for smallest in (80 * max(1.0, max(height, width) / SEARCH_PX), 48.0):
        found = _largest(models.detect(gray, whole, smallest))
        if found is not None:
            return found
    return None


def _largest(boxes: list[Box]) -> Box | None:
    return max(boxes, key=lambda box: box[2] - box[0], default=None)
