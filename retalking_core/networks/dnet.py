"""DNet: edits expression and pose of a face, 256x256.

A flow network warps the picture towards a window of 3DMM coefficients and an editing network redraws it. Specified in
the network specification, page "dnet"; the design is PIRenderer's (Ren et al., ICCV 2021).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retalking_core.networks.layers import AdaptiveInstanceNorm, ImageLayerNorm

DESCRIPTOR_LENGTH = 256
SLOPE = 0.1


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


class DNetOutput(NamedTuple):
    """flow_field `[B, 2, 64, 64]`: (x, y) displacement in pixels of the 64 grid. warp_image, fake_image
    `[B, 3, 256, 256]`: RGB in -1..1; fake_image is None when only the warp was asked for."""

    flow_field: Tensor
    warp_image: Tensor
    fake_image: Tensor | None


class MappingNet(nn.Module):
    """Coefficients `[B, 73, 26]` to a descriptor `[B, 256, 1]`."""

    def __init__(self) -> None:
        super().__init__()
        length = DESCRIPTOR_LENGTH
        self.first = nn.Sequential(nn.Conv1d(73, length, 7))
        for i in range(3):
            block = nn.Sequential(nn.LeakyReLU(SLOPE), nn.Conv1d(length, length, 3, dilation=3))
            self.add_module(f"encoder{i}", block)

    def forward(self, semantics: Tensor) -> Tensor:
        x = self.first(semantics)
        for i in range(3):
            # The dilated kernel eats three positions on each side; the residual carries the value before activation.
            x = self.get_submodule(f"encoder{i}")(x) + x[:, :, 3:-3]
        return x.mean(dim=2, keepdim=True)


class HourglassDown(nn.Module):
    """Norm, activation, convolution twice; the first convolution halves the size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_0 = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1)
        self.conv_1 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.norm_0 = AdaptiveInstanceNorm(in_channels, DESCRIPTOR_LENGTH)
        self.norm_1 = AdaptiveInstanceNorm(out_channels, DESCRIPTOR_LENGTH)

    def forward(self, x: Tensor, descriptor: Tensor) -> Tensor:
        x = self.conv_0(_leaky(self.norm_0(x, descriptor)))
        return self.conv_1(_leaky(self.norm_1(x, descriptor)))


class HourglassUp(nn.Module):
    """Residual block that doubles the size, on both its paths by a transposed convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_0 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv_1 = nn.ConvTranspose2d(out_channels, out_channels, 3, stride=2, padding=1, output_padding=1)
        self.conv_s = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)
        self.norm_0 = AdaptiveInstanceNorm(in_channels, DESCRIPTOR_LENGTH)
        self.norm_1 = AdaptiveInstanceNorm(out_channels, DESCRIPTOR_LENGTH)
        self.norm_s = AdaptiveInstanceNorm(in_channels, DESCRIPTOR_LENGTH)

    def forward(self, x: Tensor, descriptor: Tensor) -> Tensor:
        shortcut = self.conv_s(_leaky(self.norm_s(x, descriptor)))
        main = self.conv_0(_leaky(self.norm_0(x, descriptor)))
        return shortcut + self.conv_1(_leaky(self.norm_1(main, descriptor)))


class HourglassEncoder(nn.Module):
    """`[B, 3, 256, 256]` to the three skips (128@64², 256@32², 256@16²) and the bottom 256@8²."""

    def __init__(self) -> None:
        super().__init__()
        channels = (32, 64, 128, 256, 256, 256)
        self.input_layer = nn.Conv2d(3, channels[0], 7, padding=3)
        for i in range(5):
            self.add_module(f"encoder{i}", HourglassDown(channels[i], channels[i + 1]))

    def forward(self, image: Tensor, descriptor: Tensor) -> list[Tensor]:
        x = self.input_layer(image)
        outputs = []
        for i in range(5):
            x = self.get_submodule(f"encoder{i}")(x, descriptor)
            outputs.append(x)
        return outputs[1:]  # encoder0 feeds no skip


class HourglassDecoder(nn.Module):
    """The encoder's four tensors to 256@64²; the skip follows the block's own output on the channel axis."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder4 = HourglassUp(256, 256)
        self.decoder3 = HourglassUp(512, 256)
        self.decoder2 = HourglassUp(512, 128)

    def forward(self, encoded: list[Tensor], descriptor: Tensor) -> Tensor:
        *skips, x = encoded
        for block, skip in zip((self.decoder4, self.decoder3, self.decoder2), reversed(skips), strict=True):
            x = torch.cat([block(x, descriptor), skip], dim=1)
        return x


class Hourglass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = HourglassEncoder()
        self.decoder = HourglassDecoder()

    def forward(self, image: Tensor, descriptor: Tensor) -> Tensor:
        return self.decoder(self.encoder(image, descriptor), descriptor)


def flow_to_deformation(flow: Tensor) -> Tensor:
    """Displacements `[B, 2, h, w]` in pixels to sampling positions `[B, 2, h, w]`, (x, y), ±1 on the outer pixel
    centers (aligned corners)."""
    height, width = flow.shape[-2:]
    rows = torch.linspace(-1, 1, height, device=flow.device)
    columns = torch.linspace(-1, 1, width, device=flow.device)
    grid_y, grid_x = torch.meshgrid(rows, columns, indexing="ij")
    x = grid_x + flow[:, 0] * (2 / (width - 1))
    y = grid_y + flow[:, 1] * (2 / (height - 1))
    return torch.stack([x, y], dim=1)


