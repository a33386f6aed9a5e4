"""Mel-frequency cepstral coefficients as SyncNet was trained on: the defaults of python_speech_features 0.6.

Davis and Mermelstein, IEEE TASSP 1980. Written out here because that package has had no release since 2017; equal to
it within float64 rounding.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
FRAME, STEP = 400, 160  # 25 ms windows every 10 ms
FFT, FILTERS, COEFFICIENTS, LIFTER = 512, 26, 13, 22
PRE_EMPHASIS = 0.97
EPS = np.finfo(np.float64).eps


def mfcc(samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """16 kHz mono int16 [n] -> f64 [T, 13], T = 1 + ceil((n - 400) / 160); the first coefficient is the log energy."""
    power = np.abs(np.fft.rfft(_frames(samples), FFT)) ** 2 / FFT
    energy = power.sum(axis=1)
    bands = power @ _filters().T
    logs = np.log(np.where(bands == 0, EPS, bands))
    cepstrum = logs @ _cosines().T * _lift()
    cepstrum[:, 0] = np.log(np.where(energy == 0, EPS, energy))
    return cepstrum


def _frames(samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """Pre-emphasised windows [T, 400], rectangular, the last one filled with zeros."""
    signal = samples.astype(np.float64)
    signal = np.append(signal[:1], signal[1:] - PRE_EMPHASIS * signal[:-1])
    count = 1 if len(signal) <= FRAME else 1 + -(-(len(signal) - FRAME) // STEP)
    padded = np.pad(signal, (0, max(0, (count - 1) * STEP + FRAME - len(signal))))
    return np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::STEP][:count]


@lru_cache(maxsize=1)
def _filters() -> NDArray[np.float64]:
    """26 triangles over the 257 bins, edges equally spaced in mel from 0 to 8000 Hz."""
    mels = np.linspace(0, 2595 * np.log10(1 + RATE_HZ / 2 / 700), FILTERS + 2)
    edges = np.floor((FFT + 1) * 700 * (10 ** (mels / 2595) - 1) / RATE_HZ)
    bank = np.zeros((FILTERS, FFT // 2 + 1))
    for row, (left, peak, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        rising, falling = np.arange(left, peak), np.arange(peak, right)
        bank[row, int(left) : int(peak)] = (rising - left) / (peak - left)
        bank[row, int(peak) : int(right)] = (right - falling) / (right - peak)
    return bank


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float64]:
    """The first 13 rows of the orthonormal DCT-II over 26 bands."""
    k, n = np.arange(COEFFICIENTS)[:, None], np.arange(FILTERS)
    rows = np.sqrt(2 / FILTERS) * np.cos(np.pi * k * (2 * n + 1) / (2 * FILTERS))
    rows[0] /= np.sqrt(2)
    return rows


def _lift() -> NDArray[np.float64]:
    return 1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)
