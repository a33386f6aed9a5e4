"""The inputs of one render, opened once, and the plan of its frames, from what was really decoded."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from retalking_core.media.limits import MediaLimits
from retalking_core.media.reader import StillReader, VideoReader, open_video
from retalking_core.media.speech import Speech, read_speech
from retalking_core.media.tap import ResultTap
from retalking_core.media.timeline import plan_timeline
from retalking_core.media.writer import output_size
from retalking_core.notes import Note, frame_ranges_s, merge_notes
from retalking_core.options import RenderOptions
from retalking_core.types import RenderReport, Timeline

# Below this, as a share of the widest opening, no viewer sees a mouth move.
_STILL_OPENING = 0.05


@dataclass(frozen=True)
class ClipPlan:
    """What engines, splitting and evaluation share; a context manager that owns the samples of the speech.

    video, audio: the files; audio may be the video itself.
    source: the video's frames; every pass decodes them anew, and what is damaged is known when they were read.
    speech: decoded to its end.
    timeline: which source frame each frame of the result shows.
    read_s: seconds that opening and decoding took.
    notes: what was guessed before the render, such as who speaks.
    tap: where the engine hands the result's packets to the evaluation while it writes them (docs/engines.md).
    """

    video: Path
    audio: Path
    source: VideoReader | StillReader
    speech: Speech
    timeline: Timeline
    read_s: float
    notes: tuple[Note, ...] = ()
    tap: ResultTap | None = None

    @property
    def frames(self) -> int:
        """How many frames the result has."""
        return len(self.timeline.source_index)

    def complete(self, report: RenderReport) -> RenderReport:
        """The engine's report with what is known of the inputs: their notes, the track, the time that reading took."""
        end_s = self.timeline.duration_s
        notes = [
            replace(note, ranges_s=tuple((start, min(end, end_s)) for start, end in note.ranges_s if start < end_s))
            for note in self.speech.notes
        ]
        target = report.mouth_target
        is_still = target is not None and report.face_coverage > 0 and float(target.max(initial=0.0)) < _STILL_OPENING
        if is_still and self.speech.is_audible:
            sentence = "The mouth never moves although there is sound: is it speech, and the right track?"
            notes.append(Note("mouth_still", sentence))
        info, size = self.source.info, (report.width, report.height)
        if size == output_size(info, None) != (info.width, info.height):
            sentence = f"Scaled from {info.width}x{info.height} so that phones play it; see output.max_height."
            notes.append(Note("output_scaled", sentence))
        notes += [*self.notes, *self.source.info.notes, *self._frame_notes()]
        return replace(
            report,
            notes=merge_notes([*report.notes, *notes]),
            audio_track=self.speech.track,
            stage_times_s={"read": self.read_s} | report.stage_times_s,
        )

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
        self.speech.sound.close()

    def __enter__(self) -> ClipPlan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def plan_clip(video: Path, audio: Path, options: RenderOptions, limits: MediaLimits) -> ClipPlan:
    """Open the video, decode the speech, plan the timeline. Raises the errors of `open_video` and `read_speech`."""
    began = time.perf_counter()
    source = open_video(video, limits, options.fps)
    speech = read_speech(audio, limits, options.audio_track)
    timeline = plan_timeline(source.info, speech.duration_s, options.length_mode, options.output.fps)
    return ClipPlan(video, audio, source, speech, timeline, time.perf_counter() - began)
