"""Follows one face with S3FD and 2DFAN4, by the rules of the dlib tracker, but many frames at a time.

Frame by frame, a GPU would idle: here the detector sees every fifth frame of a batch, boxes in between are
interpolated, and the landmarks of the whole batch are found together. The result is a proposal: `FaceFollower` accepts
or rejects it by the same rules as its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from retalking_core.faces.dlib_models import Box, Gray
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.follower import FaceFollower, FaceSearch, LandmarkProposal, implied_box
from retalking_core.faces.landmarks import iou
from retalking_core.faces.neural_models import FaceNetworks, NeuralFaceModels
from retalking_core.types import Frame

# A head turns or moves by a fraction of its size in a fifth of a second; dlib's follower checks every tenth frame.
STRIDE = 5
# Sizes of the face that it may move away within one batch.
REACH = 1.5
# Overlap of a detection with the last one, below which it is another face.
SAME_FACE = 0.3
# A smaller face than the last one is still looked for, and, where one was, a doubtful one counts.
SHRINKS_TO, LESS_SURE = 0.7, -0.3


@dataclass(frozen=True)
class LookAhead:
    """search: the area in which faces count."""

    models: NeuralFaceModels
    search: FaceSearch

    def glimpse(self, grays: Sequence[Gray], last: Box | None) -> list[LandmarkProposal | None]:
        """A proposal for each frame that follows the one where the face was at `last`; None where there is none."""
        if last is None:
            return [None] * len(grays)
        keys = sorted({*range(0, len(grays), STRIDE), len(grays) - 1})
        boxes = self._key_boxes([grays[k] for k in keys], last)
        placed = between(keys, boxes, len(grays))
        asked = [k for k, box in enumerate(placed) if box is not None]
        points = self.models.landmarks_many([grays[k] for k in asked], [placed[k] for k in asked])
        glimpses: list[LandmarkProposal | None] = [None] * len(grays)
        for k, landmarks in zip(asked, points, strict=True):
            glimpses[k] = LandmarkProposal(landmarks, confirmed=k in keys)
        return glimpses

    def _key_boxes(self, grays: Sequence[Gray], last: Box) -> list[Box | None]:
        """The face on the frames that a detector sees, each near where it was on the one before."""
        size = float(last[2] - last[0])
        window = last + np.array([-REACH, -REACH, REACH, REACH], np.float32) * size
        area = self.search.area
        window = np.concatenate([np.maximum(window[:2], area[:2]), np.minimum(window[2:], area[2:])])
        near, chosen = last, []
        for found in self.models.detect_many(grays, window, SHRINKS_TO * size, LESS_SURE):
            best = max(found, key=lambda box: iou(box, near), default=None)
            if best is not None and iou(best, near) < SAME_FACE:
                best = None
            chosen.append(best)
            near = near if best is None else best
        seen = [k for k, box in enumerate(chosen) if box is not None]
        # As after every detection: landmarks once, for the box that they themselves imply.
        points = self.models.landmarks_many([grays[k] for k in seen], [chosen[k] for k in seen])
        for k, landmarks in zip(seen, points, strict=True):
            chosen[k] = implied_box(landmarks)
        return chosen


def between(keys: Sequence[int], boxes: Sequence[Box | None], count: int) -> list[Box | None]:
    """Boxes of all frames: given at the keys, interpolated between two keys that both have one."""
    placed: list[Box | None] = [None] * count
    for key, box in zip(keys, boxes, strict=True):
        placed[key] = box
    for a, b, first, second in zip(keys, keys[1:], boxes, boxes[1:], strict=False):
        if first is not None and second is not None:
            for k in range(a + 1, b):
                share: float = (k - a) / (b - a)
                mixed: NDArray = (1 - share) * first + share * second
                placed[k] = mixed.astype(np.float32)
    return placed


BATCH = 32
# Luma of the frames that are held at once: 16 frames of 4K.
MOST_PIXELS = 1 << 27


class NeuralFaceTracker(DlibFaceTracker):
    """A `FaceTracker` on the networks `s3fd` and `fan2d`. batch: frames looked at together; 1: one by one."""

    def __init__(self, networks: FaceNetworks, batch: int = BATCH) -> None:
        self._neural, self._batch = NeuralFaceModels(networks), batch
        super().__init__(self._neural)

    def look(
        self, frames: Iterator[Frame], follower: FaceFollower, search: FaceSearch
    ) -> Iterator[tuple[Frame, LandmarkProposal | None]]:
        """A batch is looked up when its first frame is due, from where the follower then is."""
        ahead = LookAhead(self._neural, search)
        size = max(1, min(self._batch, MOST_PIXELS // (search.width * search.height)))
        if size == 1:
            yield from super().look(frames, follower, search)
            return
        while group := list(islice(frames, size)):
            yield from zip(group, ahead.glimpse([frame.y for frame in group], follower.place), strict=True)

    def refine(self, frame: Frame, landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
        """2DFAN4's lips need no help from the picture's edges."""
        return landmarks
