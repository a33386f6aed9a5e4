"""Faces of a clip's speakers, for engines: one track for each choice, and what a report says about each line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from retalking_core.clip_plan import ClipPlan
from retalking_core.errors import FaceNotFoundError
from retalking_core.faces.landmarks import iou
from retalking_core.faces.track import faceless_ranges_s, refuse_faceless
from retalking_core.lines import Line, Speaker, overlap_error
from retalking_core.notes import Range
from retalking_core.options import FaceChoice, RenderOptions
from retalking_core.types import FaceTrack, LineReport

# Overlap of two tracks' boxes (intersection over union) from which they are on one face.
SAME_FACE = 0.5


def track_speakers(
    clip: ClipPlan, options: RenderOptions, track: Callable[[int, FaceChoice], FaceTrack]
) -> dict[FaceChoice, FaceTrack]:
    """The track of each face that speaks; speakers of one choice share it. track: follows the face of a choice, given
    its number, from 0.

    Raises FaceNotFoundError for a speaker without a face and for a line on which it never shows one, FaceMissingError
    with `missing_face=fail`, SegmentsOverlapError where different choices are one and the same face at one time.
    """
    tracks: dict[FaceChoice, FaceTrack] = {}
    for speaker in clip.speakers:
        with speaker.named_in_errors(clip.has_lines):
            if speaker.face not in tracks:
                tracks[speaker.face] = track(len(tracks), speaker.face)
            _check_visible(clip, speaker, tracks[speaker.face], options)
    for one, other in combinations(clip.speakers, 2):
        if one.face != other.face:
            _refuse_same_face(clip, one, other, tracks)
    return tracks


def _check_visible(clip: ClipPlan, speaker: Speaker, track: FaceTrack, options: RenderOptions) -> None:
    order, shown = clip.timeline.source_index, track.uncovered().visible
    if options.missing_face == "fail":
        refuse_faceless(track, np.unique(order[speaker.speaks(clip.frames)]), clip.source)
    for line in speaker.lines:
        if not shown[line.timeline.source_index].any():
            raise FaceNotFoundError(
                "No usable face in the part of the video that would be shown."
                if not clip.has_lines
                else f"The face is not seen between {line.start_s:.2f} and {line.end_s:.2f} s."
            )


def _refuse_same_face(clip: ClipPlan, one: Speaker, other: Speaker, tracks: dict[FaceChoice, FaceTrack]) -> None:
    boxes = [tracks[speaker.face].boxes[clip.timeline.source_index] for speaker in (one, other)]
    for first in one.lines:
        for second in other.lines:
            both = range(max(first.frames.start, second.frames.start), min(first.frames.stop, second.frames.stop))
            alike = [k for k in both if iou(boxes[0][k], boxes[1][k]) >= SAME_FACE]
            if 2 * len(alike) > len(both):
                start_s, end_s = max(first.start_s, second.start_s), min(first.end_s, second.end_s)
                one_number, other_number = sorted((first.number, second.number))
                raise overlap_error(one_number, other_number, start_s, end_s)


def coverage_of(clip: ClipPlan, visible: Sequence[NDArray[np.bool_]]) -> tuple[float, list[Range]]:
    """Share of the spoken frames that show the speaker's face, and the ranges in which one speaks and is not seen.

    visible: bool [M] for each speaker.
    """
    speaks = [speaker.speaks(clip.frames) for speaker in clip.speakers]
    spoken, seen = (sum(int(each.sum()) for each in kind) for kind in (speaks, np.logical_and(speaks, visible)))
    missing = np.any([speaking & ~seen_ for speaking, seen_ in zip(speaks, visible, strict=True)], axis=0)
    times_s = np.arange(clip.frames) / float(clip.timeline.fps)
    return seen / spoken, faceless_ranges_s(~missing, times_s, clip.timeline.duration_s)


def report_lines(
    clip: ClipPlan, boxes: Sequence[NDArray[np.float32]], targets: Sequence[NDArray[np.float32]] | None
) -> tuple[LineReport, ...]:
    """boxes: f32 [M, 4] px of the result, targets: f32 [M], for each speaker."""

    def report(line: Line, number: int) -> LineReport:
        part = slice(line.frames.start, line.frames.stop)
        target = None if targets is None else targets[number][part]
        return LineReport(line.number, line.start_s, line.end_s, line.frames.start, boxes[number][part], target)

    reports = [report(line, number) for number, speaker in enumerate(clip.speakers) for line in speaker.lines]
    return tuple(sorted(reports, key=lambda each: each.number))
