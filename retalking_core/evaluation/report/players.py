"""Small copies of input and result that a browser plays side by side."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import InputError
from retalking_core.evaluation.measurement import Measurement
from retalking_core.media.limits import MediaLimits
from retalking_core.media.probe import probe_audio
from retalking_core.media.writer import ResultWriter
from retalking_core.options import OutputOptions
from retalking_core.types import FrameSource, Timeline

# Enough to see lips; about 150 kB for five seconds.
PLAYER = OutputOptions(crf=26, max_height=420)


def write_players(measurement: Measurement, folder: Path) -> list[Path]:
    """The result, and the reference brought onto the result's own timeline, both with the result's speech.

    Returns the files written: result.mp4, and reference.mp4 where a reference can be opened. Raises media errors of the
    result.
    """
    video, limits = measurement.video, measurement.limits
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.arange(video.info.frame_count)
    speech = _speech(measurement, folder)
    written = [_write(video, frames, video.info.fps, speech, folder / "result.mp4", limits)]
    if measurement.reference is not None:
        try:
            reference, paired = measurement.reference_video, measurement.paired_index
            written.append(_write(reference, paired, video.info.fps, speech, folder / "reference.mp4", limits))
        except InputError:
            return written
    return written


def _write(
    source: FrameSource, numbers: NDArray[np.int64], fps: Fraction, speech: Path, path: Path, limits: MediaLimits
) -> Path:
    timeline = Timeline(numbers, fps, float(len(numbers) / fps))
    with ResultWriter(path, source.info, timeline, speech, PLAYER, {}, limits) as writer:
        for frame in source.frames_at(numbers.tolist()):
            writer.write(frame)
    return path


def _speech(measurement: Measurement, folder: Path) -> Path:
    """The result's own sound; silence for a result without any."""
    try:
        probe_audio(measurement.result, measurement.limits)
    except InputError:
        silence = folder / "silence.wav"
        with wave.open(str(silence), "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(16_000)
            out.writeframes(bytes(2 * max(1600, round(16_000 * measurement.video.info.duration_s))))
        return silence
    return measurement.result
