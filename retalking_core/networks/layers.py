"""Layers that more than one network uses: normalization, spectral norm, fused upsampling, style modulation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def convolution_of(weight: Tensor, bias: Tensor | None = None, padding: int = 0) -> nn.Conv2d:
    """weight `[O, C, k, k]` and bias `[O]` as they are: no memory but theirs is taken, and nothing is learned."""
    channels, inputs, *kernel = weight.shape
    height, width = kernel
    conv = nn.Conv2d(inputs, channels, (height, width), padding=padding, bias=bias is not None, device="meta")
    conv.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return conv


class ImageLayerNorm(nn.Module):
    """Layer norm over all of C, H and W of a sample, then a scale and a shift a channel (parameters `[C, 1, 1]`).

    The same as group norm with one group, which is how it is computed: in float32, and then again as x was.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, 1, self.weight.flatten(), self.bias.flatten(), self.eps).to(x.dtype)


class AdaptiveInstanceNorm(nn.Module):
    """Instance norm whose scale and shift a two-layer MLP reads from a descriptor (Huang and Belongie, 2017).

    x `[B, C, H, W]`, descriptor `[B, F]` (further axes of length 1 are flattened away): IN(x)·(1 + γ) + β.
    """

    def __init__(self, channels: int, descriptor_length: int, hidden: int = 128) -> None:
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Linear(descriptor_length, hidden), nn.ReLU())
        self.mlp_gamma = nn.Linear(hidden, channels)
        self.mlp_beta = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, descriptor: Tensor) -> Tensor:
        hidden = self.mlp_shared(descriptor.flatten(1))
        gamma = self.mlp_gamma(hidden)[:, :, None, None]
        beta = self.mlp_beta(hidden)[:, :, None, None]
        return F.instance_norm(x, eps=1e-5) * (1 + gamma) + beta


class SpectralNormConv2d(nn.Module):
    """Convolution whose weight is `weight_orig` / σ with σ = uᵀ·W·v from the *stored* u and v (Miyato et al., 2018).

    Only the evaluation form: nothing is iterated. Keys and their order are those of `torch.nn.utils.spectral_norm`,
    written as a plain module so that it can be built without memory, copied and folded.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel: int, padding: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kernel, self.padding = in_channels, out_channels, kernel, padding
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_orig = nn.Parameter(torch.zeros(out_channels, in_channels, kernel, kernel))
        self.register_buffer("weight_u", torch.zeros(out_channels))
        self.register_buffer("weight_v", torch.zeros(in_channels * kernel * kernel))

    def normalized_weight(self) -> Tensor:
        # Sums of products instead of matrix products: autocast leaves them in float32.
        sigma = (self.weight_u * (self.weight_orig.flatten(1) * self.weight_v).sum(1)).sum()
        return self.weight_orig / sigma

    def folded(self) -> nn.Conv2d:
        """The same function as an ordinary convolution, with the division done once."""
        return convolution_of(self.normalized_weight(), self.bias, self.padding).train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalized_weight(), self.bias, padding=self.padding)


# [phase, input pixel, tap]: how much of each of a kernel's three taps falls on each input pixel, in even and in odd
# output pixels. A bilinear x2 puts a pixel at 1/4 and 3/4 between two input pixels (aligned corners off).
NEAREST = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))
BILINEAR = (
    ((0.75, 0.25, 0), (0.25, 0.75, 0.75), (0, 0, 0.25)),
    ((0.25, 0, 0), (0.75, 0.75, 0.25), (0, 0.25, 0.75)),
)
Taps = tuple[tuple[tuple[float, ...], ...], ...]


class DoublingConv2d(nn.Module):
    """`[B, C, H, W]` to `[B, O, 2H, 2W]`: a 3x3 convolution of the upsampled picture, without making that picture.

    Four output pixels stand for one input pixel. Each sees the same few input pixels through its own weights, so one
    convolution of the small picture with four times the channels gives all four; `_interleaved` places them (sub-pixel
    convolution: Shi et al., CVPR 2016).

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

    def fuse_upsample(self, to_the_border: bool) -> None:
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
