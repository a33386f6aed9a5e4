"""Every network against the golden vectors: outputs and named intermediates.

Two sets: the slices committed under `tests/golden`, and the full set in `RETALKING_GOLDEN_DIR` (default
`../shared/golden` beside the project), skipped where it is absent. The seed is read from each set.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from retalking_core.networks import NETWORKS
from tests.networks.golden import GoldenSet, Result, read_golden, run_network

PROJECT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "slices": PROJECT / "tests" / "golden",
    "full": Path(os.environ.get("RETALKING_GOLDEN_DIR", PROJECT.parent / "shared" / "golden")),
}
CHECKPOINT_TOLERANCE = 1e-4

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def results() -> dict[int, Result]:
    """The latest run only: one run serves both sets where they ask for the same, as they usually do."""
    return {}


@pytest.fixture(scope="module", params=[(n, s) for n in NETWORKS for s in FOLDERS], ids="-".join)
def case(request: pytest.FixtureRequest, results: dict[int, Result]) -> tuple[GoldenSet, Result]:
    network, which = request.param
    if not (FOLDERS[which] / "networks" / network / "golden.json").exists():
        pytest.skip(f"no {which} golden set of {network}: set RETALKING_GOLDEN_DIR to the folder that holds `networks`")
    golden = read_golden(FOLDERS[which], network)
    modules = [c["module"] for c in golden.document["checkpoints"].values()]
    run = hash((network, golden.seed, *golden.manifest.items(), json.dumps([golden.document["inputs"], modules])))
    if run not in results:
        results.clear()
        results[run] = run_network(golden)
    return golden, results[run]


def _worst(actual: NDArray[np.float32], stored: NDArray[np.float32], largest: float) -> float:
    """The largest difference relative to the tensor's largest value; a NaN is as far off as can be."""
    assert actual.shape == stored.shape
    difference = np.abs(actual.astype(np.float64) - stored).max() / largest
    return float(difference) if np.isfinite(difference) else float("inf")


def test_outputs_agree(case: tuple[GoldenSet, Result]) -> None:
    golden, result = case
    assert set(result.outputs) == set(golden.document["outputs"])
    for name, entry in golden.document["outputs"].items():
        output = result.outputs[name]
        assert list(output.shape) == entry["shape"], name
        for key, part in entry["stored"].items():
            cut = output[tuple(slice(*bounds) for bounds in part)]
            difference = _worst(cut, golden.arrays[f"output/{key}"], entry["absmax"])
            print(f"{golden.network} {key}: {difference:.1e} of {entry['tolerance']:.0e}")
            assert difference <= entry["tolerance"], key


def test_named_intermediates_agree(case: tuple[GoldenSet, Result]) -> None:
    golden, result = case
    for name, checkpoint in golden.document["checkpoints"].items():
        values, shape = result.samples[checkpoint["module"]]
        assert list(shape) == checkpoint["shape"], name
        difference = _worst(values, golden.arrays[f"checkpoint/{name}"], checkpoint["absmax"])
        print(f"{golden.network} {name}: {difference:.1e}")
        assert difference <= CHECKPOINT_TOLERANCE, name
