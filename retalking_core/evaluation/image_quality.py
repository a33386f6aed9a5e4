"""Image quality measures: SSIM by the toolkit's exact procedure, and CPBD sharpness.

SSIM: Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity",
IEEE TIP 2004, in the variant that scikit-image computes by default (7x7 uniform window, sample covariance).
CPBD: Narvekar and Karam, "A no-reference image blur metric based on the cumulative probability of blur detection", IEEE
TIP 2011, with the edge detectors and thresholds of the public `cpbd` 1.0.7 package, which needs functions that SciPy
removed."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.evaluation.frames import Picture

SIDE_PX = 224
WINDOW_PX, EDGE_PX = 7, 3
N = WINDOW_PX**2
# With window sums in place of means, both fractions are multiplied by N^2, the sample covariance by N (N - 1).
C1, C2 = (0.01 * 255) ** 2 * N**2, (0.03 * 255) ** 2 * N * (N - 1)
ONES = np.ones(WINDOW_PX, np.float32)
Terms = tuple[tuple[NDArray[np.int32], int, float], ...]


def toolkit_gray(picture: Picture) -> NDArray[np.uint8]:
    """The whole frame squeezed to 224 x 224, then gray; u8 [224, 224]."""
    return cv2.cvtColor(cv2.resize(picture, (SIDE_PX, SIDE_PX)), cv2.COLOR_BGR2GRAY)


def similarity(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """SSIM of two gray pictures u8 [H, W] of one size, -1..1; 1 for equal ones."""
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


BLOCK_PX = 64
EDGE_SHARE = 0.002  # of a block's pixels, above which it counts as an edge block
# The rows that settle most of a row of blocks. Canny looks six pixels far: Gaussian (four), gradient, neighbor.
BAND_EDGE_PX = 6
BAND = slice(22, 42)
CONTRAST_STEP, NARROW, WIDE = 50, 3, 5  # just-noticeable blur in pixels, at high and at low contrast
BETA = 3.6
UNSEEN = 64  # buckets 0..63: blur is seen with a probability below 63 %
REACH = 101
# Probability in percent that the blur of an edge of a width is seen, by just-noticeable width and width in pixels.
BUCKETS = {
    noticeable: np.round(100 * (1 - np.exp(-((np.arange(2 * REACH + 1) / noticeable) ** BETA)))).astype(np.int64)
    for noticeable in (NARROW, WIDE)
}


def cpbd(gray: NDArray[np.uint8]) -> float:
    """Gray u8 [H, W] -> 0 (blurred, or no edges) .. 1 (sharp)."""
    rows, columns = (side // BLOCK_PX for side in gray.shape)
    if rows == 0 or columns == 0:
        return 0.0
    has_edges, widths = _edge_blocks(gray, rows, columns), _edge_widths(gray)
    counts = np.zeros(101, np.int64)
    for row in range(rows):
        for column in range(columns):
            block = np.s_[row * BLOCK_PX : (row + 1) * BLOCK_PX, column * BLOCK_PX : (column + 1) * BLOCK_PX]
            if not has_edges[row, column]:
                continue
            contrast = int(gray[block].max()) - int(gray[block].min())
            noticeable = WIDE if contrast <= CONTRAST_STEP else NARROW
            found = widths[block]
            counts += np.bincount(BUCKETS[noticeable][found[found > 0]], minlength=101)
    total = counts.sum()
    return float(counts[:UNSEEN].sum() / total) if total else 0.0


def _edge_blocks(gray: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.bool_]:
    """Which blocks show more than a few of Canny's edges, bool [rows, columns].

    A band through the middle of each row of blocks comes first, with the upper threshold alone: what passes it is
    an edge of the whole picture, too, so that blocks with enough of these are settled (all 1,200 of three clips). It
    takes a quarter of the time of the whole picture, which is looked at where a block is not settled.
    """
    from skimage.feature import canny  # with scipy.ndimage 0.3 s of CPU time, which the start of a worker need not pay

    bands = gray[: rows * BLOCK_PX].reshape(rows, BLOCK_PX, -1)[:, BAND]
    strong = canny(
        bands.reshape(-1, gray.shape[1]).astype(np.float64), sigma=1.0, low_threshold=0.2, high_threshold=0.2
    )
    strong = strong.reshape(bands.shape)[:, BAND_EDGE_PX:-BAND_EDGE_PX]
    strong[:, :, :BAND_EDGE_PX] = strong[:, :, -BAND_EDGE_PX:] = False
    settled = _count_by_block(strong, columns) > EDGE_SHARE * BLOCK_PX**2
    if settled.all():
        return settled
    edges = canny(gray.astype(np.float64), sigma=1.0, low_threshold=0.1, high_threshold=0.2)
    edges = edges[: rows * BLOCK_PX].reshape(rows, BLOCK_PX, -1)
    return _count_by_block(edges, columns) > EDGE_SHARE * BLOCK_PX**2


def _count_by_block(edges: NDArray[np.bool_], columns: int) -> NDArray[np.int64]:
    """bool [rows, height, width] -> how many lie in each block of a row, i64 [rows, columns]."""
    whole = edges[:, :, : columns * BLOCK_PX]
    return whole.reshape(*whole.shape[:2], columns, BLOCK_PX).sum(axis=(1, 3))


def _sobel_edges(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Thinned vertical edges: horizontal gradient strength, local maxima along the row or the column.

    Strengths are multiples of 1/64 below 2^16: exact in float32. Only their mean is not, and is taken in float64.
    """
    strength = (cv2.Sobel(image, cv2.CV_32F, 1, 0, borderType=cv2.BORDER_REPLICATE) / 8) ** 2
    strength[strength <= 2 * np.sqrt(strength.mean(dtype=np.float64))] = 0
    framed = np.pad(strength, 1)
    middle = framed[1:-1, 1:-1]
    across = (middle > framed[1:-1, :-2]) & (middle > framed[1:-1, 2:])
    along = (middle > framed[:-2, 1:-1]) & (middle > framed[2:, 1:-1])
    return across | along


