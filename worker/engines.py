"""Which engines this worker holds, and which of them a job gets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jobs.errors import ServiceError
from jobs.settings import Settings
from retalking_core.engine_plugins import EngineEnvironment, FoundPlugin, PluginError, find_plugins
from retalking_core.errors import EngineUnavailableError, RetalkingError, WeightsError
from retalking_core.media.limits import MediaLimits
from retalking_core.vocabulary.engines import AUTO, KernelState, preferred_engine

if TYPE_CHECKING:  # the parent of a render worker imports this module, and must stay free of numpy
    from retalking_core.engine import Engine
    from retalking_core.face_cache import FaceCache

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineSet:
    """The engines of one process, and those that it cannot offer.

    Attributes:
        by_name: Engines that were loaded.
        unavailable: Name -> reason, with the remedy, for the other engines that a caller or the deployment may ask for.
    """

    by_name: Mapping[str, Engine]
    unavailable: Mapping[str, str] = field(default_factory=dict)


LoadEngines = Callable[[Settings], EngineSet]
# The one engine that needs no memory to speak of: a worker set to it loads no other.
PREVIEW = "preview"
# What keeps an engine away without being a fault of its program.
EXPECTED = (PluginError, WeightsError, EngineUnavailableError, PermissionError)
NOT_INSTALLED = "No installed package declares an engine of this name: install it, or correct RETALKING_ENGINE."


def media_limits(settings: Settings) -> MediaLimits:
    """What one job may bring, as the deployment sets it."""
    return MediaLimits(max_video_s=settings.max_video_s, max_audio_s=settings.max_audio_s)


def engine_environment(settings: Settings, cache: FaceCache | None = None) -> EngineEnvironment:
    return EngineEnvironment(
        models_dir=settings.models_dir,
        compiled_dir=settings.data_dir / "compiled",
        chosen=settings.engine,
        limits=media_limits(settings),
        face_cache=cache,
        tracker=settings.tracker,
        inference=settings.inference,
        inference_batch=settings.inference_batch,
        kernels=settings.kernels,
        kernels_dir=settings.kernels_dir,
    )


def load_engines(settings: Settings, cache: FaceCache | None = None) -> EngineSet:
    """Every engine that can run here. Called in the process that renders. cache: where the neural engine keeps what it
    learns of a video's face.

    An engine that cannot be loaded is logged and left out, also the one that RETALKING_ENGINE names: jobs for it then
    end with the reason, instead of waiting for a worker that cannot start. An unexpected error of an engine of ours is
    raised, since another start may succeed (a GPU whose memory is in use).
    """
    environment = engine_environment(settings, cache)
    engines: dict[str, Engine] = {}
    unavailable: dict[str, str] = {}
    for found in find_plugins():
        try:
            obstacle = engine_obstacle(found, environment)
            if obstacle is None:
                engines[found.name] = found.load(environment)
            else:
                unavailable[found.name] = obstacle
        except Exception as error:
            if found.is_ours and not isinstance(error, EXPECTED):
                raise
            is_known = isinstance(error, EXPECTED)
            log.error("engine unavailable: %s (%s): %s", found.name, found.distribution, error, exc_info=not is_known)
            unavailable.setdefault(found.name, _public_reason(error))
    if settings.engine not in {AUTO, *engines, *unavailable}:
        unavailable[settings.engine] = NOT_INSTALLED
    if settings.engine in unavailable:
        log.error("RETALKING_ENGINE=%s cannot be offered: %s", settings.engine, unavailable[settings.engine])
    return EngineSet(engines, {name: reason for name, reason in unavailable.items() if name not in engines})


def load_service_engines(settings: Settings) -> EngineSet:
    """`load_engines` for a worker of a service: its face cache is that of all workers."""
    from jobs.opening import open_objects, open_store
    from worker.face_cache import CacheLimits, StoredFaceCache
    from worker.scratch import scratch_root

    if settings.face_cache_bytes == 0:
        return load_engines(settings)
    limits = CacheLimits(settings.face_cache_bytes, settings.face_cache_ttl_s)
    scratch = scratch_root(settings.work_dir)
    return load_engines(settings, StoredFaceCache(open_store(settings), open_objects(settings), limits, scratch))


def warm_up_engines(engines: EngineSet, later: str = "") -> EngineSet:
    """The engines, ready for their first render. A plug-in that fails is logged and left out, as in `load_engines`.
    later: name of one that the caller will warm up."""
    foreign = {found.name for found in find_plugins() if not found.is_ours}
    ready, unavailable = {}, dict(engines.unavailable)
    for name, engine in engines.by_name.items():
        try:
            if name != later:
                engine.warm_up()
        except Exception as error:
            if name not in foreign:
                raise
            log.exception("engine plug-in failed to warm up: %s", name)
            unavailable[name] = _public_reason(error)
        else:
            ready[name] = engine
    return EngineSet(ready, unavailable)


def kernels_of(engines: EngineSet) -> KernelState | None:
    """What the networks of these engines run at this moment; None if no engine compiles any."""
    states = (getattr(engine, "kernels", None) for engine in engines.by_name.values())
    return next((state for state in states if state is not None), None)


def engine_obstacle(found: FoundPlugin, environment: EngineEnvironment) -> str | None:
    """Why this engine cannot run here, with the way out; None where nothing is in its way. Reads no weights.

    Raises PluginError for a broken plug-in.
    """
    if environment.chosen == PREVIEW != found.name:
        return f"This worker is set to RETALKING_ENGINE={PREVIEW}."
    return found.obstacle(environment)


def choose_engine(asked: str, settings: Settings, engines: EngineSet) -> Engine:
    """The engine for a job that asked for `asked`. A named engine is never replaced by another.

    Raises ServiceError(engine_unavailable).
    """
    wanted = wanted_engine(asked, settings)
    name = preferred_engine(wanted, engines.by_name)
    if name is not None:
        return engines.by_name[name]
    here = ", ".join(sorted(engines.by_name)) or "none"
    reason = engines.unavailable.get(wanted, "")
    raise ServiceError(
        "engine_unavailable", f"This worker does not hold the engine {wanted}; it holds: {here}. {reason}".rstrip()
    )


def wanted_engine(asked: str, settings: Settings) -> str:
    """What the engine of a job means in this deployment; `auto`: any."""
    return settings.engine if asked == AUTO else asked


def _public_reason(error: Exception) -> str:
    """For callers, who get it with `engine_unavailable`: messages of unknown errors may contain paths."""
    if isinstance(error, PluginError):
        return "Its plug-in is broken; see the worker's log, or `retalking doctor`."
    if isinstance(error, WeightsError):
        return f"{error.message.rstrip('.')} ({error.code}). Check the files with `retalking weights verify`."
    if isinstance(error, RetalkingError):
        return error.message
    if isinstance(error, PermissionError):
        return "The worker may not read one of its files, which the worker's log names; give its user the right."
    return "It could not be loaded; see the worker's log."
