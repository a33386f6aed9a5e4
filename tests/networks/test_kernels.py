"""Compiled kernels: what they give, what bundles of them fit, and how they take the place of the plain ones."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from retalking_core import networks
from retalking_core.errors import KernelsUnfitError
from retalking_core.networks import kernels
from retalking_core.networks.inference import InferenceNetwork, InferenceVariant, prepare
from retalking_core.networks.kernels import (
    SHEET,
    KernelCache,
    KernelSwap,
    compile_all,
    compile_named,
    example_call,
)
from retalking_core.threads import Turns
from tests.services import first_on_path, wait_until

# The compiler's own modules warn when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
CPU = torch.device("cpu")
NAME = "parsenet"  # any that may run in half precision
VARIANT = InferenceVariant(fold=False, compiled_batch=2)
ROOT = Path(__file__).resolve().parents[2]


class Drawn(NamedTuple):
    picture: Tensor
    means: Tensor


class Small(nn.Module):
    """Only what the compiler leaves to torch's own products: on a CPU, anything else costs a run of the C++ compiler.
    A named tuple, as the big ones give."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.style = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor, style: Tensor) -> Drawn:
        return Drawn(self.conv(x), self.style(style))


def small(seed: int) -> InferenceNetwork:
    torch.manual_seed(seed)
    network = Small().eval()
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.3)
    return prepare(NAME, network, VARIANT)


@pytest.fixture(scope="module", autouse=True)
def small_networks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kernels.INPUT_SHAPES, NAME, ((3, 8, 8), (8,)))
        patch.setattr(networks, "build", lambda _name: Small().eval())
        patch.setattr(kernels, "fast_variants", lambda _batch: {NAME: VARIANT})
        patch.setattr(kernels, "compiled_names", lambda: (NAME,))
        yield


@pytest.fixture(scope="module")
def made(small_networks: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelCache]:
    """A folder that the compiler filled."""
    if not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++")))):
        pytest.skip("there is no C++ compiler here: kernels for the CPU cannot be compiled")
    cache = KernelCache(tmp_path_factory.mktemp("made"), CPU, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache.folder))
        assert compile_named(cache, NAME)
        assert not compile_named(cache, NAME)
    return cache


