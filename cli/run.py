"""`retalking run`: render without a server: two files, or every pairing of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from cli.evaluate import chosen_engine
from cli.rendering import Rendered, RenderRequest, open_renderer, print_stage_times, read_segments
from retalking_client.cli.common import EXIT_USAGE, CommandError, describe_note, read_pairs, validate_options
from retalking_core.vocabulary.containers import OUTPUT_CONTAINERS, PICTURE_SUFFIXES
from retalking_core.vocabulary.options import JobOptions

if TYPE_CHECKING:
    from retalking_core.lines import LineInput


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
    segments: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="JSON list of segments instead of AUDIO: who says what when"),
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Render every pairing of this folder instead")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model, e.g. video_retalking")] = None,
    engine: Annotated[str | None, typer.Option(help="Engine: auto or the name of one  [default: auto]")] = None,
    expression: Annotated[
        str | None, typer.Option(help="neutral, smile, or a picture whose expression is used")
    ] = None,
    compat: Annotated[
        Compat, typer.Option(help="original: render with the original's arithmetic, defects included, to compare")
    ] = Compat.NONE,
    cache: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder of the face cache: speeds up the next speech for the same video"),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="key=value, may be repeated, e.g. --option length_mode=loop")
    ] = None,
) -> None:
    """Render on this machine, with a progress bar for each stage, and print the time of each stage."""
    pairs = read_pairs(option or [])
    if model or engine:
        pairs["engine"] = "auto" if (engine or model) == "auto" else chosen_engine(model, engine)
    picture = _expression_picture(expression)
    if expression is not None:
        pairs["expression"] = "image" if picture else expression
    console = Console(stderr=True)
    if dataset is not None:
        if video or audio or segments:
            raise CommandError("invalid_option", "Give either files or --dataset, not both.", EXIT_USAGE)
        from cli.dataset import render_dataset

        request = RenderRequest(_checked_options(pairs, picture), picture, compat.value, cache)
        render_dataset(dataset, out or Path("out/run"), request, console)
        return
    if video is None or (audio is None) == (segments is None) or out is None:
        message = "Give VIDEO, either AUDIO or --segments FILE, and --out FILE; or --dataset DIR."
        raise CommandError("invalid_option", message, EXIT_USAGE)
    options = _checked_options(_with_container(pairs, out), picture)
    spoken = read_segments(segments) if segments is not None else audio
    assert spoken is not None
    _run_one(video, spoken, out, RenderRequest(options, picture, compat.value, cache), console)


def _run_one(
    video: Path, spoken: Path | Sequence[LineInput], out: Path, request: RenderRequest, console: Console
) -> None:
    from jobs.settings import Settings

    done = open_renderer(request, Settings(), console, once=True).render(video, spoken, out, request.options())
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
    for drawn, correlation in zip(report.lines, done.follows, strict=False):
        follows = "-" if correlation.value is None else f"{correlation.value:.2f}"
        console.print(
            f"Segment {drawn.number + 1}, {drawn.start_s:.2f} to {drawn.end_s:.2f} s: "
            f"mouth and speech correlate by {follows}",
            highlight=False,
        )
    for note in report.notes:
        line = describe_note(note.sentence, note.ranges_s)
        console.print(f"Note: {line}", highlight=False, soft_wrap=True, markup=False)


def _checked_options(pairs: dict[str, Any], picture: Path | None) -> JobOptions:
    options = validate_options(JobOptions, pairs)
    if options.expression.startswith("upload:"):
        raise CommandError("invalid_option", "expression=upload:... needs a service that holds the upload.", EXIT_USAGE)
    if options.expression == "image" and picture is None:
        raise CommandError("invalid_option", "Name the picture: --expression FILE.", EXIT_USAGE)
    return options


def _expression_picture(value: str | None) -> Path | None:
    """The file that --expression names; None if it is a word. Raises CommandError for a missing file."""
    if value is None or Path(value).suffix.lower() not in PICTURE_SUFFIXES:
        return None
    if not Path(value).is_file():
        raise CommandError("file_not_found", f"There is no picture {value}.", EXIT_USAGE)
    return Path(value)


def _with_container(values: dict[str, Any], out: Path) -> dict[str, Any]:
    """The suffix of the result sets its container, unless output.container is given."""
    suffix = out.suffix.lower().lstrip(".")
    if suffix not in OUTPUT_CONTAINERS:
        raise CommandError("invalid_option", f"The result must end in .mp4, .mov or .mkv, not {out}.", EXIT_USAGE)
    output = values.get("output", {})
    return values | {"output": {"container": suffix} | output} if isinstance(output, dict) else values
