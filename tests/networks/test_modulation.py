"""Our style convolution against the library's, with noise: the golden vectors have none."""

from __future__ import annotations

import pytest
import torch
from spandrel.architectures.GFPGAN.__arch.stylegan2_clean_arch import StyleConv as LibraryStyleConv

from retalking_core.networks.layers import STYLE_LENGTH, StyleConv


def pair(up: bool) -> tuple[LibraryStyleConv, StyleConv]:
    theirs = LibraryStyleConv(8, 4, 3, STYLE_LENGTH, sample_mode="upsample" if up else None)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = StyleConv(8, 4, up=up)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs.eval(), ours.eval()


@pytest.mark.parametrize("up", [True, False])
def test_it_is_the_librarys_with_noise_bias_and_style(up: bool) -> None:
    torch.manual_seed(0)
    theirs, ours = pair(up)
    side = 24 if up else 12
    x, style, noise = torch.randn(2, 8, 12, 12), torch.randn(2, STYLE_LENGTH), torch.randn(1, 1, side, side)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x, style, noise), theirs(x, style, noise), atol=1e-5, rtol=1e-5)
        without = ours(x, style)
        assert not torch.allclose(without, ours(x, style, noise))
        torch.testing.assert_close(without, ours(x, style, torch.zeros_like(noise)))


def test_it_keeps_the_precision_of_its_convolution() -> None:
    _, ours = pair(up=False)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert (
            ours(torch.randn(1, 8, 6, 6), torch.randn(1, STYLE_LENGTH), torch.randn(1, 1, 6, 6)).dtype == torch.bfloat16
        )
