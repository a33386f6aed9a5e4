"""Convolutions and matrix products in bfloat16 at the speed of float32, on any CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
PRODUCTS = {
    *(_ATEN.conv1d, _ATEN.conv2d, _ATEN.conv3d, _ATEN.conv_transpose2d, _ATEN.convolution),
    *(_ATEN.linear, _ATEN.matmul, _ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm),
}


class Float32Sums(TorchDispatchMode):
    """Computes products of bfloat16 tensors in float32 and rounds each result once, as CPUs with such instructions and
    GPUs do: the product of two bfloat16 numbers is exact in float32, and sums are kept in float32.

    A CPU without these instructions takes up to a hundred times as long for the same numbers. Everything else, above
    all what is cast and what is not, runs as it comes. `products` counts what was computed in this way.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func.overloadpacket not in PRODUCTS or not any(_is_half(value) for value in args):
            return func(*args, **options)
        self.products += 1
        return func(*(value.float() if _is_half(value) else value for value in args), **options).bfloat16()


def _is_half(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bfloat16
