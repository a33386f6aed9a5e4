"""`retalking run`: the engine itself on two files, with no server around it."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.asking import checked, read_pairs
from cli.failures import EXIT_USAGE, CommandError, MissingExtraError
from cli.following import open_display
from cli.outcome import print_stage_times
from jobs.errors import ServiceError
from jobs.models import JobOptions


def run(
    video: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Face: a video or a picture")],
    audio: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Speech")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the result goes: .mp4, .mov or .mkv")],
    option: Annotated[
        list[str] | None, typer.Option(help="key=value, may be repeated, e.g. --option length_mode=loop")
    ] = None,
) -> None:
    """Render one video here and now, and say how long each stage took."""
    try:
        from jobs.settings import Settings
        from retalking_core.progress import Progress
        from worker.engines import choose_engine, load_engines
        from worker.options import render_options

        settings = Settings()
        engines = load_engines(settings)
    except ImportError as error:
        raise MissingExtraError("preview", error.name) from error

    asked = checked(JobOptions, _with_container(read_pairs(option or []), out))
    if asked.expression.startswith("upload:"):
        raise CommandError("invalid_option", "expression=upload:... needs a service that holds the upload.", EXIT_USAGE)
    console = Console(stderr=True)
    try:
        engine = choose_engine(asked.engine, settings, engines)
    except ServiceError as error:
        raise CommandError(error.code, error.message) from error
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        result = Path(folder) / out.name
        with closing(open_display(console)) as display:
            display.show("load", 0.0)
            engine.warm_up()

            def show(progress: Progress) -> None:
                display.show(progress.stage, progress.fraction)

            report = engine.render(video, audio, result, render_options(asked, None), show)
        result.replace(out)
    print_stage_times(console, report.stage_times_s, report.duration_s)
    console.print(
        f"\n{report.width}x{report.height}, {report.frames} frames, {report.duration_s:.2f} s, "
        f"by the engine `{report.engine}` on {report.device}; a face in {report.face_coverage:.0%} of the frames",
        highlight=False,
    )
    for note in report.notes:
        console.print(f"Note: {note}", highlight=False, soft_wrap=True, markup=False)
    typer.echo(out)


def _with_container(values: dict[str, Any], out: Path) -> dict[str, Any]:
    """The name of the result decides its container, unless output.container says another."""
    suffix = out.suffix.lower().lstrip(".")
    if suffix not in ("mp4", "mov", "mkv"):
        raise CommandError("invalid_option", f"The result must end in .mp4, .mov or .mkv, not {out}.", EXIT_USAGE)
    output = values.get("output", {})
    return values | {"output": {"container": suffix} | output} if isinstance(output, dict) else values
