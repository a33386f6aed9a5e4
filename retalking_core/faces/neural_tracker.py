"""Follows one face with S3FD and 2DFAN4, by the same rules as the dlib tracker, but many frames at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.follower import FaceFollower, FaceSearch, Glimpse
from retalking_core.faces.look_ahead import LookAhead
from retalking_core.faces.neural_models import FaceNetworks, NeuralFaceModels
from retalking_core.types import Frame

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
    ) -> Iterator[tuple[Frame, Glimpse | None]]:
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
