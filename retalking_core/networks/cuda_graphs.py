"""A call recorded once as a CUDA graph and replayed from then on: one launch instead of thousands.

Most of ENet's kernels are shorter than their own launch: 50 ms a call, of which the device works 26 ms (H200, batch
16). A replay needs neither Python nor the compiler's guards nor cuDNN's look-ups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor

# Calls before the recording: what is compiled, tried out or planned lazily is done in them.
PRACTICE = 2
_recorded: WeakSet[CudaGraphCall] = WeakSet()


class CudaGraphCall:
    """`run` with arguments whose tensors never change in shape or type. Any nesting of tuples, lists and dicts.

    The first call records. Later ones copy the tensors of their arguments into those of the recording, and replay it;
    they must come in the inference mode and with the switches (autocast, TF32) of the first. Results are the
    recording's own tensors: the next call overwrites them, so copy what is to stay before it.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run
        self._graph: torch.cuda.CUDAGraph | None = None
        self._held: list[Tensor] = []
        self._shape: Any = None
        self._results: Any = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        given: list[Tensor] = []
        shape = _taken_apart((arguments, options), given)
        if self._graph is None:
            self._record(shape, given)
        elif shape != self._shape:
            raise ValueError(f"recorded for {self._shape}, called with {shape}")
        for held, tensor in zip(self._held, given, strict=True):
            held.copy_(tensor)
        self._graph.replay()
        return self._results

    def _record(self, shape: Any, given: list[Tensor]) -> None:
        self._held = [tensor.clone() for tensor in given]
        arguments, options = _put_together(shape, iter(self._held))
        device = self._held[0].device
        beside = torch.cuda.Stream(device)
        beside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(beside):
            for _ in range(PRACTICE):
                self._run(*arguments, **options)
        torch.cuda.current_stream(device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # thread_local: what other threads do with the device meanwhile is none of the recording's business.
        with torch.cuda.graph(graph, pool=_shared_memory(device), capture_error_mode="thread_local"):
            self._results = self._run(*arguments, **options)
        self._graph, self._shape = graph, shape
        _recorded.add(self)

    def memory_on(self, device: torch.device) -> Any:
        """Handle of the memory that the recording works in; None if it is another device's."""
        return self._graph.pool() if self._graph is not None and self._held[0].device == device else None


def _shared_memory(device: torch.device) -> Any:
    """That of the recordings that exist: they run one after the other, so that the largest one's memory serves all.
    Each recording's results stay its own. None, for memory of its own, for the first one: a pool ends with the last of
    its recordings and must not be named again."""
    pools = (call.memory_on(device) for call in _recorded)
    return next((pool for pool in pools if pool is not None), None)


def _taken_apart(value: Any, tensors: list[Tensor]) -> Any:
    """The value with (shape, type) in the place of each tensor; the tensors are appended in order."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return _Place(tuple(value.shape), value.dtype)
    if isinstance(value, dict):
        return {key: _taken_apart(each, tensors) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_taken_apart(each, tensors) for each in value]
    return value


def _put_together(shape: Any, tensors: Any) -> Any:
    if isinstance(shape, _Place):
        return next(tensors)
    if isinstance(shape, dict):
        return {key: _put_together(each, tensors) for key, each in shape.items()}
    if isinstance(shape, list):
        return [_put_together(each, tensors) for each in shape]
    return shape


class _Place(NamedTuple):
    """Where a tensor of this shape and type goes."""

    shape: tuple[int, ...]
    dtype: torch.dtype
