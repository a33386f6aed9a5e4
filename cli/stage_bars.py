"""The stages of a render, each with a bar of its own on a terminal; plain lines everywhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from retalking_client.cli.progress import PlainDisplay

if TYPE_CHECKING:
    from retalking_core.progress import Progress


class StageDisplay(Protocol):
    def begin(self, stage: str) -> None:
        """A stage that counts nothing."""
        ...

    def show(self, told: Progress) -> None: ...

    def close(self) -> None: ...


def open_stages(console: Console) -> StageDisplay:
    return StageBars(console) if console.is_terminal else StageLines(console)


class StageBars:
    """One line a stage: name, bar, frames done, time taken, time left. A stage that counts from the start again (the
    analysis looks at the clip more than once) gets a further line."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._bars.start()
        self._stage, self._done, self._passes = "", 0, 0

    def begin(self, stage: str) -> None:
        self._open(stage, None)

    def show(self, told: Progress) -> None:
        if told.stage != self._stage:
            self._passes = 1
            self._open(told.stage, told.total or None)
        elif told.done < self._done:
            self._passes += 1
            self._open(f"{told.stage} {self._passes}", told.total or None)
        self._stage, self._done = told.stage, told.done
        self._bars.update(self._task, completed=told.done, total=told.total or None)

    def close(self) -> None:
        self._bars.stop()

    def _open(self, line: str, total: int | None) -> None:
        """The line before is over."""
        if self._bars.tasks:
            last = self._bars.tasks[-1]
            self._bars.update(last.id, completed=last.completed or 1, total=last.completed or 1)
        self._task = self._bars.add_task(line, total=total)


class StageLines:
    """One line a stage and a tenth of the whole render."""

    def __init__(self, console: Console) -> None:
        self._lines = PlainDisplay(console)

    def begin(self, stage: str) -> None:
        self._lines.show(stage, 0.0)

    def show(self, told: Progress) -> None:
        self._lines.show(told.stage, told.fraction)

    def close(self) -> None:
        self._lines.close()
