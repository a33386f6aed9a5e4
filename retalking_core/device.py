"""The compute device: copies that do not block, timing without synchronization, how CUDA memory is allocated."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def upload(values: NDArray[Any] | Tensor, device: torch.device | str) -> Tensor:
    """The values on the device, f64 as f32.

    From page-locked memory, so that the copy takes its turn behind the work already given to a GPU. A plain copy would
    wait for all of that work first.
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    if tensor.dtype == torch.float64:
        tensor = tensor.float()
    device = torch.device(device)
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def download(tensor: Tensor) -> Tensor:
    """A copy on the host, complete only once the device has done all that it was given before: wait for an event."""
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


class DeviceClock:
    """Seconds by step: of a GPU between two events in its own queue, elsewhere by the wall.

    Add up a batch with `collect` once its work is done; what was started later is left for the next call.
    """

    def __init__(self, device: torch.device) -> None:
        self.times_s: dict[str, float] = {}
        self._on_gpu = device.type == "cuda"
        self._running: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        if not self._on_gpu:
            began = time.perf_counter()
            try:
                yield
            finally:
                self._add(name, time.perf_counter() - began)
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        yield
        last.record()
        self._running.append((name, first, last))

    def collect(self) -> None:
        while self._running and self._running[0][2].query():
            name, first, last = self._running.pop(0)
            self._add(name, first.elapsed_time(last) / 1000)

    def _add(self, name: str, seconds: float) -> None:
        self.times_s[name] = self.times_s.get(name, 0.0) + seconds


# Either configures the allocator; the operator's choice is kept.
OPERATORS_CHOICE = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def enable_expandable_segments(device: torch.device) -> bool:
    """One segment of the allocator that grows, instead of ever new ones, each of the size of one request.

    The recordings of the networks share their memory one after the other, and each asks for pieces of other sizes: they
    hold 4.8 instead of 6.9 GiB so (H100, batch 16). It holds for what is put on the device from then on; to say it
    again changes nothing.

    Not on a slice of a GPU (MIG): there the allocator may not look at the memory that is left, and fails where it
    should say that it is full (vllm-project/ci-infra, pull request 355). Returns whether segments grow by this call.
    """
    if device.type != "cuda" or any(name in os.environ for name in OPERATORS_CHOICE):
        return False
    if " MIG " in torch.cuda.get_device_name(device):
        return False
    torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    return True
