"""What a face tracker offers; the seat that the dlib tracker sits in, and a neural one may."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from retalking_core.options import FaceChoice
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
