"""Entry point of the preview engine."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from retalking_core.engine_plugins import EngineEnvironment, EnginePlugin

if TYPE_CHECKING:
    from retalking_core.engine import Engine


def obstacle(_: EngineEnvironment) -> str | None:
    if any(find_spec(package) is None for package in ("numpy", "av", "cv2", "dlib")):
        return "Media libraries are not installed: pip install 'retalking[preview]'."
    return None


def load(environment: EngineEnvironment) -> Engine:
    from retalking_core.engines.preview.engine import PreviewEngine

    return PreviewEngine(limits=environment.limits)


PLUGIN = EnginePlugin(load, obstacle)
