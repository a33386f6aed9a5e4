"""The most memory a render process may take, and the end of a process that ran out of it.

A hostile file costs its job, not the machine and not the next job: allocators keep what they had, libraries that were
refused memory leak, so a process that ran out once is replaced before it takes another job (`render_app.py`).

RLIMIT_DATA counts private writable memory (Linux 4.7), which is what decoders, encoders and numpy allocate. RLIMIT_AS
would count reserved addresses too, of which CUDA takes tens of gigabytes: measured with torch 2.11 on an H200, after a
convolution, 20 GB of addresses, 1.5 GB of data. What is over the limit is refused, and mostly becomes a MemoryError;
code that can not bear a refusal dies, and the job with it, after its attempts.
"""

from __future__ import annotations

import gc
import resource
import traceback
from pathlib import Path


def limit_memory(most_bytes: int) -> None:
    """For this process, from now on. 0: no limit."""
    if most_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))


# A decoder that is refused memory calls its picture damaged. What tells the two apart is how much the process holds:
# the largest picture that is let in takes 133 MB, so above this share of the limit the next one may be refused.
_FULL_SHARE = 0.85
# Of the room above what the models take: a failed attempt that leaves more than this behind left a leak.
_LEAK_SHARE = 0.25


class MemoryMeter:
    """Measures this process against its limit. Make it when the models are loaded: what they take is no attempt's."""

    def __init__(self) -> None:
        self._models_bytes = data_bytes()
        self._failures: list[str] = []

    @property
    def is_full(self) -> bool:
        limit = _limit_bytes()
        return limit is not None and data_bytes() > _FULL_SHARE * limit

    def note_failure(self, code: str) -> None:
        self._failures.append(code)

    def is_spent(self) -> bool:
        """Between two jobs: whether this process should take no other. Collects the garbage of failed attempts, whose
        exceptions and frames hold each other."""
        if not self._failures:
            return False
        gc.collect()
        ran_out, self._failures = "out_of_memory" in self._failures, []
        return ran_out or self._is_leaking()

    def _is_leaking(self) -> bool:
        limit = _limit_bytes()
        return limit is not None and data_bytes() - self._models_bytes > _LEAK_SHARE * (limit - self._models_bytes)


def data_bytes() -> int:
    """What RLIMIT_DATA counts of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmData:")[2].split()[0]) * 1024


def release_frames(fault: BaseException | None) -> None:
    """Forget the local variables of everything that an exception went through: decoded pictures, mostly. Its traceback
    still names files and lines."""
    seen: set[int] = set()
    while fault is not None and id(fault) not in seen:
        seen.add(id(fault))
        traceback.clear_frames(fault.__traceback__)
        fault = fault.__cause__ or fault.__context__


def _limit_bytes() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return None if limit == resource.RLIM_INFINITY else limit
