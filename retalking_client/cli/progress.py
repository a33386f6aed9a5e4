"""A job while it runs: a live bar on a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from retalking_client import Client, Job
from retalking_client import Progress as JobProgress

_PLAIN_STEP = 0.1
"""Plain lines come at a change of stage, and every tenth of the way."""


class ProgressDisplay(Protocol):
    """Shows the progress of a render. fraction: 0..1."""

    def show(self, stage: str, fraction: float) -> None: ...

    def close(self) -> None: ...


def open_display(console: Console) -> ProgressDisplay:
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


def follow(client: Client, job: Job | str, console: Console, timeout_s: float | None = None) -> Job:
    """Shows the job to its end and returns it, however it ended. Ctrl-C leaves the job alone, and says so."""
    with closing(open_display(console)) as display:
        try:
            return watch(client, job, display, timeout_s)
        except KeyboardInterrupt:
            display.close()
            name = job if isinstance(job, str) else job.id
            console.print(f"The job continues. Follow it: retalking wait {name}", highlight=False, soft_wrap=True)
            raise typer.Exit(130) from None


def watch(client: Client, job: Job | str, display: ProgressDisplay, timeout_s: float | None = None) -> Job:
    """Drive a display from a job, to its end."""

    def show(progress: JobProgress) -> None:
        display.show(progress.stage or progress.status, progress.fraction)

    return client.wait(job, timeout_s=timeout_s, on_progress=show)


class Pace:
    """How long the rest will take, straight on from what is done. Time in the queue does not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start: tuple[float, float] | None = None

    def left_s(self, fraction: float) -> float | None:
        """None while too little is done (under 3 %) to say."""
        if fraction <= 0:
            return None
        if self._start is None:
            self._start = (self._clock(), fraction)
        began_s, began_at = self._start
        done = fraction - began_at
        return (self._clock() - began_s) * (1 - fraction) / done if done >= 0.03 else None


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
            TextColumn("{task.fields[left]}"),
            console=console,
            expand=True,
        )
        self._progress.start()
        self._task = self._progress.add_task("queued", total=1.0, left=describe_left(None))
        self._pace = Pace()

    def show(self, stage: str, fraction: float) -> None:
        left = describe_left(self._pace.left_s(fraction))
        self._progress.update(self._task, description=stage, completed=fraction, left=left)

    def close(self) -> None:
        self._progress.stop()


class PlainDisplay:
    """One line a step, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pace = Pace()
        self._shown: tuple[str, float] = ("", -1.0)

    def show(self, stage: str, fraction: float) -> None:
        left = describe_left(self._pace.left_s(fraction))
        last_stage, last_fraction = self._shown
        if stage == last_stage and fraction < last_fraction + _PLAIN_STEP:
            return
        self._shown = (stage, fraction)
        self._console.print(f"{stage:<12} {fraction:4.0%}  {left}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Every line is already out."""
