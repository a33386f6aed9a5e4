"""A job while it runs: a live bar on a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

_PLAIN_STEP = 0.1
"""Plain lines come at a change of stage, and every tenth of the way."""


class ProgressDisplay(Protocol):
    """Shows where a render stands. fraction: 0..1."""

    def show(self, stage: str, fraction: float) -> None: ...

    def close(self) -> None: ...


def open_display(console: Console) -> ProgressDisplay:
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


def show_events(events: Iterable[dict[str, Any]], display: ProgressDisplay) -> None:
    """Drive the display from the events of a job, to the end."""
    for event in events:
        display.show(event.get("stage") or event["status"], float(event["progress"]))


def seconds_left(elapsed_s: float, fraction: float) -> float | None:
    """Straight on from what is done; None while too little is known (under 3 %) to say."""
    return None if fraction < 0.03 else elapsed_s * (1 - fraction) / fraction


def describe_left(left_s: float | None) -> str:
    if left_s is None:
        return "ETA -"
    minutes, seconds = divmod(round(left_s), 60)
    return f"ETA {minutes}:{seconds:02d}"


class LiveDisplay:
    """Spinner, stage, bar, percent, elapsed and remaining time on one line."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            _LeftColumn(),
            console=console,
            expand=True,
        )
        self._progress.start()
        self._task = self._progress.add_task("queued", total=1.0)

    def show(self, stage: str, fraction: float) -> None:
        self._progress.update(self._task, description=stage, completed=fraction)

    def close(self) -> None:
        self._progress.stop()


class PlainDisplay:
    """One line a step, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started_s = time.monotonic()
        self._shown: tuple[str, float] = ("", -1.0)

    def show(self, stage: str, fraction: float) -> None:
        last_stage, last_fraction = self._shown
        if stage == last_stage and fraction < last_fraction + _PLAIN_STEP:
            return
        self._shown = (stage, fraction)
        left = describe_left(seconds_left(time.monotonic() - self._started_s, fraction))
        self._console.print(f"{stage:<12} {fraction:4.0%}  {left}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Every line is already out."""


class _LeftColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(describe_left(seconds_left(task.elapsed or 0.0, task.completed / (task.total or 1.0))))
