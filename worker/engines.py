"""Which engines this worker holds, and which of them a job gets. The only place that names engine classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from jobs.errors import ServiceError
from jobs.models import EngineInfo
from jobs.settings import Settings

if TYPE_CHECKING:  # the parent of a render worker imports this module, and must stay free of numpy
    from retalking_core.engine import Engine, EngineCapabilities

LoadEngines = Callable[[Settings], "dict[str, Engine]"]

# Best first: what `auto` means where the deployment does not say.
PREFERENCE = ("videoretalking", "preview")


def load_engines(settings: Settings) -> dict[str, Engine]:
    """Every engine that can run here, by name, not yet warmed up. Called in the process that renders."""
    from retalking_core.engines.preview import PreviewEngine
    from retalking_core.media.limits import MediaLimits

    limits = MediaLimits(max_video_s=settings.max_video_s, max_audio_s=settings.max_audio_s)
    return {"preview": PreviewEngine(limits=limits)}


def choose_engine(asked: str, settings: Settings, engines: Mapping[str, Engine]) -> Engine:
    """The engine for a job that asked for `asked`. A named engine is never replaced by another.

    Raises ServiceError(engine_unavailable).
    """
    named = settings.engine if asked == "auto" else asked
    name = next((each for each in PREFERENCE if each in engines), next(iter(engines))) if named == "auto" else named
    if name not in engines:
        here = ", ".join(sorted(engines))
        raise ServiceError("engine_unavailable", f"This worker does not hold the engine {name}; it holds: {here}.")
    return engines[name]


def engine_info(capabilities: EngineCapabilities) -> EngineInfo:
    """The public face of an engine."""
    return EngineInfo(
        name=capabilities.name,
        version=capabilities.version,
        device=capabilities.device,
        description=capabilities.description,
        unsupported_options={name: list(values) for name, values in capabilities.unsupported_options.items()},
        synthetic_weights=capabilities.synthetic_weights,
    )
