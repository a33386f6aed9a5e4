"""Where the shared clips lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def shared_media() -> Path:
    """Folder of real clips; skips with the reason where it is absent."""
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("RETALKING_MEDIA_DIR", root.parent / "shared" / "media"))
    if not (folder / "1.mp4").is_file():
        pytest.skip(f"no shared clips in {folder}; set RETALKING_MEDIA_DIR")
    return folder
