"""What several commands print: a job as JSON, its metrics as a table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from retalking_client.models import Job

_ARROWS = {"higher": "higher is better", "lower": "lower is better", "neutral": ""}


def print_json(job: Job) -> None:
    typer.echo(json.dumps(job.model_dump(mode="json"), indent=2))


def describe_note(sentence: str, ranges_s: Iterable[tuple[float, float]]) -> str:
    """A note of a render in one line."""
    listed = ", ".join(f"{start:.2f}-{end:.2f} s" for start, end in ranges_s)
    return f"{sentence} ({listed})" if listed else sentence


def print_metrics(console: Console, metrics: Sequence[Mapping[str, Any]]) -> None:
    """One row per metric; an unavailable value is replaced by its reason."""
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