def warp(image: Tensor, deformation: Tensor) -> Tensor:
    """Samples `image` at the deformation, resized to its size; zeros outside.

    The grid has aligned corners while resize and sampling use half-pixel centers. The trained weights compensate, so
    the mismatch stays as it is: zero flow magnifies by 256/252.
    """
    positions = F.interpolate(deformation, size=image.shape[-2:], mode="bilinear", align_corners=False)
    grid = positions.permute(0, 2, 3, 1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


class WarpingNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hourglass = Hourglass()
        self.flow_out = nn.Sequential(ImageLayerNorm(256), nn.LeakyReLU(SLOPE), nn.Conv2d(256, 2, 7, padding=3))

    def forward(self, image: Tensor, descriptor: Tensor) -> tuple[Tensor, Tensor]:
        flow = self.flow_out(self.hourglass(image, descriptor))
        return flow, warp(image, flow_to_deformation(flow))


def _conv_norm_act(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    return nn.Sequential(conv, ImageLayerNorm(out_channels), nn.LeakyReLU(SLOPE))


class ConvBlock(nn.Module):
    """Convolution, layer norm, activation; then a 2x2 mean (`scale` 0.5), or before them a nearest x2 (`scale` 2)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, scale: float = 1) -> None:
        super().__init__()
        self.scale = scale
        self.model = _conv_norm_act(in_channels, out_channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        if self.scale > 1:
            x = F.interpolate(x, scale_factor=self.scale, mode="nearest")
        x = self.model(x)
        return F.avg_pool2d(x, 2) if self.scale < 1 else x


class EditingResidual(nn.Module):
    """x + AdaIN(conv2(x)).

    The checkpoint also holds `conv1` and `norm1`. The trained network reads the block's input in `conv2`, so the
    result of the first pair is never used; they exist here to load strictly and are not computed.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = AdaptiveInstanceNorm(channels, DESCRIPTOR_LENGTH)
        self.norm2 = AdaptiveInstanceNorm(channels, DESCRIPTOR_LENGTH)

    def forward(self, x: Tensor, descriptor: Tensor) -> Tensor:
        return x + self.norm2(self.conv2(x), descriptor)


class EditingResiduals(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.res0 = EditingResidual(channels)
        self.res1 = EditingResidual(channels)

    def forward(self, x: Tensor, descriptor: Tensor) -> Tensor:
        return self.res1(self.res0(x, descriptor), descriptor)


class EditingEncoder(nn.Module):
    """`[B, 6, 256, 256]` to 64@256², 128@128², 256@64², 256@32²."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ConvBlock(6, 64, kernel=7)
        self.down0 = ConvBlock(64, 128, scale=0.5)
        self.down1 = ConvBlock(128, 256, scale=0.5)
        self.down2 = ConvBlock(256, 256, scale=0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        f0 = self.first(x)
        f1 = self.down0(f0)
        f2 = self.down1(f1)
        return f0, f1, f2, self.down2(f2)


class FinalBlock(nn.Module):
    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(in_channels, 3, 7, padding=3), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class EditingDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for i, (in_channels, out_channels) in ((2, (256, 256)), (1, (256, 128)), (0, (128, 64))):
            self.add_module(f"up{i}", ConvBlock(in_channels, out_channels, scale=2))
            self.add_module(f"res{i}", EditingResiduals(in_channels))
            self.add_module(f"jump{i}", ConvBlock(out_channels, out_channels))
        self.final = FinalBlock(64)

    def forward(self, encoded: tuple[Tensor, Tensor, Tensor, Tensor], descriptor: Tensor) -> Tensor:
        x = encoded[3]
        for i in (2, 1, 0):
            x = self.get_submodule(f"res{i}")(x, descriptor)
            x = self.get_submodule(f"up{i}")(x) + self.get_submodule(f"jump{i}")(encoded[i])
        return self.final(x)


class EditingNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = EditingEncoder()
        self.decoder = EditingDecoder()

    def forward(self, image: Tensor, warped: Tensor, descriptor: Tensor) -> Tensor:
        return self.decoder(self.encoder(torch.cat([image, warped], dim=1)), descriptor)


class DNet(nn.Module):
    """image `[B, 3, 256, 256]` (RGB in -1..1) and semantics `[B, 73, 26]` (raw coefficients of frames t-13..t+12: 64
    expression, 3 angles in radians, 3 translations, scale, center x and y in pixels of the 256 frame).

    `warp_only` leaves out the editing network, nine tenths of the work. `float32_parts` stay in float32 in a half
    precision variant: the warp samples at positions, whose rounding the picture's gradients multiply. (On CUDA their
    products are TF32's, which moves the flow by about 0.01 of its pixels.)
    """

    float32_parts = ("mapping_net", "warpping_net")

    def __init__(self) -> None:
        super().__init__()
        self.mapping_net = MappingNet()
        self.warpping_net = WarpingNet()  # spelled as in the checkpoint
        self.editing_net = EditingNet()

    def forward(self, image: Tensor, semantics: Tensor, warp_only: bool = False) -> DNetOutput:
        with torch.autocast(image.device.type, enabled=False):
            descriptor = self.mapping_net(semantics.float())
            flow, warped = self.warpping_net(image.float(), descriptor)
        fake = None if warp_only else self.editing_net(image, warped, descriptor)
        return DNetOutput(flow, warped, fake)
