"""Layers that more than one network is made of: the two normalisations and the frozen spectral-norm convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retalking_core.networks.convolutions import convolution_of


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

    def normalised_weight(self) -> Tensor:
        # Sums of products instead of matrix products: autocast leaves them in float32.
        sigma = (self.weight_u * (self.weight_orig.flatten(1) * self.weight_v).sum(1)).sum()
        return self.weight_orig / sigma

    def folded(self) -> nn.Conv2d:
        """The same function as an ordinary convolution, with the division done once."""
        return convolution_of(self.normalised_weight(), self.bias, self.padding).train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalised_weight(), self.bias, padding=self.padding)