def _edge_widths(gray: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Width in pixels at every vertical edge inside the picture, 0 elsewhere; i64 [H, W]."""
    image = gray.astype(np.float32)
    edges = _sobel_edges(image)
    edges[[0, -1], :] = edges[:, [0, -1]] = False
    rows, columns = np.nonzero(edges)
    down = image[rows + 1, columns] - image[rows - 1, columns]
    across = image[rows, columns + 1] - image[rows, columns - 1]
    # Direction of the gradient, rounded to 45 degrees; a level row counts as 0.
    angle = np.where(across == 0, 0.0, 45 * np.round(np.degrees(np.arctan2(down, across, dtype=np.float64)) / 45))
    widths = np.zeros(gray.shape, np.int64)
    for sign, chosen in ((1, angle == 0), (-1, np.abs(angle) == 180)):
        places = rows[chosen], columns[chosen]
        widths[places] = _walk(sign * image, *places)
    return widths


def _walk(image: NDArray[np.float32], rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.int64]:
    """Pixels from the edge to where the rise ends, to the left plus to the right."""
    return _steps(image, rows, columns, -1) + _steps(image, rows, columns, 1)


def _steps(image: NDArray[np.float32], rows: NDArray[Any], columns: NDArray[Any], way: int) -> NDArray[np.int64]:
    """1 + the first m in 0..100 at which the picture ends, or stops falling to the left (rising to the right)."""
    steps = np.full(len(rows), REACH, np.int64)
    walking = np.arange(len(rows))
    for m in range(REACH):
        row, far = rows[walking], columns[walking] + way * (2 + m)
        inside = (far >= 0) & (far < image.shape[1])
        near = columns[walking] + way * (1 + m)
        rise = way * (image[row, np.clip(far, 0, image.shape[1] - 1)] - image[row, near])
        stopped = ~inside | (rise <= 0)
        steps[walking[stopped]] = m + 1
        walking = walking[~stopped]
        if len(walking) == 0:
            break
    return steps
