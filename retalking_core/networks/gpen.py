"""GPEN-BFR-512: restores a face, 512x512 (Yang et al., CVPR 2021).

An encoder's feature maps are concatenated into a StyleGAN2 generator where that has noise. Specified in the network
specification, page "gpen512". FIR filter and fused activation are written in plain torch: no extension is compiled.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retalking_core.networks.layers import demodulation, scale_channels

STYLE_LENGTH = 512
MAPPING_RATE = 0.01
CHANNELS = {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64}


def _leaky(x: Tensor) -> Tensor:
    """√2 keeps the variance that the activation takes away."""
    return math.sqrt(2) * F.leaky_relu(x, 0.2)


class FirFilter(nn.Module):
    """Convolution of every channel with (1, 3, 3, 1)/8 ⊗ (1, 3, 3, 1)/8 · gain, after inserting `up` - 1 zeros behind
    every sample and padding (before, after) with zeros.

    Computed axis by axis as sums of shifted copies, which a compiler merges into one pass; a grouped convolution with
    one channel a group is the slowest kernel of the whole network.
    """

    kernel: Tensor

    def __init__(self, padding: tuple[int, int], up: int = 1, gain: float = 1) -> None:
        super().__init__()
        self.padding, self.up, self.gain = padding, up, gain
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", torch.outer(taps, taps) * gain)

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.padding
        if self.up > 1:
            x = self._insert_zeros(x)
        x = F.pad(x, (before, after, before, after))
        return _filter_axis(_filter_axis(x, 3), 2) * self.gain

    def _insert_zeros(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        wide = x.new_zeros(batch, channels, height * self.up, width * self.up)
        wide[:, :, :: self.up, :: self.up] = x
        return wide


def _filter_axis(x: Tensor, axis: int) -> Tensor:
    """(1, 3, 3, 1)/8 along an axis, three samples shorter."""
    count = x.shape[axis] - 3
    first, second, third, fourth = (x.narrow(axis, start, count) for start in range(4))
    return (first + fourth + 3 * (second + third)) / 8


class FusedLeakyReLU(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return _leaky(x + self.bias[:, None, None].to(x.dtype))


class ScaledLinear(nn.Module):
    """Linear layer with the weight divided by √in, both parameters times `rate`, and optionally the activation."""

    def __init__(self, in_features: int, out_features: int, rate: float = 1, activate: bool = False) -> None:
        super().__init__()
        self.scale, self.rate, self.activate = rate / math.sqrt(in_features), rate, activate
        self.weight = nn.Parameter(torch.zeros(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight * self.scale, self.bias * self.rate)
        return _leaky(y) if self.activate else y


class ScaledConv2d(nn.Module):
    """Convolution without bias, its weight divided by √fan-in."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.scale = stride, 1 / math.sqrt(in_channels * kernel**2)
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, kernel, kernel))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, stride=self.stride)


class PixelNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


class ModulatedConv2d(nn.Module):
    """Modulated convolution; `up` doubles the size by a transposed convolution and a FIR filter.

    The style scales the input and the demodulation the output, which is the same as scaling the weight of each sample,
    and lets the whole batch share one convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, demodulate: bool, up: bool = False) -> None:
        super().__init__()
        self.demodulate, self.padding = demodulate, kernel // 2
        self.scale = 1 / math.sqrt(in_channels * kernel**2)
        self.weight = nn.Parameter(torch.zeros(1, out_channels, in_channels, kernel, kernel))
        self.blur = FirFilter((1, 1), gain=4) if up else None
        self.modulation = ScaledLinear(STYLE_LENGTH, in_channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale = self.modulation(style)
        weight = self.weight[0] * self.scale
        x = scale_channels(x, scale)
        if self.blur is None:
            y = F.conv2d(x, weight, padding=self.padding)
        else:
            y = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        return scale_channels(y, demodulation(weight, scale)) if self.demodulate else y


class FeatureInjection(nn.Module):
    """Appends the encoder's map, times a learned scalar, to the channels. Stands where StyleGAN2 adds noise."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, feature: Tensor) -> Tensor:
        return torch.cat([x, (self.weight * feature).to(x.dtype)], dim=1)


