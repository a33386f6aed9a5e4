"""The inner edge of the lips by color, where the landmark model mistakes teeth for lip.

The 68-point model was trained on gray pictures and often puts the inner lower lip on the upper rim of the lower teeth.
Closing such a mouth would leave the teeth standing between the lips. Lips are redder than teeth and lighter than the
dark of the mouth, so walking from the middle of a lip towards the mouth finds its edge.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.faces.landmarks import INNER_PAIRS, Points, face_scale
from retalking_core.types import Frame

UPPER_OUTER, LOWER_OUTER = (50, 51, 52), (58, 57, 56)
SAMPLES = 24
# How far an edge may be moved into its lip, in face scales; a mouth gap below LEAST_GAP is left alone.
UPPER_REACH, LOWER_REACH, LEAST_GAP = 0.025, 0.07, 0.03
# Levels of V (redness) by which lips must differ from the inside of the mouth to be told apart.
LEAST_CONTRAST = 6.0


def refine_lips(frame: Frame, marks: Points) -> Points:
    """Landmarks (px, 68 x 2) with the six inner-lip points moved onto the color edge, where there is one."""
    scale = float(face_scale(marks))
    upper, lower = [pair[0] for pair in INNER_PAIRS], [pair[1] for pair in INNER_PAIRS]
    gaps = np.linalg.norm(marks[lower] - marks[upper], axis=1)
    if gaps.max() < LEAST_GAP * scale:
        return marks
    refined = marks.copy()
    middle = (marks[upper] + marks[lower]) / 2
    for inner, outer, reach in ((lower, LOWER_OUTER, LOWER_REACH), (upper, UPPER_OUTER, UPPER_REACH)):
        lip = (marks[inner] + marks[list(outer)]) / 2
        steps = _inward_steps(frame, lip, middle)
        if steps is None:
            continue
        edge = lip + (middle - lip) * steps[:, None]
        # Only into the lip: what the model took for mouth is mouth.
        outward = lip - middle
        length = np.maximum(np.linalg.norm(outward, axis=1), 1e-3)
        shift = ((edge - marks[inner]) * outward).sum(axis=1) / length
        shift = np.clip(shift, 0, np.minimum(reach * scale, 0.6 * np.linalg.norm(lip - marks[inner], axis=1) * 2))
        refined[inner] += (shift / length)[:, None] * outward
    return refined


def _inward_steps(frame: Frame, lip: Points, middle: Points) -> NDArray[np.float32] | None:
    """Share of the way from the middle of the lip to the middle of the mouth at which lip ends, f32 [3], 0..1."""
    share = np.linspace(0, 1, SAMPLES, dtype=np.float32)
    places = lip[:, None] + (middle - lip)[:, None] * share[None, :, None]
    x, y = np.ascontiguousarray(places[..., 0]), np.ascontiguousarray(places[..., 1])
    luma = cv2.remap(frame.y, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    red = cv2.remap(frame.v, (x - 0.5) / 2, (y - 0.5) / 2, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    red = cv2.GaussianBlur(red.astype(np.float32), (3, 1), 0)
    lip_red, lip_luma = _at_share(red[:, :4], 0.5), _at_share(luma[:, :4], 0.5)
    contrast = lip_red - _at_share(red, 0.05)
    pale = red < lip_red - max(0.55 * contrast, LEAST_CONTRAST / 2) if contrast >= LEAST_CONTRAST else red < 0
    dark = luma < 0.55 * lip_luma
    outside = pale | dark
    if not outside.any():
        return None
    first = np.where(outside.any(axis=1), outside.argmax(axis=1), SAMPLES - 1)
    return share[first]


def _at_share(values: NDArray[np.float32], share: float) -> float:
    """The quantile, linear between two values (`np.quantile` takes ten times as long for so few)."""
    ordered = np.sort(values, axis=None)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (ordered[high] - ordered[low]) * (place - low))
