"""2DFAN4: heat maps of 68 landmarks (Bulat and Tzimiropoulos, ICCV 2017). The network is face-alignment's.

Compared with the release the original pins, on the same weights (network specification, page "fan2d"): difference 0
with `flip_input=False`.
"""

from __future__ import annotations

from face_alignment.models import FAN


class FAN2D(FAN):
    """image `[B, 3, 256, 256]`, RGB in 0..1, to four sets of heat maps `[B, 68, 64, 64]`, of which the last counts."""

    def __init__(self) -> None:
        super().__init__(4)
