"""The mel spectrogram that the lip network was trained on, and one window of it per output picture."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from retalking_core.numerics import tiled_matmul
from retalking_core.types import Waveform

RATE_HZ = 16_000
FFT_SIZE = 800
HOP = 200
BANDS = 80
FRAMES_PER_S = RATE_HZ // HOP
WINDOW_FRAMES = 16
SILENCE = -4.0
BLOCK_FRAMES = 8000
_LOW_HZ, _HIGH_HZ = 55.0, 7600.0
_PREEMPHASIS = 0.97


def mel_spectrogram(waveform: Waveform, basis: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
    """f32 [80, T] in -4 (silence) .. 4, T = 1 + floor(n / 200): 80 frames a second, frame k centered on sample 200 k.

    Computed in float64 (Wav2Lip's analysis: pre-emphasis 0.97, 800-point Hann STFT, Slaney mel 55..7600 Hz, dB). basis:
    filters [80, 401], `mel_basis()` if none are given. Raises ValueError when the waveform is not at 16 kHz.
    """
    if waveform.rate_hz != RATE_HZ:
        raise ValueError(f"the mel is defined at {RATE_HZ} Hz, the waveform has {waveform.rate_hz}")
    samples = waveform.samples.astype(np.float64)
    emphasized = np.append(samples[:1], samples[1:] - _PREEMPHASIS * samples[:-1])
    padded = np.pad(emphasized, FFT_SIZE // 2)
    count = 1 + len(samples) // HOP
    mel = np.empty((BANDS, count), np.float32)
    basis = mel_basis() if basis is None else basis
    # In blocks of 100 s: ten minutes at once would need 600 MB for the windows alone.
    for start in range(0, count, BLOCK_FRAMES):
        stop = min(start + BLOCK_FRAMES, count)
        spectrum = _magnitude(padded[start * HOP : (stop - 1) * HOP + FFT_SIZE])
        level_db = 20.0 * np.log10(np.maximum(1e-5, tiled_matmul(basis, spectrum))) - 20.0
        mel[:, start:stop] = np.clip(8.0 * (level_db + 100.0) / 100.0 - 4.0, -4.0, 4.0)
    return mel


def _magnitude(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of an STFT without padding, samples [FFT_SIZE + k * HOP] -> [401, k + 1]."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT_SIZE) / FFT_SIZE)
    frames = np.lib.stride_tricks.sliding_window_view(samples, FFT_SIZE)[::HOP]
    return np.abs(np.fft.rfft(frames * window, axis=1)).T


def window_starts(mel_frames: int, fps: Fraction | float) -> NDArray[np.int64]:
    """First mel frame of the window of each output picture by the original rule, i64 [M].

    s_i = trunc(i * 80 / fps) while s_i + 16 <= T, then one last window that ends with the last frame. A mel shorter
    than one window counts as padded to 16 frames.
    """
    last = max(mel_frames, WINDOW_FRAMES) - WINDOW_FRAMES
    step = FRAMES_PER_S / float(fps)
    starts = (np.arange(int(last / step) + 2) * step).astype(np.int64)
    return np.append(starts[starts <= last], last)


def mel_windows(
    mel: NDArray[np.float32], fps: Fraction | float, picture_count: int | None = None
) -> NDArray[np.float32]:
    """Windows f32 [M, 80, 16]: the sound from each picture's time to 0.2 s ahead.

    Without picture_count: the original rule (`window_starts`), which gives fewer pictures than the speech is long.
    With it: exactly that many windows, the mel padded with silence, so that pictures reach the end of the speech.
    """
    if picture_count is None:
        starts = window_starts(mel.shape[1], fps)
    else:
        starts = (np.arange(picture_count) * (FRAMES_PER_S / float(fps))).astype(np.int64)
    missing = max(int(starts[-1]) + WINDOW_FRAMES - mel.shape[1], 0) if len(starts) else 0
    padded = np.pad(mel, ((0, 0), (0, missing)), constant_values=SILENCE)
    return np.stack([padded[:, start : start + WINDOW_FRAMES] for start in starts]) if len(starts) else _no_windows()


@lru_cache(maxsize=1)
def mel_basis() -> NDArray[np.float64]:
    """Triangular filters f64 [80, 401] on the Slaney scale, each of unit area in Hz."""
    edges_hz = _mel_to_hz(np.linspace(_hz_to_mel(_LOW_HZ), _hz_to_mel(_HIGH_HZ), BANDS + 2))
    bins_hz = np.arange(FFT_SIZE // 2 + 1) * (RATE_HZ / FFT_SIZE)
    low, center, high = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising = (bins_hz - low) / (center - low)
    falling = (high - bins_hz) / (high - center)
    basis = np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (high - low))
    basis.flags.writeable = False
    return basis


@lru_cache(maxsize=1)
def librosa_basis() -> NDArray[np.float64]:
    """`mel_basis` by librosa (extra `gpu`). librosa's STFT is not used: to import it takes 30 s of CPU time where numba
    finds nothing compiled in its cache (docs/dependencies.md)."""
    from librosa.filters import mel

    basis: NDArray[np.float64] = mel(
        sr=RATE_HZ, n_fft=FFT_SIZE, n_mels=BANDS, fmin=_LOW_HZ, fmax=_HIGH_HZ, dtype=np.float64
    )
    basis.flags.writeable = False
    return basis


def _hz_to_mel(hz: float) -> float:
    """Slaney: 200/3 Hz a mel up to 1 kHz, then 27 mel for a factor of 6.4."""
    return hz * 3 / 200 if hz < 1000 else 15.0 + np.log(hz / 1000) * 27 / np.log(6.4)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < 15.0, mel * 200 / 3, 1000 * np.exp((mel - 15.0) * np.log(6.4) / 27))


def _no_windows() -> NDArray[np.float32]:
    return np.empty((0, BANDS, WINDOW_FRAMES), np.float32)