class StyledConv(nn.Module):
    """Modulated 3x3 to C channels, the encoder's C channels behind them, activation: 2C channels."""

    def __init__(self, in_channels: int, out_channels: int, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, 3, demodulate=True, up=up)
        self.noise = FeatureInjection()
        self.activate = FusedLeakyReLU(2 * out_channels)

    def forward(self, x: Tensor, style: Tensor, feature: Tensor) -> Tensor:
        return self.activate(self.noise(self.conv(x, style), feature))


class ToRGB(nn.Module):
    """Modulated 1x1 to 3 channels, plus bias, plus the picture so far at twice its size (where there is one)."""

    def __init__(self, in_channels: int, up: bool = True) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.upsample = FirFilter((2, 1), up=2, gain=4) if up else None
        self.conv = ModulatedConv2d(in_channels, 3, 1, demodulate=False)

    def forward(self, x: Tensor, style: Tensor, picture: Tensor | None = None) -> Tensor:
        y = self.conv(x, style) + self.bias
        if self.upsample is None or picture is None:
            return y
        return y + self.upsample(picture)


class ConstantInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.zeros(1, CHANNELS[4], 4, 4))

    def forward(self, batch: int) -> Tensor:
        return self.input.expand(batch, -1, -1, -1)


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        mapping = (ScaledLinear(STYLE_LENGTH, STYLE_LENGTH, MAPPING_RATE, activate=True) for _ in range(8))
        self.style = nn.Sequential(PixelNorm(), *mapping)
        self.input = ConstantInput()
        self.conv1 = StyledConv(CHANNELS[4], CHANNELS[4])
        self.to_rgb1 = ToRGB(2 * CHANNELS[4], up=False)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        sizes = list(CHANNELS)
        for below, size in pairwise(sizes):
            channels = CHANNELS[size]
            self.convs.append(StyledConv(2 * CHANNELS[below], channels, up=True))
            self.convs.append(StyledConv(2 * channels, channels))
            self.to_rgbs.append(ToRGB(2 * channels))

    def forward(self, code: Tensor, features: list[Tensor]) -> Tensor:
        """code `[B, 512]`; features: the encoder's maps from 4x4 up to 512x512."""
        style = self.style(code)
        x = self.conv1(self.input(len(code)), style, features[0])
        picture = self.to_rgb1(x, style)
        for i, (to_rgb, feature) in enumerate(zip(self.to_rgbs, features[1:], strict=True)):
            x = self.convs[2 * i](x, style, feature)
            x = self.convs[2 * i + 1](x, style, feature)
            picture = to_rgb(x, style, picture)
        return picture


def _encoder_stage(in_channels: int, out_channels: int) -> nn.Sequential:
    """Filter (size + 1), 3x3 with stride 2, activation: half the size."""
    conv = ScaledConv2d(in_channels, out_channels, 3, stride=2)
    return nn.Sequential(nn.Sequential(FirFilter((2, 2)), conv, FusedLeakyReLU(out_channels)))


class GPEN512(nn.Module):
    """image `[B, 3, 512, 512]`, RGB in -1..1, to the restored face, alike but unbounded."""

    stages = 8

    def __init__(self) -> None:
        super().__init__()
        self.generator = Generator()
        widths = list(reversed(CHANNELS.values()))
        self.ecd0 = nn.Sequential(nn.Sequential(ScaledConv2d(3, widths[0], 1), FusedLeakyReLU(widths[0])))
        for n in range(1, self.stages):
            self.add_module(f"ecd{n}", _encoder_stage(widths[n - 1], widths[n]))
        self.final_linear = nn.Sequential(ScaledLinear(CHANNELS[4] * 4 * 4, STYLE_LENGTH, activate=True))

    def forward(self, image: Tensor) -> Tensor:
        features = []
        x = image
        for n in range(self.stages):
            x = self.get_submodule(f"ecd{n}")(x)
            features.append(x)
        return self.generator(self.final_linear(x.flatten(1)), features[::-1])
