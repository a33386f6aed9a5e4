"""Inception-v3 as FID knows it: the weights that TensorFlow's 2015-12-05 graph was converted to.

Szegedy et al., CVPR 2016; used for FID by Heusel et al., NeurIPS 2017. The network is torchvision's with four
differences of the TensorFlow graph: 1008 classes, average pools that leave the border out of their count, a maximum
pool in the very last block, and no auxiliary head. Used by the evaluation only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import inception

FEATURES, SIDE_PX = 2048, 299


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _BlockA(inception.InceptionA):
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(_average(x)),
        ]


class _BlockC(inception.InceptionC):
    def _forward(self, x: Tensor) -> list[Tensor]:
        deep = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return [
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(deep)),
            self.branch_pool(_average(x)),
        ]


class _BlockE(inception.InceptionE):
    def _pool(self, x: Tensor) -> Tensor:
        return _average(x)

    def _forward(self, x: Tensor) -> list[Tensor]:
        wide = self.branch3x3_1(x)
        deep = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return [
            self.branch1x1(x),
            torch.cat([self.branch3x3_2a(wide), self.branch3x3_2b(wide)], 1),
            torch.cat([self.branch3x3dbl_3a(deep), self.branch3x3dbl_3b(deep)], 1),
            self.branch_pool(self._pool(x)),
        ]


class _LastBlockE(_BlockE):
    def _pool(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, stride=1, padding=1)


class FIDInception(inception.Inception3):
    """image `[B, 3, H, W]`, RGB in 0..1, to `[B, 2048]`: the last pooling layer.

    Any size: brought to 299 x 299 here, by bilinear interpolation with half-pixel centers and no antialiasing, as FID
    is defined.
    """

    def __init__(self) -> None:
        super().__init__(num_classes=1008, aux_logits=False, init_weights=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _BlockA(192, 32), _BlockA(256, 64), _BlockA(288, 64)
        self.Mixed_6b, self.Mixed_6c = _BlockC(768, 128), _BlockC(768, 160)
        self.Mixed_6d, self.Mixed_6e = _BlockC(768, 160), _BlockC(768, 192)
        self.Mixed_7b, self.Mixed_7c = _BlockE(1280), _LastBlockE(2048)

    def forward(self, image: Tensor) -> Tensor:
        x = 2 * F.interpolate(image, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False) - 1
        for name, child in self.named_children():
            if name in ("avgpool", "dropout", "fc"):
                break
            x = child(x)
        return x.mean(dim=(2, 3))
