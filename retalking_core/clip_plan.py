"""The inputs of one render, opened once, and the plan of its frames, from what was really decoded.

What is spoken is a list of lines: one speech each, for one face, from a start to an end on the video's clock. A render
of two files is one line over everything. Engines find here a track for each face that speaks, and what a report says
about each line.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import FaceNotFoundError, NoAudioStreamError, OptionUnsupportedError
from retalking_core.faces.landmarks import iou
from retalking_core.faces.track import faceless_ranges_s, refuse_faceless
from retalking_core.lines import (
    Line,
    LineInput,
    Speaker,
    SpokenLine,
    cast_speakers,
    check_lines,
    cut_speech,
    lines_of,
    overlap_error,
)
from retalking_core.media.limits import MediaLimits
from retalking_core.media.reader import StillReader, VideoReader, exact_rate, open_video
from retalking_core.media.speech import (
    ANALYSIS_RATE_HZ,
    MOST_GAIN_DB,
    SoundStore,
    Speech,
    SpeechMixer,
    is_audible,
    pcm_bits_of,
    read_speech,
    sound_format,
)
from retalking_core.media.tap import ResultTap
from retalking_core.media.writer import output_size
from retalking_core.notes import Note, Range, frame_ranges_s, merge_notes
from retalking_core.options import FaceChoice, LengthMode, RenderOptions
from retalking_core.types import AudioTrack, FaceTrack, LineReport, RenderReport, Timeline, VideoInfo, Waveform

# Below this rate no lip movement can be shown (a syllable takes about 200 ms): slide shows and one-picture videos come
# out at the rate of a still picture.
_LOWEST_RATE = 10
_STILL_RATE = Fraction(25)
# Two source pictures count as equally near within this; the earlier is taken. Keeps an exact doubling of the rate
# (25 -> 50) regular in spite of floating-point noise. A microsecond is far below any frame step.
_TIE_S = 1e-6


def plan_timeline(
    info: VideoInfo, speech_s: float, length_mode: LengthMode, output_fps: float | None = None
) -> Timeline:
    """Plan the output pictures at a constant rate (the source's own average unless `output_fps` is given;
    25 for a source of fewer than ten pictures a second, whose lips could not move).

    The number of pictures M is the one whose duration M / fps is nearest the wanted length (at least one), so that the
    result is never shorter than it by more than half a picture. Every output picture takes the source picture nearest
    in time; of two equally near ones the earlier.

    bounce: as long as the speech; the video runs forward, then backward, and so on, no turning picture shown twice.
    loop: as long as the speech; the video starts over from its first picture. Both cut a longer video.
    cut_off: as long as the shorter of both. silence: as long as the longer; speech then silence, or the last picture
    holds while the speech goes on. remap: as long as the speech; the video is stretched or compressed in time to fit.
    """
    if not (math.isfinite(speech_s) and speech_s > 0):
        raise ValueError(f"speech_s must be positive, not {speech_s}")
    fps = result_rate(info, output_fps)
    wanted_s = {
        "cut_off": min(speech_s, info.duration_s),
        "silence": max(speech_s, info.duration_s),
    }.get(length_mode, speech_s)
    count = max(1, math.floor(wanted_s * fps + Fraction(1, 2)))
    output_s = np.arange(count, dtype=np.float64) * float(1 / fps)
    source_s = _source_times(output_s, info, length_mode, float(count / fps))
    return Timeline(source_index=nearest_in_time(info.frame_times_s, source_s), fps=fps)


def result_rate(info: VideoInfo, output_fps: float | None = None) -> Fraction:
    """Frames per second of the result, see `plan_timeline`."""
    if output_fps is not None:
        return exact_rate(output_fps)
    return info.fps if info.fps >= _LOWEST_RATE else _STILL_RATE


def nearest_in_time(frame_times_s: NDArray[np.float64], wanted_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the frame nearest to each wanted time: f64 [M] -> i64 [M]. frame_times_s: f64 [N], ascending."""
    middles_s = (frame_times_s[:-1] + frame_times_s[1:]) / 2
    return np.searchsorted(middles_s + _TIE_S, wanted_s, side="left").astype(np.int64)


