"""The end of a job, for people: where things are and what the numbers say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_ARROWS = {"higher": "higher is better", "lower": "lower is better", "neutral": ""}


def print_metrics(console: Console, metrics: Sequence[Mapping[str, Any]]) -> None:
    """One row a number; a number that is not there gives its reason."""
    table = Table(title="Evaluation", title_justify="left", show_edge=False)
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("")
    for metric in metrics:
        value, unit = metric["value"], metric.get("unit") or ""
        number = "-" if value is None else f"{value:.4g} {unit}".strip()
        note = metric.get("reason") if value is None else _ARROWS[metric.get("better", "neutral")]
        table.add_row(metric["name"], number, escape(note or ""))
    console.print(table)


def print_stage_times(console: Console, times_s: Mapping[str, float], media_s: float, wall_s: float) -> None:
    """Where the time went: seconds of each stage, its share of the whole, and how it compares with the length of the
    result. Stages run inside and beside each other, so they need not add up to the whole."""
    table = Table(title="Stages", title_justify="left", show_edge=False)
    for heading in ("stage", "seconds", "share", "x real time"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage, seconds in [*times_s.items(), ("whole render", wall_s)]:
        if stage == "whole render":
            table.add_section()
        share = f"{seconds / wall_s:.0%}" if wall_s else "-"
        table.add_row(stage, f"{seconds:.2f}", share, f"{seconds / media_s:.2f}" if media_s else "-")
    console.print(table)
