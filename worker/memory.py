"""The most memory a render process may take: a hostile file costs its job, and not the machine.

RLIMIT_DATA counts private writable memory (Linux 4.7), which is what decoders, encoders and numpy allocate. RLIMIT_AS
would count reserved addresses too, of which CUDA takes tens of gigabytes: measured with torch 2.11 on an H200, after a
convolution, 20 GB of addresses, 1.5 GB of data. What is over the limit is refused, and mostly becomes a MemoryError;
code that can not bear a refusal dies, and the job with it, after its attempts.
"""

from __future__ import annotations

import resource


def limit_memory(most_bytes: int) -> None:
    """For this process, from now on. 0: no limit."""
    if most_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))
