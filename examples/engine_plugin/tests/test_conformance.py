"""The engine passes Retalking's conformance tests."""

from __future__ import annotations

import pytest
from puppet_engine.engine import PuppetEngine

from retalking_core.engine_conformance import EngineConformance


class TestPuppetEngine(EngineConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> PuppetEngine:
        return PuppetEngine()
