"""LSE-D, LSE-C and AV offset from embeddings of lips and sound.

Chung and Zisserman, "Out of time: automated lip sync in the wild", ACCV-W 2016; named LSE by Prajwal et al., "A lip
sync expert is all you need", ACM MM 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


def score_sync(lips: NDArray[np.floating], sound: NDArray[np.floating], shifts: int) -> SyncScore:
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
