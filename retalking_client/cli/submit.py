"""Commands that submit: one job, or a batch of jobs; and those that show batches."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from retalking_client import Batch, BatchJob, BatchSummary, Client, Job, Segment, SubmitOptions, Upload, calls
from retalking_client.cli.common import (
    DEFAULT_URL,
    EXIT_FAILED,
    EXIT_USAGE,
    AsJson,
    CommandError,
    ServiceUrl,
    open_client,
    print_json,
    read_pairs,
    validate_options,
)
from retalking_client.cli.jobs import OnlyId, ResultOut, Timeout, describe_age, finish
from retalking_client.cli.progress import follow
from retalking_client.options import MediaInput

_LARGE_BYTES = 64 << 20
"""Beyond this a file goes ahead of its job, straight to the object store, and does not pass through the API's form."""


def submit(
    video: Annotated[str, typer.Argument(help="Face: a video or picture file, or an http(s) address")],
    audio: Annotated[
        str | None, typer.Argument(help="Speech: a file, or an http(s) address; not with --segments")
    ] = None,
    segments: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="JSON list of who speaks when; its files are uploaded (docs/dubbing.md)"
        ),
    ] = None,
    url: ServiceUrl = DEFAULT_URL,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Follow the job to its end")] = False,
    out: ResultOut = None,
    timeout_s: Timeout = None,
    option: Annotated[
        list[str] | None, typer.Option(help="key=value, may be repeated, e.g. --option output.crf=20")
    ] = None,
    expression: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A picture whose expression the face takes on")
    ] = None,
    webhook_url: Annotated[str | None, typer.Option(help="Address that receives the events of the job")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key never makes a second job  [default: one for this call]")
    ] = None,
    as_json: AsJson = False,
    quiet: OnlyId = False,
) -> None:
    """Submit a job. Prints its id, status and address; with --wait, follows it and says how it ended."""
    console = Console(stderr=True, quiet=quiet)
    if (audio is None) == (segments is None):
        raise CommandError("invalid_option", "Name the speech: either AUDIO or --segments FILE.json.", EXIT_USAGE)
    lines = None if segments is None else read_segments(segments)
    spec = read_pairs(option or [])
    if webhook_url is not None:
        spec["webhook_url"] = webhook_url
    validate_options(SubmitOptions, spec)
    if expression is not None:
        spec["expression"] = expression

    with open_client(url) as client:
        job = _send(client, video, audio, lines, spec, idempotency_key)
    place = f"{client.url}{calls.job_path(job.id)}"
    if wait or out:
        console.print(f"{job.id} at {place}", highlight=False, soft_wrap=True)
        with Client(url) as client:
            finish(client, follow(client, job, console, timeout_s), out, as_json, console, quiet)
    elif as_json:
        print_json(job)
    elif quiet:
        typer.echo(job.id)
    else:
        typer.echo(f"{job.id}  {job.status}  {place}")


_MOST_JSON_BYTES = 1 << 20
_SEGMENTS = TypeAdapter(list[Segment])


def read_segments(path: Path) -> list[Segment]:
    """A JSON list; paths in it are relative to its folder. Raises CommandError."""
    if path.stat().st_size > _MOST_JSON_BYTES:
        raise CommandError("invalid_option", f"{path} is larger than 1 MB; a list of segments is not.", EXIT_USAGE)
    try:
        # As Python values: a path in JSON is a text, which `MediaInput` would read as an upload otherwise
        lines = _SEGMENTS.validate_python(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, each['loc'])) or 'list'}: {each['msg']}" for each in error.errors()[:5])
        raise CommandError(
            "invalid_option", f"{path} is no list of segments: {'; '.join(faults)}.", EXIT_USAGE
        ) from None
    except ValueError as error:
        raise CommandError("malformed_json", f"{path} is not JSON: {error}.", EXIT_USAGE) from None
    for line in lines:
        source = str(line["audio"])
        if not _is_link(source) and not source.startswith(calls.UPLOAD):
            beside = str(path.parent / Path(source).expanduser())
            _check_file(beside)
            line["audio"] = beside
    return lines


def _send(
    client: Client,
    video: str,
    audio: str | None,
    segments: list[Segment] | None,
    spec: dict[str, Any],
    key: str | None,
) -> Job:
    _check_file(video)
    if segments is not None:
        sources = {str(line["audio"]): _ahead(client, str(line["audio"])) for line in segments}
        lines: list[Segment] = [{**line, "audio": sources[str(line["audio"])]} for line in segments]
        return client.submit(_ahead(client, video), segments=lines, idempotency_key=key, **spec)
    assert audio is not None
    _check_file(audio)
    return client.submit(_ahead(client, video), _ahead(client, audio), idempotency_key=key, **spec)


