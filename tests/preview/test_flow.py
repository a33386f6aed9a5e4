"""Reading ahead in a thread: order, errors, bounded depth, and nothing left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from retalking_core.media.sources import CachingFrameSource, PrefetchingFrameSource
from retalking_core.progress import StageClock
from retalking_core.threads import ReadAhead
from retalking_core.types import Frame
from tests.faces.clips import PictureSource, backdrop


def test_everything_comes_in_order() -> None:
    with ReadAhead(range(200), depth=3) as ahead:
        assert list(ahead) == list(range(200))


def test_producer_error_reaches_the_consumer() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("gone")

    with ReadAhead(broken()) as ahead:
        items = iter(ahead)
        assert next(items) == 1
        with pytest.raises(LookupError, match="gone"):
            next(items)


def test_leaving_early_stops_the_producer_and_closes_it() -> None:
    made, closed = [], threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                made.append(len(made))
                yield made[-1]
        finally:
            closed.set()

    before = threading.active_count()
    with ReadAhead(endless(), depth=2) as ahead:
        for item in ahead:
            if item == 5:
                break
        time.sleep(0.05)
        assert len(made) <= 10
    assert closed.wait(2)
    assert threading.active_count() == before


def test_prefetched_source_gives_the_same_frames() -> None:
    source = PictureSource([backdrop(64, 48)] * 6)
    ahead = PrefetchingFrameSource(source)
    assert ahead.info is source.info
    assert [frame.index for frame in ahead.frames()] == list(range(6))
    assert [frame.index for frame in ahead.frames_at([5, 0, 5])] == [5, 0, 5]


def test_clock_adds_up() -> None:
    clock = StageClock()
    for _ in range(2):
        with clock.stage("work"):
            time.sleep(0.01)
    assert 0.02 <= clock.times_s["work"] < 0.5


class CountingSource(PictureSource):
    """Notes the number of every frame that is decoded."""

    def __init__(self, frames: int) -> None:
        super().__init__([backdrop(64, 48)] * frames)
        self.read: list[int] = []

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        for frame in super().frames_at(indices):
            self.read.append(frame.index)
            yield frame


def test_kept_source_decodes_each_frame_once_in_any_order() -> None:
    source = CountingSource(6)
    kept = CachingFrameSource(source, 6 * 64 * 48 * 3 // 2)
    assert next(kept.frames_at([2, 3])).index == 2  # left early
    for order in ([0, 1, 2, 1, 0], [5, 4, 3, 3], range(6)):
        assert [frame.index for frame in kept.frames_at(order)] == list(order)
    assert sorted(source.read) == list(range(6))


def test_kept_source_keeps_nothing_of_a_clip_that_does_not_fit() -> None:
    source = CountingSource(6)
    kept = CachingFrameSource(source, 6 * 64 * 48 * 3 // 2 - 1)
    for _ in range(2):
        assert [frame.index for frame in kept.frames()] == list(range(6))
    assert source.read == [*range(6), *range(6)]


def test_two_readers_of_kept_frames_do_not_disturb_each_other() -> None:
    """The evaluation reads the clip while the engine draws: a frame that one decodes the other need not."""
    kept = CachingFrameSource(CountingSource(6), 6 * 64 * 48 * 3 // 2)
    one, other = kept.frames_at([0, 1, 2, 3]), kept.frames_at([1, 3, 2])
    order = [next(one), next(other), next(one), next(other), next(one), next(one), next(other)]
    assert [frame.index for frame in order] == [0, 1, 1, 3, 2, 3, 2]
