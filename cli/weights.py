"""`retalking weights`: list, fetch, verify and synthesize the weight files; and `retalking compile`: the networks,
compiled for this machine's GPU, as one file.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
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

from cli.extras import MissingExtraError
from retalking_client.cli.common import CommandError
from retalking_core.errors import WeightsError
from retalking_core.weights.table import NETWORK_FILES, WEIGHT_FILES, LockedFile, WeightFile

if TYPE_CHECKING:
    from retalking_core.weights.fetching import Source


app = typer.Typer(no_args_is_help=True, help="List, fetch, verify and synthesize the weight files.")

Folder = Annotated[Path, typer.Option("--dir", envvar="RETALKING_MODELS_DIR", help="Folder of the weight files.")]
Names = Annotated[list[str] | None, typer.Argument(help="Names as `list` shows them; all of them when left out.")]
DEFAULT_FOLDER = Path("models")
EXTRA_SHOWN = 5


def screen() -> Console:
    """As wide as the terminal is now; in a pipe, wide enough that no cell is cut."""
    return Console() if sys.stdout.isatty() else Console(width=320)


def chosen(names: list[str] | None) -> list[WeightFile]:
    unknown = [name for name in names or () if name not in WEIGHT_FILES]
    if unknown:
        raise typer.BadParameter(f"unknown weight file {', '.join(unknown)}; see `retalking weights list`")
    return [WEIGHT_FILES[name] for name in names or WEIGHT_FILES]


@app.command("list")
def list_files(folder: Folder = DEFAULT_FOLDER) -> None:
    """Show every weight file: what it is for, its license, and whether it is in the folder."""
    from retalking_core.weights.table import read_lock

    table = Table("name", "file", "used for", "published by", "license", "digest", "here")
    lock = read_lock(folder)
    for entry in WEIGHT_FILES.values():
        here = next((name for name in entry.names if (folder / name).is_file()), None)
        trust = _trust(entry, here or entry.file, lock)
        table.add_row(
            entry.name, entry.file, entry.used_for, entry.publisher, entry.license, trust, "yes" if here else "no"
        )
    screen().print(table)


def _trust(entry: WeightFile, name: str, lock: Mapping[str, LockedFile]) -> str:
    """What a file's digest is compared with."""
    if name in lock and lock[name].accepted:
        return "accepted by you"
    if pin := entry.pins.get(name):
        return f"pinned ({pin.sources} source{'s' if pin.sources > 1 else ''})"
    return "locked since the first fetch" if name in lock else "unknown: trusted on first use"


@app.command()
def fetch(
    names: Names = None,
    folder: Folder = DEFAULT_FOLDER,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="RETALKING_WEIGHTS_URL",
            help="Mirrors, separated by spaces: http(s):// or s3:// bases, or hf:OWNER/REPOSITORY[/FOLDER].",
        ),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option("--accept-digest", metavar="SHA256", help="Accept a file with this digest, knowingly."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Accept the licenses without being asked.")] = False,
) -> None:
    """Fetch weight files, resuming partial downloads; each is verified before it gets its name."""
    need_torch()
    from retalking_core.weights.fetching import Fetcher

    entries = chosen(names)
    digests = frozenset(digest.lower() for digest in accept or ())
    if wrong := [digest for digest in digests if len(digest) != 64 or set(digest) - set("0123456789abcdef")]:
        raise typer.BadParameter(f"not a SHA-256 digest of 64 hexadecimal digits: {', '.join(wrong)}")
    accept_licenses([entry for entry in entries if not any((folder / name).is_file() for name in entry.names)], yes)
    failed = 0
    with progress_bars() as bars:

        def tell(address: str, error: WeightsError) -> None:
            bars.console.print(f"{error.code} {error.message}; next address", soft_wrap=True, markup=False)

        fetcher = Fetcher(folder, (url or "").split(), {"s3": open_s3}, accept=digests, on_failure=tell)
        everything = bars.add_task("all files", total=None)
        tasks = {entry.name: bars.add_task(entry.file, total=entry.size_bytes, start=False) for entry in entries}

        def sum_up() -> None:
            files = [task for task in bars.tasks if task.id != everything]
            known = [task.total for task in files if task.total is not None]
            total = sum(known) if len(known) == len(files) else None
            bars.update(everything, completed=sum(task.completed for task in files), total=total)

        for entry in entries:
            bars.start_task(tasks[entry.name])

            def show(done: int, total: int | None, task: TaskID = tasks[entry.name]) -> None:
                bars.update(task, completed=done, total=total)
                sum_up()

            try:
                size = fetcher.fetch(entry, show).stat().st_size
                show(size, size)
            except WeightsError as error:
                failed += 1
                bars.console.print(f"[red]{error.code}[/red] {error.message}", soft_wrap=True)
    raise typer.Exit(1 if failed else 0)


def accept_licenses(entries: list[WeightFile], yes: bool) -> None:
    """Show the licenses of the files to fetch and ask once. Exits without an answer."""
    if not entries:
        return
    for entry in entries:
        screen().print(f"{entry.file}: {entry.license} ({entry.publisher})", soft_wrap=True, markup=False)
    screen().print("What they mean for you: docs/licenses.md. Read the publishers' terms.")
    if yes:
        return
    if not sys.stdin.isatty():
        screen().print("[red]refused[/red] pass --yes to accept these licenses without a terminal", soft_wrap=True)
        raise typer.Exit(2)
    typer.confirm("Fetch these files under these licenses?", abort=True)


