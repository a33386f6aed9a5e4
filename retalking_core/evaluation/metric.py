"""What a metric is: its row in the table, and the number it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from retalking_core.evaluation.measurement import Measurement

Better = Literal["higher", "lower", "neutral"]
Detail = dict[str, float]
POINTS = frozenset({"points"})
Outcome = tuple[float, Detail] | str
"""A value with what stands behind it, or the sentence that says why there is none."""


@dataclass(frozen=True)
class MetricValue:
    """One number about a render. value None: not computable, `reason` says why. detail: what stands behind it."""

    name: str
    value: float | None
    reason: str | None
    unit: str
    better: Better
    detail: Detail = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """An entry of the table. range: lowest and highest possible value, None without a bound. source: where it is
    defined.

    checkpoints: names in the weights table of the files it needs. needs_reference: compares with a second video.
    compute: the value with its details, or the reason. requires: observations of
    the frames that it needs (`frame_pass`); all metrics share one pass.
    """

    name: str
    description: str
    unit: str
    better: Better
    range: tuple[float | None, float | None]
    source: str
    checkpoints: tuple[str, ...]
    compute: Callable[[Measurement], Outcome]
    needs_reference: bool = False
    requires: frozenset[str] = frozenset()
