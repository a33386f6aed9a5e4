"""Files made to the official layouts, with every oddity that those have, and hostile ones that must run nothing."""

from __future__ import annotations

import argparse
import collections
import os
import pathlib
import pickle
import subprocess
import sys
import tarfile
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from retalking_core import errors
from retalking_core.digests import file_sha256
from retalking_core.weights import checkpoint, synthesis, table
from retalking_core.weights.checkpoint import (
    check_digest,
    convert_torchscript,
    read_checkpoint,
    read_templates,
    verify_file,
)
from retalking_core.weights.synthesis import synthetic_state_dict, write_checkpoint
from retalking_core.weights.table import (
    NETWORK_FILES,
    WEIGHT_FILES,
    LockedFile,
    Manifest,
    Pin,
    TensorSpec,
    WeightFile,
    load_manifest,
    read_lock,
)

LENIENT = ("dnet", "lnet", "enet", "ganimation")


@pytest.fixture(autouse=True)
def small_networks(quick_draws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dimension at most 3: layout and keys are the official ones, sizes are not."""

    def shrunken(network: str) -> Manifest:
        full = load_manifest(network).items()
        return {key: replace(spec, shape=tuple(min(n, 3) for n in spec.shape)) for key, spec in full}

    for module in (checkpoint, synthesis, table):
        monkeypatch.setattr(module, "load_manifest", shrunken)


class TrainingOptions:
    """A class of the training code, which the reader does not have."""

    def __init__(self) -> None:
        self.batch = 4


class ConfigDict(dict):  # type: ignore[type-arg]
    """As yacs, easydict and others have."""


def foreign_objects() -> dict[str, Any]:
    """What training code keeps beside weights."""
    layers: collections.defaultdict[str, list[int]] = collections.defaultdict(list)
    layers["a"].append(1)
    config = ConfigDict(lr=1.0)
    config.frozen = True  # type: ignore[attr-defined]
    return {
        "best": np.float64(0.5),
        "curve": np.arange(3.0),
        "args": argparse.Namespace(lr=1e-4, folder=pathlib.PurePosixPath("runs/1")),
        "layers": layers,
        "options": TrainingOptions(),
        "config": config,
        "names": {"a", "b"},
        "steps": collections.Counter("aab"),
    }


def optimizer_states() -> dict[str, Any]:
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.ones(3)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    return {"opt": optimizer.state_dict(), "sched": schedule.state_dict()}


def official_content(entry: WeightFile) -> dict[str, Any]:
    """The file's content as its publisher's training code saved it."""
    state = {entry.layout.wrapped_key(k): v for k, v in synthetic_state_dict(entry.network, 5).items()}
    nesting = entry.layout.nesting[0]
    training = optimizer_states()
    match entry.name:
        case "dnet":
            return {
                "net_G": state,
                "net_G_ema": state,
                "opt_G": training["opt"],
                "sch_G": training["sched"],
                "current_epoch": 200,
                "current_iteration": 390000,
            }
        case "deep3d":
            return {"net_recon": state, "opt_00": training["opt"], "sched_00": training["sched"]}
        case _ if nesting:
            # Objects first: the reader starts anew at each kind of them, and would read all tensors a dozen times.
            return {**foreign_objects(), nesting: state, "optimizer": training["opt"], "global_step": 7}
    return state


def save(folder: Path, entry: WeightFile, content: object, legacy: bool = False) -> Path:
    path = folder / entry.file
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", NETWORK_FILES)
def test_every_official_layout_loads(name: str, legacy: bool, tmp_path: Path) -> None:
    entry = WEIGHT_FILES[name]
    read = read_checkpoint(save(tmp_path, entry, official_content(entry), legacy), entry)
    expected = synthetic_state_dict(entry.network, 5)
    assert read.tensors.keys() == entry.manifest().keys()
    for key, tensor in read.tensors.items():
        assert torch.equal(tensor, expected[key]), key
    assert all("low_res" in key for key in read.ignored) if name == "enet" else not read.ignored


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", LENIENT)
def test_extra_keys_of_files_that_the_original_reads_leniently_are_listed(
    name: str, legacy: bool, tmp_path: Path
) -> None:
    entry = WEIGHT_FILES[name]
    content = official_content(entry)
    wanted = content[entry.layout.nesting[0]] if entry.layout.nesting[0] else content
    extra = {entry.layout.wrapped_key(f"noises.noise{i}"): torch.zeros(1) for i in range(2)}
    wanted.update(extra)
    path = save(tmp_path, entry, content, legacy)
    report = verify_file(tmp_path, entry)
    assert report.problem is None
    assert {"noises.noise0", "noises.noise1"} <= set(report.ignored)
    assert report.tensors == len(entry.manifest())
    wanted.pop(entry.layout.wrapped_key(next(iter(entry.manifest()))))
    save(tmp_path, entry, content, legacy)
    with pytest.raises(errors.WeightsKeyMismatchError, match="1 missing"):
        read_checkpoint(path, entry)


@pytest.mark.parametrize("name", [name for name in NETWORK_FILES if name not in LENIENT])
def test_extra_keys_stay_fatal_elsewhere(name: str, tmp_path: Path) -> None:
    entry = WEIGHT_FILES[name]
    content = official_content(entry)
    wanted = content[entry.layout.nesting[0]] if entry.layout.nesting[0] else content
    wanted["noises.noise0"] = torch.zeros(1)
    with pytest.raises(errors.WeightsKeyMismatchError, match=r"noises\.noise0"):
        read_checkpoint(save(tmp_path, entry, content), entry)


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    entry = WEIGHT_FILES["lnet"]
    content = official_content(entry)
    first = next(iter(entry.manifest()))
    content["state_dict"][first] = torch.ones(1)
    with pytest.raises(errors.WeightsKeyMismatchError, match="twice"):
        read_checkpoint(save(tmp_path, entry, content), entry)


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_a_file_of_pytorch_0_4_with_cuda_tags_loads(tmp_path: Path) -> None:
    """`_rebuild_tensor` and storages tagged `cuda:0`, as files of 2018 have them."""

    class Old:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def __reduce__(self) -> Any:
            storage = torch.storage.TypedStorage(wrap_storage=self.tensor.untyped_storage(), dtype=self.tensor.dtype)
            args = (storage, 0, tuple(self.tensor.shape), self.tensor.stride())
            return torch._utils._rebuild_tensor, args

    entry = WEIGHT_FILES["ganimation"]
    state = synthetic_state_dict("ganimation", 5)
    assert len(state) == 36
    path = tmp_path / entry.file
    torch.save({key: Old(tensor.contiguous()) for key, tensor in state.items()}, path,
               _use_new_zipfile_serialization=False)  # fmt: skip
    path.write_bytes(path.read_bytes().replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    assert b"cuda:0" in path.read_bytes()
    read = read_checkpoint(path, entry)
    assert all(torch.equal(read.tensors[key], tensor) for key, tensor in state.items())


class Call:
    """Calls a function when a plain unpickler reads it."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


class StateTrap:
    """Runs code when its state is set."""

    marker = ""

    def __init__(self, marker: str) -> None:
        self.path = marker

    def __getstate__(self) -> dict[str, str]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, str]) -> None:
        pathlib.Path(state["path"]).mkdir()


