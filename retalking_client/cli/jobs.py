"""Commands about jobs that were submitted: list, show, wait, events, download, cancel, delete, redeliver."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from retalking_client import Client, Job, calls
from retalking_client.cli.common import (
    DEFAULT_URL,
    EXIT_USAGE,
    AsJson,
    CommandError,
    JobId,
    JobIds,
    ServiceUrl,
    describe_note,
    open_client,
    print_json,
    print_metrics,
)
from retalking_client.cli.progress import follow

app = typer.Typer(invoke_without_command=True, help="List jobs, or show one. Without a command: list.")

Status = Literal["queued", "running", "succeeded", "failed", "canceled"]
StatusOption = Annotated[Status | None, typer.Option("--status", "-s", help="Only jobs in this status")]
LimitOption = Annotated[int, typer.Option("--limit", "-L", min=1, help="Show at most this many")]
MetadataOption = Annotated[
    list[str] | None, typer.Option("--metadata", "-m", help="key=value: only jobs that were submitted with it")
]
BatchOption = Annotated[str | None, typer.Option("--batch", "-b", help="Only the items of this batch that are jobs")]
_COLORS = {"succeeded": "green", "failed": "red", "canceled": "yellow", "running": "cyan", "queued": "default"}


@app.callback()
def jobs(
    context: typer.Context,
    status: StatusOption = None,
    metadata: MetadataOption = None,
    batch: BatchOption = None,
    limit: LimitOption = 20,
    url: ServiceUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first, or show one."""
    if context.invoked_subcommand is None:
        list_jobs(status, metadata, batch, limit, url, as_json)