def _source_times(
    output_s: NDArray[np.float64], info: VideoInfo, length_mode: LengthMode, total_s: float
) -> NDArray[np.float64]:
    if length_mode == "bounce":
        span_s = float(info.frame_times_s[-1])
        if span_s <= 0:
            return np.zeros_like(output_s)
        phase_s = np.mod(output_s, 2 * span_s)
        return np.minimum(phase_s, 2 * span_s - phase_s)
    if length_mode == "loop":
        # A time that ends a round exactly belongs to the next one, also when it falls short by rounding.
        return np.mod(output_s + _TIE_S / 2, info.duration_s)
    if length_mode == "remap":
        return output_s * (info.duration_s / total_s)
    return output_s


__all__ = ["ClipPlan", "Line", "LineInput", "Speaker", "plan_clip"]

# Below this, as a share of the widest opening, no viewer sees a mouth move.
_STILL_OPENING = 0.05


@dataclass(frozen=True)
class SpeechFile:
    """A file of speech as it was decoded. track: the one that was used."""

    duration_s: float
    track: AudioTrack | None


@dataclass(frozen=True)
class ClipPlan:
    """What engines, splitting and evaluation share; a context manager that owns the samples of the sound.

    video: the file.
    source: the video's frames; every pass decodes them anew, and what is damaged is known when they were read.
    speakers: what is to be spoken, in order of the first line of each. has_lines: the caller gave a list of lines; an
    engine that draws one face through the whole clip cannot render it.
    sound: what the result plays.
    timeline: which source frame each frame of the result shows.
    track: the sound track of the first line. notes: what was filled, chosen or corrected before the render.
    read_s: seconds that opening and decoding took. files: what was heard in each file of speech.
    tap: where the engine hands the result's packets to the evaluation while it writes them (docs/engines.md).
    """

    video: Path
    source: VideoReader | StillReader
    speakers: tuple[Speaker, ...]
    has_lines: bool
    sound: SoundStore
    timeline: Timeline
    track: AudioTrack | None
    notes: tuple[Note, ...]
    read_s: float
    files: Mapping[Path, SpeechFile] = field(default_factory=dict)
    tap: ResultTap | None = None

    @property
    def lines(self) -> tuple[Line, ...]:
        """Of all speakers, as the caller listed them."""
        return lines_of(self.speakers)

    @property
    def speech(self) -> Waveform:
        """All that the first speaker says, on the clock of the result."""
        lines = self.speakers[0].lines
        if len(lines) == 1 and lines[0].frames.start == 0:
            return lines[0].speech
        starts = [round(float(line.frames.start / self.timeline.fps) * ANALYSIS_RATE_HZ) for line in lines]
        ends = (start + len(line.speech.samples) for start, line in zip(starts, lines, strict=True))
        samples = np.zeros(max(ends), np.float32)
        for start, line in zip(starts, lines, strict=True):
            samples[start : start + len(line.speech.samples)] = line.speech.samples
        return Waveform(samples)

    @property
    def frames(self) -> int:
        """How many frames the result has."""
        return len(self.timeline.source_index)

    def complete(self, report: RenderReport) -> RenderReport:
        """The engine's report with what is known of the inputs: their notes, the track, the time that reading took."""
        end_s = self.timeline.duration_s
        notes = [
            replace(note, ranges_s=tuple((start, min(end, end_s)) for start, end in note.ranges_s if start < end_s))
            for note in self.notes
        ]
        notes += self._still_notes(report)
        info, size = self.source.info, (report.width, report.height)
        if size == output_size(info, None) != (info.width, info.height):
            sentence = f"Scaled from {info.width}x{info.height} so that phones play it; see output.max_height."
            notes.append(Note("output_scaled", sentence))
        notes += [*self.source.info.notes, *self._frame_notes()]
        return replace(
            report,
            notes=merge_notes([*report.notes, *notes]),
            audio_track=self.track,
            stage_times_s={"read": self.read_s} | report.stage_times_s,
        )

    def _still_notes(self, report: RenderReport) -> list[Note]:
        """Of the speech, or of each line that the caller gave, whose mouth never opens."""
        sentence = "The mouth never moves although there is sound: is it speech, and the right track?"
        if not self.has_lines:
            is_still = report.face_coverage > 0 and _is_still(report.mouth_target) and is_audible(self.speech)
            return [Note("mouth_still", sentence)] if is_still else []
        return [
            Note("mouth_still", sentence, ((round(line.start_s, 3), round(line.end_s, 3)),))
            for line, drawn in zip(self.lines, report.lines, strict=True)
            if np.isfinite(drawn.face_boxes).any() and _is_still(drawn.mouth_target) and is_audible(line.speech)
        ]

    def _frame_notes(self) -> list[Note]:
        """Of the frames that were read so far and are shown."""
        reader, order = self.source, self.timeline.source_index
        shown = set(np.unique(order).tolist())
        kinds = (
            ("video_damaged", reader.damaged, "frames of the video do not decode; the one before is shown instead."),
            ("video_smeared", reader.smeared, "frames follow damaged ones and may show smears: the file is damaged."),
            (
                "video_size_changes",
                reader.fitted,
                "frames change size or orientation; they were fitted into the first.",
            ),
        )
        notes = []
        for code, numbers, sentence in kinds:
            if found := sorted(numbers & shown):
                ranges = frame_ranges_s(np.flatnonzero(np.isin(order, found)), self.timeline.fps)
                notes.append(Note(code, f"{len(found)} of {len(shown)} {sentence}", ranges))
        return notes

    def close(self) -> None:
        self.sound.close()

    def __enter__(self) -> ClipPlan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_still(mouth_target: NDArray[np.float32] | None) -> bool:
    """Whether a viewer sees no motion in what the engine aimed at; False where it stated nothing."""
    return mouth_target is not None and float(mouth_target.max(initial=0.0)) < _STILL_OPENING