def hostile(marker: Path) -> dict[str, Any]:
    command = f"import os; os.mkdir({str(marker)!r})"
    return {
        "os": Call(os.mkdir, str(marker)),
        "subprocess": Call(subprocess.call, ["mkdir", str(marker)]),
        "exec": Call(exec, command),
        "eval": Call(eval, f"__import__('os').mkdir({str(marker)!r})"),
        "getattr": Call(getattr, pathlib.Path(marker), "mkdir"),
        "open": Call(open, str(marker), "w"),
        "torch-load": Call(torch.load, str(marker)),
        "import": Call(__import__, "antigravity"),
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["beside", "inside"])
@pytest.mark.parametrize("kind", list(hostile(Path("x"))))
def test_code_is_refused_by_name_and_never_runs(kind: str, place: str, legacy: bool, tmp_path: Path) -> None:
    marker = tmp_path / "sprung"
    trap = hostile(marker)[kind]
    entry = WEIGHT_FILES["dnet"]
    content = official_content(entry)
    target = content if place == "beside" else content["net_G_ema"]
    target["trap"] = trap
    path = save(tmp_path, entry, content, legacy)
    with pytest.raises(errors.WeightsUnsafeError, match=r"DNet\.pt is refused: .*trusting"):
        read_checkpoint(path, entry)
    assert not marker.exists()


def test_the_traps_are_real(tmp_path: Path) -> None:
    for kind in ("os", "subprocess", "exec", "eval", "open"):
        marker = tmp_path / kind
        made = pickle.loads(pickle.dumps(hostile(marker)[kind]))
        assert marker.exists(), kind
        if kind == "open":
            made.close()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_foreign_code_beside_the_weights_is_inert(legacy: bool, tmp_path: Path) -> None:
    """A class with a hostile `__setstate__` in an installed package: it is never imported, so nothing runs."""
    marker = tmp_path / "sprung"
    entry = WEIGHT_FILES["dnet"]
    content = official_content(entry) | {"trap": StateTrap(str(marker))}
    path = save(tmp_path, entry, content, legacy)
    assert read_checkpoint(path, entry).tensors
    assert not marker.exists()
    pickle.loads(pickle.dumps(StateTrap(str(marker))))
    assert marker.exists()


