"""What the tests of networks and weights share."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from retalking_core.weights import synthesis
from retalking_core.weights.table import Manifest

# More threads than that only fight each other on small machines.
torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(scope="module")
def quick_draws() -> Iterator[None]:
    """Ramps instead of normal draws, each tensor with its own: for tests of files, where values need only differ.

    ENet's copy of LNet, which no reader looks at, is cut to its first tensor.
    """

    def ramps(manifest: Manifest, network: str, seed: int) -> Iterator[tuple[str, NDArray[np.generic]]]:
        copied = set([key for key in manifest if key.startswith("low_res.")][1:])
        for key, spec in manifest.items():
            if key in copied:
                continue
            start = zlib.crc32(f"{seed}:{network}:{key}".encode()) % 1000
            yield key, np.resize(np.arange(start, start + 997) / 997, spec.shape).astype(spec.dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesis, "draw_weights", ramps)
        yield
