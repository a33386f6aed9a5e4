"""A doubled picture's convolution, against doubling and convolving."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from retalking_core.networks.layers import (
    BILINEAR,
    NEAREST,
    STYLE_LENGTH,
    BilinearDoublingConv2d,
    DoublingConv2d,
    ModulatedConv2d,
)


@pytest.fixture(autouse=True)
def drawn_alike() -> None:
    torch.manual_seed(0)


def parts(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = {"dtype": torch.float64}
    return torch.randn(2, 6, height, width, **draw), torch.randn(4, 6, 3, 3, **draw), torch.randn(4, **draw)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (8, 8), (2, 3)])
def test_nearest_is_exact_to_the_border(height: int, width: int) -> None:
    x, weight, bias = parts(height, width)
    doubled = F.interpolate(x, scale_factor=2, mode="nearest")
    reflected = F.conv2d(F.pad(doubled, (1, 1, 1, 1), mode="reflect"), weight, bias)
    torch.testing.assert_close(DoublingConv2d(weight, bias, NEAREST)(x), reflected)


@pytest.mark.parametrize(("height", "width"), [(5, 7), (8, 8), (2, 3)])
def test_bilinear_is_exact_inside_the_outermost_pixel(height: int, width: int) -> None:
    x, weight, _ = parts(height, width)
    doubled = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    found, wanted = DoublingConv2d(weight, None, BILINEAR)(x), F.conv2d(doubled, weight, padding=1)
    torch.testing.assert_close(found[:, :, 1:-1, 1:-1], wanted[:, :, 1:-1, 1:-1])
    assert not torch.allclose(found, wanted), "then the docstring is wrong"


@pytest.mark.parametrize(("height", "width"), [(5, 7), (8, 8), (2, 3)])
def test_bilinear_with_its_strips_is_exact_to_the_border(height: int, width: int) -> None:
    x, weight, _ = parts(height, width)
    doubled = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(BilinearDoublingConv2d(weight)(x), F.conv2d(doubled, weight, padding=1))


@pytest.mark.parametrize("to_the_border", [True, False])
def test_a_modulated_convolution_doubles_within_as_it_did_before(to_the_border: bool) -> None:
    conv = ModulatedConv2d(6, 4, 3, demodulate=True, up=True)
    torch.nn.init.normal_(conv.weight)
    x, style = torch.randn(2, 6, 10, 10), torch.randn(2, STYLE_LENGTH)
    with torch.inference_mode():
        before = conv(x, style)
        conv.fuse_upsample(to_the_border)
        after = conv(x, style)
    kept = slice(None) if to_the_border else slice(1, -1)
    torch.testing.assert_close(after[:, :, kept, kept], before[:, :, kept, kept], atol=1e-5, rtol=1e-5)
