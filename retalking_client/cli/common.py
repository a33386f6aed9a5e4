"""What the commands share: address and JSON options, `--option key=value`, printing, and errors that end a
command: a stable code, one sentence and an exit code, printed once by `exit_on_error`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from retalking_client import (
    ApiError,
    Batch,
    Client,
    EventsLostError,
    RetalkingClientError,
    RetryPolicy,
    ServiceUnreachableError,
    UnexpectedAnswerError,
)
from retalking_client.codes import InvalidOptionError
from retalking_client.models import Job

EXIT_FAILED = 1
"""The job failed, or the request was refused."""
EXIT_USAGE = 2
"""The command line is wrong (also what Typer uses)."""
EXIT_UNAVAILABLE = 3
"""A service is unreachable, or a part of the embedded stack did not start."""
EXIT_DENIED = 4
"""The service wants an API key (RETALKING_API_KEY), or this key lacks the permission."""


class CommandError(Exception):
    """Ends a command. code: stable name, from the public table if the service sent it; message: what to do now."""

    def __init__(self, code: str, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.exit_code = exit_code


_DENIED = (401, 403)
_UNAVAILABLE = (ServiceUnreachableError, UnexpectedAnswerError, EventsLostError)
_COMPLETED_JOBS = 30


# A service that is not running is reported within two seconds; waiting for a job retries longer.
_INTERACTIVE = RetryPolicy(retries=3, first_pause_s=0.3)


def open_client(url: str) -> Client:
    """For commands that make one request."""
    return Client(url, retry=_INTERACTIVE)


def complete_job_id(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Shell completion from the newest jobs. Empty unless the service responds at once, so the shell does not hang."""
    found: list[tuple[str, str]] = []
    try:
        with Client(context.params.get("url"), retry=RetryPolicy(retries=0), timeout_s=1.0) as client:
            for job, _ in zip(client.jobs(page_size=_COMPLETED_JOBS), range(_COMPLETED_JOBS), strict=False):
                if job.id.startswith(incomplete):
                    found.append((job.id, job.status))
    except RetalkingClientError:
        return []
    return found


ServiceUrl = Annotated[
    str,
    typer.Option("--url", envvar=["RETALKING_URL", "RETALKING_PUBLIC_URL"], help="URL of the service"),
]
DEFAULT_URL = "http://127.0.0.1:8000"
JobId = Annotated[str, typer.Argument(help="Id of a job", autocompletion=complete_job_id, show_default=False)]
JobIds = Annotated[list[str], typer.Argument(help="Ids of jobs", autocompletion=complete_job_id, show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]


def command_error(error: RetalkingClientError) -> CommandError:
    """Same code and message. Exit codes: refusal 1, wrong option 2, unreachable service 3, missing key 4."""
    exit_code = EXIT_FAILED
    if isinstance(error, _UNAVAILABLE):
        exit_code = EXIT_UNAVAILABLE
    elif isinstance(error, ApiError) and error.status in _DENIED:
        exit_code = EXIT_DENIED
    elif isinstance(error, InvalidOptionError) and error.job is None:
        exit_code = EXIT_USAGE
    return CommandError(error.code, f"{error.message} {error.advice}".strip(), exit_code)


Shape = TypeVar("Shape")


def read_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    """`output.crf=20` becomes {"output": {"crf": 20}}. A value is JSON where it reads as JSON, else text."""
    spec: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        path = name.strip().split(".")
        if not equals or not all(path):
            raise CommandError("invalid_option", f"--option takes key=value, not {pair!r}.", EXIT_USAGE)
        place = spec
        for step in path[:-1]:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise CommandError("invalid_option", f"{name} and {step} cannot both be set.", EXIT_USAGE)
        place[path[-1]] = _read_value(text)
    return spec


def validate_options(shape: type[Shape], values: dict[str, Any]) -> Shape:
    """Validate before anything is sent or rendered. Raises CommandError that names every fault."""
    try:
        return TypeAdapter(shape).validate_python(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise CommandError("invalid_option", faults, EXIT_USAGE) from error


def _read_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


_ARROWS = {"higher": "higher is better", "lower": "lower is better", "neutral": ""}


def print_json(found: Job | Batch) -> None:
    typer.echo(json.dumps(found.model_dump(mode="json"), indent=2))


def describe_note(sentence: str, ranges_s: Iterable[tuple[float, float]]) -> str:
    """A note of a render in one line."""
    listed = ", ".join(f"{start:.2f}-{end:.2f} s" for start, end in ranges_s)
    return f"{sentence} ({listed})" if listed else sentence


def print_metrics(console: Console, metrics: Sequence[Mapping[str, Any]]) -> None:
    """One row per metric; an unavailable value is replaced by its reason. Below, a row per segment of the job."""
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
    per_segment = [metric for metric in metrics if metric.get("segments")]
    if per_segment:
        console.print(_segment_table(per_segment))


def _segment_table(metrics: Sequence[Mapping[str, Any]]) -> Table:
    """A column per metric that segments have; reasons are in the JSON."""
    table = Table(title="Segments", title_justify="left", show_edge=False)
    table.add_column("", justify="right")
    for metric in metrics:
        table.add_column(metric["name"], justify="right")
    for number, values in enumerate(zip(*(metric["segments"] for metric in metrics), strict=True), 1):
        cells = ("-" if each["value"] is None else f"{each['value']:.4g}" for each in values)
        table.add_row(str(number), *cells)
    return table
