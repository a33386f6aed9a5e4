"""ArcFace IR-SE50: embeds a face for identity similarity (Deng et al., CVPR 2019). The network is facexlib's.

Built directly: facexlib's own `init_recognition_model` moves it to CUDA whatever its device argument says (network
specification, page "arcface"). Used by the evaluation only.
"""

from __future__ import annotations

from facexlib.recognition.arcface_arch import Backbone


class ArcFace(Backbone):
    """image `[B, 3, 112, 112]`, RGB in -1..1, aligned to the five-point template, to `[B, 512]` of unit length."""

    def __init__(self) -> None:
        super().__init__(num_layers=50, drop_ratio=0.6, mode="ir_se")
