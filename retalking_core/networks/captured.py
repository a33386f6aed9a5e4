"""A network as one CUDA graph: all its kernels are handed to the device in a single launch.

For networks of many small kernels, whose launching takes longer than their running (ENet on an H200, batch 16: 50 ms a
call by launches, 26 ms as a graph; the large convolutional networks gain nothing).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

# Before it is captured: the first call compiles and lets cuDNN try its algorithms, which a capture forbids.
WARM_UP_CALLS = 2


class CapturedCall:
    """Calls `run` through a graph. Sizes and the names of the options must stay those of the first call.

    A graph reads and writes the same memory at every replay, so inputs are copied in and results are copied out.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._result: Any = None

    def __call__(self, *inputs: Tensor, **options: Sequence[Tensor]) -> Any:
        """Tensors, and options that are lists of tensors."""
        given = [*inputs, *(tensor for tensors in options.values() for tensor in tensors)]
        if self._graph is None:
            self._capture(inputs, options)
        else:
            for held, new in zip(self._inputs, given, strict=True):
                held.copy_(new)
        self._graph.replay()
        return _copied(self._result)

    def _capture(self, inputs: tuple[Tensor, ...], options: dict[str, Sequence[Tensor]]) -> None:
        held = [tensor.clone() for tensor in inputs]
        held_options = {name: [tensor.clone() for tensor in tensors] for name, tensors in options.items()}
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP_CALLS):
                self._run(*held, **held_options)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._result = self._run(*held, **held_options)
        self._graph = graph
        self._inputs = [*held, *(tensor for tensors in held_options.values() for tensor in tensors)]


def _copied(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result.clone()
    copies = [_copied(part) for part in result]
    return type(result)(*copies) if hasattr(result, "_fields") else type(result)(copies)
