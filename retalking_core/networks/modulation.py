"""Style-modulated convolution (StyleGAN2, Karras et al., CVPR 2020), as ENet, GFPGAN and GPEN use it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retalking_core.networks.doubling import BilinearDoublingConv2d

STYLE_LENGTH = 512
SLOPE = 0.2


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
        self.doubling: nn.Module | None = None

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale = self.modulation(style.flatten(1))
        x = scale_channels(x, scale)
        if self.doubling is not None:
            y = self.doubling(x)
        else:
            if self.up:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            y = F.conv2d(x, self.weight[0], padding=self.padding)
        return scale_channels(y, demodulation(self.weight[0], scale)) if self.demodulate else y

    def double_within(self, to_the_border: bool) -> None:
        """Doubling and convolution in one; unless `to_the_border`, the outermost pixel of the result is another."""
        if self.doubling is None:
            exact = BilinearDoublingConv2d(self.weight[0])
            self.doubling = exact if to_the_border else exact.inside


class StyleConv(nn.Module):
    """Modulated 3x3 times √2, plus noise, plus bias, activation: in this order. In the precision of the convolution.

    noise `[B or 1, 1, H, W]` at the size of the output, standard normal; None leaves it out.
    """

    def __init__(self, in_channels: int, out_channels: int, up: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))  # noise strength
        self.bias = nn.Parameter(torch.zeros(1, out_channels, 1, 1))
        self.modulated_conv = ModulatedConv2d(in_channels, out_channels, 3, demodulate=True, up=up)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None = None) -> Tensor:
        drawn = self.modulated_conv(x, style)
        y = drawn * math.sqrt(2)
        if noise is not None:
            y = y + self.weight * noise
        # Noise and bias are float32; what is kept of the sum is half as large in half precision.
        return F.leaky_relu(y + self.bias, SLOPE).to(drawn.dtype)
