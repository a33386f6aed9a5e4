"""Synchronization scores: mouth opening against a signal, and SyncNet's LSE-D, LSE-C and AV offset.

LSE: Chung and Zisserman, "Out of time: automated lip sync in the wild", ACCV-W 2016; named by Prajwal et al., "A lip
sync expert is all you need", ACM MM 2020."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retalking_core.audio.phones import Viseme
from retalking_core.audio.visemes import VisemeTrack, bilabial_holds

MAX_LAG = 10
LEAST_FRAMES = 12
# Fewer bilabials say little, and unclear sounds nothing.
LEAST_BILABIALS, LEAST_CONFIDENCE = 3, 0.5
# A mouth is shut where the inner lips are this near, in heights of the face, at most this long beside the sound.
SHUT_GAP, SHUT_WITHIN_S = 0.015, 0.04


@dataclass(frozen=True)
class MouthSync:
    """Pearson correlation at the best lag, the lag in frames (positive: the mouth is late), and r without any shift."""

    correlation: float
    lag_frames: int
    correlation_unshifted: float
    frames: int


def measure_sync(mouth: NDArray[np.float32], reference: NDArray[np.float32]) -> MouthSync | str:
    """Mouth opening [M] (NaN: not seen) against a reference [M], or a sentence that says why it cannot be measured.

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


@dataclass(frozen=True)
class LipAgreement:
    """bilabials: how many p, b and m were heard for sure while the mouth was seen. shut: at how many it was shut.
    unseen: further ones without a face. confidence: mean of the sounds. median_gap: of the bilabials' smallest gaps."""

    bilabials: int
    shut: int
    unseen: int
    confidence: float
    median_gap: float

    @property
    def share(self) -> float:
        return self.shut / self.bilabials

    @property
    def detail(self) -> dict[str, float]:
        return dict(vars(self))


def measure_agreement(gap: NDArray[np.float32], fps: float, track: VisemeTrack) -> LipAgreement | str:
    """Inner-lip gap in face heights [M] (NaN: not seen) against the visemes of the speech, or why it says nothing."""
    holds = bilabial_holds(track)
    if len(holds) < LEAST_BILABIALS:
        return f"{len(holds)} p, b or m are heard for sure in the speech, {LEAST_BILABIALS} are needed"
    sounds = track.posteriors.argmax(axis=1) != Viseme.SILENCE
    confidence = float(track.confidence[sounds].mean())
    if confidence < LEAST_CONFIDENCE:
        return f"the sounds of the speech are unclear: confidence {confidence:.2f}, {LEAST_CONFIDENCE} is needed"
    times_s = (np.arange(len(gap)) + 0.5) / fps
    shown = [gap[(times_s >= start - SHUT_WITHIN_S) & (times_s <= end + SHUT_WITHIN_S)] for start, end in holds]
    smallest = np.array([np.nanmin(gaps) for gaps in shown if np.isfinite(gaps).any()])
    if len(smallest) < LEAST_BILABIALS:
        return f"the mouth is seen at {len(smallest)} of {len(holds)} p, b or m, {LEAST_BILABIALS} are needed"
    shut = int((smallest <= SHUT_GAP).sum())
    return LipAgreement(len(smallest), shut, len(holds) - len(smallest), confidence, float(np.median(smallest)))


def _correlation(mouth: NDArray[Any], reference: NDArray[Any], lag: int, seen: int) -> float | None:
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


PAIRWISE_EPS = 1e-6  # torch's pairwise distance adds it to the difference


@dataclass(frozen=True)
class SyncScore:
    """distance: LSE-D, lower is better. confidence: LSE-C, higher is better. offset_frames: `shifts - argmin`, 0 in
    sync; positive: the picture comes after the sound.

    curve: f64 [2 * shifts + 1], mean distance at each shift; entry k pairs window v with sound window v + k - shifts.
    window_distances: f64 [n], each window's distance at the best shift.
    """

    distance: float
    confidence: float
    offset_frames: int
    curve: NDArray[np.float64]
    window_distances: NDArray[np.float64]

    @property
    def shifts(self) -> int:
        return len(self.curve) // 2


def score_sync(lips: NDArray[np.floating[Any]], sound: NDArray[np.floating[Any]], shifts: int) -> SyncScore:
    """Embeddings [n, d] each, of the same windows. Beyond the ends the sound is zero vectors, as in the original; they
    are part of the means. Raises ValueError without windows or for shapes that disagree."""
    if len(lips) == 0 or lips.shape != sound.shape:
        raise ValueError(f"embeddings {lips.shape} and {sound.shape} are not of the same windows")
    lips, padded = lips.astype(np.float64), np.pad(sound.astype(np.float64), ((shifts, shifts), (0, 0)))
    distances = np.stack(
        [np.linalg.norm(lips - padded[k : k + len(lips)] + PAIRWISE_EPS, axis=1) for k in range(2 * shifts + 1)],
        axis=1,
    )
    curve = distances.mean(axis=0)
    best = int(curve.argmin())
    return SyncScore(
        distance=float(curve[best]),
        confidence=float(np.median(curve) - curve[best]),
        offset_frames=shifts - best,
        curve=curve,
        window_distances=distances[:, best],
    )
