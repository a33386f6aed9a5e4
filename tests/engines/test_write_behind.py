"""Encoding beside the calling thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from retalking_core.threads import EncoderThread
from retalking_core.types import Frame


def frame(index: int) -> Frame:
    half = np.zeros((1, 1), np.uint8)
    return Frame(index, np.zeros((2, 2), np.uint8), half, half)


def put_all(write: Callable[[Frame], None], depth: int, count: int, then: Callable[[], None] = lambda: None) -> None:
    with EncoderThread(write, depth) as out:
        for k in range(count):
            out.put(frame(k))
        then()


def test_frames_are_written_in_order_in_another_thread() -> None:
    written, threads = [], set()

    def write(one: Frame) -> None:
        written.append(one.index)
        threads.add(threading.get_ident())

    with EncoderThread(write, 2) as out:
        for k in range(20):
            out.put(frame(k))
    assert written == list(range(20))
    assert threads.isdisjoint({threading.get_ident()})
    assert len(threads) == 1


def test_a_failure_reaches_the_caller_and_nobody_waits_for_ever() -> None:
    def write(one: Frame) -> None:
        if one.index == 3:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        put_all(write, 1, 1000)


def test_a_failure_at_the_last_frame_is_raised_on_leaving() -> None:
    def write(one: Frame) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), EncoderThread(write, 8) as out:
        out.put(frame(0))


def test_what_waits_is_dropped_when_the_caller_fails() -> None:
    written, hold = [], threading.Event()

    def write(one: Frame) -> None:
        hold.wait(10)
        written.append(one.index)

    def cancel() -> None:
        threading.Timer(0.1, hold.set).start()
        raise RuntimeError("canceled")

    with pytest.raises(RuntimeError, match="canceled"):
        put_all(write, 100, 50, cancel)
    assert len(written) <= 1