@pytest.fixture(scope="module")
def bundle(made: KernelCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.write_bundle(tmp_path_factory.mktemp("bundles"), [NAME])


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KernelCache:
    """As at the start of another process: nothing compiled, nothing in memory."""
    torch._dynamo.reset()
    counters.clear()
    folder = tmp_path / "compiled"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    return KernelCache(folder, CPU, 2)


def swap(network: InferenceNetwork, cache: KernelCache, turns: Turns | None = None, **more: Any) -> KernelSwap:
    return KernelSwap(lambda: {NAME: network}, cache, turns or Turns(idle_s=0), **more)


def test_a_bundle_spares_the_compiler_and_runs_on_other_weights(bundle: Path, empty: KernelCache) -> None:
    network, plain = small(2), small(2)
    assert network.awaits_kernels
    swapped = swap(network, empty, bundles=bundle.parent)
    swapped.run()
    assert swapped.failures == {}
    assert not network.awaits_kernels
    assert counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"] >= 1
    assert counters["inductor"]["fxgraph_cache_miss"] == 0
    for count in (1, 2, 5):
        inputs = torch.rand(count, 3, 8, 8), torch.rand(count, 8)
        found, expected = network(*inputs), plain(*inputs)
        assert isinstance(found, Drawn)
        for one, other in zip(found, expected, strict=True):
            assert (one.shape, one.dtype) == (other.shape, torch.float32)
            torch.testing.assert_close(one, other)
    assert float((small(4)(*inputs).picture - found.picture).abs().max()) > 0.3 * float(found.picture.abs().max())


def test_a_network_keeps_one_copy_of_its_weights(made: KernelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(made.folder))
    network = small(1)
    before = {name: tensor.data_ptr() for name, tensor in network.state_dict().items()}
    swap(network, made).run()
    assert not network.awaits_kernels
    assert {name: tensor.data_ptr() for name, tensor in network.state_dict().items()} == before


def altered(bundle: Path, folder: Path, **changed: Any) -> Path:
    """The bundle with other entries in its sheet."""
    folder.mkdir()
    with zipfile.ZipFile(bundle) as source, zipfile.ZipFile(folder / "other.zip", "w") as target:
        for member in source.infolist():
            content = source.read(member)
            if member.filename == SHEET:
                sheet = json.loads(content)
                sheet["fit"] |= {key: changed.pop(key) for key in set(changed) & set(sheet["fit"])}
                content = json.dumps(sheet | changed).encode()
            target.writestr(member, content)
    return folder


@pytest.mark.parametrize("key", ["architecture", "device", "torch", "python", "networks", "batch"])
def test_a_bundle_that_does_not_fit_is_refused_by_name(
    key: str, bundle: Path, empty: KernelCache, tmp_path: Path
) -> None:
    folder = altered(bundle, tmp_path / "bundles", **{key: "another"})
    with pytest.raises(KernelsUnfitError, match=rf"other\.zip was made for {key} another.*retalking compile --out"):
        empty.adopt_bundle(folder)
    assert not empty.folder.exists()


@pytest.mark.parametrize("changed", [{"format": 2}, {"fit": 1}, {"format": None}, {"fit": ["torch"]}], ids=repr)
def test_a_sheet_of_another_format_is_refused(
    changed: dict[str, Any], bundle: Path, empty: KernelCache, tmp_path: Path
) -> None:
    with pytest.raises(KernelsUnfitError, match="another format"):
        empty.adopt_bundle(altered(bundle, tmp_path / "bundles", **changed))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_bundle_is_refused_and_ignored(
    share: float, bundle: Path, empty: KernelCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "bundles"
    folder.mkdir()
    content = bundle.read_bytes()
    (folder / bundle.name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(KernelsUnfitError, match="is damaged or cannot be read"):
        empty.adopt_bundle(folder)
    network = small(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "missing_build_tools", lambda: "There is no C compiler.")
        refused = swap(network, empty, bundles=folder)
        refused.run()
    assert "no bundle of compiled kernels is used" in caplog.text
    assert refused.failures == {NAME: "There is no C compiler."}
    assert network.awaits_kernels
    network(*example_call(NAME, CPU)[0])


def test_a_flipped_bit_is_found(bundle: Path, empty: KernelCache, tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    folder.mkdir()
    with zipfile.ZipFile(bundle) as archive:
        largest = max(archive.infolist(), key=lambda member: member.compress_size)
    content = bytearray(bundle.read_bytes())
    content[largest.header_offset + 30 + len(largest.filename) + largest.compress_size // 2] ^= 1
    (folder / bundle.name).write_bytes(content)
    with pytest.raises(KernelsUnfitError, match="is damaged or cannot be read"):
        empty.adopt_bundle(folder)
    assert empty.missing([NAME])


@pytest.mark.parametrize("name", ["cache/../../out", "/etc/out", "cache//out", "elsewhere/out", "cache/a\\..\\out"])
def test_a_bundle_writes_nowhere_else(name: str, bundle: Path, empty: KernelCache, tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    folder.mkdir()
    shutil.copy(bundle, folder / "hostile.zip")
    with zipfile.ZipFile(folder / "hostile.zip", "a") as archive:
        archive.writestr(name, b"out")
    with pytest.raises(KernelsUnfitError, match="outside of its folder"):
        empty.adopt_bundle(folder)
    assert not list(tmp_path.rglob("out"))


def test_a_bundle_larger_than_allowed_is_refused(
    bundle: Path, empty: KernelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "MOST_BYTES", 1000)
    with pytest.raises(KernelsUnfitError, match="too large"):
        empty.adopt_bundle(bundle.parent)


def test_an_empty_folder_says_what_to_do(empty: KernelCache, tmp_path: Path) -> None:
    with pytest.raises(KernelsUnfitError, match=r"holds no bundle.*retalking compile --out"):
        empty.adopt_bundle(tmp_path)


def test_a_bundle_needs_every_network(empty: KernelCache, tmp_path: Path) -> None:
    with pytest.raises(KernelsUnfitError, match="not compiled: parsenet"):
        empty.write_bundle(tmp_path, [NAME])


def test_kernels_that_give_something_else_are_not_swapped_in(
    made: KernelCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small(1)
    inputs, _ = example_call(NAME, CPU)
    expected = network(*inputs)

    def wrong(bare: nn.Module, **_: object) -> Any:
        return lambda *inputs: Drawn(*(2 * part for part in bare(*inputs)))

    monkeypatch.setattr(torch, "compile", wrong)
    refused = swap(network, made)
    refused.run()
    assert "differ from the plain ones" in refused.failures[NAME]
    assert network.awaits_kernels
    assert torch.equal(network(*inputs).picture, expected.picture)


def test_a_compiler_that_fails_is_named_and_leaves_plain_kernels(
    made: KernelCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = small(1)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "compile", fails)
    swap(network, made).run()
    assert "network parsenet keeps plain kernels: RuntimeError: CUDA error: out of memory" in caplog.text
    assert network.awaits_kernels
    network(*example_call(NAME, CPU)[0])


def test_a_process_that_fails_costs_the_kernels_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process, which cannot write there."""
    monkeypatch.setattr(kernels, "missing_build_tools", lambda: None)
    (tmp_path / "file").touch()
    network = small(1)
    failed = swap(network, KernelCache(tmp_path / "file", CPU, 2))
    failed.run()
    assert "was not compiled (exit code" in failed.failures[NAME]
    assert network.awaits_kernels


def compiling(folder: Path) -> list[int]:
    """Processes that compile into a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"retalking_core.networks.kernels" in command and str(folder).encode() in command:
            found.append(int(path.parent.name))
    return found


def test_who_stops_does_not_wait_for_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "missing_build_tools", lambda: None)
    cache = KernelCache(tmp_path, CPU, 2)
    stopped = swap(small(1), cache)
    thread = threading.Thread(target=stopped.run)
    thread.start()
    wait_until(lambda: compiling(cache.folder), 60)
    stopped.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert not compiling(cache.folder)
    assert cache.missing([NAME])


def test_compilers_end_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    """It cannot end them any more: they notice."""
    code = (
        "import sys, time, torch\nfrom pathlib import Path\n"
        "from retalking_core.networks.kernels import Compilation, KernelCache\n"
        "kept = Compilation(KernelCache(Path(sys.argv[1]), torch.device('cpu'), 2), 'gfpgan')\n"
        "print('started', flush=True)\ntime.sleep(600)\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": first_on_path(ROOT)},
        cwd=tmp_path,
    )
    assert worker.stdout is not None
    with worker.stdout:
        assert worker.stdout.readline() == b"started\n"
        # Once the lock is there, the compiler's own thread waits for the end of its parent.
        wait_until(lambda: list(tmp_path.rglob("gfpgan.lock")), 60)
        assert compiling(tmp_path)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    wait_until(lambda: not compiling(tmp_path), 60)


def test_all_are_compiled_and_failures_are_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    class Stub:
        is_over = True

        def __init__(self, _cache: KernelCache, name: str) -> None:
            self.name = name

        def finish(self) -> None:
            ended.append(self.name)
            if self.name == "b":
                raise KernelsUnfitError("b was not compiled")

    monkeypatch.setattr(kernels, "Compilation", Stub)
    failures: dict[str, str] = {}
    assert list(compile_all(KernelCache(tmp_path, CPU, 2), ["a", "b", "c"], 2, failures)) == ["a", "c"]
    assert failures == {"b": "b was not compiled"}
    assert sorted(ended) == ["a", "b", "c"]


def test_kernels_change_between_jobs_only(
    made: KernelCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(made.folder))
    network, turns = small(1), Turns(idle_s=0, patience_s=0)
    with turns.job():
        thread = swap(network, made, turns).start()
        time.sleep(0.5)
        assert network.awaits_kernels
    thread.join(60)
    assert not network.awaits_kernels
    assert "compiled kernels: 1 of 1 networks" in caplog.text


def test_a_network_that_left_half_precision_meanwhile_is_left_alone_and_not_kept(made: KernelCache) -> None:
    held, turns = {NAME: small(1)}, Turns(idle_s=0, patience_s=0)
    first = weakref.ref(held[NAME])
    swapped = KernelSwap(lambda: held, made, turns)
    with turns.job():
        thread = swapped.start()
        time.sleep(0.3)
        held[NAME] = prepare(NAME, Small().eval(), InferenceVariant())
        gc.collect()
        assert first() is None, "two copies of the weights"
    thread.join(60)
    assert swapped.failures == {}
