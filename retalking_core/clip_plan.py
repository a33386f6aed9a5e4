"""The inputs of one render, opened once, and the plan of its frames, from what was really decoded."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from retalking_core.media.limits import MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.speech import Speech, read_speech
from retalking_core.media.timeline import plan_timeline
from retalking_core.notes import Note, merge_notes
from retalking_core.options import RenderOptions
from retalking_core.types import FrameSource, RenderReport, Timeline

# Below this, as a share of the widest opening, no viewer sees a mouth move.
_STILL_OPENING = 0.05


@dataclass(frozen=True)
class ClipPlan:
    """What engines, splitting and evaluation share; a context manager that owns the samples of the speech.

    video, audio: the files; audio may be the video itself.
    source: the video's frames; every pass decodes them anew.
    speech: decoded to its end.
    timeline: which source frame each frame of the result shows.
    read_s: seconds that opening and decoding took.
    """

    video: Path
    audio: Path
    source: FrameSource
    speech: Speech
    timeline: Timeline
    read_s: float

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
        return replace(
            report,
            notes=merge_notes([*report.notes, *notes]),
            audio_track=self.speech.track,
            stage_times_s={"read": self.read_s} | report.stage_times_s,
        )

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
