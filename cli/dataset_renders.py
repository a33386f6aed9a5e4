"""`retalking run --dataset`: every pairing of a folder, one file each, taken up again where a run was stopped."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from cli.dataset import Pairing, find_pairings
from cli.rendering import Rendered, RenderRequest, open_renderer
from jobs.settings import Settings
from retalking_client.cli.failures import CommandError
from retalking_core.errors import RetalkingError

RECORD = "renders.json"


@dataclass(frozen=True)
class DoneRender:
    """digest: of both files, the engine and all options: another question needs another render."""

    digest: str
    engine: str
    seconds: float
    duration_s: float
    stage_times_s: Mapping[str, float]
    face_coverage: float
    face_cache: str
    notes: list[dict[str, Any]]

    @classmethod
    def of(cls, digest: str, done: Rendered) -> DoneRender:
        report = done.report
        return cls(
            digest,
            report.engine,
            round(done.wall_s, 3),
            report.duration_s,
            {name: round(seconds, 3) for name, seconds in report.stage_times_s.items()},
            report.face_coverage,
            report.face_cache,
            [asdict(note) for note in report.notes],
        )


def render_dataset(folder: Path, out: Path, asked: RenderRequest, console: Console) -> None:
    """Results and the record of them go to `out`. Raises CommandError at the end when a clip failed; a clip that fails
    does not stop the others."""
    pairings = find_pairings(folder)
    renderer = open_renderer(asked, Settings(), console, "Try --engine preview.")
    record, failed = read_record(out / RECORD), []
    names = result_names(pairings, asked.job.output.container)
    for number, (pairing, name) in enumerate(zip(pairings, names, strict=True), 1):
        digest = sha256(f"{pairing.digest(asked.job.engine)} {asked.fingerprint()}".encode()).hexdigest()
        label = f"[{number}/{len(pairings)}] {pairing.name}"
        if (out / name).is_file() and name in record and record[name].digest == digest:
            console.print(f"{label}: already rendered", highlight=False, markup=False)
            continue
        console.print(label, highlight=False, markup=False)
        try:
            done = renderer.render(pairing.video, pairing.audio, out / name, asked.options())
        except RetalkingError as error:
            failed.append(pairing)
            console.print(f"  {error.code}: {error.message}", highlight=False, markup=False)
            continue
        record[name] = DoneRender.of(digest, done)
        write_record(out / RECORD, record)
    print_renders(record, console)
    for name in record:
        typer.echo(out / name)
    _tell_failed(failed, len(pairings))


def result_names(pairings: Sequence[Pairing], container: str) -> list[str]:
    """video__audio.mp4; equal ones (files of one name in several folders) are numbered in the order of the data set."""
    stems = [f"{pairing.video.stem}__{pairing.audio.stem}" for pairing in pairings]
    seen: Counter[str] = Counter()
    names = []
    for stem in stems:
        seen[stem] += 1
        names.append(f"{stem}.{container}" if seen[stem] == 1 else f"{stem}__{seen[stem]}.{container}")
    return names


def _tell_failed(failed: list[Pairing], count: int) -> None:
    if failed:
        names = ", ".join(pairing.name for pairing in failed[:5])
        more = " and more" if len(failed) > 5 else ""
        raise CommandError("clips_failed", f"{len(failed)} of {count} clips failed: {names}{more}.")


def read_record(file: Path) -> dict[str, DoneRender]:
    """What an earlier run made; nothing where there is no record that can be read."""
    try:
        rows = json.loads(file.read_text("utf-8"))
        return {name: DoneRender(**row) for name, row in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_record(file: Path, record: Mapping[str, DoneRender]) -> None:
    part = file.with_name(f".{file.name}.part")
    part.write_text(json.dumps({name: vars(row) for name, row in record.items()}, indent=2) + "\n", "utf-8")
    os.replace(part, file)


def print_renders(record: Mapping[str, DoneRender], console: Console) -> None:
    """One row a clip, and where the time of all went."""
    table = Table(title="Renders", title_justify="left", show_edge=False)
    for heading in ("clip", "engine", "seconds", "x real time", "face", "cache"):
        table.add_column(heading, justify="left" if heading in ("clip", "engine", "cache") else "right")
    for name, row in record.items():
        times = f"{row.seconds / row.duration_s:.2f}" if row.duration_s else "-"
        table.add_row(name, row.engine, f"{row.seconds:.2f}", times, f"{row.face_coverage:.0%}", row.face_cache)
    table.add_section()
    stages: dict[str, float] = {}
    for row in record.values():
        for stage, seconds in row.stage_times_s.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    for stage, seconds in stages.items():
        table.add_row(f"all: {stage}", "", f"{seconds:.2f}")
    console.print(table)
