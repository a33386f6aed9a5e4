"""How torch takes memory from a CUDA device."""

from __future__ import annotations

import os

import torch

# Either says how the allocator is to behave; then it is the operator's choice.
OPERATORS_CHOICE = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def let_segments_grow(device: torch.device) -> bool:
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
