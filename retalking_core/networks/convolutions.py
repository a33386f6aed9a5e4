"""Convolutions made of weights that are there already."""

from __future__ import annotations

from torch import Tensor, nn


def convolution_of(weight: Tensor, bias: Tensor | None = None, padding: int = 0) -> nn.Conv2d:
    """weight `[O, C, k, k]` and bias `[O]` as they are: no memory but theirs is taken, and nothing is learned."""
    channels, inputs, *kernel = weight.shape
    conv = nn.Conv2d(inputs, channels, kernel, padding=padding, bias=bias is not None, device="meta")
    conv.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return conv
