"""Reading weight files: the official layouts load bit for bit, and every way of being wrong has its own name."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from retalking_core import errors
from retalking_core.weights import checkpoint, synthesis, table
from retalking_core.weights.checkpoint import read_state_dict, synthetic_seed
from retalking_core.weights.synthesis import synthetic_state_dict, wrap_state_dict, write_checkpoint
from retalking_core.weights.table import WEIGHT_FILES, Manifest, WeightFile, find_file, load_manifest

SMALL = WEIGHT_FILES["ganimation"]  # a bare state dict, 34 MB
NESTED = WEIGHT_FILES["dnet"]  # under one entry, 90 MB


@pytest.fixture(scope="module")
def ganimation() -> dict[str, torch.Tensor]:
    return synthetic_state_dict("ganimation", 1)


def save(folder: Path, content: object, entry: WeightFile = SMALL) -> Path:
    path = folder / entry.file
    torch.save(content, path)
    return path


@pytest.fixture
def small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dimension at most 3: how a file is laid out does not hang on its size, and a full set has 2.6 GB."""

    def shrunken(network: str) -> Manifest:
        full = load_manifest(network).items()
        return {key: replace(spec, shape=tuple(min(n, 3) for n in spec.shape)) for key, spec in full}

    for module in (checkpoint, synthesis, table):
        monkeypatch.setattr(module, "load_manifest", shrunken)


@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_official_layout_loads_bit_for_bit(name: str, quick_draws: None, small_shapes: None, tmp_path: Path) -> None:
    entry = WEIGHT_FILES[name]
    path = write_checkpoint(tmp_path, entry, seed=5)
    raw = torch.load(path, weights_only=True, mmap=True)
    nesting = entry.layout.nesting[0]
    assert set(raw) == {nesting, "epoch"} if nesting else set(raw) == set(entry.manifest())
    assert all(key.startswith("module.") for key in raw[nesting]) if entry.layout.prefix != "none" else True
    state = read_state_dict(path, entry)
    expected = synthetic_state_dict(entry.network, 5)
    assert list(state) == list(entry.manifest())
    for key, tensor in state.items():
        assert torch.equal(tensor, expected[key]), key
    if name == "enet":
        assert any("low_res" in key for key in raw[nesting])
        assert not any("low_res" in key for key in state)
    assert synthetic_seed(path) == 5


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.WeightsMissingError, match="30_net_gen"):
        find_file(tmp_path, SMALL)


def test_an_alias_is_found(tmp_path: Path) -> None:
    (tmp_path / "parsing_parsenet.pth").touch()
    assert find_file(tmp_path, WEIGHT_FILES["parsenet"]).name == "parsing_parsenet.pth"


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.3, 0.999])
@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "pickle"])
def test_a_truncated_file_is_named(
    share: float, zip_format: bool, tmp_path: Path, ganimation: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / SMALL.file
    torch.save(ganimation, path, _use_new_zipfile_serialization=zip_format)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(errors.WeightsTruncatedError, match="30_net_gen"):
        read_state_dict(path, SMALL)


def test_the_old_format_loads_too(tmp_path: Path, ganimation: dict[str, torch.Tensor]) -> None:
    path = tmp_path / SMALL.file
    torch.save(ganimation, path, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(path)
    state = read_state_dict(path, SMALL)
    assert all(torch.equal(state[key], value) for key, value in ganimation.items())


def test_a_renamed_key_is_named_with_both_names(tmp_path: Path, ganimation: dict[str, torch.Tensor]) -> None:
    renamed = {key.replace("au_top", "attention_top"): value for key, value in ganimation.items()}
    with pytest.raises(errors.WeightsKeyMismatchError) as caught:
        read_state_dict(save(tmp_path, renamed), SMALL)
    assert caught.value.details["missing"] == ["au_top.0.weight"]
    assert caught.value.details["unexpected"] == ["attention_top.0.weight"]
    assert "au_top.0.weight" in caught.value.message


def test_a_wrong_shape_is_named(tmp_path: Path, ganimation: dict[str, torch.Tensor]) -> None:
    bent = ganimation | {"au_top.0.weight": torch.zeros(2, 64, 7, 7)}
    with pytest.raises(errors.WeightsShapeMismatchError, match=r"au_top\.0\.weight is \[2, 64, 7, 7\], not \[1, 64"):
        read_state_dict(save(tmp_path, bent), SMALL)


def test_integers_in_place_of_weights_are_named(tmp_path: Path, ganimation: dict[str, torch.Tensor]) -> None:
    bent = ganimation | {"au_top.0.weight": ganimation["au_top.0.weight"].to(torch.int8)}
    with pytest.raises(errors.WeightsShapeMismatchError, match=r"holds torch\.int8, not float32"):
        read_state_dict(save(tmp_path, bent), SMALL)


def test_the_checkpoint_of_another_network_is_named(tmp_path: Path, ganimation: dict[str, torch.Tensor]) -> None:
    syncnet = WEIGHT_FILES["syncnet"]
    with pytest.raises(errors.WeightsWrongFileError, match=r"not the checkpoint of syncnet.*those of ganimation"):
        read_state_dict(save(tmp_path, ganimation, syncnet), syncnet)


def test_a_nested_layout_without_its_entry_is_named(tmp_path: Path, ganimation: dict[str, torch.Tensor]) -> None:
    with pytest.raises(errors.WeightsWrongFileError, match="no entry 'net_G_ema'"):
        read_state_dict(save(tmp_path, ganimation, NESTED), NESTED)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html>", b"version https://git-lfs"], ids=["page", "lfs-pointer"])
def test_something_else_than_a_checkpoint_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / SMALL.file
    path.write_bytes(content * 10)
    with pytest.raises(errors.WeightsWrongFileError, match="not a torch checkpoint"):
        read_state_dict(path, SMALL)


def test_a_pickle_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / SMALL.file
    path.write_bytes(pickle.dumps({"weights": [1, 2, 3]}, protocol=2))
    with pytest.raises(errors.WeightsWrongFileError, match="not a torch checkpoint"):
        read_state_dict(path, SMALL)


class Trap:
    """Calls `os.mkdir` when a plain unpickler reads it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "pickle"])
def test_pickled_code_is_refused_and_never_runs(
    zip_format: bool, tmp_path: Path, ganimation: dict[str, torch.Tensor]
) -> None:
    sprung = tmp_path / "sprung"
    path = tmp_path / SMALL.file
    torch.save(ganimation | {"extra": Trap(str(sprung))}, path, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(errors.WeightsUnsafeError, match="mkdir"):
        read_state_dict(path, SMALL)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(str(sprung))))
    assert sprung.exists(), "the trap is a real one"


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), buffer)
    path = tmp_path / SMALL.file
    path.write_bytes(buffer.getvalue())
    with pytest.raises(errors.WeightsUnsafeError, match="TorchScript"):
        read_state_dict(path, SMALL)


def test_counters_of_files_older_than_them_are_filled_in(tmp_path: Path) -> None:
    entry = WEIGHT_FILES["syncnet"]
    old = {k: v for k, v in synthetic_state_dict("syncnet", 1).items() if not k.endswith("num_batches_tracked")}
    state = read_state_dict(save(tmp_path, wrap_state_dict(old, entry), entry), entry)
    assert state.keys() == entry.manifest().keys()
    assert state["netfclip.1.num_batches_tracked"].item() == 0


def test_messages_hold_no_folder(tmp_path: Path) -> None:
    path = tmp_path / SMALL.file
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(errors.WeightsError) as caught:
        read_state_dict(path, SMALL)
    assert str(tmp_path) not in caught.value.message
