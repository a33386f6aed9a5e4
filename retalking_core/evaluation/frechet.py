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

    With S1 = A'A and S2 = B'B, tr sqrt(S1 S2) is the sum of the singular values of A B': real and not negative, so that
    no complex square root of a singular product appears and nothing has to be dropped. For few samples that matrix is
    small: 100 frames take milliseconds where the square root of a 2048 x 2048 product takes 20 s.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError("a covariance needs at least two samples")
    shift = one.astype(np.float64).mean(axis=0) - other.astype(np.float64).mean(axis=0)
    first, second = _factor(one), _factor(other)
    cross = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    return float(max(0.0, shift @ shift + (first**2).sum() + (second**2).sum() - 2 * cross))


def _factor(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """A with A'A the unbiased covariance, of no more rows than columns."""
    centred = features.astype(np.float64)
    centred = (centred - centred.mean(axis=0)) / np.sqrt(len(features) - 1)
    return centred if len(centred) <= centred.shape[1] else np.linalg.qr(centred, mode="r")
