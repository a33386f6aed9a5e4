"""Turns of an engine: jobs, and what is done between them."""

from __future__ import annotations

import threading
import time

import pytest

from retalking_core.threads import Turns


class Halt(Exception):
    pass


def test_work_waits_for_the_job_and_the_next_job_for_the_work() -> None:
    turns, order = Turns(idle_s=0), list[str]()
    working, finish = threading.Event(), threading.Event()

    def between() -> None:
        with turns.between_jobs() as has_turn:
            assert has_turn
            order.append("work")
            working.set()
            finish.wait(30)
            order.append("done")

    waits: list[None] = []

    def waiting() -> None:
        waits.append(None)
        if len(waits) == 2:
            finish.set()

    with turns.job():
        thread = threading.Thread(target=between)
        thread.start()
        time.sleep(0.3)
        order.append("first job")
    assert working.wait(30)
    with turns.job(waiting):
        order.append("second job")
    thread.join(30)
    assert order == ["first job", "work", "done", "second job"]
    assert len(waits) >= 2


def test_a_job_that_is_canceled_while_it_waits_leaves_no_trace() -> None:
    turns = Turns(idle_s=0)

    def canceled() -> None:
        raise Halt

    with turns.between_jobs(), pytest.raises(Halt), turns.job(canceled):
        raise AssertionError("no turn was free")
    with turns.between_jobs() as has_turn:
        assert has_turn, "no job waits any more"


def test_work_waits_until_an_engine_is_idle() -> None:
    turns = Turns(idle_s=1000, patience_s=1000)
    with turns.job():
        pass
    looked: list[None] = []

    def is_over() -> bool:
        looked.append(None)
        return len(looked) > 2

    with turns.between_jobs(is_over) as has_turn:
        assert not has_turn
    with turns.job(canceled_wait):
        pass


def canceled_wait() -> None:
    raise AssertionError("a job waits for nothing here")


def test_work_gets_a_turn_however_busy_the_engine_is() -> None:
    turns, done = Turns(idle_s=1000, patience_s=0.2), threading.Event()

    def between() -> None:
        with turns.between_jobs():
            done.set()

    with turns.job():
        thread = threading.Thread(target=between)
        thread.start()
        time.sleep(0.5)
    until_s = time.monotonic() + 60
    while not done.is_set():
        assert time.monotonic() < until_s
        with turns.job():
            time.sleep(0.01)
    thread.join(30)


def test_a_fault_ends_the_turn() -> None:
    turns = Turns(idle_s=0)
    with pytest.raises(Halt), turns.job():
        raise Halt
    with pytest.raises(Halt), turns.between_jobs():
        raise Halt
    with turns.job(canceled_wait):
        pass
