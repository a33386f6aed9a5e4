"""Which engines this worker holds, and which of them a job gets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from jobs.errors import ServiceError
from jobs.settings import Settings
from retalking_core.engine_plugins import EngineEnvironment, FoundPlugin, PluginError, find_plugins
from retalking_core.errors import EngineUnavailableError, WeightsError
from retalking_core.media.limits import MediaLimits
from retalking_core.vocabulary.engines import AUTO, preferred_engine

if TYPE_CHECKING:  # the parent of a render worker imports this module, and must stay free of numpy
    from retalking_core.engine import Engine
    from retalking_core.face_cache import FaceCache

log = logging.getLogger(__name__)

LoadEngines = Callable[[Settings], "dict[str, Engine]"]
# The one engine that needs no memory to speak of: a worker set to it loads no other.
PREVIEW = "preview"
# What keeps an engine away without being a fault of its program.
EXPECTED = (PluginError, WeightsError, EngineUnavailableError)


def media_limits(settings: Settings) -> MediaLimits:
    """What one job may bring, as the deployment sets it."""
    return MediaLimits(max_video_s=settings.max_video_s, max_audio_s=settings.max_audio_s)


def engine_environment(settings: Settings, cache: FaceCache | None = None) -> EngineEnvironment:
    return EngineEnvironment(
        models_dir=settings.models_dir,
        compiled_dir=settings.kernels_dir or settings.data_dir / "compiled",
        chosen=settings.engine,
        limits=media_limits(settings),
        face_cache=cache,
        tracker=settings.tracker,
        inference=settings.inference,
        inference_batch=settings.inference_batch,
        kernels=settings.kernels,
    )


def load_engines(settings: Settings, cache: FaceCache | None = None) -> dict[str, Engine]:
    """Every engine that can run here, by name. Called in the process that renders. cache: where the neural engine keeps
    what it learns of a video's face.

    An engine that cannot be loaded is logged and left out, unless RETALKING_ENGINE names it: then its error is raised.
    """
    environment = engine_environment(settings, cache)
    engines: dict[str, Engine] = {}
    failures: dict[str, Exception] = {}
    for found in find_plugins():
        try:
            if engine_obstacle(found, environment) is None:
                engines[found.name] = found.load(environment)
        except Exception as error:
            if found.is_ours and not isinstance(error, EXPECTED):
                raise
            failures.setdefault(found.name, error)
            is_known = isinstance(error, EXPECTED)
            log.error("engine unavailable: %s (%s): %s", found.name, found.distribution, error, exc_info=not is_known)
    if settings.engine != AUTO and settings.engine in failures and settings.engine not in engines:
        raise failures[settings.engine]
    return engines


def load_service_engines(settings: Settings) -> dict[str, Engine]:
    """`load_engines` for a worker of a service: its face cache is that of all workers."""
    from jobs.opening import open_objects, open_store
    from worker.face_cache import CacheLimits, StoredFaceCache
    from worker.scratch import scratch_root

    if settings.face_cache_bytes == 0:
        return load_engines(settings)
    limits = CacheLimits(settings.face_cache_bytes, settings.face_cache_ttl_s)
    scratch = scratch_root(settings.work_dir)
    return load_engines(settings, StoredFaceCache(open_store(settings), open_objects(settings), limits, scratch))


def warm_up_engines(settings: Settings, engines: Mapping[str, Engine]) -> dict[str, Engine]:
    """The engines, ready for their first render. A plug-in that fails is logged and left out, as in `load_engines`."""
    foreign = {found.name for found in find_plugins() if not found.is_ours}
    ready = {}
    for name, engine in engines.items():
        try:
            engine.warm_up()
        except Exception:
            if name not in foreign or name == settings.engine:
                raise
            log.exception("engine plug-in failed to warm up: %s", name)
        else:
            ready[name] = engine
    return ready


def engine_obstacle(found: FoundPlugin, environment: EngineEnvironment) -> str | None:
    """Why this engine cannot run here, with the way out; None where nothing is in its way. Reads no weights.

    Raises PluginError for a broken plug-in.
    """
    if environment.chosen == PREVIEW != found.name:
        return f"This worker is set to RETALKING_ENGINE={PREVIEW}."
    return found.obstacle(environment)


def unavailable_engines(settings: Settings, engines: Mapping[str, Engine]) -> dict[str, str]:
    """Name -> reason, for the engines that callers may ask for and do not get here."""
    environment = engine_environment(settings)
    return {found.name: _reason(found, environment) for found in find_plugins() if found.name not in engines}


def choose_engine(asked: str, settings: Settings, engines: Mapping[str, Engine]) -> Engine:
    """The engine for a job that asked for `asked`. A named engine is never replaced by another.

    Raises ServiceError(engine_unavailable).
    """
    wanted = settings.engine if asked == AUTO else asked
    name = preferred_engine(wanted, engines)
    if name is not None:
        return engines[name]
    here = ", ".join(sorted(engines)) or "none"
    reason = unavailable_engines(settings, engines).get(wanted, "")
    raise ServiceError(
        "engine_unavailable", f"This worker does not hold the engine {wanted}; it holds: {here}. {reason}".rstrip()
    )


def _reason(found: FoundPlugin, environment: EngineEnvironment) -> str:
    try:
        return engine_obstacle(found, environment) or "It could not be loaded; see the worker's log."
    except PluginError:
        return "Its plug-in is broken; see the worker's log, or `retalking doctor`."
