"""`retalking submit`: submit a job to a running service, and optionally wait for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from retalking_client import Client, Job, Segment, SubmitOptions, Upload, calls
from retalking_client.cli.common import (
    DEFAULT_URL,
    EXIT_USAGE,
    AsJson,
    CommandError,
    ServiceUrl,
    open_client,
    print_json,
    read_pairs,
    validate_options,
)
from retalking_client.cli.jobs import OnlyId, ResultOut, Timeout, finish
from retalking_client.cli.progress import follow

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
