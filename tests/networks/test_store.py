"""The store: lazy, one copy, digests, the synthetic mark."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from retalking_core import errors
from retalking_core.digests import file_sha256
from retalking_core.networks.inference import REFERENCE, InferenceVariant
from retalking_core.weights import checkpoint
from retalking_core.weights import store as store_module
from retalking_core.weights.checkpoint import verify_file
from retalking_core.weights.store import NetworkStore
from retalking_core.weights.synthesis import synthesize, synthetic_state_dict, write_checkpoint
from retalking_core.weights.table import LOCK_NAME, WEIGHT_FILES, read_lock

FOUR = ("ganimation", "syncnet", "lnet", "enet")


@pytest.fixture(scope="module")
def folder(quick_draws: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("weights")
    synthesize(folder, 3, FOUR)
    yield folder
    shutil.rmtree(folder)  # 0.7 GB, and pytest keeps the folders of the last runs


def test_networks_load_when_asked_and_once(folder: Path) -> None:
    store = NetworkStore(folder)
    assert store.loaded == ()
    assert not store.synthetic
    network = store.get("ganimation")
    assert store.get("ganimation") is network
    assert store.loaded == ("ganimation",)
    assert store.synthetic
    expected = synthetic_state_dict("ganimation", 3)
    assert all(torch.equal(value, expected[key]) for key, value in network.network.state_dict().items())
    store.release("ganimation")
    assert store.loaded == ()


def test_enet_shares_the_one_lnet_which_comes_from_its_own_file(folder: Path) -> None:
    store = NetworkStore(folder, variants={"enet": REFERENCE})
    enet = store.get("enet").network
    assert enet.low_res is store.get("lnet").network
    expected = synthetic_state_dict("lnet", 3)
    own = enet.low_res.state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[key], expected[key]) for key in expected)
    assert torch.equal(enet.final_conv.weight, synthetic_state_dict("enet", 3)["final_conv.weight"])
    assert not any(t.is_meta for t in (*enet.parameters(), *enet.buffers()))


def test_nothing_stays_unplaced_and_nothing_wants_gradients(folder: Path) -> None:
    network = NetworkStore(folder).get("syncnet").network
    tensors = [*network.parameters(), *network.buffers()]
    assert {t.device.type for t in tensors} == {"cpu"}
    assert not any(t.requires_grad for t in tensors)
    assert not network.training


def test_weights_survive_the_file(tmp_path: Path) -> None:
    """They are copied off the mapped file, which may be replaced while the process runs."""
    path = write_checkpoint(tmp_path, WEIGHT_FILES["ganimation"], 1)
    network = NetworkStore(tmp_path).get("ganimation").network
    before = network.state_dict()["model.0.weight"].clone()
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(network.state_dict()["model.0.weight"], before)


def test_a_file_that_changed_since_it_was_recorded_is_refused(tmp_path: Path) -> None:
    entry = WEIGHT_FILES["ganimation"]
    path = write_checkpoint(tmp_path, entry, 1)
    assert read_lock(tmp_path)[entry.file].sha256 == file_sha256(path)
    torch.save(synthetic_state_dict("ganimation", 2), path)
    with pytest.raises(errors.WeightsDigestMismatchError, match="30_net_gen"):
        NetworkStore(tmp_path).get("ganimation")
    assert verify_file(tmp_path, entry).locked == "mismatch"
    (tmp_path / LOCK_NAME).unlink()
    network = NetworkStore(tmp_path)
    network.get("ganimation")
    assert not network.synthetic, "a file without the mark counts as a real one"


def test_the_synthetic_mark_travels_with_the_file(tmp_path: Path) -> None:
    written = write_checkpoint(tmp_path / "there", WEIGHT_FILES["ganimation"], 1)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / written.name).write_bytes(written.read_bytes())
    store = NetworkStore(tmp_path / "here")
    store.get("ganimation")
    assert store.synthetic


def test_lnet_can_not_run_otherwise_than_its_enet(folder: Path) -> None:
    with pytest.raises(ValueError, match="part of enet"):
        NetworkStore(folder, variants={"lnet": InferenceVariant("bf16"), "enet": InferenceVariant()})


def test_verify_reports_every_file(folder: Path, tmp_path: Path) -> None:
    report = verify_file(folder, WEIGHT_FILES["syncnet"])
    assert (report.present, report.problem, report.locked, report.seed, report.tensors) == (True, None, "match", 3, 102)
    missing = verify_file(tmp_path, WEIGHT_FILES["enet"])
    assert not missing.present
    assert isinstance(missing.problem, errors.WeightsMissingError)


def test_verify_finds_a_flipped_bit_that_loading_would_not(tmp_path: Path) -> None:
    entry = WEIGHT_FILES["ganimation"]
    path = write_checkpoint(tmp_path, entry, 1)
    (tmp_path / LOCK_NAME).unlink()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    assert isinstance(verify_file(tmp_path, entry).problem, errors.WeightsTruncatedError)


def test_threads_that_load_at_once_get_one_copy_of_each(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, loads = NetworkStore(folder), list[str]()
    load = store._load

    def counted(name: str, parts: Mapping[str, nn.Module]) -> nn.Module:
        loads.append(name)
        return load(name, parts)

    monkeypatch.setattr(store, "_load", counted)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(store.get, ("enet", "lnet", "syncnet", "enet", "lnet", "syncnet")))
    assert sorted(loads) == ["enet", "lnet", "syncnet"]
    assert found[:3] == found[3:]
    assert found[0].network.low_res is found[1].network


def test_a_file_is_read_once_for_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_checkpoint(tmp_path, WEIGHT_FILES["syncnet"], 1)
    (tmp_path / LOCK_NAME).unlink()
    read: list[Path] = []

    def counted(file: Path) -> str:
        read.append(file)
        return file_sha256(file)

    for module in (checkpoint, store_module):
        monkeypatch.setattr(module, "file_sha256", counted)
    store = NetworkStore(tmp_path)
    store.get("syncnet")
    assert store.digest("syncnet").startswith(file_sha256(path))
    assert read == [path]


def test_the_state_of_kernels_is_that_of_the_loaded_networks(folder: Path) -> None:
    variant = InferenceVariant(compiled_batch=2)
    store = NetworkStore(folder, variants={"enet": variant, "lnet": variant})
    assert store.kernels() is None
    store.get("syncnet")
    assert store.kernels() is None, "no network that can be compiled"
    network = store.get("enet")
    assert store.kernels() == "plain"
    network._compiled = (network.network,)
    assert store.kernels() == "compiled", "LNet runs as part of ENet"