@pytest.mark.parametrize("name", ["dnet", "gfpgan", "syncnet", "ganimation"])
def test_weights_that_need_a_foreign_object_are_refused_by_its_name(name: str, tmp_path: Path) -> None:
    entry = WEIGHT_FILES[name]
    content = official_content(entry)
    wanted = content[entry.layout.nesting[0]] if entry.layout.nesting[0] else content
    wanted[entry.layout.wrapped_key(next(iter(entry.manifest())))] = TrainingOptions()
    with pytest.raises(errors.WeightsUnsafeError, match="TrainingOptions"):
        read_checkpoint(save(tmp_path, entry, content), entry)


def test_a_whole_state_dict_of_a_foreign_class_is_refused(tmp_path: Path) -> None:
    entry = WEIGHT_FILES["dnet"]
    content = official_content(entry)
    content["net_G_ema"] = ConfigDict(content["net_G_ema"])
    with pytest.raises(errors.WeightsUnsafeError, match="ConfigDict"):
        read_checkpoint(save(tmp_path, entry, content), entry)


def test_malformed_pickles_and_tar_archives_have_a_name(tmp_path: Path) -> None:
    entry = WEIGHT_FILES["dnet"]
    content = official_content(entry) | {"bad": Call(torch._utils._rebuild_tensor_v2, "not a storage")}
    with pytest.raises(errors.WeightsUnsafeError):
        read_checkpoint(save(tmp_path, entry, content), entry)
    with tarfile.open(tmp_path / entry.file, "w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo("\udc80/../../escape")
        archive.addfile(info)
    with pytest.raises(errors.WeightsUnsafeError, match="tar archive"):
        read_checkpoint(tmp_path / entry.file, entry)


def test_paths_may_be_called_as_in_python_3_13(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("pathlib._local")
    path = type("PosixPath", (), {"__module__": module.__name__})
    monkeypatch.setattr(module, "PosixPath", path, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = WEIGHT_FILES["gfpgan"]
    content = official_content(entry)
    content["folder"] = path()
    read_checkpoint(save(tmp_path, entry, content), entry)


def test_placeholders_do_not_stay_behind(tmp_path: Path) -> None:
    entry = WEIGHT_FILES["gfpgan"]
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(save(tmp_path, entry, official_content(entry)), entry)
    assert set(torch.serialization.get_safe_globals()) == before


# Digests


def pinned(entry: WeightFile, path: Path, sha256: str | None = None) -> WeightFile:
    return replace(entry, pins={entry.file: Pin(sha256 or file_sha256(path), path.stat().st_size, 3)})


def test_the_table_s_digests_are_well_formed() -> None:
    pins = {name: pin for entry in WEIGHT_FILES.values() for name, pin in entry.pins.items()}
    assert len(pins) == 10
    for pin in pins.values():
        assert len(bytes.fromhex(pin.sha256)) == 32
        assert pin.sources >= 1
    assert pins["s3fd-619a316812.pth"].sha256.startswith("619a316812")
    assert pins["2DFAN4-11f355bf06.pth.tar"].sha256.startswith("11f355bf06")
    assert pins["pt_inception-2015-12-05-6726825d.pth"].sha256.startswith("6726825d")
    assert pins["RetinaFace-R50.pth"].sha256 == pins["detection_Resnet50_Final.pth"].sha256
    for entry in WEIGHT_FILES.values():
        assert set(entry.pins) <= set(entry.names)


def test_a_file_with_another_digest_is_refused_with_both_and_the_switch(tmp_path: Path) -> None:
    entry = WEIGHT_FILES["ganimation"]
    path = save(tmp_path, entry, official_content(entry))
    check_digest(path, pinned(entry, path), None)
    other = pinned(entry, path, "ab" * 32)
    with pytest.raises(errors.WeightsDigestMismatchError) as caught:
        check_digest(path, other, None)
    for part in (file_sha256(path), "ab" * 32, f"--accept-digest {file_sha256(path)}", "3 public sources"):
        assert part in caught.value.message
    lock = LockedFile(file_sha256(path), 1, "an older version of this program")
    with pytest.raises(errors.WeightsDigestMismatchError):
        check_digest(path, other, lock)
    check_digest(path, other, replace(lock, accepted=True))


def test_generated_files_need_not_meet_the_pin(tmp_path: Path) -> None:
    entry = WEIGHT_FILES["syncnet"]
    write_checkpoint(tmp_path, entry, 1)
    report = verify_file(tmp_path, entry)
    assert (report.problem, report.seed, report.locked) == (None, 1, "match")
    (tmp_path / table.LOCK_NAME).unlink()
    assert verify_file(tmp_path, entry).problem is None
    save(tmp_path, entry, official_content(entry))  # without the mark
    problem = verify_file(tmp_path, entry).problem
    assert isinstance(problem, errors.WeightsDigestMismatchError)
    assert read_lock(tmp_path) == {}


# Expression templates

GOOD = {"expression_center": np.full((2, 64), 0.25), "expression_mouth": np.linspace(0, 1, 130).reshape(2, 65)}


def test_templates_are_row_0_of_both_variables(tmp_path: Path) -> None:
    entry = WEIGHT_FILES["expression"]
    savemat(tmp_path / entry.file, GOOD | {"unused": np.zeros(3)})
    templates = read_templates(tmp_path / entry.file)
    assert {word: row.shape for word, row in templates.items()} == {"neutral": (64,), "smile": (64,)}
    assert np.array_equal(templates["smile"], GOOD["expression_mouth"][0, :64].astype(np.float32))
    assert (verify_file(tmp_path, entry).problem, verify_file(tmp_path, entry).tensors) == (None, 2)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"expression_center": GOOD["expression_center"]}, errors.WeightsWrongFileError),
        (GOOD | {"expression_mouth": np.zeros((1, 63))}, errors.WeightsShapeMismatchError),
        (GOOD | {"expression_mouth": np.zeros((0, 64))}, errors.WeightsShapeMismatchError),
        (GOOD | {"expression_mouth": np.zeros((2, 64, 2))}, errors.WeightsShapeMismatchError),
        (GOOD | {"expression_mouth": np.full((1, 64), np.nan)}, errors.WeightsShapeMismatchError),
        (GOOD | {"expression_mouth": np.full((1, 64), "a", dtype=object)}, errors.WeightsShapeMismatchError),
    ],
    ids=["missing", "narrow", "empty", "3-d", "nan", "cells"],
)
def test_bad_templates_are_refused_by_name(
    content: dict[str, Any], error: type[errors.WeightsError], tmp_path: Path
) -> None:
    entry = WEIGHT_FILES["expression"]
    savemat(tmp_path / entry.file, content)
    problem = verify_file(tmp_path, entry).problem
    assert type(problem) is error
    assert "expression.mat" in problem.message


