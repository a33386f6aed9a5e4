"""The progress of a job on a terminal, and on anything else."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from retalking_client.cli.progress import LiveDisplay, Pace, PlainDisplay, ProgressDisplay, describe_left, open_display


def show_all(steps: list[tuple[str, float]], display: ProgressDisplay) -> None:
    for stage, fraction in steps:
        display.show(stage, fraction)


def test_plain_lines_come_at_each_stage_and_each_tenth() -> None:
    out = io.StringIO()
    display = open_display(Console(file=out, width=60))
    assert isinstance(display, PlainDisplay)
    shares = [("synthesize", n / 100) for n in range(30, 61)]
    show_all([("queued", 0.0), *shares, ("succeeded", 1.0)], display)
    lines = out.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["queued", *["synthesize"] * 4, "succeeded"]
    assert [line.split()[1] for line in lines] == ["0%", "30%", "40%", "50%", "60%", "100%"]


def test_a_terminal_gets_a_bar() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    display = open_display(console)
    assert isinstance(display, LiveDisplay)
    show_all([("analyze", 0.25)], display)
    display.close()
    display.close()
    assert "analyze" in out.getvalue()
    assert "25 %" in out.getvalue()
    assert "\x1b[?25h" in out.getvalue(), "the cursor is shown again"


def test_the_time_left_counts_from_the_first_progress() -> None:
    now = [100.0]
    pace = Pace(lambda: now[0])
    assert pace.left_s(0.0) is None
    now[0] = 500.0  # 400 s in the queue
    assert pace.left_s(0.1) is None
    now[0] = 504.0
    assert pace.left_s(0.12) is None
    assert pace.left_s(0.5) == pytest.approx(5.0)
    assert pace.left_s(1.0) == 0.0
    assert describe_left(None) == "ETA -"
    assert describe_left(125.4) == "ETA 2:05"