@app.command("list")
def list_jobs(
    status: StatusOption = None,
    metadata: MetadataOption = None,
    batch: BatchOption = None,
    limit: LimitOption = 20,
    url: ServiceUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    wanted = read_metadata(metadata or ())
    with open_client(url) as client:
        found = list(islice(client.jobs(status=status, metadata=wanted, batch=batch, page_size=min(limit, 100)), limit))
    if as_json:
        typer.echo(json.dumps([job.model_dump(mode="json") for job in found], indent=2))
    elif not sys.stdout.isatty():
        for job in found:  # for other programs: no heading, tabs, whole values
            typer.echo("\t".join([job.id, job.status, f"{job.progress:.0%}", job.created_at.isoformat()]))
    elif found:
        Console().print(_table(found))
    else:
        typer.echo("No jobs.", err=True)


@app.command()
def show(job: JobId, url: ServiceUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show one job: status, options, result and webhook deliveries."""
    with open_client(url) as client:
        found = client.get(job)
    if as_json:
        print_json(found)
        return
    console = Console(soft_wrap=True, highlight=False)
    for name, value in _facts(found):
        console.print(f"[bold]{name:<12}[/] {escape(value)}")
    if found.evaluation:
        console.print()
        print_metrics(console, [metric.model_dump() for metric in found.evaluation])


def read_metadata(pairs: Sequence[str]) -> dict[str, str]:
    """Raises CommandError."""
    wanted = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise CommandError("invalid_option", f"--metadata takes key=value, not {pair!r}.", EXIT_USAGE)
        wanted[name] = value
    return wanted


def _table(found: Sequence[Job]) -> Table:
    table = Table(show_edge=False, box=None, header_style="dim")
    for heading in ("job", "status", "stage", "done", "engine", "submitted"):
        table.add_column(heading, no_wrap=heading == "job")
    for job in found:
        waits = f"place {job.queue_position}" if job.queue_position else ""
        stage = job.stage or (job.error.code if job.error else waits)
        status = f"[{_COLORS[job.status]}]{job.status}[/]"
        engine = job.engine or job.engine_requested
        table.add_row(job.id, status, stage, f"{job.progress:.0%}", engine, describe_age(job.created_at))
    return table


def describe_age(at: datetime) -> str:
    """`just now`, `5 minutes ago`, `3 days ago`."""
    seconds = (datetime.now(UTC) - at).total_seconds()
    for name, length_s in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length_s)
        if count:
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def _facts(job: Job) -> Iterator[tuple[str, str]]:
    yield "job", job.id
    yield "status", job.status + (f", {job.stage}, {job.progress:.0%}" if job.stage else "")
    if job.queue_position is not None:
        yield "in line", f"place {job.queue_position}"
    if job.eta_s is not None:
        yield "left", f"about {job.eta_s:.0f} s"
    yield "submitted", f"{job.created_at:%Y-%m-%d %H:%M:%S %Z}, {describe_age(job.created_at)}"
    yield "engine", f"{job.engine or job.engine_requested}" + (f" on {job.device}" if job.device else "")
    yield "attempts", f"{job.attempts} of {job.max_attempts}"
    yield "options", json.dumps(job.options)
    if job.metadata:
        yield "metadata", json.dumps(job.metadata, ensure_ascii=False)
    if job.error:
        yield "error", f"{job.error.code}: {job.error.message}"
    if job.render and job.render.synthetic_weights:
        yield "warning", "made with synthetic weights: not a usable result"
    for note in job.render.notes if job.render else ():
        yield "note", describe_note(note.sentence, note.ranges_s)
    if job.result:
        size, result = job.result.size_bytes / 1e6, job.result
        yield "result", f"{result.width}x{result.height}, {result.duration_s:.2f} s, {size:.1f} MB, {result.url}"
    if job.delete_at:
        yield "kept until", f"{job.delete_at:%Y-%m-%d %H:%M %Z}"
    if job.webhook:
        yield "webhook", job.webhook.url
        for delivery in job.webhook.deliveries:
            tries = len(delivery.attempts)
            yield "", f"{delivery.event}: {delivery.state} after {tries} attempt{'s' * (tries != 1)}"


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress")]
OnlyId = Annotated[bool, typer.Option("--quiet", "-q", help="Print the id of the job alone, for scripts")]
# Text, not a path: a path forgets the slash that makes `new/` a folder.
Out = Annotated[str | None, typer.Option("--out", "-o", help="File or folder  [default: JOB.mp4 here]")]
ResultOut = Annotated[str | None, typer.Option("--out", "-o", help="Fetch the result to here (implies waiting)")]
Timeout = Annotated[float | None, typer.Option("--timeout", min=0, help="Stop waiting after this many seconds")]


def wait(
    job: JobId,
    out: ResultOut = None,
    timeout_s: Timeout = None,
    url: ServiceUrl = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Follow a job to its end. Exits with 1 when the job failed or was canceled."""
    console = Console(stderr=True)
    with Client(url) as client:
        finish(client, follow(client, job, console, timeout_s), out, as_json, console)


def finish(client: Client, job: Job, out: str | None, as_json: bool, console: Console, only_id: bool = False) -> None:
    """Print and fetch the result of a job that ended; raises if it did not succeed."""
    if as_json:
        print_json(job)
    job.raise_for_status()
    if out is not None:
        path = fetch(client, job, out, console)
        console.print(f"Result: {path}", highlight=False, soft_wrap=True, markup=False)
    if only_id:
        typer.echo(job.id)
    elif not as_json:
        typer.echo(f"{job.id}  {job.status}  {client.url}{calls.job_path(job.id)}")
        if job.evaluation:
            print_metrics(Console(), [metric.model_dump() for metric in job.evaluation])


def retry(job: JobId, url: ServiceUrl = DEFAULT_URL, quiet: OnlyId = False) -> None:
    """Submit a failed or canceled job again, as a new job."""
    with open_client(url) as client:
        made = client.retry(job)
    typer.echo(made.id if quiet else f"{made.id}  {made.status}  {client.url}{calls.job_path(made.id)}")


def events(
    job: JobId,
    after: Annotated[str | None, typer.Option(help="Id of an event: start with the one after it")] = None,
    url: ServiceUrl = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line")] = False,
) -> None:
    """Print the events of a job from its beginning, live until it ends."""
    with Client(url) as client:
        for event in client.events(job, after=after):
            stage = f"{event.stage or ''} {event.progress:.0%}".strip()
            line = f"{event.at:%Y-%m-%d %H:%M:%S}  {event.event:<14} {stage}"
            typer.echo(event.model_dump_json() if as_json else line)


def download(job: JobId, out: Out = None, url: ServiceUrl = DEFAULT_URL, quiet: Quiet = False) -> None:
    """Download the result of a job. Resumes an interrupted download; the file appears complete or not at all."""
    with Client(url) as client:
        typer.echo(fetch(client, client.get(job), out, Console(stderr=True, quiet=quiet)))


def fetch(client: Client, job: Job, out: str | None, console: Console) -> Path:
    """Download with a progress bar on a terminal."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    shown = console.is_terminal and not console.quiet
    with Progress(TextColumn("download"), *columns, console=console, disable=not shown, transient=True) as bar:
        task = bar.add_task("download")
        return client.download(job, out, on_bytes=lambda done, total: bar.update(task, completed=done, total=total))


def cancel(jobs: JobIds, url: ServiceUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Cancel jobs. A finished job stays unchanged."""
    with open_client(url) as client:
        for name in jobs:
            job = client.cancel(name)
            if as_json:
                print_json(job)
            else:
                note = "stops within a batch of frames" if not job.is_over else job.status
                typer.echo(f"{job.id}  {note}")


def delete(
    jobs: JobIds,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation")] = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Delete finished jobs with their files, permanently."""
    if not yes:
        typer.confirm(f"Delete {len(jobs)} job{'s' * (len(jobs) > 1)} with inputs and results?", abort=True, err=True)
    with open_client(url) as client:
        for name in jobs:
            client.delete(name)
            typer.echo(f"{name}  deleted")


def redeliver(job: JobId, url: ServiceUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Redeliver the webhook of a finished job."""
    with open_client(url) as client:
        found = client.redeliver(job)
    if as_json:
        print_json(found)
        return
    for delivery in found.webhook.deliveries if found.webhook else ():
        typer.echo(f"{delivery.id}  {delivery.event}  {delivery.state}")
