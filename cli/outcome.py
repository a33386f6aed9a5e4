"""The table of stage times of a local render."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table


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
