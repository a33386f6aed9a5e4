"""LNet and ENet, the lip networks.

LNet paints the lower half of a face from a window of speech and a reference picture, 96x96. Fast Fourier convolutions
(Chi et al., NeurIPS 2020) modulated by an audio descriptor, with cross-attention between the masked face and the
reference. Specified in the network specification, page "lnet"; every oddity below is in the trained network and kept on
purpose.

ENet is LNet and a style-modulated x4 upsampler around it, 384x384. The style code is read from the reference picture.
Specified in the network specification, page "enet"; the building blocks are those of GFPGAN's bilinear StyleGAN2
decoder (Wang et al., CVPR 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retalking_core.networks.layers import (
    SLOPE as STYLE_SLOPE,
)
from retalking_core.networks.layers import (
    STYLE_LENGTH,
    AdaptiveInstanceNorm,
    ImageLayerNorm,
    ModulatedConv2d,
    SpectralNormConv2d,
    StyleConv,
)

AUDIO_LENGTH = 512
SLOPE = 0.1
FFC_SLOPE = 0.01  # the trained FFC blocks fell back to torch's default slope


class AudioConv(nn.Module):
    """Convolution, batch norm, ReLU; a residual joins before the ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int | tuple[int, int] = 1,
        padding: int = 1,
    ) -> None:
        super().__init__()
        self.residual = in_channels == out_channels and kernel == 3
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
        self.conv_block = nn.Sequential(conv, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_block(x)
        return F.relu(y + x if self.residual else y)


def _audio_encoder() -> nn.Sequential:
    """log-mel `[B, 1, 80, 16]` to `[B, 512, 1, 1]`, non-negative."""
    return nn.Sequential(
        AudioConv(1, 32),
        AudioConv(32, 32),
        AudioConv(32, 32),
        AudioConv(32, 64, stride=(3, 1)),
        AudioConv(64, 64),
        AudioConv(64, 64),
        AudioConv(64, 128, stride=3),
        AudioConv(128, 128),
        AudioConv(128, 128),
        AudioConv(128, 256, stride=(3, 2)),
        AudioConv(256, 256),
        AudioConv(256, 512, padding=0),
        AudioConv(512, 512, kernel=1, padding=0),
    )


class SpectralConvBlock(nn.Module):
    """Spectral-norm convolution, layer norm, activation; then a 2x2 mean (`scale` 0.5), or before them a nearest x2
    (`scale` 2)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, scale: float = 1) -> None:
        super().__init__()
        self.scale = scale
        conv = SpectralNormConv2d(in_channels, out_channels, kernel, padding=kernel // 2)
        self.model = nn.Sequential(conv, ImageLayerNorm(out_channels), nn.LeakyReLU(SLOPE))

    def forward(self, x: Tensor) -> Tensor:
        if self.scale > 1:
            x = F.interpolate(x, scale_factor=self.scale, mode="nearest")
        x = self.model(x)
        return F.avg_pool2d(x, 2) if self.scale < 1 else x


class Attention(nn.Module):
    """Four heads of 64. Queries *and keys* come from x, only the values from y: so the trained network does."""

    heads = 4

    def __init__(self, features: int, inner: int = 256) -> None:
        super().__init__()
        self.to_q = nn.Linear(features, inner, bias=False)
        self.to_k = nn.Linear(features, inner, bias=False)
        self.to_v = nn.Linear(features, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, features))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        query, key, value = (self._split(t) for t in (self.to_q(x), self.to_k(x), self.to_v(y)))
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, features: int, hidden: int = 256) -> None:
        super().__init__()
        # The identities stand where the training code had dropout of 0: they keep the key `net.3`.
        self.net = nn.Sequential(
            nn.Linear(features, hidden), nn.GELU(approximate="tanh"), nn.Identity(), nn.Linear(hidden, features)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class NormedAttention(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.normx = nn.LayerNorm(features)
        self.normy = nn.LayerNorm(features)
        self.fn = Attention(features)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.fn(self.normx(x), self.normy(y))


class NormedFeedForward(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.fn = FeedForward(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class CrossAttention(nn.Module):
    """x, y `[B, C, H, W]`: mixes the values of y into x, over H·W tokens."""

    def __init__(self, features: int, depth: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([NormedAttention(features), NormedFeedForward(features)]) for _ in range(depth)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        size = x.shape[-2:]
        x, y = x.flatten(2).transpose(1, 2), y.flatten(2).transpose(1, 2)
        for layer in self.layers:
            attention, feed_forward = layer.children()
            x = attention(x, y) + x
            x = feed_forward(x) + x
        return x.transpose(1, 2).unflatten(2, size)


class Encoder(nn.Module):
    """Masked face and reference, each `[B, 3, 96, 96]`, to 64@96², 128@48², 256@24² and 1024@12²."""

    def __init__(self) -> None:
        super().__init__()
        self.first_inp = SpectralConvBlock(3, 64, kernel=7)
        self.first_ref = SpectralConvBlock(3, 64, kernel=7)
        for i, (in_channels, out_channels) in enumerate(((64, 128), (128, 256), (256, 512))):
            if i == 2:
                self.ca2 = CrossAttention(out_channels)
            self.add_module(f"ref_down{i}", SpectralConvBlock(in_channels, out_channels, scale=0.5))
            self.add_module(f"inp_down{i}", SpectralConvBlock(in_channels, out_channels, scale=0.5))

    def forward(self, masked: Tensor, reference: Tensor) -> list[Tensor]:
        inp, ref = self.first_inp(masked), self.first_ref(reference)
        features = [inp]
        for i in range(3):
            inp = self.get_submodule(f"inp_down{i}")(inp)
            ref = self.get_submodule(f"ref_down{i}")(ref)
            features.append(inp)
        features[3] = torch.cat([self.ca2(inp, ref), ref], dim=1)
        return features


class FourierUnit(nn.Module):
    """A 1x1 convolution on the spectrum: every position sees the whole picture."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_layer = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        # FFTs stay in float32: half precision has none on CPU, and on CUDA only for powers of two (12, 24, 48 here).
        spectrum = torch.view_as_real(torch.fft.rfftn(x.float(), dim=(-2, -1), norm="ortho"))
        # Real and imaginary part interleave as channels: 2k and 2k + 1.
        parts = spectrum.permute(0, 1, 4, 2, 3).flatten(1, 2).to(x.dtype)
        parts = F.relu(self.bn(self.conv_layer(parts))).float()
        parts = parts.unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2).contiguous()
        return _inverse_spectrum(torch.view_as_complex(parts), size).to(x.dtype)


