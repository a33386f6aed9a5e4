"""What is spoken in a result: lines, each one speech for one face, from a start to an end on the clock of the video."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import (
    FaceNotFoundError,
    SegmentOffsetError,
    SegmentOutOfRangeError,
    SegmentsOverlapError,
    SegmentTooShortError,
    TooManySegmentsError,
)
from retalking_core.media.limits import MediaLimits
from retalking_core.media.speech import ANALYSIS_RATE_HZ, Speech
from retalking_core.notes import Note
from retalking_core.options import FaceChoice, RenderOptions, UpperFace
from retalking_core.types import Timeline, VideoInfo, Waveform
from retalking_core.vocabulary.options import MAX_SEGMENTS, MAX_SPEAKERS, MIN_SEGMENT_S, SPEAKING

# Times of neighboring lines may differ by rounding.
_ROUNDING_S = 1e-6


@dataclass(frozen=True)
class LineInput:
    """A line as the caller gives it. Times in seconds on the clock of the video.

    audio: the file that holds the speech. start_s: where the line starts. end_s: where it ends; None: where the speech
    ends; infinite: where the result ends. audio_offset_s: skipped at the start of the file. face, expression,
    upper_face: None: those of the options.
    """

    audio: Path
    start_s: float = 0.0
    end_s: float | None = None
    audio_offset_s: float = 0.0
    face: FaceChoice | None = None
    expression: str | None = None
    upper_face: UpperFace | None = None


@dataclass(frozen=True)
class SpokenLine:
    """A line whose speech was decoded.

    number: in the caller's list, from 0. start_s, end_s: as asked for, or as long as the speech; end_s may be infinite.
    heard_end_s: where the speech ends, or is cut. speech: what the lips follow; begins with the first output frame at
    or after start_s. notes: about the speech, on the clock of the result.
    """

    number: int
    start_s: float
    end_s: float
    heard_end_s: float
    speech: Waveform
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Line:
    """A planned line.

    number: in the caller's list, from 0. start_s, end_s: on the clock of the result. frames: the output frames whose
    time lies in between. speech: what the lips follow; begins with the first of the frames. timeline: of these frames.
    transcript: what is said, empty if unknown.
    """

    number: int
    start_s: float
    end_s: float
    frames: range
    speech: Waveform
    timeline: Timeline
    transcript: str = ""


@dataclass(frozen=True)
class Speaker:
    """One choice of a face with one look, and its lines in order of time, which do not overlap (but for `speaking`,
    before `settle_faces`). Different speakers may speak at the same time."""

    face: FaceChoice
    expression: str
    upper_face: UpperFace
    lines: tuple[Line, ...]

    def speaks(self, frames: int) -> NDArray[np.bool_]:
        """On which of the output frames, bool [frames]."""
        spoken = np.zeros(frames, bool)
        for line in self.lines:
            spoken[line.frames.start : line.frames.stop] = True
        return spoken

    @contextmanager
    def named_in_errors(self, has_lines: bool) -> Iterator[None]:
        """A face that is not found is reported with the lines that want it, if the caller gave lines."""
        try:
            yield
        except FaceNotFoundError as error:
            raise _naming(self.lines, error) if has_lines else error from error


def lines_of(speakers: Sequence[Speaker]) -> tuple[Line, ...]:
    """Of all speakers, as the caller listed them."""
    return tuple(sorted((line for speaker in speakers for line in speaker.lines), key=lambda line: line.number))


def _naming(lines: Sequence[Line], error: FaceNotFoundError) -> FaceNotFoundError:
    numbers = [line.number for line in lines]
    listed = ", ".join(str(number + 1) for number in numbers[:5])
    names = f"Segment{'s' if len(numbers) > 1 else ''} {listed}{' and more' if len(numbers) > 5 else ''}"
    return FaceNotFoundError(f"{names}: {error.message}", segments=numbers)


def check_lines(inputs: Sequence[LineInput], info: VideoInfo, limits: MediaLimits) -> None:
    """What is known before a speech is decoded. Raises TooManySegmentsError, SegmentOutOfRangeError,
    SegmentTooShortError, and ValueError for an empty list."""
    if not inputs:
        raise ValueError("a render needs at least one line")
    if len(inputs) > MAX_SEGMENTS:
        raise TooManySegmentsError(f"There are {len(inputs)} segments; one render takes {MAX_SEGMENTS}. Split the job.")
    for number, line in enumerate(inputs):
        name, end_s = f"Segment {number + 1}", line.end_s
        times = (line.start_s, line.audio_offset_s, *(() if end_s is None else (end_s,)))
        if any(math.isnan(time) or time < 0 for time in times) or math.isinf(line.start_s):
            raise _out_of_range(number, f"{name} has a time that is negative or no number: send seconds from 0 on.")
        if end_s is not None and end_s <= line.start_s:
            raise _out_of_range(number, f"{name} ends at {end_s:g} s, before it starts at {line.start_s:g} s.")
        if end_s is not None and end_s - line.start_s < MIN_SEGMENT_S - _ROUNDING_S:
            raise _too_short(number, f"{name} is {end_s - line.start_s:.3f} s long")
        if not info.is_still and line.start_s >= info.duration_s:
            raise _out_of_range(
                number,
                f"{name} starts at {line.start_s:g} s, and the video ends at {info.duration_s:.3f} s: start it before "
                "that, or send a longer video.",
            )
        longest_s = max(limits.max_audio_s, info.duration_s)
        if max(line.start_s, 0.0 if end_s is None or math.isinf(end_s) else end_s) > longest_s:
            raise _out_of_range(
                number, f"{name} goes on after {longest_s:g} s, where a result must end: end it earlier."
            )


def cut_speech(number: int, line: LineInput, speech: Speech, fps: Fraction) -> SpokenLine:
    """The part of a decoded speech that a line uses. Raises SegmentOffsetError, SegmentTooShortError."""
    left_s = speech.duration_s - line.audio_offset_s
    if left_s <= 0:
        raise SegmentOffsetError(
            f"Segment {number + 1} skips {line.audio_offset_s:g} s of a speech that is {speech.duration_s:.3f} s long: "
            "lower its audio_offset_s, or send the right audio.",
            segment=number,
        )
    spoken_end_s = line.start_s + left_s
    end_s = spoken_end_s if line.end_s is None else line.end_s
    if line.end_s is None and left_s < MIN_SEGMENT_S - _ROUNDING_S:
        raise _too_short(number, f"Segment {number + 1} has {left_s:.3f} s of speech")
    heard_end_s, shift_s = min(end_s, spoken_end_s), line.start_s - line.audio_offset_s
    first_s = float(first_frame_at(line.start_s, fps) / fps)
    begin, stop = (round((time_s - shift_s) * ANALYSIS_RATE_HZ) for time_s in (first_s, heard_end_s))
    samples = speech.waveform.samples
    cut = samples if begin == 0 and stop >= len(samples) else samples[begin:stop].copy()
    return SpokenLine(
        number, line.start_s, end_s, heard_end_s, Waveform(cut), _shifted(speech.notes, shift_s, line.start_s, end_s)
    )


def cast_speakers(
    inputs: Sequence[LineInput], spoken: Sequence[SpokenLine], timeline: Timeline, options: RenderOptions
) -> tuple[Speaker, ...]:
    """Lines of one face and look together, in order of their first line.

    Raises the errors of `gather_speakers`, SegmentOutOfRangeError for a line that begins after the last frame of the
    result, and SegmentTooShortError for one that lies between two frames.
    """

    def speaker(one: SpokenLine) -> Speaker:
        asked = inputs[one.number]
        return Speaker(
            asked.face or options.face,
            asked.expression or options.expression,
            asked.upper_face or options.upper_face,
            (_planned(one, timeline, options.transcript if len(spoken) == 1 else ""),),
        )

    return gather_speakers([speaker(one) for one in spoken])


def gather_speakers(speakers: Sequence[Speaker]) -> tuple[Speaker, ...]:
    """Speakers of one face and look made one, in order of their first line.

    Raises SegmentsOverlapError for two lines at a time for one choice of a face; `speaking` is none before
    `settle_faces` has found who speaks. Raises TooManySegmentsError.
    """
    parts = [replace(speaker, lines=(line,)) for speaker in speakers for line in speaker.lines]
    parts.sort(key=lambda part: (part.lines[0].start_s, part.lines[0].number))
    _check_overlaps(parts)
    gathered: dict[tuple[FaceChoice, str, UpperFace], list[Line]] = {}
    for part in parts:
        gathered.setdefault((part.face, part.expression, part.upper_face), []).extend(part.lines)
    if len(gathered) > MAX_SPEAKERS:
        raise TooManySegmentsError(
            f"The segments name {len(gathered)} different faces or looks; one render draws {MAX_SPEAKERS}. Split the "
            "job."
        )
    return tuple(Speaker(*key, tuple(lines)) for key, lines in gathered.items())


def first_frame_at(time_s: float, fps: Fraction) -> int:
    """Number of the first output frame that is shown at or after a time."""
    return math.ceil(Fraction(time_s - _ROUNDING_S) * fps)


def _planned(line: SpokenLine, timeline: Timeline, transcript: str) -> Line:
    count, fps = len(timeline.source_index), timeline.fps
    first = first_frame_at(line.start_s, fps)
    stop = count if math.isinf(line.end_s) else min(count, first_frame_at(line.end_s, fps))
    if first >= count:
        raise _out_of_range(
            line.number,
            f"Segment {line.number + 1} starts at {line.start_s:g} s, and the last frame of the result is shown at "
            f"{float((count - 1) / fps):.3f} s: start it earlier.",
        )
    if first >= stop:
        raise SegmentTooShortError(
            f"Segment {line.number + 1} lies between two frames of the result, which are {float(1 / fps):.3f} s apart; "
            "make it longer.",
            segment=line.number,
        )
    part = replace(timeline, source_index=timeline.source_index[first:stop])
    end_s = min(line.end_s, timeline.duration_s)
    return Line(line.number, line.start_s, end_s, range(first, stop), line.speech, part, transcript)


def _check_overlaps(parts: Sequence[Speaker]) -> None:
    """parts: of one line each, in order of time."""
    last: dict[FaceChoice, Line] = {}
    for part in parts:
        (line,) = part.lines
        before = last.get(part.face)
        if before is not None and part.face != SPEAKING and line.start_s < before.end_s - _ROUNDING_S:
            raise overlap_error(before.number, line.number, line.start_s, min(line.end_s, before.end_s))
        last[part.face] = line


def overlap_error(one: int, other: int, start_s: float, end_s: float) -> SegmentsOverlapError:
    """Of two lines (numbers from 0) for one face."""
    return SegmentsOverlapError(
        f"Segments {one + 1} and {other + 1} ask the same face to speak at the same time, from {start_s:.2f} to "
        f"{end_s:.2f} s. End the first one earlier, or name another face.",
        segments=[one, other],
    )


def _shifted(notes: Sequence[Note], shift_s: float, start_s: float, end_s: float) -> tuple[Note, ...]:
    """Notes of a file on the clock of the result; those about other parts of the file are dropped."""
    moved = []
    for note in notes:
        ranges = [(max(a + shift_s, start_s), min(b + shift_s, end_s)) for a, b in note.ranges_s]
        kept = tuple((round(a, 3), round(b, 3)) for a, b in ranges if a < b)
        if kept or not note.ranges_s:
            moved.append(replace(note, ranges_s=kept))
    return tuple(moved)


def _out_of_range(number: int, message: str) -> SegmentOutOfRangeError:
    return SegmentOutOfRangeError(message, segment=number)


def _too_short(number: int, what: str) -> SegmentTooShortError:
    return SegmentTooShortError(f"{what}; at least {MIN_SEGMENT_S:g} s are needed: make it longer.", segment=number)