def plan_clip(video: Path, audio: Path | Sequence[LineInput], options: RenderOptions, limits: MediaLimits) -> ClipPlan:
    """Open the video, decode what is spoken, plan the timeline and mix the sound.

    audio: one speech for the face of the options, over the whole result, whose length follows `options.length_mode`; or
    a list of lines: then the result is as long as the video, and `length_mode` decides where a line goes on beyond its
    end. Raises the errors of `open_video`, `read_speech`, `check_lines`, `cut_speech` and `cast_speakers`;
    OptionUnsupportedError where the video's own sound cannot be kept.
    """
    began = time.perf_counter()
    has_lines = not isinstance(audio, Path)
    inputs = [LineInput(audio, end_s=np.inf)] if isinstance(audio, Path) else list(audio)
    source = open_video(video, limits, options.fps)
    if has_lines:
        check_lines(inputs, source.info, limits)
    with ExitStack() as opened:
        own = _read_own_sound(video, options, limits)
        if own is not None:
            opened.callback(own.sound.close)
        files = list(dict.fromkeys(line.audio for line in inputs))
        mixer = SpeechMixer(*_result_format(files, own, options, limits))
        opened.callback(mixer.sound.close)
        spoken: list[SpokenLine] = []
        track: AudioTrack | None = None
        heard: dict[Path, SpeechFile] = {}
        for file in files:
            with read_speech(file, limits, options.audio_track, mixer.sound.rate_hz) as speech:
                track = track or speech.track
                heard[file] = SpeechFile(speech.duration_s, speech.track)
                for number, line in enumerate(inputs):
                    if line.audio == file:
                        one = cut_speech(number, line, speech, result_rate(source.info, options.output.fps))
                        gain_db = _matching_db(speech, own)
                        mixer.place(speech.sound, one.start_s, one.end_s, line.audio_offset_s, gain_db)
                        spoken.append(one)
        timeline = _plan_timeline(source.info, spoken, options, has_lines)
        speakers = cast_speakers(inputs, spoken, timeline, options)
        end_s = timeline.duration_s
        notes = [note for one in spoken for note in one.notes]
        notes += _cut_notes(spoken, end_s)
        if options.transcript and len(spoken) > 1:
            sentence = "The transcript is of no single segment and was left out."
            notes.append(Note("transcript_unused", sentence))
        if options.sound.mix != "replace":
            notes += _own_sound_notes(own, source.info, options, end_s)
        ranges_s = [(line.start_s, line.end_s) for speaker in speakers for line in speaker.lines]
        sound = mixer.finish(None if own is None else own.sound, ranges_s, options.sound, end_s)
        if own is not None and own.track is not None:
            sound.pcm_bits = pcm_bits_of(own.track.codec)
        if sound is mixer.sound:
            opened.pop_all()
    return ClipPlan(
        video=video,
        source=source,
        speakers=speakers,
        has_lines=has_lines,
        sound=sound,
        timeline=timeline,
        track=track,
        notes=tuple(notes),
        read_s=time.perf_counter() - began,
        files=heard,
    )


