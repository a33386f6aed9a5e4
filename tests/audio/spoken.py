"""A spoken sentence with the time of every phone: flite's voice rms, as `flite -psdur` printed it."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np

from retalking_core.types import Waveform

FOLDER = Path(__file__).parent
TEXT = "My mother bought five purple pumpkins before the market shut."


def read_spoken() -> tuple[Waveform, list[tuple[str, float, float]]]:
    """The sound at 16 kHz; phone, start and end in seconds."""
    with wave.open(str(FOLDER / "spoken.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    ends = [item.rpartition(":") for item in (FOLDER / "spoken.txt").read_text().split()]
    starts = [0.0, *(float(end) for _, _, end in ends[:-1])]
    return Waveform(samples), [(name, start, float(end)) for (name, _, end), start in zip(ends, starts, strict=True)]