@pytest.mark.parametrize("damage", [b"<html>", b"", b"MATLAB 5.0 MAT-file"])
def test_what_is_no_matlab_file_is_refused(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "expression.mat").write_bytes(damage)
    with pytest.raises(errors.WeightsWrongFileError):
        read_templates(tmp_path / "expression.mat")


def test_a_truncated_matlab_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "expression.mat"
    savemat(path, GOOD, do_compression=True)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 37):
        path.write_bytes(whole[:length])
        with pytest.raises((errors.WeightsTruncatedError, errors.WeightsWrongFileError)):
            read_templates(path)


# TorchScript


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class Nested(torch.nn.Module):
    """Enough blocks that a traced one has more classes than a checkpoint may have foreign globals."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList([torch.nn.Sequential(Block()) for _ in range(40)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum((block(x) for block in self.blocks), torch.zeros(()))


@pytest.fixture
def torchscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, torch.Tensor]]:
    """A traced archive, and its network's state; the table's manifest is that of this network."""
    module = Nested().eval()
    path = tmp_path / "fan.zip"
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.trace(module, torch.zeros(1, 1, 8, 8)), path)
    state = dict(module.state_dict())
    manifest = {key: TensorSpec(str(v.dtype)[6:], tuple(v.shape), ()) for key, v in state.items()}
    monkeypatch.setattr(table, "load_manifest", lambda _network: manifest)
    return path, state


def test_a_torchscript_archive_is_converted_without_running_it(
    torchscript: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, state = torchscript
    entry = WEIGHT_FILES["fan2d"]
    with pytest.raises(errors.WeightsDigestMismatchError, match=f"--accept-digest {file_sha256(archive)}"):
        convert_torchscript(archive, tmp_path / "models", entry)

    def fail(*_arguments: object, **_options: object) -> None:
        raise AssertionError("the archive was run")

    for name in ("load", "jit_module_from_flatbuffer"):
        monkeypatch.setattr(torch.jit, name, fail)
    path = convert_torchscript(archive, tmp_path / "models", entry, frozenset([file_sha256(archive)]))
    read = read_checkpoint(path, entry).tensors
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)
    report = verify_file(path.parent, entry)
    assert (report.problem, report.locked) == (None, "match")
    assert read_lock(path.parent)[path.name].source == "converted from fan.zip"
    assert {file.name for file in path.parent.iterdir()} == {entry.file, table.LOCK_NAME}


def test_what_is_no_torchscript_archive_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "fan.zip"
    source.write_bytes(b"PK nothing")
    with pytest.raises(errors.WeightsWrongFileError, match="TorchScript"):
        convert_torchscript(source, tmp_path, WEIGHT_FILES["fan2d"], frozenset([file_sha256(source)]))
    assert list(tmp_path.iterdir()) == [source]
