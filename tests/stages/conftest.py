"""The golden set that a test asks for by the name of its file, once as committed slices and once in full."""

from __future__ import annotations

import pytest
import torch

from tests.stages.golden_set import FOLDERS, GoldenSet, read_golden

torch.set_num_threads(min(2, torch.get_num_threads()))


@pytest.fixture(params=["slices", "full"])
def golden(request: pytest.FixtureRequest) -> GoldenSet:
    """Use with `@pytest.mark.golden_file("00_primitives")` on the module or the test."""
    marker = request.node.get_closest_marker("golden_file")
    found = read_golden(request.param, marker.args[0])
    if found is None:
        pytest.skip(f"no {marker.args[0]}.npz in {FOLDERS[request.param].name}: set RETALKING_GOLDEN_DIR")
    return found
