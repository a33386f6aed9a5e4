"""GANimation's generator: edits the upper face by action units, 128x128 (Pumarola et al., ECCV 2018).

Specified in the network specification, page "ganimation".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class GANimationOutput(NamedTuple):
    """color `[B, 3, 128, 128]` in -1..1; attention `[B, 1, 128, 128]` in 0..1, high where the input is kept; composed
    `[B, 3, 128, 128]`: attention·image + (1 - attention)·color."""

    color: Tensor
    attention: Tensor
    composed: Tensor


class ResidualBlock(nn.Module):
    """x + IN(conv(ReLU(IN(conv(x))))), no activation after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


def _normed(conv: nn.Module, channels: int) -> list[nn.Module]:
    """The instance norm has neither parameters nor running statistics: each sample is normalized by its own."""
    return [conv, nn.InstanceNorm2d(channels), nn.ReLU()]


class GANimation(nn.Module):
    """image `[B, 3, 128, 128]` in -1..1, action_units `[B, 17]`: AU01 02 04 05 06 07 09 10 12 14 15 17 20 23 25 26 45.

    The network was trained on RGB; the lip-sync method it is specified from feeds BGR. The caller decides.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *_normed(nn.Conv2d(3 + 17, 64, 7, padding=3), 64),
            *_normed(nn.Conv2d(64, 128, 4, stride=2, padding=1), 128),
            *_normed(nn.Conv2d(128, 256, 4, stride=2, padding=1), 256),
            *(ResidualBlock(256) for _ in range(6)),
            *_normed(nn.ConvTranspose2d(256, 128, 4, stride=2, padding=1), 128),
            *_normed(nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1), 64),
        )
        self.color_top = nn.Sequential(nn.Conv2d(64, 3, 7, padding=3, bias=False), nn.Tanh())
        self.au_top = nn.Sequential(nn.Conv2d(64, 1, 7, padding=3, bias=False), nn.Sigmoid())

    def forward(self, image: Tensor, action_units: Tensor) -> GANimationOutput:
        planes = action_units[:, :, None, None].expand(-1, -1, *image.shape[-2:])
        embedding = self.model(torch.cat([image, planes], dim=1))
        color, attention = self.color_top(embedding), self.au_top(embedding)
        return GANimationOutput(color, attention, attention * image + (1 - attention) * color)