def _read_own_sound(video: Path, options: RenderOptions, limits: MediaLimits) -> Speech | None:
    """The video's own sound, where something of it is kept; None where it has none."""
    if options.sound.mix == "replace":
        return None
    try:
        return read_speech(video, limits)
    except NoAudioStreamError:
        return None


def _result_format(
    files: Sequence[Path], own: Speech | None, options: RenderOptions, limits: MediaLimits
) -> tuple[int, int]:
    """Rate in Hz and channels: the most of the speeches; where the video's own sound is kept, its rate, so that its
    samples stay as they are."""
    formats = [sound_format(file, limits, options.audio_track) for file in files]
    if own is not None:
        return own.sound.rate_hz, max(own.sound.channels, *(channels for _, channels in formats))
    return max(rate_hz for rate_hz, _ in formats), max(channels for _, channels in formats)


def _matching_db(speech: Speech, own: Speech | None) -> float:
    """Gain that makes a speech as loud as the video's own sound, where both have a loudness."""
    if own is None or own.loudness is None or speech.loudness is None:
        return 0.0
    return float(np.clip(own.loudness - speech.loudness, -MOST_GAIN_DB, MOST_GAIN_DB))


def _plan_timeline(info: VideoInfo, spoken: Sequence[SpokenLine], options: RenderOptions, has_lines: bool) -> Timeline:
    end_s = max(one.heard_end_s if np.isinf(one.end_s) else one.end_s for one in spoken)
    if has_lines and end_s <= info.duration_s + float(1 / info.fps) / 2:
        return plan_timeline(info, min(end_s, info.duration_s), "silence", options.output.fps)
    return plan_timeline(info, end_s, options.length_mode, options.output.fps)


def _cut_notes(spoken: Sequence[SpokenLine], end_s: float) -> list[Note]:
    cut = [one for one in spoken if np.isfinite(one.end_s) and one.heard_end_s > end_s + 0.1]
    return [
        Note("segment_cut", f"{one.heard_end_s - end_s:.2f} s of segment {one.number + 1} lie after the result's end.")
        for one in cut
    ]


def _own_sound_notes(own: Speech | None, info: VideoInfo, options: RenderOptions, end_s: float) -> list[Note]:
    """Raises OptionUnsupportedError."""
    if own is None:
        return [Note("original_sound_missing", "The video has no sound of its own; the speech is all there is.")]
    if end_s <= info.duration_s + 0.1:
        return []
    if options.length_mode == "remap":
        raise OptionUnsupportedError(
            "length_mode=remap changes the speed of the video, so that its own sound cannot be kept: use "
            "sound.mix=replace, or another length_mode.",
            option="sound.mix",
        )
    sentence = "The result is longer than the video, whose own sound ends with it."
    return [Note("original_sound_ends", sentence, ((round(info.duration_s, 3), round(end_s, 3)),))]


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
