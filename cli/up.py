"""`retalking up`: the whole service on this machine, until Ctrl-C; and `retalking demo`: one job through HTTP, on
a service of its own.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from cli.extras import MissingExtraError
from retalking_client import Client, Job
from retalking_client.cli.common import EXIT_USAGE, CommandError, print_metrics
from retalking_client.cli.progress import ProgressDisplay, open_display, watch

_LOOPBACK = ("127.", "localhost", "::1")


def up(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all of this machine")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the API; 0: any free one")] = 8000,
    data: Annotated[
        Path | None, typer.Option(help="Folder of queue, inputs and results  [default: RETALKING_DATA_DIR, else data]")
    ] = None,
    gpu: Annotated[
        list[int] | None,
        typer.Option(min=0, metavar="N", help="CUDA device for a render worker; once for each  [default: one worker]"),
    ] = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Allow everyone who can reach the host, without API keys")
    ] = False,
) -> None:
    """Run Redis, a render worker, a webhook worker and the API, and restart what dies. Ctrl-C stops all of them.

    RETALKING_REDIS_URL and RETALKING_S3_BUCKET (in the environment or in .env) replace the embedded servers. Queued
    jobs survive a restart.
    """
    try:
        from cli.stack.embedded import StoppedError, catch_signals, open_stack
        from cli.stack.processes import StackAddress
        from jobs.settings import Settings
    except ImportError as error:
        raise MissingExtraError("embedded", error.name) from error

    console = Console(stderr=True)
    settings = Settings()
    _require_keys_or_consent(host, settings.require_keys or without_keys)
    folder = (data or settings.data_dir).expanduser()
    redis_url = settings.redis_url.get_secret_value() if "redis_url" in settings.model_fields_set else None
    with catch_signals() as stop:
        try:
            address, gpus = StackAddress(host, port), list(dict.fromkeys(gpu or ()))
            with open_stack(settings, address, folder, stop, console.print, redis_url, gpus) as stack:
                _set_up_log(console, stack.folder / "logs" / "up.log")
                _print_address(console, stack.address.url, stack.folder, settings.require_keys)
                if settings.require_keys:
                    _create_first_key(console, folder if redis_url is None else None)
                stack.supervise(until=lambda: False)
        except StoppedError:
            console.print("Stopped. Queued jobs are kept.")


def _require_keys_or_consent(host: str, is_decided: bool) -> None:
    """Faces and voices are personal data, and a GPU costs money: opening them to a network must be explicit."""
    if not is_decided and not host.startswith(_LOOPBACK):
        raise CommandError(
            "keys_required",
            f"Others can reach {host}, and calls need no API key. Set RETALKING_REQUIRE_KEYS=true, or pass "
            "--without-keys if a proxy authenticates callers, or if everyone may use the service.",
            EXIT_USAGE,
        )


def _create_first_key(console: Console, data: Path | None) -> None:
    """Without any key nobody could call the service, so create one with the scope admin."""
    from cli.keys import make_key
    from cli.stack.redis_server import store_settings
    from jobs.opening import open_store
    from jobs.store.keys import Scope

    store = open_store(store_settings(data))
    if any(key.is_valid for key in store.keys.all()):
        return
    text = make_key(store, "first", frozenset({Scope.ADMIN}))
    console.print("\nThe first API key (scope admin), shown only once. `retalking keys` creates others:")
    typer.echo(text)


def _print_address(console: Console, url: str, folder: Path, needs_key: bool) -> None:
    console.print(
        f"[bold green]Ready[/] at [bold]{url}[/]  (console {url}/  API docs {url}/docs)",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"Logs and data: {folder}", highlight=False, soft_wrap=True, markup=False)
    console.print("\nTry it:\n")
    # stdout, unwrapped: for copying.
    key = "-H 'Authorization: Bearer rtk_...' " if needs_key else ""
    typer.echo(f"curl {key}-F video=@face.mp4 -F audio=@speech.wav {url}/jobs")
    console.print("\nCtrl-C stops everything.")


def _set_up_log(console: Console, path: Path) -> None:
    """Log restarts by the supervisor to the terminal and to a file."""
    to_file = logging.FileHandler(path)
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("cli")
    logger.setLevel(logging.INFO)
    logger.handlers = [to_file, RichHandler(console=console, show_path=False)]
    logger.propagate = False


def demo(
    video: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Face: a video or a picture  [default: a portrait]")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Speech  [default: a synthesized track]")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the result goes")] = Path("out/demo.mp4"),
    data: Annotated[
        Path | None, typer.Option(help="Folder of queue, inputs and results  [default: a temporary one]")
    ] = None,
) -> None:
    """Start the service, submit a face and a speech track, follow the job, download the video, stop the service."""
    try:
        from cli.demo_input import write_portrait, write_speech
        from cli.stack.embedded import StoppedError, catch_signals, open_stack
        from cli.stack.processes import StackAddress
        from jobs.settings import Settings
    except ImportError as error:
        raise MissingExtraError("embedded", error.name) from error

    console = Console()
    # Ignores the servers that the environment configures. Only this command knows the port, so no key is needed.
    settings = Settings().model_copy(update={"s3_bucket": "", "require_keys": False})
    with catch_signals() as stop, _work_folder() as inputs, _data_folder(data) as folder:
        face, speech = video or write_portrait(inputs), audio or write_speech(inputs)
        console.print(f"Face: {face.name}   Speech: {speech.name}", highlight=False, markup=False)
        console.print("Starting Redis, a render worker, a webhook worker and the API ...")
        try:
            with (
                open_stack(settings, StackAddress("127.0.0.1", 0), folder, stop, console.print) as stack,
                closing(open_display(console)) as display,
            ):
                console.print(f"Ready at {stack.address.url}", highlight=False)
                started_s = time.monotonic()
                job = _alongside(
                    lambda: run_job(stack.address.url, face, speech, out, display),
                    lambda is_done: stack.supervise(until=is_done),
                )
        except StoppedError:
            console.print("Stopped.")
            raise typer.Exit(130) from None
    console.print(f"Done in {time.monotonic() - started_s:.1f} s", highlight=False)
    _report(console, job, out)


def run_job(url: str, face: Path, speech: Path, out: Path, display: ProgressDisplay) -> Job:
    """Submit, follow, download the video and its evaluation. Returns the finished job."""
    with Client(url) as client:
        job = watch(client, client.submit(face, speech, fps=25), display).raise_for_status()
        client.download(job, out)
        evaluation_path(out).write_text(client.evaluation(job).model_dump_json(indent=2) + "\n")
    return job


def evaluation_path(video: Path) -> Path:
    return video.with_name(f"{video.stem}.evaluation.json")


def _report(console: Console, job: Job, out: Path) -> None:
    console.print()
    print_metrics(console, [metric.model_dump() for metric in job.evaluation or ()])
    if (result := job.result) is not None and (render := job.render) is not None:
        console.print(
            f"\n{result.width}x{result.height}, {result.frames} frames at {result.fps:g} per second, "
            f"{result.duration_s:.2f} s, by the engine `{render.engine}` on {render.device}",
            highlight=False,
        )
    console.print(f"Video:      {out.resolve()}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"Evaluation: {evaluation_path(out).resolve()}", highlight=False, soft_wrap=True, markup=False)


def _alongside(work: Callable[[], Job], watch: Callable[[Callable[[], bool]], None]) -> Job:
    """Run `work` in a thread, while the main thread supervises the processes, which are tied to it.

    A daemon thread: when supervision ends, the service stops during the work, and nothing waits for it.
    """
    future: Future[Job] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="demo", daemon=True).start()
    watch(future.done)
    return future.result()


@contextmanager
def _work_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="retalking-demo-") as folder:
        yield Path(folder)


@contextmanager
def _data_folder(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        yield chosen
        return
    with _work_folder() as folder:
        yield folder
