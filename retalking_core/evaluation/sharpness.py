"""CPBD: how likely it is that a viewer sees no blur at the edges of a picture.

Narvekar and Karam, "A no-reference image blur metric based on the cumulative probability of blur detection", IEEE TIP
2011, with the edge detectors and thresholds of the public `cpbd` 1.0.7 package (written anew: that package needs
functions that SciPy removed).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.feature import canny

BLOCK_PX = 64
EDGE_SHARE = 0.002  # of a block's pixels, above which it counts as an edge block
# The rows that settle most of a row of blocks. Canny looks six pixels far: Gaussian (four), gradient, neighbour.
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
    """Grey u8 [H, W] -> 0 (blurred, or no edges) .. 1 (sharp)."""
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

    A band through the middle of each row of blocks comes first, with the upper threshold alone: whatever passes it is
    an edge of the whole picture, too, so that blocks with enough of these are settled (all 1,200 of three clips). It
    takes a quarter of the time of the whole picture, which is looked at where a block is not settled.
    """
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


def _walk(image: NDArray[np.float32], rows: NDArray, columns: NDArray) -> NDArray[np.int64]:
    """Pixels from the edge to where the rise ends, to the left plus to the right."""
    return _steps(image, rows, columns, -1) + _steps(image, rows, columns, 1)


def _steps(image: NDArray[np.float32], rows: NDArray, columns: NDArray, way: int) -> NDArray[np.int64]:
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
