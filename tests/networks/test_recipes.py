"""The synthetic recipe draws what the golden vectors were made from, and the networks have the manifests' keys."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from retalking_core import networks
from retalking_core.weights.synthesis import POWER_ITERATIONS, draw_weights
from retalking_core.weights.table import load_manifest
from tests.networks.golden import parse_manifest
from tests.networks.test_golden import FOLDERS


@pytest.mark.golden
@pytest.mark.parametrize("network", ["ganimation", "syncnet", "dnet", "deep3d"])
def test_draws_have_the_fingerprint_of_the_golden_set(network: str) -> None:
    golden = json.loads((FOLDERS["slices"] / "networks" / network / "golden.json").read_text())
    fingerprint = 0
    for _key, value in draw_weights(load_manifest(network), network, golden["seed"]):
        fingerprint = zlib.crc32(np.ascontiguousarray(value).tobytes(), fingerprint)
    assert fingerprint == golden["weights_crc32"]


def test_spectral_vectors_are_of_the_weight_and_not_converged() -> None:
    key = "encoder.first_inp.model.0"
    manifest = {k: spec for k, spec in load_manifest("lnet").items() if k.startswith(key)}
    drawn = dict(draw_weights(manifest, "lnet", 1))
    u, v = drawn[f"{key}.weight_u"], drawn[f"{key}.weight_v"]
    matrix = drawn[f"{key}.weight_orig"].reshape(64, -1).astype(np.float64)
    assert np.linalg.norm(u) == pytest.approx(1, abs=1e-6)
    largest = np.linalg.svd(matrix, compute_uv=False)[0]
    assert 0.9 * largest < u @ matrix @ v < (1 - 1e-6) * largest, POWER_ITERATIONS


@pytest.mark.parametrize("network", networks.NETWORKS)
def test_every_key_and_shape_is_the_manifests(network: str) -> None:
    with torch.device("meta"):
        state = networks.build(network).state_dict()
    manifest = load_manifest(network)
    built = {key: (tuple(t.shape), str(t.dtype)) for key, t in state.items()}
    assert built == {key: (spec.shape, f"torch.{spec.dtype}") for key, spec in manifest.items()}
    if network != "enet":  # whose file never holds LNet's part in the first place
        assert list(state) == list(manifest), "also in the order of the checkpoint"


@pytest.mark.golden
@pytest.mark.parametrize("network", networks.NETWORKS)
def test_packaged_manifest_is_the_golden_sets(network: str) -> None:
    path: Path = FOLDERS["full"] / "networks" / network / "manifest.json"
    if not path.exists():
        pytest.skip("no full golden set: set RETALKING_GOLDEN_DIR to the folder that holds `networks`")
    golden, packaged = parse_manifest(path), load_manifest(network)
    assert list(golden) == list(packaged)
    assert {k: (s.dtype, s.shape) for k, s in golden.items()} == {k: (s.dtype, s.shape) for k, s in packaged.items()}
