"""What a finished attempt leaves behind, in the shapes of the job store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from jobs.models import RenderInfo, RenderNote, ResultInfo
from retalking_core.notes import Note
from retalking_core.types import RenderReport

CONTENT_TYPES = {"mp4": "video/mp4", "mov": "video/quicktime", "mkv": "video/x-matroska"}


def result_info(path: Path, key: str, container: str, report: RenderReport) -> ResultInfo:
    """The file at `path`, which will be published under `key`."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ResultInfo(
        key=key,
        content_type=CONTENT_TYPES[container],
        size_bytes=path.stat().st_size,
        sha256=sha256,
        duration_s=report.duration_s,
        width=report.width,
        height=report.height,
        fps=float(report.fps),
        frames=report.frames,
    )


def render_notes(notes: Iterable[Note]) -> list[RenderNote]:
    return [RenderNote(code=note.code, sentence=note.sentence, ranges_s=list(note.ranges_s)) for note in notes]


def core_notes(notes: Iterable[RenderNote]) -> list[Note]:
    """The inverse of `render_notes`."""
    return [Note(note.code, note.sentence, tuple(note.ranges_s)) for note in notes]


def render_info(report: RenderReport) -> RenderInfo:
    return RenderInfo(
        engine=report.engine,
        engine_version=report.engine_version,
        device=report.device,
        face_coverage=report.face_coverage,
        faceless_ranges_s=report.faceless_ranges_s,
        stage_times_s=report.stage_times_s,
        synthetic_weights=report.synthetic_weights,
        notes=render_notes(report.notes),
        face_cache=report.face_cache,
    )
