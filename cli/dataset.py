"""Data sets: which video is rendered with which track, and `retalking run --dataset`, which renders every pairing."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from cli.rendering import Rendered, RenderRequest, open_renderer
from jobs.settings import Settings
from retalking_client.cli.common import EXIT_USAGE, CommandError
from retalking_core.digests import file_sha256
from retalking_core.errors import RetalkingError

PAIRS_FILE = "pairs.csv"
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".png", ".jpg", ".jpeg", ".webp"})
AUDIO_SUFFIXES = frozenset({".wav", ".mp3", ".m4a", ".flac", ".ogg", ".aac", ".aiff", ".amr", ".caf"})


@dataclass(frozen=True)
class Pairing:
    """One clip to render. audio may be the video itself."""

    name: str
    video: Path
    audio: Path

    def digest(self, engine: str) -> str:
        """Name of the clip's folder: depends on the content and the engine, not on file names."""
        digest = hashlib.sha256(engine.encode())
        for path in (self.video, self.audio):
            digest.update(bytes.fromhex(file_sha256(path)))
        return digest.hexdigest()[:16]


def find_pairings(folder: Path) -> list[Pairing]:
    """The first that applies: the rows of `pairs.csv` (columns video, audio, optionally name); every file of `video/`
    with every file of `audio/`, or of `val/face/` with `val/audio/` (talkingface-toolkit); each video of the folder
    with the track of the same name, or with its own sound.

    Raises CommandError if there is nothing to render, or a file is missing.
    """
    if (folder / PAIRS_FILE).is_file():
        pairings = list(_listed(folder))
    elif crossed := next(filter(_is_crossed, (folder / faces for faces in ("video", "val/face"))), None):
        tracks = _files(crossed.parent / "audio", AUDIO_SUFFIXES | VIDEO_SUFFIXES)
        pairings = [
            Pairing(f"{video.stem} + {audio.stem}", video, audio)
            for video in _files(crossed, VIDEO_SUFFIXES)
            for audio in tracks
        ]
    else:
        by_name = {path.stem: path for path in _files(folder, AUDIO_SUFFIXES)}
        pairings = [
            Pairing(video.stem, video, by_name.get(video.stem, video)) for video in _files(folder, VIDEO_SUFFIXES)
        ]
    if not pairings:
        raise CommandError("dataset_empty", f"{folder} holds no videos to render (docs/evaluation.md).", EXIT_USAGE)
    return pairings


def _is_crossed(faces: Path) -> bool:
    """Whether there is a folder of tracks beside a folder of faces."""
    return faces.is_dir() and (faces.parent / "audio").is_dir()


def _listed(folder: Path) -> Iterator[Pairing]:
    with (folder / PAIRS_FILE).open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"video", "audio"} <= set(rows.fieldnames or ()):
            raise CommandError("dataset_invalid", f"{PAIRS_FILE} needs the columns video and audio.", EXIT_USAGE)
        for row in rows:
            video, audio = (folder / (row[column] or "") for column in ("video", "audio"))
            for path in (video, audio):
                if not path.is_file():
                    raise CommandError("file_not_found", f"{PAIRS_FILE}, line {rows.line_num}: no file {path}.")
            yield Pairing(row.get("name") or f"{video.stem} + {audio.stem}", video, audio)


def _files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in suffixes)


RECORD = "renders.json"


@dataclass(frozen=True)
class DoneRender:
    """One row of the record of finished renders."""

    digest: str
    """Of both files, the engine and all options: a change of any needs a new render."""
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


def render_dataset(folder: Path, out: Path, request: RenderRequest, console: Console) -> None:
    """Render what an earlier run did not; results and their record go to `out`. A clip that fails does not stop the
    others. Raises CommandError at the end if one failed."""
    pairings = find_pairings(folder)
    renderer = open_renderer(request, Settings(), console, "Try --engine preview.")
    record, failed = read_record(out / RECORD), []
    names = result_names(pairings, request.job.output.container)
    for number, (pairing, name) in enumerate(zip(pairings, names, strict=True), 1):
        digest = sha256(f"{pairing.digest(request.job.engine)} {request.fingerprint()}".encode()).hexdigest()
        label = f"[{number}/{len(pairings)}] {pairing.name}"
        if (out / name).is_file() and name in record and record[name].digest == digest:
            console.print(f"{label}: already rendered", highlight=False, markup=False)
            continue
        console.print(label, highlight=False, markup=False)
        try:
            done = renderer.render(pairing.video, pairing.audio, out / name, request.options())
        except RetalkingError as error:
            failed.append(pairing)
            console.print(f"  {error.code}: {error.message}", highlight=False, markup=False)
            continue
        record[name] = DoneRender.of(digest, done)
        write_record(out / RECORD, record)
    print_renders(record, console)
    for name in record:
        typer.echo(out / name)
    _raise_for_failed(failed, len(pairings))


def result_names(pairings: Sequence[Pairing], container: str) -> list[str]:
    """video__audio.mp4; equal names (from files in several folders) are numbered in the order of the data set."""
    stems = [f"{pairing.video.stem}__{pairing.audio.stem}" for pairing in pairings]
    seen: Counter[str] = Counter()
    names = []
    for stem in stems:
        seen[stem] += 1
        names.append(f"{stem}.{container}" if seen[stem] == 1 else f"{stem}__{seen[stem]}.{container}")
    return names


def _raise_for_failed(failed: list[Pairing], count: int) -> None:
    if failed:
        names = ", ".join(pairing.name for pairing in failed[:5])
        more = " and more" if len(failed) > 5 else ""
        raise CommandError("clips_failed", f"{len(failed)} of {count} clips failed: {names}{more}.")


def read_record(file: Path) -> dict[str, DoneRender]:
    """Renders of an earlier run; empty if there is no readable record."""
    try:
        rows = json.loads(file.read_text("utf-8"))
        return {name: DoneRender(**row) for name, row in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_record(file: Path, record: Mapping[str, DoneRender]) -> None:
    partial = file.with_name(f".{file.name}.part")
    partial.write_text(json.dumps({name: vars(row) for name, row in record.items()}, indent=2) + "\n", "utf-8")
    os.replace(partial, file)


def print_renders(record: Mapping[str, DoneRender], console: Console) -> None:
    """One row per clip, and the total time of each stage."""
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
