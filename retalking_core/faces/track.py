"""Interface of face trackers, and the choice among several faces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retalking_core.options import FaceBox, FaceChoice, FacePoint
from retalking_core.types import FaceTrack, FrameSource

OnFrame = Callable[[int, int], None]


@dataclass(frozen=True)
class TrackRequest:
    """Which face to follow where.

    indices: source frame numbers to analyze, ascending, each once. crop: left, top, right, bottom margins to leave out
    of the search, fractions 0..1 of the upright frame.
    """

    indices: Sequence[int]
    choice: FaceChoice = "largest"
    crop: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


class FaceTracker(Protocol):
    """Follows one face through a video."""

    def warm_up(self) -> None:
        """Load the models."""
        ...

    def track(self, source: FrameSource, request: TrackRequest, on_frame: OnFrame) -> FaceTrack:
        """The chosen face on the frames asked for; frames not asked for are invisible (NaN).

        on_frame: called with (frames analyzed, frames in all); what it raises ends the tracking.
        Raises: FaceNotFoundError.
        """
        ...


Box = NDArray[np.float32]


def choose_face(boxes: Sequence[Box], choice: FaceChoice, width: int, height: int) -> int | None:
    """Index of the chosen box (left, top, right, bottom px), or None where no box answers the choice.

    A point means the face whose center is nearest, at most one and a half face sizes away; a box means the largest face
    whose center lies inside it.
    """
    if not boxes:
        return None
    stack = np.stack(boxes).astype(np.float64)
    centers = (stack[:, :2] + stack[:, 2:]) / 2
    areas = (stack[:, 2] - stack[:, 0]) * (stack[:, 3] - stack[:, 1])
    if isinstance(choice, FacePoint):
        distances = np.linalg.norm(centers - (choice.x, choice.y), axis=1) / np.sqrt(areas)
        best = int(distances.argmin())
        return best if distances[best] <= 1.5 else None
    if isinstance(choice, FaceBox):
        low, high = (choice.left, choice.top), (choice.right, choice.bottom)
        inside = ((centers >= low) & (centers <= high)).all(axis=1)
        return int(np.where(inside, areas, -1).argmax()) if inside.any() else None
    rank = {
        "largest": -areas,
        "left_most": centers[:, 0],
        "right_most": -centers[:, 0],
        "top_most": centers[:, 1],
        "bottom_most": -centers[:, 1],
        "centre": np.linalg.norm(centers - (width / 2, height / 2), axis=1),
    }[choice]
    return int(rank.argmin())
