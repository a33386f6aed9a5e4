"""Deep3D: 257 3DMM coefficients of an aligned face (Deng et al., CVPR-W 2019).

A ResNet-50 without classifier and seven linear heads. Specified in the network specification, page "deep3d", where
torchvision's ResNet was found equal bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import resnet50

# identity, expression, texture, Euler angles (radians), lighting, translation x and y, translation z
HEADS = (80, 64, 80, 3, 27, 2, 1)
FEATURES = 2048


class Deep3D(nn.Module):
    """image `[B, 3, 224, 224]`, RGB in 0..1, *not* normalised by ImageNet's statistics, to coefficients `[B, 257]`."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = resnet50(weights=None)
        self.backbone.fc = nn.Identity()
        self.final_layers = nn.ModuleList(nn.Conv2d(FEATURES, length, 1) for length in HEADS)

    def forward(self, image: Tensor) -> Tensor:
        pooled = self.backbone(image)[:, :, None, None]
        return torch.cat([head(pooled) for head in self.final_layers], dim=1).flatten(1)
