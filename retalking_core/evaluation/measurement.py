"""What several metrics look at, measured once: the mouth on every frame of the result."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retalking_core.audio.mel import FRAMES_PER_S, mel_spectrogram
from retalking_core.audio.waveform import load_waveform
from retalking_core.faces.dlib_models import Box, DlibModels, Gray
from retalking_core.faces.landmarks import face_scale, inner_gap, is_plausible
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.types import FrameSource, RenderReport

# Longest side of the picture in which a face is looked for afresh.
SEARCH_PX = 480


@dataclass(frozen=True)
class Measurement:
    """One finished render under evaluation. Everything below is measured when first asked for, and then kept."""

    result: Path
    speech: Path
    report: RenderReport | None = None
    limits: MediaLimits = DEFAULT_LIMITS

    @cached_property
    def video(self) -> FrameSource:
        return open_video(self.result, self.limits)

    @cached_property
    def mouth_opening(self) -> NDArray[np.float32]:
        """Inner-lip gap over face size on every frame, f32 [M], NaN where dlib sees no face.

        Detected and fitted anew on each frame and not smoothed, so that it shares nothing with the engine's own track
        but the landmark model.
        """
        models, last, values = DlibModels(), None, []
        for frame in self.video.frames():
            box = _find_face(models, frame.y, last)
            last = box
            values.append(np.nan if box is None else _opening(models, frame.y, box))
        return np.array(values, np.float32)

    @cached_property
    def speech_level(self) -> NDArray[np.float32]:
        """Loudness of the speech on every frame of the result, f32 [M], 0 (40 dB below the loudest) .. 1; plain band
        energy, without the engine's ideas about vowels and lips."""
        mel_db = (mel_spectrogram(load_waveform(self.speech, self.limits)) + 4) * 12.5 - 100
        level_db = 10 * np.log10((10 ** (mel_db[:70] / 10)).mean(axis=0))
        level = np.clip(1 + (level_db - np.percentile(level_db, 98)) / 40, 0, 1)
        info = self.video.info
        times_s = (np.arange(info.frame_count)[:, None] + np.linspace(0, 1, 5)) / float(info.fps)
        return np.interp(times_s * FRAMES_PER_S, np.arange(len(level)), level, right=0).mean(axis=1).astype(np.float32)


def _find_face(models: DlibModels, gray: Gray, last: Box | None) -> Box | None:
    """The largest face: near the last one if there was one, else anywhere."""
    height, width = gray.shape
    if last is not None:
        size = float(last[2] - last[0])
        window = last + np.array([-0.6, -0.6, 0.6, 0.6], np.float32) * size
        near = models.detect(gray, window, max(40.0, 0.75 * size))
        if near:
            return max(near, key=lambda box: box[2] - box[0])
    whole = np.array([0, 0, width, height], np.float32)
    for smallest in (80 * max(1.0, max(height, width) / SEARCH_PX), 48.0):
        found = models.detect(gray, whole, smallest)
        if found:
            return max(found, key=lambda box: box[2] - box[0])
    return None


def _opening(models: DlibModels, gray: Gray, box: Box) -> float:
    marks = models.landmarks(gray, box)
    if not is_plausible(marks, *gray.shape) or float(face_scale(marks)) < 12:
        return float("nan")
    return float(inner_gap(marks))
