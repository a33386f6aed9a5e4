"""ENet: LNet and a style-modulated x4 upsampler around it, 384x384.

The style code is read from the reference picture. Specified in the network specification, page "enet"; the building
blocks are those of GFPGAN's bilinear StyleGAN2 decoder (Wang et al., CVPR 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retalking_core.networks.layers import SLOPE, STYLE_LENGTH, ModulatedConv2d, StyleConv
from retalking_core.networks.lnet import LNet

MARGIN = 2  # pixels of reflected border at 96, cut off again (x4) at 384


def _resize(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False, antialias=False)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _halve(x: Tensor) -> Tensor:
    """Bilinear x0.5 of an even size is the 2x2 mean."""
    return F.avg_pool2d(x, 2)


class DownBlock(nn.Module):
    """Residual block that halves the size; no activation after the sum."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = _halve(F.leaky_relu(self.conv1(x), SLOPE))
        return F.leaky_relu(self.conv2(h), SLOPE) + self.skip(_halve(x))


class ToRGB(nn.Module):
    """Modulated 1x1 without demodulation, plus bias, plus the picture so far, doubled."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.modulated_conv = ModulatedConv2d(in_channels, 3, 1, demodulate=False)

    def forward(self, x: Tensor, style: Tensor, picture: Tensor) -> Tensor:
        return self.modulated_conv(x, style) + self.bias + _double(picture)


class ENet(nn.Module):
    """audio `[B, 1, 80, 16]` as for LNet; face `[B, 6, 384, 384]` (BGR in 0..1: the face with its lower half 0, then a
    reference); reference `[B, 3, 384, 384]`, which LNet sees (the method passes channels 3..5 of `face` again).

    Result: image `[B, 3, 384, 384]`, BGR, unbounded around 0..1, and LNet's picture `[B, 3, 96, 96]`.

    noises: four tensors as `noise_sizes` lists them, for the four StyleConvs. The original draws them anew for every
    picture, which flickers in video; None leaves them out, and the same draw for all frames keeps the grain still.
    """

    noise_sizes = (200, 200, 400, 400)

    def __init__(self, low_res: LNet | None = None) -> None:
        super().__init__()
        self.low_res = LNet() if low_res is None else low_res
        self.conv_body_first = nn.Conv2d(3, 256, 1)
        widths = (256, 256, 512, 512, 512, 512, 512)
        self.conv_body_down = nn.ModuleList(DownBlock(widths[i], widths[i + 1]) for i in range(6))
        self.final_linear = nn.Linear(512 * 4 * 4, STYLE_LENGTH)
        self.final_conv = nn.Conv2d(512, 512, 3, padding=1)
        self.style_convs = nn.ModuleList(
            [StyleConv(3, 256, up=True), StyleConv(256, 256), StyleConv(256, 128, up=True), StyleConv(128, 128)]
        )
        self.to_rgbs = nn.ModuleList([ToRGB(256), ToRGB(128)])

    def style_code(self, reference: Tensor) -> Tensor:
        """Reference `[B, 3, 384, 384]` to the style `[B, 512]`."""
        x = F.leaky_relu(self.conv_body_first(_resize(reference, 256)), SLOPE)
        for down in self.conv_body_down:
            x = down(x)
        x = F.leaky_relu(self.final_conv(x), SLOPE)
        return self.final_linear(x.flatten(1))

    def upsample(self, low_res: Tensor, style: Tensor, noises: Sequence[Tensor | None]) -> Tensor:
        """`[B, 3, 96, 96]` to `[B, 3, 384, 384]`."""
        x = picture = F.pad(low_res, (MARGIN,) * 4, mode="reflect")
        for i, to_rgb in enumerate(self.to_rgbs):
            x = self.style_convs[2 * i](x, style, noises[2 * i])
            x = self.style_convs[2 * i + 1](x, style, noises[2 * i + 1])
            picture = to_rgb(x, style, picture)
        cut = 4 * MARGIN
        return picture[:, :, cut:-cut, cut:-cut]

    def optimize_for_inference(self) -> None:
        """The large doubling inside its convolution. What that changes lies within the margin: the outermost pixel of
        400, which the last convolution spreads to one more, of the eight that are cut."""
        conv = self.style_convs[2]
        assert isinstance(conv, StyleConv)
        conv.modulated_conv.fuse_upsample(to_the_border=False)

    def forward(
        self, audio: Tensor, face: Tensor, reference: Tensor, noises: Sequence[Tensor | None] | None = None
    ) -> tuple[Tensor, Tensor]:
        masked, style_reference = face.split(3, dim=1)
        style = self.style_code(style_reference)
        low_res = self.low_res(audio, _resize(torch.cat([masked, reference], dim=1), 96))
        return self.upsample(low_res, style, noises or (None,) * len(self.style_convs)), low_res
