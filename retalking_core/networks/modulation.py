"""Style-modulated convolution (StyleGAN2, Karras et al., CVPR 2020), as ENet, GFPGAN and GPEN use it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STYLE_LENGTH = 512


def demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """1 / √(Σ (w·a)² + 1e-8) over input channels and taps: `[B, Cout]`.

    weight `[Cout, Cin, k, k]`, style `[B, Cin]`. Σ w² over the taps first, so that no weight a sample is ever made.
    Always in float32: the squares leave the range of half precision.
    """
    with torch.autocast(weight.device.type, enabled=False):
        energy = weight.float().square().sum(dim=(2, 3))
        return torch.rsqrt(style.float().square() @ energy.t() + 1e-8)


def scale_channels(x: Tensor, scale: Tensor) -> Tensor:
    """x `[B, C, H, W]` times scale `[B, C]`, in the precision of x."""
    return x * scale[:, :, None, None].to(x.dtype)


class ModulatedConv2d(nn.Module):
    """Stride 1, zero padding, no bias; `up` doubles the picture before (bilinear). `weight` is used as it is, without a
    1/√fan-in factor. GFPGAN's "clean" decoder and ENet have this one.

    The style scales the input and the demodulation the output, which is the same as scaling the weight of each sample,
    and lets the whole batch share one convolution instead of one group a sample.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, demodulate: bool, up: bool = False) -> None:
        super().__init__()
        self.demodulate, self.up, self.padding = demodulate, up, kernel // 2
        self.weight = nn.Parameter(torch.zeros(1, out_channels, in_channels, kernel, kernel))
        self.modulation = nn.Linear(STYLE_LENGTH, in_channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale = self.modulation(style.flatten(1))
        x = scale_channels(x, scale)
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        y = F.conv2d(x, self.weight[0], padding=self.padding)
        return scale_channels(y, demodulation(self.weight[0], scale)) if self.demodulate else y
