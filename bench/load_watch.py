"""How busy the GPU is, and how much memory this process holds, while something runs."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType

EVERY_S = 0.02


class LoadWatch:
    """Looks every 20 ms in a thread of its own. Without NVIDIA's management library only the memory is watched."""

    def __init__(self) -> None:
        self._host: list[float] = []
        self._device: list[float] = []
        self._busy: list[tuple[float, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="load-watch", daemon=True)

    def __enter__(self) -> LoadWatch:
        self._thread.start()
        return self

    def __exit__(self, _kind: type | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    @property
    def peak_gpu_gib(self) -> float | None:
        """Of the whole device: contexts, caches and other processes too. None where nobody could say."""
        return max(self._device, default=None)

    @property
    def host_gib(self) -> list[float]:
        """The most in each third of the time: memory that grows with the clip shows as a rise."""
        samples, third = self._host, max(1, len(self._host) // 3)
        return [max(samples[start : start + third] or samples) for start in (0, third, 2 * third)]

    def gpu_busy(self, began: float, ended: float) -> float | None:
        """Mean utilisation 0..1 between two readings of time.perf_counter; None where nobody could say."""
        values = [percent for at, percent in self._busy if began <= at <= ended]
        return sum(values) / len(values) / 100 if values else None

    def _look(self) -> None:
        gpu = _first_gpu()
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._over.wait(EVERY_S):
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * page
            self._host.append(resident / 2**30)
            if gpu is not None:
                library, handle = gpu
                self._device.append(library.nvmlDeviceGetMemoryInfo(handle).used / 2**30)
                self._busy.append((time.perf_counter(), library.nvmlDeviceGetUtilizationRates(handle).gpu))


def _first_gpu() -> tuple | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
    except Exception:  # no library, no driver, no rights: each means that nobody can say
        return None
