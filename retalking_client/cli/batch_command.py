"""`retalking batch`: submit a list of jobs to a running service, and optionally wait for all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from retalking_client import Batch, BatchJob, calls
from retalking_client.cli.common import DEFAULT_URL, AsJson, ServiceUrl, open_client, print_json, validate_options
from retalking_client.cli.failures import EXIT_FAILED, EXIT_USAGE, CommandError
from retalking_client.cli.jobs import OnlyId, Timeout
from retalking_client.options import MediaInput


def batch(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="JSON Lines, one job a line: `video`, and `audio` or `segments` (paths relative to this file, or "
            "http(s) addresses), and any options",
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
            typer.echo(f"  job {failure.index + 1}: {failure.code}: {failure.message} ({failure.job_id})", err=True)
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
        if not isinstance(line, dict) or ("audio" in line) == ("segments" in line):
            message = f"{file}, line {number}: a job is an object with `video`, and with `audio` or `segments`."
            raise CommandError("invalid_request", message, EXIT_USAGE)
        jobs.append(_beside(file, validate_options(BatchJob, line)))
    if not jobs:
        raise CommandError("invalid_request", f"{file} has no job.", EXIT_USAGE)
    return jobs


def _beside(file: Path, job: BatchJob) -> BatchJob:
    """Paths of its inputs are relative to the list."""

    def place(given: MediaInput) -> MediaInput:
        if not isinstance(given, str) or calls.is_link(given) or given.startswith(calls.UPLOAD):
            return given
        return str(file.parent / Path(given).expanduser())

    job = {**job, "video": place(job["video"])}
    if "audio" in job:
        job["audio"] = place(job["audio"])
    if "segments" in job:
        job["segments"] = [{**segment, "audio": place(segment["audio"])} for segment in job["segments"]]
    return job


def describe(batch: Batch) -> str:
    """`running, 3 of 20 done, 1 failed`."""
    failed = f", {batch.counts.failed} failed" if batch.counts.failed else ""
    return f"{batch.status}, {batch.done} of {batch.total} done{failed}"
