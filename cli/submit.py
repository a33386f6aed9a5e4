"""`retalking submit`: hand a job to a running service, and wait for it when asked to."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.asking import checked, read_pairs
from cli.client import ServiceClient
from cli.failures import EXIT_USAGE, CommandError
from cli.following import open_display, show_events
from cli.outcome import print_metrics, require_success
from jobs.models import JobRequest


def submit(
    video: Annotated[str, typer.Argument(help="Face: a video or picture file, or an http(s) address")],
    audio: Annotated[str, typer.Argument(help="Speech: a file, or an http(s) address")],
    url: Annotated[
        str, typer.Option(envvar="RETALKING_PUBLIC_URL", help="Where the service is")
    ] = "http://127.0.0.1:8000",
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Follow the job to its end")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Fetch the result to here (implies --wait)")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="key=value, may be repeated, e.g. --option output.crf=20")
    ] = None,
    webhook_url: Annotated[str | None, typer.Option(help="Address to be told about the job")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="The same key never makes a second job")] = None,
    api_key: Annotated[
        str, typer.Option(envvar="RETALKING_API_KEY", help="Better in the environment: others see a command line")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the job as JSON")] = False,
) -> None:
    """Submit a job. Prints its id and address; with --wait, follows it and says how it ended."""
    console = Console(stderr=True)
    spec = read_pairs(option or [])
    if webhook_url is not None:
        spec["webhook_url"] = webhook_url
    checked(JobRequest, spec)

    with ServiceClient(url, api_key=api_key) as client:
        job = _send(client, video, audio, spec, idempotency_key)
        if wait or out:
            console.print(f"{job['id']} at {client.base_url}/jobs/{job['id']}", highlight=False, soft_wrap=True)
            with closing(open_display(console)) as display:
                show_events(client.follow(job["id"]), display)
            job = client.job(job["id"])
        if job["status"] == "succeeded" and out:
            client.download(job, out)
        _print(job, client.base_url, as_json, console)
    if wait or out:
        require_success(job)


def _send(client: ServiceClient, video: str, audio: str, spec: dict[str, Any], key: str | None) -> dict[str, Any]:
    inputs = {"video": video, "audio": audio}
    links = {f"{name}_url": value for name, value in inputs.items() if _is_link(value)}
    files = {name: _file(value) for name, value in inputs.items() if not _is_link(value)}
    return client.submit(files, spec | links, key)


def _is_link(value: str) -> bool:
    return value.lower().startswith(("http://", "https://"))


def _file(value: str) -> Path:
    path = Path(value).expanduser()
    if not path.is_file():
        raise CommandError("file_not_found", f"There is no file {value}.", EXIT_USAGE)
    return path


def _print(job: dict[str, Any], base_url: str, as_json: bool, console: Console) -> None:
    if as_json:
        typer.echo(json.dumps(job, indent=2))
        return
    typer.echo(f"{job['id']}  {job['status']}  {base_url}/jobs/{job['id']}")
    if job.get("evaluation"):
        print_metrics(console, job["evaluation"])
