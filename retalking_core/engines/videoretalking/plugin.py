"""Entry point of the neural engine: whether it can run here, and how it is built."""

from __future__ import annotations

import ctypes
import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from retalking_core.engine_plugins import EngineEnvironment, EnginePlugin

if TYPE_CHECKING:
    from retalking_core.engine import Engine
    from retalking_core.faces.track import FaceTracker
    from retalking_core.weights.store import NetworkStore

log = logging.getLogger(__name__)


def obstacle(environment: EngineEnvironment) -> str | None:
    """Everything that is missing, in one text. Reads no weights."""
    from retalking_core.errors import WeightsMissingError
    from retalking_core.weights.table import ENGINE_WEIGHTS, WEIGHT_FILES, find_file

    found = []
    has_torch = find_spec("torch") is not None
    if not has_torch:
        found.append("torch is not installed on the worker: install the extra `gpu`.")
    missing = []
    for name in ENGINE_WEIGHTS:
        try:
            find_file(environment.models_dir, WEIGHT_FILES[name])
        except WeightsMissingError:
            missing.append(WEIGHT_FILES[name].file)
    if missing:
        found.append(f"These weight files are missing: {', '.join(missing)}. Run `retalking weights fetch`.")
    if has_torch and environment.chosen != "videoretalking" and not _has_cuda():
        # Measured: 10 to 75 s a frame on two cores.
        found.append(
            "There is no CUDA device. RETALKING_ENGINE=videoretalking runs it on the CPU, up to a minute a frame."
        )
    return " ".join(found) or None


def _has_cuda() -> bool:
    """Without the driver's library there is none, which is known without torch: importing it takes 1.5 s of CPU time,
    more than all the rest of a worker's start. Loading the library initializes nothing."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        if not Path("/dev/kfd").exists():  # AMD's driver; their torch calls its devices CUDA as well
            return False
    import torch

    return torch.cuda.is_available()


def load(environment: EngineEnvironment) -> Engine:
    """The networks are read now: only loading shows whether the weights are right. Their compiled kernels may follow
    between jobs. Raises a WeightsError."""
    import torch

    from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
    from retalking_core.networks.inference import fast_variants
    from retalking_core.networks.kernels import KernelCache, KernelSwap, compilers_at_once
    from retalking_core.weights.checkpoint import synthetic_seed
    from retalking_core.weights.store import NetworkStore
    from retalking_core.weights.table import ENGINE_WEIGHTS, WEIGHT_FILES, find_file

    files = [find_file(environment.models_dir, WEIGHT_FILES[name]) for name in ENGINE_WEIGHTS]
    has_cuda = torch.cuda.is_available()
    if not has_cuda:
        log.warning("there is no CUDA device: the neural engine runs on the CPU, up to a minute a frame")
    variants = fast_variants(environment.inference_batch) if computes_fast(environment, has_cuda) else {}
    # librosa fails where numba finds no folder to write to: read-only installations whose user has no home.
    os.environ.setdefault("NUMBA_CACHE_DIR", str(environment.compiled_dir.resolve() / "numba"))
    networks = NetworkStore(environment.models_dir, "cuda" if has_cuda else "cpu", variants)
    engine = VideoRetalkingEngine(
        networks,
        batch_size=environment.inference_batch if has_cuda else None,
        limits=environment.limits,
        tracker=_face_tracker(environment, networks),
        templates=_expression_templates(environment.models_dir),
        synthetic_weights=any(synthetic_seed(file) is not None for file in files),
        cache=environment.face_cache,
    )
    engine.warm_up()
    if variants and environment.kernels != "plain":
        # The compiler's own name for the folder.
        folder = os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(environment.compiled_dir.resolve()))
        cache = KernelCache(Path(folder), networks.device, environment.inference_batch)
        swap = KernelSwap(lambda: networks.networks, cache, engine.turns, environment.kernels_dir)
        if environment.kernels == "before_ready":
            swap.run(compilers_at_once())
        else:
            swap.start()
    return engine


def _expression_templates(models_dir: Path) -> Path | None:
    """The original's expression templates, checked like any weight file; None without them.

    Raises a WeightsError for a file that is damaged, of another shape, or not the locked one."""
    from retalking_core.weights.checkpoint import check_content, check_digest
    from retalking_core.weights.table import WEIGHT_FILES, read_lock

    entry = WEIGHT_FILES["expression"]
    path = models_dir / entry.file
    if not path.is_file():
        return None
    check_digest(path, entry, read_lock(models_dir).get(path.name))
    check_content(path, entry)
    return path


def computes_fast(environment: EngineEnvironment, has_cuda: bool) -> bool:
    """Raises EngineUnavailableError when `fast` is asked for by name where no CUDA device is."""
    from retalking_core.errors import EngineUnavailableError

    if environment.inference == "fast" and not has_cuda:
        raise EngineUnavailableError(
            "RETALKING_INFERENCE=fast needs a CUDA device, and there is none; use auto or exact."
        )
    return has_cuda and environment.inference != "exact"


def chosen_tracker(environment: EngineEnvironment, has_cuda: bool) -> str:
    """`dlib` or `neural`. On a CPU dlib is the quicker one; generated weights see no face anywhere."""
    from retalking_core.errors import WeightsMissingError
    from retalking_core.weights.checkpoint import synthetic_seed
    from retalking_core.weights.table import WEIGHT_FILES, find_file

    if environment.tracker != "auto":
        return environment.tracker
    try:
        files = [find_file(environment.models_dir, WEIGHT_FILES[name]) for name in ("s3fd", "fan2d")]
    except WeightsMissingError:
        return "dlib"
    return "neural" if has_cuda and all(synthetic_seed(file) is None for file in files) else "dlib"


def _face_tracker(environment: EngineEnvironment, networks: NetworkStore) -> FaceTracker:
    """Raises: WeightsMissingError when `neural` is asked for by name, and its files are not there (at warm-up)."""
    from retalking_core.faces.dlib_tracker import DlibFaceTracker
    from retalking_core.faces.neural_tracker import NeuralFaceTracker

    name = chosen_tracker(environment, networks.device.type == "cuda")
    log.info("faces are followed by %s", name)
    return NeuralFaceTracker(networks) if name == "neural" else DlibFaceTracker()


PLUGIN = EnginePlugin(load, obstacle)
