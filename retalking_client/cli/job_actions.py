"""What can be done with a job that was submitted: wait, events, download, cancel, delete, redeliver."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from retalking_client import Client, Job
from retalking_client.cli.output import print_json, print_metrics
from retalking_client.cli.progress import follow
from retalking_client.cli.service import DEFAULT_URL, AsJson, JobId, JobIds, ServiceUrl, open_client

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing while it lasts")]
# Text, not a path: a path forgets the slash that makes `new/` a folder.
Out = Annotated[str | None, typer.Option("--out", "-o", help="File or folder  [default: JOB.mp4 here]")]
ResultOut = Annotated[str | None, typer.Option("--out", "-o", help="Fetch the result to here (implies waiting)")]
Timeout = Annotated[float | None, typer.Option("--timeout", min=0, help="Give up waiting after so many seconds")]


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


def finish(client: Client, job: Job, out: str | None, as_json: bool, console: Console) -> None:
    """The end of a job that was waited for: its result, its numbers; raises when it did not succeed."""
    if as_json:
        print_json(job)
    job.raise_for_status()
    if out is not None:
        path = fetch(client, job, out, console)
        console.print(f"Result: {path}", highlight=False, soft_wrap=True, markup=False)
    if not as_json:
        typer.echo(f"{job.id}  {job.status}  {client.url}/jobs/{job.id}")
        if job.evaluation:
            print_metrics(Console(), [metric.model_dump() for metric in job.evaluation])


def events(
    job: JobId,
    after: Annotated[str | None, typer.Option(help="Id of an event: begin with the one after it")] = None,
    url: ServiceUrl = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line")] = False,
) -> None:
    """Print what happens to a job, from its beginning to its end, as it happens."""
    with Client(url) as client:
        for event in client.events(job, after=after):
            stage = f"{event.stage or ''} {event.progress:.0%}".strip()
            line = f"{event.at:%Y-%m-%d %H:%M:%S}  {event.event:<14} {stage}"
            typer.echo(event.model_dump_json() if as_json else line)


def download(job: JobId, out: Out = None, url: ServiceUrl = DEFAULT_URL, quiet: Quiet = False) -> None:
    """Fetch the result of a job. Takes up what an interrupted download left; the file appears whole or not at all."""
    with Client(url) as client:
        typer.echo(fetch(client, client.get(job), out, Console(stderr=True, quiet=quiet)))


def fetch(client: Client, job: Job, out: str | None, console: Console) -> Path:
    """With a bar where somebody watches."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    shown = console.is_terminal and not console.quiet
    with Progress(TextColumn("download"), *columns, console=console, disable=not shown, transient=True) as bar:
        task = bar.add_task("download")
        return client.download(job, out, on_bytes=lambda done, total: bar.update(task, completed=done, total=total))


def cancel(jobs: JobIds, url: ServiceUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Ask for the end of jobs. A job that is over stays as it is."""
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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")] = False,
    url: ServiceUrl = DEFAULT_URL,
) -> None:
    """Remove finished jobs with their files, for good."""
    if not yes:
        typer.confirm(f"Delete {len(jobs)} job{'s' * (len(jobs) > 1)} with inputs and results?", abort=True, err=True)
    with open_client(url) as client:
        for name in jobs:
            client.delete(name)
            typer.echo(f"{name}  deleted")


def redeliver(job: JobId, url: ServiceUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Tell the webhook of a finished job once more."""
    with open_client(url) as client:
        found = client.redeliver(job)
    if as_json:
        print_json(found)
        return
    for delivery in found.webhook.deliveries if found.webhook else ():
        typer.echo(f"{delivery.id}  {delivery.event}  {delivery.state}")
