"""Inputs of the engine's measurement by canvas and length, with the face's track in each."""

from __future__ import annotations

import math
from pathlib import Path

from bench.clips import CANVASES, Canvas, cut_speech, move_track, place_clip, repeat_clip, repeat_track
from bench.engine_cases import SHORT_S
from retalking_core.media.limits import MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.types import FaceTrack

# Ten minutes of a repeated clip are a few seconds more.
BENCH_LIMITS = MediaLimits(max_video_s=700, max_audio_s=700)


class Inputs:
    """Clips and tracks by canvas and length, speech by length; made when first asked for."""

    def __init__(self, video: Path, speech: Path, track: FaceTrack | None, folder: Path) -> None:
        self._video, self._speech, self._track, self._folder = video, speech, track, folder
        self._clips: dict[tuple[str, float], tuple[Path, FaceTrack | None]] = {}

    def clip(self, name: str, seconds: float = 0.0) -> tuple[Path, FaceTrack | None]:
        """At least so many seconds of it: a long case has a long video, of which every frame is drawn."""
        if (name, seconds) not in self._clips:
            canvas = next(each for each in CANVASES if each.name == name)
            self._clips[name, seconds] = self._repeated(name, seconds) if seconds > SHORT_S else self._placed(canvas)
        return self._clips[name, seconds]

    def speech(self, seconds: float) -> Path:
        file = self._folder / f"{seconds:.3f}.wav"
        if not file.exists():
            cut_speech(self._speech, seconds, file)
        return file

    def _placed(self, canvas: Canvas) -> tuple[Path, FaceTrack | None]:
        if canvas == Canvas(canvas.name):
            return self._video, self._track
        file = self._folder / f"{canvas.name.replace(' ', '-').replace(',', '')}.mp4"
        shift = place_clip(self._video, canvas, file)
        return file, None if self._track is None else move_track(self._track, canvas.scale, shift)

    def _repeated(self, name: str, seconds: float) -> tuple[Path, FaceTrack | None]:
        clip, track = self.clip(name)
        times = math.ceil(seconds / open_video(clip, BENCH_LIMITS).info.duration_s)
        file = self._folder / f"{clip.stem}-{times}.mp4"
        repeat_clip(clip, times, file)
        return file, None if track is None else repeat_track(track, times)
