"""What a caller should know about a result besides its numbers: typed notes that software can act on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

Range = tuple[float, float]

# Every code that a render can report. Codes are never renamed or reused; docs/inputs.md shows this table.
NOTE_CODES: dict[str, str] = {
    "synthetic_weights": "generated checkpoints that were never trained: not a usable result",
    "expression_template": "the expression is a template of `expression.mat`, as in the original",
    "expression_zero": "`expression.mat` is not in the weights folder, so `neutral` is the zero expression of the 3DMM",
    "compat_original": "drawn with the arithmetic of the original, its defects included",
    "half_precision_exceeded": "a network ran in float32, because its numbers left the range of half precision",
    "face_parts_not_found": "frames kept as they were, because no face parts were found in them",
    "mouth_interior_painted": "the clip never shows an open mouth, so the inside of the mouth is painted",
    "mouth_covered": "frames on which something is in front of the mouth were left as they are",
    "audio_track_chosen": "the speech file has several sound tracks, of which one was used",
    "audio_starts_late": "the sound begins after the picture, so the result begins with silence",
    "audio_gap_filled": "the file holds no sound for some time, as its time stamps show; silence was inserted",
    "audio_damaged": "parts of the sound do not decode and are silent",
    "audio_ends_early": "the speech file holds less sound than it states, as after an interrupted upload",
    "audio_out_of_phase": "the channels cancel each other, so the lips follow the louder one",
    "audio_quiet": "the speech is very quiet; the lips follow an amplified copy, the sound keeps its level",
    "video_track_chosen": "the video file has several video tracks, of which one was used",
    "video_deinterlaced": "the video is interlaced; the result is progressive",
    "video_size_changes": "pictures of another size or orientation than the first one were fitted into its canvas",
    "video_damaged": "frames that do not decode repeat the one before",
    "video_smeared": "frames that are predicted from damaged ones and may show smears",
    "color_profile_unusable": "the still's color profile is missing or unusable, so its colors are approximate",
    "output_scaled": "scaled down to what H.264 level 5.2 allows; `output.max_height` asks for more",
    "original_sound_missing": "the video has no sound of its own that could be kept",
    "original_sound_ends": "the result is longer than the video, and so than its own sound",
    "segment_cut": "the result ends before the segment does, so the rest of its speech is left out",
    "speaker_chosen": "with `face=speaking`: the person who speaks in the video's own sound",
    "speaker_unknown": "with `face=speaking`: no mouth moves with the video's own sound, so the largest face was taken",
    "mouth_still": "the mouth never moves although there is sound",
    "transcript_unused": "the transcript does not fit the speech and was left out",
    "split_render": "rendered as segments by several workers",
}


@dataclass(frozen=True)
class Note:
    """One thing to know about a result.

    code: key of `NOTE_CODES`.
    sentence: the same for people.
    ranges_s: what it is about, as (start, end) in seconds of the result, ascending; empty: the whole result.
    """

    code: str
    sentence: str
    ranges_s: tuple[Range, ...] = ()

    def __post_init__(self) -> None:
        if self.code not in NOTE_CODES:
            raise ValueError(f"unknown note code {self.code!r}")


def merge_notes(notes: Iterable[Note]) -> list[Note]:
    """Each note once, in order of first appearance, with the ranges of all its appearances joined."""
    ranges: dict[tuple[str, str], list[Range]] = {}
    for note in notes:
        ranges.setdefault((note.code, note.sentence), []).extend(note.ranges_s)
    return [Note(code, sentence, join_ranges(found)) for (code, sentence), found in ranges.items()]


def join_ranges(ranges_s: Iterable[Range]) -> tuple[Range, ...]:
    """Sorted, with those that touch or overlap made one."""
    joined: list[Range] = []
    for start, end in sorted(ranges_s):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return tuple(joined)


def frame_ranges_s(numbers: ArrayLike, fps: Fraction | float) -> tuple[Range, ...]:
    """Seconds that these frame numbers (any order) are shown at a constant rate."""
    found = np.unique(np.asarray(numbers, np.int64))
    runs = np.split(found, np.flatnonzero(np.diff(found) > 1) + 1) if len(found) else []
    return tuple((round(float(run[0] / fps), 3), round(float((run[-1] + 1) / fps), 3)) for run in runs)
