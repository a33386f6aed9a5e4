"""Clips with sound for the evaluation, and a stand-in for SyncNet that reads brightness and loudness."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from retalking_core.evaluation.measurement import MetricUnavailableError
from retalking_core.evaluation.sync_protocols import mfcc
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.speech import read_speech
from retalking_core.media.writer import ResultWriter
from retalking_core.networks.inference import REFERENCE, InferenceNetwork
from retalking_core.options import OutputOptions
from retalking_core.types import Timeline
from tests.faces.clips import Picture, PictureSource

RATE_HZ = 16_000


def write_talking_clip(path: Path, pictures: Sequence[Picture], speech: Path, fps: int = 25) -> Path:
    """H.264 and AAC, as an engine writes it."""
    source = PictureSource(pictures, fps)
    timeline = Timeline(np.arange(len(pictures)), Fraction(fps))
    with (
        read_speech(speech, DEFAULT_LIMITS) as spoken,
        ResultWriter(path, source.info, timeline, spoken.sound, OutputOptions(crf=8), {}) as writer,
    ):
        for frame in source.frames():
            writer.write(frame)
    return path


def write_samples(path: Path, samples: NDArray[np.floating]) -> Path:
    """16 kHz mono WAV of samples -1..1."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE_HZ)
        out.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def levels(frames: int) -> NDArray[np.float64]:
    """A level 0..1 a frame, never the same for long."""
    return np.random.default_rng(9).uniform(size=frames)


def gray_pictures(level: NDArray[np.float64], side: int = 64) -> list[Picture]:
    return [np.full((side, side, 3), round(60 + 120 * value), np.uint8) for value in level]


def noise_of(level: NDArray[np.float64]) -> NDArray[np.float64]:
    """40 ms of noise a frame, whose loudness grows exponentially with the level."""
    noise = np.random.default_rng(2).normal(size=(len(level), 640))
    return (0.2 * np.exp(3 * (level - 1))[:, None] * noise).reshape(-1)


class BrightnessNet(nn.Module):
    """Embeds five pictures by the brightness of the middle one, and 0.2 s of sound by its loudness then, both as the
    level that `gray_pictures` and `noise_of` were made from."""

    def __init__(self) -> None:
        super().__init__()
        full = mfcc((noise_of(np.ones(25)) * 32767).astype(np.int16))[:, 0].mean()
        self.full = nn.Parameter(torch.tensor(float(full)))

    def embed_lip(self, lip: Tensor) -> Tensor:
        return ((lip[:, :, 2].mean(dim=(1, 2, 3)) - 60) / 120)[:, None].repeat(1, 1024)

    def embed_audio(self, sound: Tensor) -> Tensor:
        return (1 + (sound[:, 0, 0, 8:12].mean(dim=1) - self.full) / 6)[:, None].repeat(1, 1024)


class GivenModels:
    """Evaluation models made of networks at hand."""

    synthetic = False

    def __init__(self, **networks: nn.Module) -> None:
        self._networks = {name: InferenceNetwork(net.eval(), REFERENCE) for name, net in networks.items()}

    def has(self, name: str) -> bool:
        return name in self._networks

    def get(self, name: str) -> InferenceNetwork:
        if name not in self._networks:
            raise MetricUnavailableError(f"needs {name}")
        return self._networks[name]
