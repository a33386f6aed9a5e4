"""`retalking doctor`: what is wrong around the service, and what mends it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.extras import MissingExtraError

if TYPE_CHECKING:
    from cli.diagnosis import Finding

_COLOURS = {"well": "green", "note": "yellow", "bad": "red"}


def doctor(
    data: Annotated[
        Path | None,
        typer.Option(help="Data folder of a `retalking up` that runs now  [default: RETALKING_DATA_DIR, else data]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON")] = False,
) -> None:
    """Look at Redis, object store, clock, secrets, keys, workers, disk, weights and CUDA, with the settings of this
    environment. Ends with 1 when something is bad; a note is a limit to know of."""
    try:
        from cli.examination import examine
        from cli.stack.redis_server import store_settings
    except ImportError as error:
        raise MissingExtraError("jobs", error.name) from error
    findings = list(examine(store_settings(data)))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


def _print(findings: list[Finding]) -> None:
    table = Table("", "what", "found", "what to do", box=None)
    for finding in findings:
        colour = _COLOURS[finding.state]
        table.add_row(f"[{colour}]{finding.state}[/]", finding.subject, finding.found, finding.remedy)
    (Console() if sys.stdout.isatty() else Console(width=240)).print(table)  # in a pipe no cell is cut
