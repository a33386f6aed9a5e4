"""`retalking batch`: submit a list of jobs to a running service, and optionally wait for all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from retalking_client import Batch, BatchJob, SubmitOptions, calls
from retalking_client.cli.common import DEFAULT_URL, AsJson, ServiceUrl, open_client, print_json, validate_options
from retalking_client.cli.failures import EXIT_FAILED, EXIT_USAGE, CommandError
from retalking_client.cli.jobs import OnlyId, Timeout


def batch(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="JSON Lines, one job a line: `video` and `audio` (a path relative to this file, or an http(s) "
            "address), and any options",
        ),
    ],
    url: ServiceUrl = DEFAULT_URL,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait until all jobs are over")] = False,
    timeout_s: Timeout = None,
    webhook_url: Annotated[str | None, typer.Option(help="Address that receives the event batch.completed")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key never makes a second batch  [default: one for this call]")
    ] = None,
    as_json: AsJson = False,
    quiet: OnlyId = False,
) -> None:
    """Submit many jobs at once. Prints the id of the batch, its status and address; with --wait, how it ended."""
    console = Console(stderr=True, quiet=quiet)
    jobs = read_jobs(file)
    with open_client(url) as client:
        found = client.submit_batch(jobs, webhook_url=webhook_url, idempotency_key=idempotency_key)
        if wait:
            with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console) as bar:
                task = bar.add_task(found.id, total=found.total)
                found = client.wait_batch(
                    found, timeout_s=timeout_s, on_progress=lambda now: bar.update(task, completed=now.done)
                )
        place = f"{client.url}{calls.batch_path(found.id)}"
    if as_json:
        print_json(found)
    elif quiet:
        typer.echo(found.id)
    else:
        typer.echo(f"{found.id}  {describe(found)}  {place}")
        for failure in found.failures:
            typer.echo(f"  line {failure.index + 1}: {failure.code}: {failure.message} ({failure.job_id})", err=True)
    if found.is_over and found.counts.succeeded < found.total:
        raise typer.Exit(EXIT_FAILED)


def read_jobs(file: Path) -> list[BatchJob]:
    """Raises CommandError, with the number of the line."""
    jobs = []
    for number, text in enumerate(file.read_text("utf-8").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            line: Any = json.loads(text)
        except ValueError as fault:
            raise CommandError("malformed_json", f"{file}, line {number}: {fault}.", EXIT_USAGE) from None
        if not isinstance(line, dict) or not all(isinstance(line.get(name), str) for name in ("video", "audio")):
            message = f"{file}, line {number}: a job is an object with `video` and `audio`."
            raise CommandError("invalid_request", message, EXIT_USAGE)
        options = {name: value for name, value in line.items() if name not in ("video", "audio")}
        validate_options(SubmitOptions, options)
        inputs = {name: _place(file, line[name]) for name in ("video", "audio")}
        jobs.append(cast(BatchJob, options | inputs))
    if not jobs:
        raise CommandError("invalid_request", f"{file} has no job.", EXIT_USAGE)
    return jobs


def _place(file: Path, value: str) -> str:
    return value if calls.is_link(value) else str(file.parent / Path(value).expanduser())


def describe(batch: Batch) -> str:
    """`running, 3 of 20 done, 1 failed`."""
    failed = f", {batch.counts.failed} failed" if batch.counts.failed else ""
    return f"{batch.status}, {batch.done} of {batch.total} done{failed}"