def _inverse_spectrum(spectrum: Tensor, size: torch.Size) -> Tensor:
    """Inverse of the real 2-D FFT for a spectrum that is no longer Hermitian after the ReLU.

    In two steps, because only those are defined alike everywhere: complex over the rows, then to real over the columns,
    where the imaginary part of the first and last column is ignored. It is set to zero here, since CUDA's
    complex-to-real transform does not promise to ignore it.
    """
    rows = torch.fft.ifft(spectrum, dim=-2, norm="ortho")
    edges = torch.zeros(rows.shape[-1], dtype=torch.bool, device=rows.device)
    edges[0] = True
    edges[-1] = size[-1] % 2 == 0
    rows = torch.complex(rows.real, rows.imag.masked_fill(edges, 0))
    return torch.fft.irfft(rows, n=size[-1], dim=-1, norm="ortho")


class SpectralTransform(nn.Module):
    """Global to global: 1x1 to half the channels, Fourier unit with a residual, 1x1 back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Sequential(nn.Conv2d(channels, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU())
        self.fu = FourierUnit(half)
        self.conv2 = nn.Conv2d(half, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv2(x + self.fu(x))


class FastFourierConv(nn.Module):
    """The local quarter and the global three quarters of the channels exchange; only global to global is spectral."""

    def __init__(self, local_channels: int, global_channels: int) -> None:
        super().__init__()

        def conv(in_channels: int, out_channels: int) -> nn.Conv2d:
            return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False, padding_mode="reflect")

        self.convl2l = conv(local_channels, local_channels)
        self.convl2g = conv(local_channels, global_channels)
        self.convg2l = conv(global_channels, local_channels)
        self.convg2g = SpectralTransform(global_channels)

    def forward(self, x_local: Tensor, x_global: Tensor) -> tuple[Tensor, Tensor]:
        y_local = self.convl2l(x_local) + self.convg2l(x_global)
        return y_local, self.convl2g(x_local) + self.convg2g(x_global)


class ModulatedFFC(nn.Module):
    """FFC, then AdaIN by the audio descriptor and an activation, on both parts."""

    def __init__(self, local_channels: int, global_channels: int) -> None:
        super().__init__()
        self.ffc = FastFourierConv(local_channels, global_channels)
        self.bn_l = AdaptiveInstanceNorm(local_channels, AUDIO_LENGTH)
        self.bn_g = AdaptiveInstanceNorm(global_channels, AUDIO_LENGTH)

    def forward(self, x_local: Tensor, x_global: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        y_local, y_global = self.ffc(x_local, x_global)
        y_local = F.leaky_relu(self.bn_l(y_local, audio), FFC_SLOPE)
        return y_local, F.leaky_relu(self.bn_g(y_global, audio), FFC_SLOPE)


class FFCResidual(nn.Module):
    """Two modulated FFCs and the sum with the input; nothing follows the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sizes = (channels // 4, channels - channels // 4)
        self.conv1 = ModulatedFFC(*self.sizes)
        self.conv2 = ModulatedFFC(*self.sizes)

    def forward(self, x: Tensor, audio: Tensor) -> Tensor:
        x_local, x_global = x.split(self.sizes, dim=1)
        parts = self.conv2(*self.conv1(x_local, x_global, audio), audio)
        return x + torch.cat(parts, dim=1)


class FFCResiduals(nn.Module):
    blocks = 9

    def __init__(self, channels: int) -> None:
        super().__init__()
        for b in range(self.blocks):
            self.add_module(f"res{b}", FFCResidual(channels))

    def forward(self, x: Tensor, audio: Tensor) -> Tensor:
        for b in range(self.blocks):
            x = self.get_submodule(f"res{b}")(x, audio)
        return x


class FinalBlock(nn.Module):
    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(SpectralNormConv2d(in_channels, 3, 7, padding=3), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for i, (in_channels, out_channels) in ((2, (1024, 256)), (1, (256, 128)), (0, (128, 64))):
            self.add_module(f"up{i}", SpectralConvBlock(in_channels, out_channels, scale=2))
            self.add_module(f"res{i}", FFCResiduals(in_channels))
            self.add_module(f"jump{i}", SpectralConvBlock(out_channels, out_channels))
        self.final = FinalBlock(64)

    def forward(self, features: list[Tensor], audio: Tensor) -> Tensor:
        x = features[3]
        for i in (2, 1, 0):
            x = self.get_submodule(f"res{i}")(x, audio)
            x = self.get_submodule(f"up{i}")(x) + self.get_submodule(f"jump{i}")(features[i])
        return self.final(x)


class LNet(nn.Module):
    """audio `[B, 1, 80, 16]` (log-mel, 80 bands x 16 steps, -4..4) and face `[B, 6, 96, 96]` (BGR in 0..1: the face
    with its lower half 0, then the reference) to the lip-synced face `[B, 3, 96, 96]`, BGR in 0..1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.audio_encoder = _audio_encoder()

    def forward(self, audio: Tensor, face: Tensor) -> Tensor:
        masked, reference = face.split(3, dim=1)
        return self.decoder(self.encoder(masked, reference), self.audio_encoder(audio))


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
        h = _halve(F.leaky_relu(self.conv1(x), STYLE_SLOPE))
        return F.leaky_relu(self.conv2(h), STYLE_SLOPE) + self.skip(_halve(x))


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
        x = F.leaky_relu(self.conv_body_first(_resize(reference, 256)), STYLE_SLOPE)
        for down in self.conv_body_down:
            x = down(x)
        x = F.leaky_relu(self.final_conv(x), STYLE_SLOPE)
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