@app.command()
def verify(names: Names = None, folder: Folder = DEFAULT_FOLDER) -> None:
    """Check files: present, digest, every key and shape. Fails unless all are valid."""
    need_torch()
    from retalking_core.weights.checkpoint import verify_file

    table = Table("name", "file", "tensors", "sha256", "lock", "verdict")
    problems: list[WeightsError] = []
    ignored: list[str] = []
    for entry in chosen(names):
        report = verify_file(folder, entry)
        verdict = report.problem.code if report.problem else "valid" if report.seed is None else "valid, SYNTHETIC"
        digest = (report.sha256 or "")[:12]
        table.add_row(entry.name, entry.file, str(report.tensors or ""), digest, report.locked, verdict)
        if report.ignored:
            ignored.append(f"{entry.file}: {_shown(report.ignored)}")
        if report.problem is not None:
            problems.append(report.problem)
    screen().print(table)
    for line in ignored:
        screen().print(line, soft_wrap=True, markup=False)
    for problem in problems:
        screen().print(f"[red]{problem.code}[/red] {problem.message}", soft_wrap=True)
    raise typer.Exit(1 if problems else 0)


def _shown(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - EXTRA_SHOWN} more" if len(keys) > EXTRA_SHOWN else ""
    return f"{len(keys)} extra keys ignored ({', '.join(keys[:EXTRA_SHOWN])}{more})"


@app.command()
def synthesize(
    folder: Annotated[Path, typer.Argument(help="Where to write them (2.6 GB for all).")],
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same values, on every machine.")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="Only this one; may be given several times.")] = None,
) -> None:
    """Write untrained weights in the official layouts, to run and measure the pipeline without the real ones."""
    need_torch()
    from retalking_core.weights.synthesis import synthesize as write

    entries = [entry for entry in chosen(only) if entry.name in NETWORK_FILES]
    existing = [entry.file for entry in entries if (folder / entry.file).exists()]
    if existing:
        # Never overwrite a trained file: it may have taken hours to fetch.
        screen().print(f"[red]refused[/red] already exist: {', '.join(existing)}", soft_wrap=True)
        raise typer.Exit(1)
    write(folder, seed, [entry.name for entry in entries], lambda path: screen().print(f"wrote {path.name}"))
    screen().print("These weights are SYNTHETIC: results made with them are marked so.")


@app.command()
def convert(
    archive: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="E.g. 2DFAN4-cd938726ad.zip")],
    name: Annotated[str, typer.Option(help="Name of the file to write, as `list` shows it.")] = "fan2d",
    folder: Folder = DEFAULT_FOLDER,
    accept: Annotated[
        list[str] | None,
        typer.Option("--accept-digest", metavar="SHA256", help="Accept an archive with this digest, knowingly."),
    ] = None,
) -> None:
    """Convert a TorchScript archive into the plain checkpoint that is used here. Its code is not run."""
    need_torch()
    from retalking_core.weights.checkpoint import convert_torchscript

    (entry,) = chosen([name])
    if (folder / entry.file).exists():
        screen().print(f"[red]refused[/red] already exists: {entry.file}", soft_wrap=True)
        raise typer.Exit(1)
    try:
        path = convert_torchscript(archive, folder, entry, frozenset(digest.lower() for digest in accept or ()))
    except WeightsError as error:
        screen().print(f"[red]{error.code}[/red] {error.message}", soft_wrap=True)
        raise typer.Exit(1) from None
    screen().print(f"wrote {path.name}")


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


def compile_kernels(
    out: Annotated[Path, typer.Option("--out", help="Folder to write to; RETALKING_KERNELS_DIR of the workers")],
    batch: Annotated[
        int,
        typer.Option(
            min=1, max=32, envvar="RETALKING_INFERENCE_BATCH", help="RETALKING_INFERENCE_BATCH of the workers"
        ),
    ] = 16,
) -> None:
    """Compile the networks for this machine's GPU into a bundle, so that workers with the same GPU and packages start
    without compiling. Needs no weights. Bundles for several GPUs can lie in one folder."""
    try:
        import torch

        from retalking_core.networks.kernels import (
            KernelCache,
            compile_all,
            compiled_names,
            compilers_at_once,
            missing_build_tools,
        )
    except ImportError as error:
        raise MissingExtraError("gpu", error.name) from error
    if not torch.cuda.is_available():
        raise CommandError("kernels_unfit", "There is no CUDA device: kernels are compiled for the GPU that is here.")
    if (missing := missing_build_tools()) is not None:
        raise CommandError("kernels_unfit", missing)
    out.mkdir(parents=True, exist_ok=True)
    began, console, failures = time.perf_counter(), Console(stderr=True), dict[str, str]()
    # A folder of its own, or the bundle would hold what was compiled for other versions before.
    with tempfile.TemporaryDirectory(dir=out, prefix=".compile-") as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        cache = KernelCache(Path(folder), torch.device("cuda"), batch)
        for name in compile_all(cache, compiled_names(), compilers_at_once(), failures):
            console.print(f"{name}: {time.perf_counter() - began:.0f} s", highlight=False)
        if failures:
            raise CommandError("kernels_unfit", " ".join(failures.values()))
        bundle = cache.write_bundle(out, compiled_names())
    typer.echo(bundle)
