"""What a metric is: its row in the vocabulary with its function, and the number it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from retalking_core.evaluation.measurement import Measurement
from retalking_core.vocabulary.metrics import METRIC_TABLE, Better, MetricInfo

Detail = dict[str, float]
POINTS = frozenset({"points"})
Outcome = tuple[float, Detail] | str
"""A value with what stands behind it, or the sentence that says why there is none."""


@dataclass(frozen=True)
class LineValue:
    """The same number about one line of a render: its face on its frames against its speech."""

    value: float | None
    reason: str | None


@dataclass(frozen=True)
class MetricValue:
    """One number about a render. value None: not computable, `reason` says why. detail: what stands behind it. lines:
    of each line, in the caller's order; empty for a metric of the whole picture and for a render without lines."""

    name: str
    value: float | None
    reason: str | None
    unit: str
    better: Better
    detail: Detail = field(default_factory=dict)
    lines: tuple[LineValue, ...] = ()


@dataclass(frozen=True)
class Metric(MetricInfo):
    """A row of the vocabulary's table, and how its value is computed.

    compute: the value with its details, or the reason why there is none. requires: observations of the frames that it
    needs (`frame_pass`); all metrics share one pass.
    """

    compute: Callable[[Measurement], Outcome] = field(kw_only=True)
    requires: frozenset[str] = frozenset()

    @property
    def is_about_one_face(self) -> bool:
        """Means nothing for a result in which several faces speak."""
        return self.requires >= POINTS or "syncnet" in self.checkpoints

    @property
    def is_per_line(self) -> bool:
        """Whether each line has a value of its own: the points of its face say all."""
        return self.requires == POINTS


def measured(name: str, compute: Callable[[Measurement], Outcome], requires: frozenset[str] = frozenset()) -> Metric:
    """The metric of that name in `METRIC_TABLE`."""
    return Metric(**vars(METRIC_TABLE[name]), compute=compute, requires=requires)
