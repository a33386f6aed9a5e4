"""Our own engines pass the conformance tests that plug-ins are asked to pass."""

from __future__ import annotations

import pytest

from retalking_core.engine import Engine
from retalking_core.engine_conformance import EngineConformance
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
from tests.engines.stand_ins import StandIns, speaking_enet


class TestPreviewEngine(EngineConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Engine:
        return PreviewEngine()


class TestVideoRetalkingEngine(EngineConformance):
    """With stand-ins for its networks: everything but what the networks draw."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Engine:
        return VideoRetalkingEngine(StandIns(enet=speaking_enet))
