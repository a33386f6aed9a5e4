"""RetinaFace with a ResNet-50: boxes and five points of every face (Deng et al., CVPR 2020). The network is facexlib's.

Compared with the original on the same weights (network specification, page "retinaface"): same keys, difference 0. The
detection code around the network differs from the original's in ways that page lists.
"""

from __future__ import annotations

import warnings

import torch
from facexlib.detection.retinaface import RetinaFace as FacexlibRetinaFace


class RetinaFace(FacexlibRetinaFace):
    """image `[B, 3, H, W]`, BGR in 0..255 minus (104, 117, 123), to raw (boxes `[B, N, 4]`, probabilities `[B, N, 2]`,
    landmarks `[B, N, 10]`). `detect_faces` takes a BGR u8 picture and decodes.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            # facexlib still says `pretrained=False`; torchvision renamed the argument.
            warnings.simplefilter("ignore", UserWarning)
            super().__init__("resnet50", device=torch.empty(0).device)

    def detect_faces(self, *args: object, **kwargs: object) -> object:
        # facexlib remembers the device of its construction; the weights may have moved since.
        self.device = next(self.parameters()).device
        self.mean_tensor = torch.tensor([104.0, 117.0, 123.0], device=self.device).view(1, 3, 1, 1)
        return super().detect_faces(*args, **kwargs)
