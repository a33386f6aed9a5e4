"""What the entry point refers to. Light: the engine is imported only where it renders."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from retalking_core.engine_plugins import EngineEnvironment, EnginePlugin

if TYPE_CHECKING:
    from puppet_engine.engine import PuppetEngine


def obstacle(environment: EngineEnvironment) -> str | None:
    if find_spec("dlib") is None:
        return "dlib is not installed: pip install 'retalking[preview]'."
    return None


def load(environment: EngineEnvironment) -> PuppetEngine:
    from puppet_engine.engine import PuppetEngine

    return PuppetEngine()


PLUGIN = EnginePlugin(load, obstacle)
