"""What a render worker imports before it can take a job."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# As `RenderProcess.open` does it, without the connections.
START = """
import sys
import worker.gpu, worker.context, worker.runner, worker.evaluation, worker.splitting, worker.translation
from jobs.settings import Settings
from worker.engines import load_engines
engines = load_engines(Settings())
print(*engines.by_name)
print(engines.unavailable)
print(*[name for name in ("torch", "skimage", "librosa", "matplotlib") if name in sys.modules])
"""


def test_a_worker_without_a_gpu_starts_without_torch(tmp_path: Path) -> None:
    """torch alone takes 1.5 s of CPU time to import, and skimage with scipy.ndimage 0.3 s."""
    import ctypes

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("this machine has an NVIDIA driver: torch is asked about its devices")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "RETALKING_MODELS_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", START], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    engines, unavailable, heavy = done.stdout.splitlines()
    assert engines == "preview"
    assert "There is no CUDA device" in unavailable
    assert heavy == ""
