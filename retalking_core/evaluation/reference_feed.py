"""The reference beside the result: by plan (what a frame was made from) and by number, from one decoder if possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from retalking_core.errors import InputError
from retalking_core.evaluation.bgr_frames import BgrOfFrames, Picture
from retalking_core.types import Frame

if TYPE_CHECKING:
    from retalking_core.evaluation.measurement import Measurement

Item = TypeVar("Item")


class InOrder(Generic[Item]):
    """Items of a generator by ascending number; the last one may be asked for again. None beyond the end.

    A fault is told to everybody who asks from then on.
    """

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._number, self._item = -1, None
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
        self._items.close()


class ReferenceFeed:
    """Frames and pictures of the reference for ascending numbers of result frames.

    Nothing is decoded before it is asked for. Raises UnmeasurableError without a reference, and media errors.
    """

    def __init__(self, measurement: Measurement) -> None:
        source = measurement.reference_video
        plan = measurement.paired_index
        self._numbers = source.info.frame_count
        self._planned = len(plan)
        both = min(measurement.video.info.frame_count, self._numbers)
        # Where the plan starts with every frame in its turn, the two pairings want the same frames.
        is_shared = len(plan) >= both and np.array_equal(plan[:both], np.arange(both))
        self._frames = InOrder(source.frames_at(plan.tolist()))
        self._bgr = BgrOfFrames(measurement.reference_file, source.info, measurement.limits, may_share=is_shared)

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
