"""The file of `retalking run --segments`: who says what when."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from retalking_client.cli.common import EXIT_USAGE, CommandError
from retalking_core.vocabulary.containers import PICTURE_SUFFIXES
from retalking_core.vocabulary.options import EXPRESSION_TEMPLATES, FaceChoice, UpperFace

if TYPE_CHECKING:
    from retalking_core.lines import LineInput

MAX_FILE_BYTES = 1 << 20


class FileSegment(BaseModel):
    """One entry. Paths count from the folder of the file; times are seconds on the clock of the video."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    audio: Path
    start_s: float = Field(0.0, allow_inf_nan=False)
    end_s: float | None = Field(None, allow_inf_nan=False)
    audio_offset_s: float = Field(0.0, allow_inf_nan=False)
    face: FaceChoice | None = None
    expression: str | None = None
    upper_face: UpperFace | None = None

    def line(self, folder: Path) -> LineInput:
        from retalking_core.lines import LineInput

        return LineInput(
            audio=_existing(folder / self.audio),
            start_s=self.start_s,
            end_s=self.end_s,
            audio_offset_s=self.audio_offset_s,
            face=self.face,
            expression=None if self.expression is None else _expression(folder, self.expression),
            upper_face=self.upper_face,
        )


def read_segments(path: Path) -> list[LineInput]:
    """The lines of a JSON file. Raises CommandError that names the bad entry."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CommandError("value_out_of_bounds", f"{path} is larger than {MAX_FILE_BYTES} bytes.", EXIT_USAGE)
        segments = TypeAdapter(list[FileSegment]).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"][:3]) or "the file"
        raise CommandError("invalid_request", f"{path}: {place}: {first['msg']}.", EXIT_USAGE) from error
    if not segments:
        raise CommandError("invalid_request", f"{path} lists no segment.", EXIT_USAGE)
    return [segment.line(path.parent) for segment in segments]


def _expression(folder: Path, value: str) -> str:
    if value in EXPRESSION_TEMPLATES:
        return value
    if Path(value).suffix.lower() not in PICTURE_SUFFIXES:
        known = ", ".join(EXPRESSION_TEMPLATES)
        raise CommandError("invalid_option", f"expression is {known}, or a picture, not {value}.", EXIT_USAGE)
    return str(_existing(folder / value))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise CommandError("file_not_found", f"There is no file {path}.", EXIT_USAGE)
    return path
