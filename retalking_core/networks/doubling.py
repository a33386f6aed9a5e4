"""A picture doubled and convolved 3x3, without ever making the doubled picture.

Four output pixels stand for one input pixel. Each sees the same few input pixels through weights of its own, so that
one convolution of the small picture with four times the channels gives all four; `_interleaved` puts them in their
places (the sub-pixel convolution of Shi et al., CVPR 2016).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retalking_core.networks.convolutions import convolution_of

# [phase, input pixel, tap]: how much of each of a kernel's three taps falls on each input pixel, in even and in odd
# output pixels. A bilinear x2 puts a pixel at 1/4 and 3/4 between two input pixels (aligned corners off).
NEAREST = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))
BILINEAR = (
    ((0.75, 0.25, 0), (0.25, 0.75, 0.75), (0, 0, 0.25)),
    ((0.25, 0, 0), (0.75, 0.75, 0.25), (0, 0.25, 0.75)),
)
Taps = tuple[tuple[tuple[float, ...], ...], ...]


class DoublingConv2d(nn.Module):
    """`[B, C, H, W]` to `[B, O, 2H, 2W]`: what a 3x3 convolution of the doubled picture gives.

    weight: that convolution's, `[O, C, 3, 3]`; bias `[O]`. taps: NEAREST, for a convolution that reflects the doubled
    picture, of which 4 of 9 products are left; or BILINEAR, for one that pads it with zeros, and then not exact on the
    outermost pixel. Beyond the small picture its edge is repeated.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, taps: Taps) -> None:
        super().__init__()
        shares = weight.new_tensor(taps)
        phased = torch.einsum("apk,bql,ockl->abocpq", shares, shares, weight).flatten(0, 2)
        self.conv = convolution_of(phased, None if bias is None else bias.repeat(4))
        # Of two input pixels an odd output pixel sees the one behind it, of three the ones on both sides.
        self.odd_starts = 3 - shares.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        return _interleaved(self.conv(F.pad(x, (1, 1, 1, 1), mode="replicate")), self.odd_starts)


class BilinearDoublingConv2d(nn.Module):
    """The bilinear one, exact to the border: what a 3x3 convolution without bias that pads with zeros gives.

    The outermost pixels are computed from the doubled picture after all, of which they need a strip along each side.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.inside = DoublingConv2d(weight, None, BILINEAR)
        self.strips = convolution_of(weight, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inside(x)
        upper, lower = self._of_doubled(torch.cat([x[:, :, :2], x[:, :, -2:]])).chunk(2)
        left, right = self._of_doubled(torch.cat([x[:, :, :, :2], x[:, :, :, -2:]])).chunk(2)
        rows = torch.arange(y.shape[2], device=y.device)[:, None]
        columns = torch.arange(y.shape[3], device=y.device)
        y = torch.where(columns == 0, left[:, :, :, :1], y)
        y = torch.where(columns == y.shape[3] - 1, right[:, :, :, -1:], y)
        y = torch.where(rows == 0, upper[:, :, :1], y)
        return torch.where(rows == y.shape[2] - 1, lower[:, :, -1:], y)

    def _of_doubled(self, strip: Tensor) -> Tensor:
        return self.strips(F.interpolate(strip, scale_factor=2, mode="bilinear", align_corners=False))


def _interleaved(phases: Tensor, odd_starts: int) -> Tensor:
    """`[B, 4 O, H + s, W + s]`, channels (row phase, column phase, o), to `[B, O, 2 H, 2 W]`; odd phases begin at s.

    By index and not by copies, so that the compiler reads it from within what follows.
    """
    height, width = (2 * (size - odd_starts) for size in phases.shape[2:])
    rows = torch.arange(height, device=phases.device)[:, None]
    columns = torch.arange(width, device=phases.device)[None]
    phase = 2 * (rows % 2) + columns % 2
    rows, columns = (at // 2 + odd_starts * (at % 2) for at in (rows, columns))
    return phases.unflatten(1, (4, -1))[:, phase, :, rows, columns].permute(2, 3, 0, 1)
