"""How a running engine speaks: one hook, called between batches. Raising from the hook stops the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a render stands.

    stage: name of the running stage (`analyze`, `synthesize`, `evaluate`, ...); fraction: 0..1 of the whole render,
    never falling; done, total: units inside the stage (frames), total 0 when unknown.
    """

    stage: str
    fraction: float
    done: int = 0
    total: int = 0


ProgressHook = Callable[[Progress], None]


def ignore_progress(_: Progress) -> None:
    """The hook for callers that do not listen."""
