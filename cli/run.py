"""`retalking run`: the engine itself, with no server around it: on two files, or on every pairing of a data set."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from cli.evaluate import chosen_engine
from cli.outcome import print_stage_times
from cli.rendering import Rendered, RenderRequest, open_renderer
from jobs.models import JobOptions
from retalking_client.cli.common import describe_note, read_pairs, validate_options
from retalking_client.cli.failures import EXIT_USAGE, CommandError

CONTAINERS = ("mp4", "mov", "mkv")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


class Compat(StrEnum):
    NONE = "none"
    ORIGINAL = "original"


def run(
    video: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="Face: a video or a picture")
    ] = None,
    audio: Annotated[Path | None, typer.Argument(exists=True, dir_okay=False, help="Speech")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Result: .mp4, .mov or .mkv; of a data set: a folder")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Render every pairing of this folder instead")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model, e.g. video_retalking")] = None,
    engine: Annotated[str | None, typer.Option(help="Engine: auto, videoretalking or preview  [default: auto]")] = None,
    expression: Annotated[
        str | None, typer.Option(help="neutral, smile, or a picture whose expression is taken")
    ] = None,
    compat: Annotated[
        Compat, typer.Option(help="original: draw with the original's arithmetic, defects included, to compare")
    ] = Compat.NONE,
    cache: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Keep what is learned of a video's face here, for the next speech"),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="key=value, may be repeated, e.g. --option length_mode=loop")
    ] = None,
) -> None:
    """Render here and now, with a bar for each stage, and say where the time went."""
    pairs = read_pairs(option or [])
    if model or engine:
        pairs["engine"] = "auto" if (engine or model) == "auto" else chosen_engine(model, engine)
    picture = _expression_picture(expression)
    if expression is not None:
        pairs["expression"] = "image" if picture else expression
    console = Console(stderr=True)
    if dataset is not None:
        if video or audio:
            raise CommandError("invalid_option", "Give either two files or --dataset, not both.", EXIT_USAGE)
        from cli.dataset_renders import render_dataset

        asked = RenderRequest(_checked_options(pairs, picture), picture, compat.value, cache)
        render_dataset(dataset, out or Path("out/run"), asked, console)
        return
    if video is None or audio is None or out is None:
        raise CommandError("invalid_option", "Give VIDEO, AUDIO and --out FILE, or --dataset DIR.", EXIT_USAGE)
    asked = RenderRequest(_checked_options(_with_container(pairs, out), picture), picture, compat.value, cache)
    _run_one(video, audio, out, asked, console)


def _run_one(video: Path, audio: Path, out: Path, asked: RenderRequest, console: Console) -> None:
    from jobs.settings import Settings

    done = open_renderer(asked, Settings(), console).render(video, audio, out, asked.options())
    print_rendered(done, console)
    typer.echo(out)


def print_rendered(done: Rendered, console: Console) -> None:
    """The table of stages, and one line about the result."""
    report = done.report
    print_stage_times(console, report.stage_times_s, report.duration_s, done.wall_s)
    cached = "" if report.face_cache == "off" else f"; face cache: {report.face_cache}"
    console.print(
        f"\n{report.width}x{report.height}, {report.frames} frames, {report.duration_s:.2f} s, "
        f"by the engine `{report.engine}` on {report.device}; "
        f"a face in {report.face_coverage:.0%} of the frames{cached}",
        highlight=False,
    )
    for note in report.notes:
        line = describe_note(note.sentence, note.ranges_s)
        console.print(f"Note: {line}", highlight=False, soft_wrap=True, markup=False)


def _checked_options(pairs: dict[str, Any], picture: Path | None) -> JobOptions:
    asked = validate_options(JobOptions, pairs)
    if asked.expression.startswith("upload:"):
        raise CommandError("invalid_option", "expression=upload:... needs a service that holds the upload.", EXIT_USAGE)
    if asked.expression == "image" and picture is None:
        raise CommandError("invalid_option", "Name the picture: --expression FILE.", EXIT_USAGE)
    return asked


def _expression_picture(asked: str | None) -> Path | None:
    """The file that --expression names, None where it is a word. Raises CommandError for one that is not there."""
    if asked is None or Path(asked).suffix.lower() not in PICTURES:
        return None
    if not Path(asked).is_file():
        raise CommandError("file_not_found", f"There is no picture {asked}.", EXIT_USAGE)
    return Path(asked)


def _with_container(values: dict[str, Any], out: Path) -> dict[str, Any]:
    """The name of the result decides its container, unless output.container says another."""
    suffix = out.suffix.lower().lstrip(".")
    if suffix not in CONTAINERS:
        raise CommandError("invalid_option", f"The result must end in .mp4, .mov or .mkv, not {out}.", EXIT_USAGE)
    output = values.get("output", {})
    return values | {"output": {"container": suffix} | output} if isinstance(output, dict) else values
