"""Reading ahead in a thread: order, errors, bounded depth, and nothing left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from retalking_core.engines.preview_flow import PrefetchedSource, ReadAhead, StageClock
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
    ahead = PrefetchedSource(source)
    assert ahead.info is source.info
    assert [frame.index for frame in ahead.frames()] == list(range(6))
    assert [frame.index for frame in ahead.frames_at([5, 0, 5])] == [5, 0, 5]


def test_clock_adds_up() -> None:
    clock = StageClock()
    for _ in range(2):
        with clock.stage("work"):
            time.sleep(0.01)
    assert 0.02 <= clock.times_s["work"] < 0.5
