"""How well the mouth on the finished file follows a signal, and how late it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_LAG = 10
LEAST_FRAMES = 12


@dataclass(frozen=True)
class MouthSync:
    """Pearson correlation at the best lag, the lag in frames (positive: the mouth is late), and r without any shift."""

    correlation: float
    lag_frames: int
    correlation_unshifted: float
    frames: int


def measure_sync(mouth: NDArray[np.float32], reference: NDArray[np.float32]) -> MouthSync | str:
    """Mouth opening [M] (NaN: not seen) against a reference [M], or a sentence that says why it can not be measured.

    Lags -10..10 are tried; each needs at least 12 frames on which the mouth was seen and half of all that were.
    """
    length = min(len(mouth), len(reference))
    mouth, reference = mouth[:length].astype(np.float64), reference[:length].astype(np.float64)
    seen = int(np.isfinite(mouth).sum())
    if seen < LEAST_FRAMES:
        return f"the mouth was seen on {seen} frames, {LEAST_FRAMES} are needed"
    scores = {lag: _correlation(mouth, reference, lag, seen) for lag in range(-MAX_LAG, MAX_LAG + 1)}
    known = {lag: value for lag, value in scores.items() if value is not None}
    unshifted = scores[0]
    if not known or unshifted is None:
        return "the mouth or the signal it should follow does not move"
    best = max(known, key=lambda lag: (round(known[lag], 6), -abs(lag)))
    return MouthSync(known[best], best, unshifted, seen)


def _correlation(mouth: NDArray, reference: NDArray, lag: int, seen: int) -> float | None:
    """Pearson r of mouth[t + lag] with reference[t]; None where it is not defined."""
    late = mouth[max(0, lag) : len(mouth) + min(0, lag)]
    early = reference[max(0, -lag) : len(reference) + min(0, -lag)]
    both = np.isfinite(late) & np.isfinite(early)
    if both.sum() < max(LEAST_FRAMES, seen // 2):
        return None
    late, early = late[both], early[both]
    if late.std() < 1e-5 or early.std() < 1e-5:
        return None
    return float(np.corrcoef(late, early)[0, 1])
