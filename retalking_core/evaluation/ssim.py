"""Structural similarity, by the toolkit's exact procedure.

Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity", IEEE
TIP 2004, in the variant that scikit-image computes by default (7x7 uniform window, sample covariance).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.evaluation.bgr_frames import Picture

SIDE_PX = 224
WINDOW_PX, EDGE_PX = 7, 3
N = WINDOW_PX**2
# With window sums in place of means, both fractions are multiplied by N^2, the sample covariance by N (N - 1).
C1, C2 = (0.01 * 255) ** 2 * N**2, (0.03 * 255) ** 2 * N * (N - 1)
ONES = np.ones(WINDOW_PX, np.float32)
Terms = tuple[tuple[NDArray[np.int32], int, float], ...]


def toolkit_gray(picture: Picture) -> NDArray[np.uint8]:
    """The whole frame squeezed to 224 x 224, then grey; u8 [224, 224]."""
    return cv2.cvtColor(cv2.resize(picture, (SIDE_PX, SIDE_PX)), cv2.COLOR_BGR2GRAY)


def similarity(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """SSIM of two grey pictures u8 [H, W] of one size, -1..1; 1 for equal ones."""
    return SimilarityMeter(one.shape)(one, other)


class SimilarityMeter:
    """`similarity` for many pairs of one size (height, width).

    Sums of bytes, of their squares and of their products over 49 pixels stay below 2^24, and what is made of them below
    2^31: everything up to the last quotient is exact in float32 and int32. The arrays are kept, because fresh ones cost
    more than the arithmetic: 2.0 against 0.7 ms a pair (their pages have to be mapped each time).
    """

    def __init__(self, size: tuple[int, int]) -> None:
        height, width = size
        inside = (height - 2 * EDGE_PX, width - 2 * EDGE_PX)
        self._values = [np.empty(size, np.float32) for _ in range(4)]
        self._filtered = np.empty(size, np.float32)
        self._sums = [np.empty(inside, np.int32) for _ in range(6)]
        self._factors = [np.empty(inside, np.float64) for _ in range(3)]

    def __call__(self, one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
        x, y, products, energies = self._values
        x[...], y[...] = one, other
        np.multiply(x, y, out=products)
        np.multiply(x, x, out=energies)
        energies += np.multiply(y, y, out=self._filtered)
        sum_x, sum_y, covariance, variances, product, squares = self._sums
        # Sums over 7 x 7 pixels, at every place where the window lies inside.
        for picture, sums in ((one, sum_x), (other, sum_y)):
            table = cv2.integral(picture)
            np.subtract(table[WINDOW_PX:, WINDOW_PX:], table[:-WINDOW_PX, WINDOW_PX:], out=sums)
            np.subtract(sums, table[WINDOW_PX:, :-WINDOW_PX], out=sums)
            np.add(sums, table[:-WINDOW_PX, :-WINDOW_PX], out=sums)
        for values, sums in ((products, covariance), (energies, variances)):
            cv2.sepFilter2D(values, cv2.CV_32F, ONES, ONES, dst=self._filtered)
            sums[...] = self._filtered[EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX]
        np.multiply(sum_x, sum_y, out=product)
        np.add(np.multiply(sum_x, sum_x, out=sum_x), np.multiply(sum_y, sum_y, out=sum_y), out=squares)
        covariance *= N
        covariance -= product
        variances *= N
        variances -= squares
        return self._quotient(((product, 2, C1), (covariance, 2, C2)), ((squares, 1, C1), (variances, 1, C2)))

    def _quotient(self, above: Terms, below: Terms) -> float:
        """Mean of a product of (values * factor + constant) over another."""
        upper, lower, factor = self._factors
        for (one, other), product in ((above, upper), (below, lower)):
            for (values, times, constant), into in ((one, product), (other, factor)):
                np.add(np.multiply(values, times, out=values), constant, out=into)
            np.multiply(product, factor, out=product)
        upper /= lower
        return float(upper.mean())
