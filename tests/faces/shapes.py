"""A frontal face drawn from numbers, for tests that need exact landmarks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def frontal_face(mouth_gap: float = 0.0) -> NDArray[np.float32]:
    """68 iBUG points of a symmetric face, f32 [68, 2] px, eyes 100 px apart, nose base at (200, 200).

    mouth_gap: px between the inner lips in the middle.
    """
    points = np.zeros((68, 2))
    turn = np.linspace(np.pi, 0, 17)
    points[:17] = np.stack([200 + 72 * np.cos(turn), 165 + 115 * np.sin(turn)], axis=1)
    points[17:22] = [[145, 135], [155, 128], [166, 126], [176, 128], [186, 132]]
    points[22:27] = [[214, 132], [224, 128], [234, 126], [245, 128], [255, 135]]
    points[27:31] = [[200, 150], [200, 162], [200, 174], [200, 186]]
    points[31:36] = [[186, 194], [193, 198], [200, 200], [207, 198], [214, 194]]
    points[36:42] = [[150, 150], [158, 145], [168, 145], [176, 151], [168, 154], [158, 154]]
    points[42:48] = [[224, 151], [232, 145], [242, 145], [250, 150], [242, 154], [232, 154]]
    half = mouth_gap / 2
    points[48:55] = [
        [165, 230],
        [178, 223 - half],
        [191, 219 - half],
        [200, 221 - half],
        [209, 219 - half],
        [222, 223 - half],
        [235, 230],
    ]
    points[55:60] = [[222, 240 + half], [211, 245 + half], [200, 246 + half], [189, 245 + half], [178, 240 + half]]
    points[60:65] = [[170, 230], [188, 230 - 0.84 * half], [200, 230 - half], [212, 230 - 0.84 * half], [230, 230]]
    points[65:68] = [[212, 230 + 0.84 * half], [200, 230 + half], [188, 230 + 0.84 * half]]
    return points.astype(np.float32)
