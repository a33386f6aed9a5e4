"""Which engines this worker holds, and which of them a job gets. The only place that names engine classes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

from jobs.errors import ServiceError
from jobs.models import EngineInfo
from jobs.settings import Settings

if TYPE_CHECKING:  # the parent of a render worker imports this module, and must stay free of numpy
    from retalking_core.engine import Engine, EngineCapabilities
    from retalking_core.face_cache import FaceCache
    from retalking_core.faces.track import FaceTracker
    from retalking_core.media.limits import MediaLimits
    from retalking_core.weights.store import NetworkStore

log = logging.getLogger(__name__)

LoadEngines = Callable[[Settings], "dict[str, Engine]"]

# Best first: what `auto` means where the deployment does not say.
PREFERENCE = ("videoretalking", "preview")


def load_engines(settings: Settings, cache: FaceCache | None = None) -> dict[str, Engine]:
    """Every engine that can run here, by name. Called in the process that renders. The neural engine is loaded already,
    since only loading shows whether its weights are right; the others warm up later. cache: where it keeps what it
    learns of a video's face.

    Raises a WeightsError where the deployment insists on the neural engine and its weights are not right.
    """
    from retalking_core.engines.preview.engine import PreviewEngine
    from retalking_core.weights.errors import WeightsError

    limits = media_limits(settings)
    engines: dict[str, Engine] = {"preview": PreviewEngine(limits=limits)}
    if neural_obstacle(settings) is not None:
        return engines
    try:
        engines["videoretalking"] = _load_neural(settings, limits, cache)
    except WeightsError as error:
        if settings.engine == "videoretalking":
            raise
        log.error("the neural engine stays away: %s", error.message, extra={"code": error.code})
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


def neural_obstacle(settings: Settings) -> str | None:
    """Why the neural engine can not run here, with the way out; None when nothing is in its way. Reads no weights."""
    if settings.engine == "preview":
        return "This worker is set to RETALKING_ENGINE=preview."
    if find_spec("torch") is None:
        return "torch is not installed on the worker: install the extra `gpu`."
    from retalking_core.weights.errors import WeightsMissingError
    from retalking_core.weights.folder import find_file
    from retalking_core.weights.table import ENGINE_WEIGHTS, WEIGHT_FILES

    missing = []
    for name in ENGINE_WEIGHTS:
        try:
            find_file(settings.models_dir, WEIGHT_FILES[name])
        except WeightsMissingError:
            missing.append(WEIGHT_FILES[name].file)
    if missing:
        return f"These weight files are missing: {', '.join(missing)}. Run `retalking weights fetch`."
    import torch  # not sooner: it takes longer than all the rest of a worker's start

    if not torch.cuda.is_available() and settings.engine != "videoretalking":
        # Measured: 10 to 75 s a frame on two cores.
        return "There is no CUDA device. RETALKING_ENGINE=videoretalking runs it on the CPU, up to a minute a frame."
    return None


def unavailable_engines(settings: Settings, engines: Mapping[str, Engine]) -> dict[str, str]:
    """Name -> reason, for what callers may ask for and do not get here."""
    if "videoretalking" in engines:
        return {}
    return {"videoretalking": neural_obstacle(settings) or "Its weights could not be loaded; see the worker's log."}


def media_limits(settings: Settings) -> MediaLimits:
    """What one job may bring, as the deployment sets it."""
    from retalking_core.media.limits import MediaLimits

    return MediaLimits(max_video_s=settings.max_video_s, max_audio_s=settings.max_audio_s)


def _load_neural(settings: Settings, limits: MediaLimits, cache: FaceCache | None) -> Engine:
    import torch

    from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
    from retalking_core.networks.inference import fast_variants
    from retalking_core.weights.checkpoint import synthetic_seed
    from retalking_core.weights.folder import find_file
    from retalking_core.weights.store import NetworkStore
    from retalking_core.weights.table import ENGINE_WEIGHTS, WEIGHT_FILES

    files = [find_file(settings.models_dir, WEIGHT_FILES[name]) for name in ENGINE_WEIGHTS]
    has_cuda = torch.cuda.is_available()
    variants = fast_variants(settings.inference_batch) if computes_fast(settings, has_cuda) else {}
    if variants:
        # A start that finds it takes 40 s instead of 3 minutes.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(settings.data_dir.resolve() / "compiled"))
    networks = NetworkStore(settings.models_dir, "cuda" if has_cuda else "cpu", variants)
    engine = VideoRetalkingEngine(
        networks,
        batch_size=settings.inference_batch if has_cuda else None,
        limits=limits,
        tracker=_face_tracker(settings, networks),
        templates=settings.models_dir / "expression.mat",
        synthetic_weights=any(synthetic_seed(file) is not None for file in files),
        cache=cache,
    )
    engine.warm_up()
    return engine


def computes_fast(settings: Settings, has_cuda: bool) -> bool:
    """Raises RuntimeError when `fast` is asked for by name where no CUDA device is, or nothing to compile with."""
    from retalking_core.networks.inference import missing_build_tools

    if settings.inference == "fast" and not has_cuda:
        raise RuntimeError("RETALKING_INFERENCE=fast needs a CUDA device, and there is none; use auto or exact.")
    if settings.inference == "exact" or not has_cuda:
        return False
    obstacle = missing_build_tools()
    if obstacle is not None and settings.inference == "fast":
        raise RuntimeError(f"RETALKING_INFERENCE=fast compiles its networks. {obstacle}")
    if obstacle is not None:
        log.error("networks can not be compiled and run in float32, several times slower. %s", obstacle)
    return obstacle is None


def chosen_tracker(settings: Settings, has_cuda: bool) -> str:
    """`dlib` or `neural`. On a CPU dlib is the quicker one; generated weights see no face anywhere."""
    from retalking_core.weights.checkpoint import synthetic_seed
    from retalking_core.weights.errors import WeightsMissingError
    from retalking_core.weights.folder import find_file
    from retalking_core.weights.table import WEIGHT_FILES

    if settings.tracker != "auto":
        return settings.tracker
    try:
        files = [find_file(settings.models_dir, WEIGHT_FILES[name]) for name in ("s3fd", "fan2d")]
    except WeightsMissingError:
        return "dlib"
    return "neural" if has_cuda and all(synthetic_seed(file) is None for file in files) else "dlib"


def _face_tracker(settings: Settings, networks: NetworkStore) -> FaceTracker:
    """Raises: WeightsMissingError when `neural` is asked for by name, and its files are not there (at warm-up)."""
    from retalking_core.faces.dlib_tracker import DlibFaceTracker
    from retalking_core.faces.neural_tracker import NeuralFaceTracker

    name = chosen_tracker(settings, networks.device.type == "cuda")
    log.info("faces are followed by %s", name)
    return NeuralFaceTracker(networks) if name == "neural" else DlibFaceTracker()


def choose_engine(asked: str, settings: Settings, engines: Mapping[str, Engine]) -> Engine:
    """The engine for a job that asked for `asked`. A named engine is never replaced by another.

    Raises ServiceError(engine_unavailable).
    """
    named = settings.engine if asked == "auto" else asked
    name = next((each for each in PREFERENCE if each in engines), next(iter(engines))) if named == "auto" else named
    if name not in engines:
        here = ", ".join(sorted(engines))
        reason = unavailable_engines(settings, engines).get(name, "")
        raise ServiceError(
            "engine_unavailable", f"This worker does not hold the engine {name}; it holds: {here}. {reason}".rstrip()
        )
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
