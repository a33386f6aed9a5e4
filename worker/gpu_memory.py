"""Memory of the devices that this process renders on. Asks only where a CUDA context is open already: opening one to
look would take hundreds of megabytes of it."""

from __future__ import annotations

import sys

from jobs.models import GpuMemory


def gpu_memory() -> list[GpuMemory]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return []
    rows = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        rows.append(GpuMemory(device=f"cuda:{index}", used_bytes=total - free, total_bytes=total))
    return rows
