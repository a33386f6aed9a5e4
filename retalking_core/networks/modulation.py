"""Style-modulated convolution (StyleGAN2, Karras et al., CVPR 2020), as ENet and GPEN use it."""

from __future__ import annotations

import torch
from torch import Tensor


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
