"""Speech of any rate, layout and format as 16 kHz mono samples for analysis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from av.audio.resampler import AudioResampler

from retalking_core.errors import AudioInvalidError
from retalking_core.media.faults import reading
from retalking_core.media.limits import MediaLimits
from retalking_core.media.sound import MIN_SPEECH_S, decoded_speech, empty_speech
from retalking_core.types import Waveform

ANALYSIS_RATE_HZ = 16_000
# A long interpolated filter and a mix that keeps the level (float sound is summed unscaled otherwise: 1.41 times too
# loud from stereo). Mel distance to a soxr-HQ resampling of the same stereo speech: mean 1e-4, at most 0.034 of -4..4.
_RESAMPLING = {
    "rematrix_maxval": "1.0",
    "filter_size": "128",
    "phase_shift": "10",
    "cutoff": "0.97",
    "linear_interp": "1",
}


def load_waveform(path: Path, limits: MediaLimits) -> Waveform:
    """The whole speech, mixed to mono and resampled; f32 [n], n = ceil(samples * 16000 / rate).

    Memory: 64 kB a second (38 MB at the default cap); the source streams. Raises the errors of `decoded_speech`.
    """
    resampler = AudioResampler(format="fltp", layout="mono", rate=ANALYSIS_RATE_HZ, options=_RESAMPLING)
    pieces: list[np.ndarray] = []
    source_s = 0.0
    with reading("speech file"):
        for frame in decoded_speech(path, limits):
            source_s += frame.samples / frame.sample_rate
            frame.pts = None
            pieces.extend(piece.to_ndarray()[0] for piece in resampler.resample(frame))
        pieces.extend(piece.to_ndarray()[0] for piece in resampler.resample(None))
    wanted = int(np.ceil(round(source_s * ANALYSIS_RATE_HZ, 3)))
    samples = _fitted(np.concatenate(pieces) if pieces else np.zeros(0, np.float32), wanted)
    if len(samples) < MIN_SPEECH_S * ANALYSIS_RATE_HZ:
        raise empty_speech()
    if not np.isfinite(samples).all():
        raise AudioInvalidError("The speech holds samples that are not numbers (NaN or infinity); export it again.")
    return Waveform(samples)


def _fitted(samples: np.ndarray, wanted: int) -> np.ndarray:
    """The resampler's filter may end a few samples early or late; bring it to the exact length."""
    return np.pad(samples[:wanted], (0, max(0, wanted - len(samples)))).astype(np.float32)
