"""Segments of a submission: what is asked, and every list that cannot be rendered, refused by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from api.problems import FieldError, describe_errors
from jobs.errors import ServiceError
from jobs.models import MAX_AUDIO_FILES, InputPart, JobSegment, SegmentOptions
from retalking_core.vocabulary.options import (
    MAX_SEGMENTS,
    MAX_SPEAKERS,
    MIN_SEGMENT_S,
    SPEAKING,
    FaceChoice,
    JobOptions,
)

UPLOAD = "upload:"
PART_NAME = r"[A-Za-z][A-Za-z0-9._-]{0,63}"
AudioSource = Annotated[
    str,
    StringConstraints(pattern=rf"^(https?://\S+|{UPLOAD}up_[0-9a-f]{{32}}|{PART_NAME})$", max_length=2048),
]


class SegmentSubmission(SegmentOptions):
    """A part of the video in which one face speaks."""

    audio: AudioSource = Field(
        description="The speech: an http(s) address, `upload:<id>` of an upload, or the name of a file part of the "
        "form. Segments may share one",
        examples=["https://example.com/anna.wav", UPLOAD + "up_" + "0" * 32, "anna"],
    )


SegmentList = Annotated[list[SegmentSubmission], Field(min_length=1, max_length=MAX_SEGMENTS)]


def error_code_of(error: Mapping[str, Any]) -> str | None:
    """The code for what pydantic found wrong with a list of segments; None if it has no code of its own."""
    kind, location = error["type"], error["loc"]
    if location[:1] != ("segments",):
        return None
    if kind == "too_long" and len(location) == 1:
        return "segments_too_many"
    if kind in ("greater_than_equal", "less_than_equal", "finite_number") and str(location[-1]).endswith("_s"):
        return "segment_out_of_range"
    return None


def check_segments(segments: Sequence[SegmentSubmission], options: JobOptions, files: Collection[str]) -> None:
    """Raises segment_end_before_start, segment_too_short, segments_overlap, segments_too_many, audio_files_too_many
    and segment_audio_missing. The worker checks what only the decoded files tell: where a speech and the video end,
    which faces there are.

    options: of the job. files: names of the file parts that may be speech.
    """
    _refuse("segment_end_before_start", _reversed(segments))
    _refuse("segment_too_short", _too_short(segments))
    _refuse("segments_overlap", _overlaps(segments, options.face))
    _refuse("segments_too_many", _too_many_speakers(segments, options))
    sources = parts_of(segments)
    if len(sources) > MAX_AUDIO_FILES:
        message = f"They name {len(sources)} sound files; at most {MAX_AUDIO_FILES} are allowed"
        _refuse("audio_files_too_many", [FieldError(pointer="#/segments", message=message)])
    missing = {source for source in sources if is_part_name(source)} - set(files)
    _refuse(
        "segment_audio_missing",
        [
            FieldError(
                pointer=f"#/segments/{number}/audio",
                message=f"There is no file part `{segment.audio}`; send it with the form, or name an http(s) address "
                f"or an upload as `{UPLOAD}<id>`",
            )
            for number, segment in enumerate(segments)
            if segment.audio in missing
        ],
    )


def parts_of(segments: Sequence[SegmentSubmission]) -> dict[str, InputPart]:
    """Source of speech -> the input of the job that it becomes, in the order in which segments name them."""
    sources = dict.fromkeys(segment.audio for segment in segments)
    return {source: f"audio_{number}" for number, source in enumerate(sources, start=1)}


def is_part_name(source: str) -> bool:
    return ":" not in source


def stored_segments(segments: Sequence[SegmentSubmission]) -> list[JobSegment]:
    parts = parts_of(segments)
    return [JobSegment(**{**dict(segment), "audio": parts[segment.audio]}) for segment in segments]


def _reversed(segments: Sequence[SegmentSubmission]) -> list[FieldError]:
    return [
        FieldError(
            pointer=f"#/segments/{number}/end_s",
            message=f"It ends at {segment.end_s:g} s, but starts at {segment.start_s:g} s",
        )
        for number, segment in enumerate(segments)
        if segment.end_s is not None and segment.end_s <= segment.start_s
    ]


def _too_short(segments: Sequence[SegmentSubmission]) -> list[FieldError]:
    return [
        FieldError(
            pointer=f"#/segments/{number}/end_s",
            message=f"It lasts {segment.end_s - segment.start_s:g} s; {MIN_SEGMENT_S:g} s are the least",
        )
        for number, segment in enumerate(segments)
        if segment.end_s is not None and segment.end_s - segment.start_s < MIN_SEGMENT_S - 1e-6
    ]


def _overlaps(segments: Sequence[SegmentSubmission], face: FaceChoice) -> list[FieldError]:
    """Of segments that name the same face in the same way. Where one has no `end_s`, its speech decides later; whom
    `speaking` means is known later as well."""
    errors = []
    order = sorted(range(len(segments)), key=lambda number: segments[number].start_s)
    last: dict[FaceChoice, int] = {}  # face -> the segment that ends last, of those that are known to end
    for number in order:
        segment = segments[number]
        chosen = face if segment.face is None else segment.face
        other = last.get(chosen)
        if chosen != SPEAKING and other is not None and segment.start_s < _end_s(segments[other]):
            message = (
                f"It starts at {segment.start_s:g} s, while segment {other} still speaks with the same face; "
                "let one end before the other starts, or choose another `face`"
            )
            errors.append(FieldError(pointer=f"#/segments/{number}/start_s", message=message))
        if other is None or _end_s(segment) > _end_s(segments[other]):
            last[chosen] = number
    return errors


def _too_many_speakers(segments: Sequence[SegmentSubmission], options: JobOptions) -> list[FieldError]:
    looks = {
        (each.face or options.face, each.expression or options.expression, each.upper_face or options.upper_face)
        for each in segments
    }
    if len(looks) <= MAX_SPEAKERS:
        return []
    message = (
        f"They name {len(looks)} different faces or looks; one job draws at most {MAX_SPEAKERS}. Split the job, or "
        "name the same face in the same way everywhere"
    )
    return [FieldError(pointer="#/segments", message=message)]


def _end_s(segment: SegmentSubmission) -> float:
    """As far as it is known; a speech has some length."""
    return segment.start_s + 1e-6 if segment.end_s is None else segment.end_s


def _refuse(code: str, errors: list[FieldError]) -> None:
    if errors:
        raise ServiceError(code, describe_errors(errors), errors=errors)
