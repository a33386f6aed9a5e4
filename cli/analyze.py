"""`retalking analyze`: who is in a video, where, and who speaks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cli.extras import MissingExtraError
from retalking_client.cli.common import CommandError
from retalking_core.vocabulary.video_analysis import VideoAnalysis


def analyze(
    video: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A video or a picture")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: shots, people, boxes, speaking")] = False,
    thumbnails: Annotated[
        Path | None, typer.Option(file_okay=False, help="Write a picture of each person into this folder")
    ] = None,
) -> None:
    """List everyone in VIDEO. A track is a value of the option `face`: --option 'face={"track": "person_2"}'."""
    try:
        from jobs.settings import Settings
        from retalking_core.errors import RetalkingError
        from retalking_core.video_analysis import analyze_video
        from worker.engines import media_limits
    except ImportError as error:
        raise MissingExtraError("preview", error.name) from error
    from cli.rendering import open_stages

    stages = open_stages(Console(stderr=True))
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = thumbnails or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            found = analyze_video(video, folder, media_limits(Settings()), stages.show)
    except RetalkingError as error:
        raise CommandError(error.code, error.message) from error
    finally:
        stages.close()
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        _print_people(found, Console())


def _print_people(found: VideoAnalysis, console: Console) -> None:
    table = Table(show_edge=False)
    for heading in ("track", "seen", "first", "face height", "speaks"):
        table.add_column(heading, justify="left" if heading == "track" else "right")
    for person in found.people:
        first_s = person.seen[0].start_s
        speaks = f"{person.speaking_s:.1f} s"
        table.add_row(person.track, f"{person.visibility:.0%}", f"{first_s:.2f} s", f"{person.face_px:.0f} px", speaks)
    console.print(table)
    people, shots = len(found.people), len(found.shots)
    counts = f"{people} {'person' if people == 1 else 'people'} in {shots} {'shot' if shots == 1 else 'shots'}"
    console.print(f"{counts}, {found.duration_s:.2f} s", highlight=False)
    for note in found.notes:
        console.print(f"Note: {note}", highlight=False, soft_wrap=True, markup=False)
