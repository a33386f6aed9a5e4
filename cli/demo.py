"""`retalking demo`: one job through HTTP, on an embedded stack of its own."""

from __future__ import annotations

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

from cli.extras import MissingExtraError
from retalking_client import Client, Job
from retalking_client.cli.common import print_metrics
from retalking_client.cli.progress import ProgressDisplay, open_display, watch


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
