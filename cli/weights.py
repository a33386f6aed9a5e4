"""`retalking weights`: list, fetch, verify and synthesize the weight files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from retalking_core.errors import WeightsError
from retalking_core.weights.table import WEIGHT_FILES, WeightFile

if TYPE_CHECKING:
    from retalking_core.weights.fetching import Source

app = typer.Typer(no_args_is_help=True, help="List, fetch, verify and synthesize the weight files.")

Folder = Annotated[Path, typer.Option("--dir", envvar="RETALKING_MODELS_DIR", help="Folder of the weight files.")]
Names = Annotated[list[str] | None, typer.Argument(help="Names as `list` shows them; all of them when left out.")]
DEFAULT_FOLDER = Path("models")


def screen() -> Console:
    """As wide as the terminal is now; in a pipe, wide enough that no cell is cut."""
    return Console() if sys.stdout.isatty() else Console(width=240)


def chosen(names: list[str] | None) -> list[WeightFile]:
    unknown = [name for name in names or () if name not in WEIGHT_FILES]
    if unknown:
        raise typer.BadParameter(f"unknown weight file {', '.join(unknown)}; see `retalking weights list`")
    return [WEIGHT_FILES[name] for name in names or WEIGHT_FILES]


@app.command("list")
def list_files(folder: Folder = DEFAULT_FOLDER) -> None:
    """Show every weight file: what it is for, its license, and whether it is in the folder."""
    table = Table("name", "file", "used for", "published by", "license", "here")
    for entry in WEIGHT_FILES.values():
        here = any((folder / name).is_file() for name in (entry.file, *entry.aliases))
        table.add_row(entry.name, entry.file, entry.used_for, entry.publisher, entry.licence, "yes" if here else "no")
    screen().print(table)


@app.command()
def fetch(
    names: Names = None,
    folder: Folder = DEFAULT_FOLDER,
    url: Annotated[
        str | None, typer.Option(envvar="RETALKING_WEIGHTS_URL", help="Mirror: an http(s):// or s3:// base.")
    ] = None,
) -> None:
    """Fetch weight files, resuming partial downloads; each is verified before it gets its name."""
    need_torch()
    from retalking_core.weights.fetching import Fetcher

    fetcher = Fetcher(folder, base_url=url, openers={"s3": open_s3})
    failed = 0
    with progress_bars() as bars:
        for entry in chosen(names):
            task = bars.add_task(entry.file, total=entry.size_bytes)

            def show(done: int, total: int | None, task: TaskID = task) -> None:
                bars.update(task, completed=done, total=total)

            try:
                size = fetcher.fetch(entry, show).stat().st_size
                bars.update(task, completed=size, total=size)
            except WeightsError as error:
                failed += 1
                bars.console.print(f"[red]{error.code}[/red] {error.message}", soft_wrap=True)
    raise typer.Exit(1 if failed else 0)


@app.command()
def verify(names: Names = None, folder: Folder = DEFAULT_FOLDER) -> None:
    """Check files: present, digest, every key and shape. Fails unless all are valid."""
    need_torch()
    from retalking_core.weights.checkpoint import verify_file

    table = Table("name", "file", "tensors", "sha256", "lock", "verdict")
    problems: list[WeightsError] = []
    for entry in chosen(names):
        report = verify_file(folder, entry)
        verdict = report.problem.code if report.problem else "valid" if report.seed is None else "valid, SYNTHETIC"
        digest = (report.sha256 or "")[:12]
        table.add_row(entry.name, entry.file, str(report.tensors or ""), digest, report.locked, verdict)
        if report.problem is not None:
            problems.append(report.problem)
    screen().print(table)
    for problem in problems:
        screen().print(f"[red]{problem.code}[/red] {problem.message}", soft_wrap=True)
    raise typer.Exit(1 if problems else 0)


@app.command()
def synthesize(
    folder: Annotated[Path, typer.Argument(help="Where to write them (2.6 GB for all).")],
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same values, on every machine.")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="Only this one; may be given several times.")] = None,
) -> None:
    """Write untrained weights in the official layouts, to run and measure the pipeline without the real ones."""
    need_torch()
    from retalking_core.weights.synthesis import synthesize as write

    entries = chosen(only)
    existing = [entry.file for entry in entries if (folder / entry.file).exists()]
    if existing:
        # Never overwrite a trained file: it may have taken hours to fetch.
        screen().print(f"[red]refused[/red] already exist: {', '.join(existing)}", soft_wrap=True)
        raise typer.Exit(1)
    write(folder, seed, [entry.name for entry in entries], lambda path: screen().print(f"wrote {path.name}"))
    screen().print("These weights are SYNTHETIC: results made with them are marked so.")


def need_torch() -> None:
    """Exit if torch is missing. Imported only when a command needs it: it is slow, and the preview engine does not
    need it."""
    try:
        import torch  # noqa: F401
    except ImportError:
        screen().print("[red]engine_unavailable[/red] needs torch: install `retalking[gpu]`")
        raise typer.Exit(1) from None


def progress_bars() -> Progress:
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, console=screen())


@contextmanager
def open_s3(url: str, start: int, version: str | None) -> Iterator[Source]:
    """`s3://bucket/prefix/file`, with the usual AWS variables (`AWS_ENDPOINT_URL` for other providers)."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    from retalking_core.weights.fetching import CHUNK_BYTES, Source, SourceGoneError

    parts = urlsplit(url)
    get = partial(boto3.client("s3").get_object, Bucket=parts.netloc, Key=parts.path.lstrip("/"))
    try:
        answer = get(Range=f"bytes={start}-", IfMatch=version) if start and version else get()
        sent_range = answer.get("ContentRange")
        first = int(sent_range.removeprefix("bytes ").split("-")[0]) if sent_range else 0
        chunks = answer["Body"].iter_chunks(CHUNK_BYTES)
        yield Source(first, first + answer["ContentLength"], answer.get("ETag"), chunks)
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status == 412 and start:  # the file changed: start from the beginning
            with open_s3(url, 0, None) as fresh:
                yield fresh
            return
        if 400 <= status < 500 and status != 429:
            raise SourceGoneError(error.response.get("Error", {}).get("Code", f"HTTP {status}")) from None
        raise OSError(str(error)) from None
    except BotoCoreError as error:
        raise OSError(str(error)) from None