def _ahead(client: Client, value: str) -> str | Upload:
    if _is_link(value) or value.startswith(calls.UPLOAD):
        return value
    path = Path(value).expanduser()
    return client.upload(path) if path.stat().st_size > _LARGE_BYTES else str(path)


def _is_link(value: str) -> bool:
    return value.lower().startswith(("http://", "https://"))


def _check_file(value: str) -> None:
    if not _is_link(value) and not Path(value).expanduser().is_file():
        raise CommandError("file_not_found", f"There is no file {value}.", EXIT_USAGE)


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
            found = _follow(client, found, timeout_s, console)
        report(client, found, as_json, quiet)


def report(client: Client, found: Batch, as_json: bool, quiet: bool = False) -> None:
    """Print a batch. Raises typer.Exit if it is over and a job did not succeed."""
    if as_json:
        print_json(found)
    elif quiet:
        typer.echo(found.id)
    else:
        typer.echo(f"{found.id}  {describe(found)}  {client.url}{calls.batch_path(found.id)}")
        for failure in found.failures:
            typer.echo(f"  job {failure.index + 1}: {failure.code}: {failure.message} ({failure.job_id})", err=True)
    if found.is_over and found.counts.succeeded < found.total:
        raise typer.Exit(EXIT_FAILED)


def _follow(client: Client, batch: Batch | str, timeout_s: float | None, console: Console) -> Batch:
    """To its end, with a bar on a terminal."""
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console) as bar:
        task = bar.add_task(calls.id_of(batch), total=None)
        return client.wait_batch(
            batch, timeout_s=timeout_s, on_progress=lambda now: bar.update(task, completed=now.done, total=now.total)
        )


batches_app = typer.Typer(invoke_without_command=True, help="List batches, or show one. Without a command: list.")
BatchId = Annotated[str, typer.Argument(help="Id of a batch", show_default=False)]
Limit = Annotated[int, typer.Option("--limit", "-L", min=1, help="Show at most this many")]


@batches_app.callback()
def batches(context: typer.Context, limit: Limit = 20, url: ServiceUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List batches, newest first, or show one."""
    if context.invoked_subcommand is None:
        list_batches(limit, url, as_json)


@batches_app.command("list")
def list_batches(limit: Limit = 20, url: ServiceUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List batches, newest first."""
    with open_client(url) as client:
        found = list(islice(client.batches(), limit))
    if as_json:
        typer.echo(json.dumps([batch.model_dump(mode="json") for batch in found], indent=2))
        return
    for batch in found:
        if sys.stdout.isatty():
            typer.echo(f"{batch.id}  {describe(batch)}  {describe_age(batch.created_at)}")
        else:  # for other programs, as `retalking jobs`
            typer.echo("\t".join([batch.id, batch.status, f"{batch.done}/{batch.total}", batch.created_at.isoformat()]))
    if not found:
        typer.echo("No batches.", err=True)


@batches_app.command()
def show(batch: BatchId, url: ServiceUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show one batch and what failed. Its jobs: `retalking jobs --batch BATCH`."""
    with open_client(url) as client:
        report(client, client.batch(batch), as_json)


@batches_app.command()
def wait(batch: BatchId, timeout_s: Timeout = None, url: ServiceUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Wait until all jobs of a batch are over. Exits with 1 if one did not succeed."""
    with Client(url) as client:
        report(client, _follow(client, batch, timeout_s, Console(stderr=True)), as_json)


@batches_app.command()
def cancel(batch: BatchId, url: ServiceUrl = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Cancel the live jobs of a batch, and drop what is not a job yet. Results stay."""
    with open_client(url) as client:
        found = client.cancel_batch(batch)
    if as_json:
        print_json(found)
    else:
        typer.echo(f"{found.id}  {describe(found)}")


@batches_app.command()
def delete(batch: BatchId, url: ServiceUrl = DEFAULT_URL) -> None:
    """Delete the record of a batch that is over. Its jobs stay."""
    with open_client(url) as client:
        client.delete_batch(batch)
    typer.echo(f"{batch}  deleted")


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
        jobs.append(_beside(file, read_job(line, f"{file}, line {number}")))
    if not jobs:
        raise CommandError("invalid_request", f"{file} has no job.", EXIT_USAGE)
    return jobs


def read_job(value: Any, place: str) -> BatchJob:
    """place: where it stands, for the CommandError."""
    if not isinstance(value, dict) or ("audio" in value) == ("segments" in value):
        message = f"{place}: a job is an object with `video`, and with `audio` or `segments`."
        raise CommandError("invalid_request", message, EXIT_USAGE)
    return validate_options(BatchJob, value)


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


def describe(batch: BatchSummary) -> str:
    """`running, 3 of 20 done, 1 failed`."""
    failed = f", {batch.counts.failed} failed" if batch.counts.failed else ""
    return f"{batch.status}, {batch.done} of {batch.total} done{failed}"
