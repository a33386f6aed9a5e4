"""Fréchet distance between two sets of features: the arithmetic of FID.

Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", NeurIPS 2017.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# 2048 features need as many samples for a covariance that has an inverse.
ENOUGH_SAMPLES = 2048


def frechet_distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Features [n, d] and [m, d], at least two of each -> squared distance of the two Gaussians, >= 0.

    tr sqrt(S1 S2) is taken from the eigenvalues of the symmetric sqrt(S1) S2 sqrt(S1), which are the same numbers, and
    are real and not negative up to rounding, so that no complex square root appears and nothing has to be dropped.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError("a covariance needs at least two samples")
    one, other = one.astype(np.float64), other.astype(np.float64)
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    values, vectors = np.linalg.eigh(np.atleast_2d(first))
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    inner = root @ np.atleast_2d(second) @ root
    cross = np.sqrt(np.clip(np.linalg.eigvalsh((inner + inner.T) / 2), 0, None)).sum()
    shift = one.mean(axis=0) - other.mean(axis=0)
    return float(max(0.0, shift @ shift + np.trace(np.atleast_2d(first)) + np.trace(np.atleast_2d(second)) - 2 * cross))
