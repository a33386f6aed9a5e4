"""Fixtures for the engine's tests."""

from __future__ import annotations

import pytest

from retalking_core.faces.dlib_tracker import DlibFaceTracker


@pytest.fixture(scope="session")
def tracker() -> DlibFaceTracker:
    """Loading dlib's models takes longer than a short render."""
    tracker = DlibFaceTracker()
    tracker.warm_up()
    return tracker
