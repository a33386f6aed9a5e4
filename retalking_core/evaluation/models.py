"""The networks that judge a render, resident for as long as the process wants them.

torch is imported with the first network: most metrics run without it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from retalking_core.errors import MetricUnavailableError

if TYPE_CHECKING:
    from retalking_core.networks.inference import InferenceNetwork
    from retalking_core.weights.store import NetworkStore


class EvaluationModels:
    """SyncNet, S3FD, ArcFace and Inception, each read from `folder` when it is first asked for, and then kept.

    device: as torch names it; None: the first CUDA device if there is one, else the CPU.
    """

    def __init__(self, folder: Path, device: str | None = None) -> None:
        self.folder, self.device = folder, device

    def has(self, name: str) -> bool:
        """Whether the checkpoint lies in the folder; it is not read."""
        from retalking_core.weights.table import WEIGHT_FILES

        entry = WEIGHT_FILES[name]
        return any((self.folder / file).is_file() for file in (entry.file, *entry.aliases))

    def get(self, name: str) -> InferenceNetwork:
        """Raises MetricUnavailableError, naming the file and what to do."""
        from retalking_core.weights.table import WEIGHT_FILES

        file = WEIGHT_FILES[name].file
        if not self.has(name):
            raise MetricUnavailableError(f"needs the checkpoint {file}: `retalking weights fetch` gets it")
        try:
            from retalking_core.weights.errors import WeightsError

            return self._store.get(name)
        except ImportError as error:
            raise MetricUnavailableError(
                f"needs torch ({error.name} is missing): pip install 'retalking[gpu]'"
            ) from error
        except WeightsError as error:
            raise MetricUnavailableError(f"{error.message}; `retalking weights fetch` gets {file} anew") from error

    @property
    def synthetic(self) -> bool:
        """Whether a network was loaded whose weights were generated, so that its scores mean nothing."""
        return "_store" in vars(self) and self._store.synthetic

    @cached_property
    def _store(self) -> NetworkStore:
        import torch

        from retalking_core.weights.store import NetworkStore

        return NetworkStore(self.folder, self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
