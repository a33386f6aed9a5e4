"""Memory of a render process: its limit, how full it is, and what its GPUs use.

A hostile file must cost its job, not the machine and not the next job. Allocators keep freed memory and libraries leak
after a refused allocation, so a process that ran out once is replaced before it takes another job (`render_app.py`).

RLIMIT_DATA counts private writable memory (Linux 4.7), which is what decoders, encoders and numpy allocate. RLIMIT_AS
would also count reserved address space, of which CUDA takes tens of gigabytes: measured with torch 2.11 on an H200,
after a convolution, 20 GB of addresses, 1.5 GB of data. An allocation over the limit is refused and mostly becomes a
MemoryError; code that cannot handle the refusal crashes, and the job fails after its attempts.
"""

from __future__ import annotations

import gc
import resource
import sys
import traceback
from pathlib import Path

from jobs.models import GpuMemory

# A decoder whose allocation is refused reports a damaged frame. The memory in use tells the two apart: the largest
# accepted frame takes 133 MB, so above this share of the limit the next one may be refused.
_FULL_SHARE = 0.85
# A failed attempt that leaves more than this share of the memory above the models' has leaked it.
_LEAK_SHARE = 0.25


def limit_memory(limit_bytes: int) -> None:
    """Limit this process from now on. 0: no limit."""
    if limit_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


class MemoryMeter:
    """Measures this process against its limit. Create it after loading the models: their memory is no leak."""

    def __init__(self) -> None:
        self._models_bytes = data_bytes()
        self._failures: list[str] = []

    @property
    def is_full(self) -> bool:
        limit = _limit_bytes()
        return limit is not None and data_bytes() > _FULL_SHARE * limit

    def note_failure(self, code: str) -> None:
        self._failures.append(code)

    def must_replace(self) -> bool:
        """Between two jobs: whether this process should take no other. Collects the garbage of failed attempts, whose
        exceptions and frames refer to each other."""
        if not self._failures:
            return False
        gc.collect()
        ran_out, self._failures = "out_of_memory" in self._failures, []
        return ran_out or self._is_leaking()

    def _is_leaking(self) -> bool:
        limit = _limit_bytes()
        return limit is not None and data_bytes() - self._models_bytes > _LEAK_SHARE * (limit - self._models_bytes)


def data_bytes() -> int:
    """Memory of this process that RLIMIT_DATA counts."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmData:")[2].split()[0]) * 1024


def release_frames(fault: BaseException | None) -> None:
    """Drop the local variables of all frames that an exception passed through: decoded frames, mostly. Its traceback
    still names files and lines."""
    seen: set[int] = set()
    while fault is not None and id(fault) not in seen:
        seen.add(id(fault))
        traceback.clear_frames(fault.__traceback__)
        fault = fault.__cause__ or fault.__context__


def _limit_bytes() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return None if limit == resource.RLIM_INFINITY else limit


def gpu_memory() -> list[GpuMemory]:
    """Memory of the devices that this process renders on. Asks only if a CUDA context exists: creating one to look
    would take hundreds of megabytes."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return []
    rows = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        rows.append(GpuMemory(device=f"cuda:{index}", used_bytes=total - free, total_bytes=total))
    return rows
