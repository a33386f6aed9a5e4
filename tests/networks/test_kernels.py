"""Compiled kernels: what they give, what they fit, and how they take the place of the plain ones."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from retalking_core.errors import KernelsUnfitError
from retalking_core.networks import kernels
from retalking_core.networks.inference import InferenceNetwork, InferenceVariant, prepare
from retalking_core.networks.kernels import KernelPackage, KernelSwap, compile_network, example_inputs
from retalking_core.networks.layers import ModulatedConv2d
from retalking_core.networks.lnet import FourierUnit

CPU = torch.device("cpu")
VARIANT = InferenceVariant("bf16", fold=False, compiled_batch=2)
NAME = "parsenet"  # any that may run in half precision


class Drawn(NamedTuple):
    picture: Tensor
    means: Tensor


class Small(nn.Module):
    """What the big ones are made of: a bias, a noise strength, demodulation in float32, an FFT, a named tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.strength = nn.Parameter(torch.zeros(1))
        self.unit = FourierUnit(4)
        self.modulated = ModulatedConv2d(4, 4, 3, demodulate=True)

    def forward(self, x: Tensor, style: Tensor) -> Drawn:
        y = self.modulated(self.unit(self.conv(x)), style) + self.strength
        return Drawn(y, y.mean(dim=(2, 3)))


def small(seed: int) -> InferenceNetwork:
    torch.manual_seed(seed)
    network = Small().eval()
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.3)
    return prepare(NAME, network, VARIANT)


@pytest.fixture(scope="module", autouse=True)
def shapes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kernels.INPUT_SHAPES, NAME, ((3, 8, 8), (512,)))
        yield


@pytest.fixture(scope="module")
def package(shapes: None, tmp_path_factory: pytest.TempPathFactory) -> KernelPackage:
    package = KernelPackage(NAME, tmp_path_factory.mktemp("kernels"), VARIANT, CPU)
    compile_network(package, small(1).network)
    return package


def test_kernels_run_on_the_weights_of_another_network_than_they_were_compiled_from(package: KernelPackage) -> None:
    network, plain = small(2), small(2)
    assert network.awaits_kernels
    package.adopt(network)
    assert not network.awaits_kernels
    torch.manual_seed(3)
    for count in (1, 2, 5):
        inputs = torch.rand(count, 3, 8, 8), torch.rand(count, 512)
        found, expected = network(*inputs), plain(*inputs)
        assert isinstance(found, Drawn)
        for one, other in zip(found, expected, strict=True):
            assert one.shape == other.shape
            assert one.dtype == torch.float32
            torch.testing.assert_close(one, other, rtol=0.05, atol=0.02 * float(other.abs().max()))
    other = small(4)(*inputs)
    assert float((other.picture - found.picture).abs().max()) > 0.3 * float(found.picture.abs().max())


def test_a_package_holds_no_weights(package: KernelPackage) -> None:
    """Not even the one number of the noise's strength, which the compiler would write into the code."""
    constants = json.loads(package.sheet_path.read_text())["constants"]
    assert constants.keys() == {f"network.{name}" for name in dict(small(1).network.named_parameters())} | {
        f"network.unit.bn.{name}" for name in ("running_mean", "running_var")
    }


@pytest.mark.parametrize("key", ["architecture", "torch", "networks", "precision", "batch"])
def test_what_does_not_fit_is_refused_by_name(key: str, package: KernelPackage, tmp_path: Path) -> None:
    other = KernelPackage(NAME, tmp_path, VARIANT, CPU)
    other.path.parent.mkdir()
    sheet = json.loads(package.sheet_path.read_text())
    sheet["fit"][key] = "another"
    other.sheet_path.write_text(json.dumps(sheet))
    with pytest.raises(KernelsUnfitError, match=rf"{key} another.*retalking compile --out"):
        other.adopt(small(1))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"fit": 1}'])
def test_a_damaged_sheet_is_refused(text: str, tmp_path: Path) -> None:
    package = KernelPackage(NAME, tmp_path, VARIANT, CPU)
    package.path.parent.mkdir()
    package.sheet_path.write_text(text)
    with pytest.raises(KernelsUnfitError, match="cannot be read"):
        package.check()


def test_a_damaged_package_is_refused(package: KernelPackage, tmp_path: Path) -> None:
    other = KernelPackage(NAME, tmp_path, VARIANT, CPU)
    other.path.parent.mkdir()
    other.sheet_path.write_text(package.sheet_path.read_text())
    other.path.write_bytes(package.path.read_bytes()[:1000])
    network = small(1)
    with pytest.raises(KernelsUnfitError, match="cannot be loaded"):
        other.adopt(network)
    assert network.awaits_kernels


def test_weights_in_another_layout_are_refused(package: KernelPackage) -> None:
    """The kernels read them where they lie."""
    network = small(1)
    weight = network.network.conv.weight
    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    with pytest.raises(KernelsUnfitError, match=r"conv\.weight"):
        package.adopt(network)


def test_kernels_that_give_something_else_are_not_swapped_in() -> None:
    network = small(1)
    inputs, options = example_inputs(NAME, VARIANT, CPU)
    expected = network(*inputs)
    with pytest.raises(KernelsUnfitError, match="differ"):
        network.adopt(lambda *_: Drawn(expected.picture * 1.2, expected.means), inputs, options)
    assert network.awaits_kernels
    assert torch.equal(network(*inputs).picture, expected.picture)


def test_a_swap_takes_what_is_there_and_keeps_plain_kernels_otherwise(
    package: KernelPackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fits, waits = small(1), small(1)
    KernelSwap({NAME: fits}, package.folder).run()
    assert not fits.awaits_kernels
    monkeypatch.setattr(kernels, "missing_build_tools", lambda: "There is no C++ compiler.")
    swap = KernelSwap({NAME: waits, "lnet": small(1)}, tmp_path)
    swap.run()
    assert waits.awaits_kernels
    assert swap.failures.keys() == {NAME}
    assert "There is no C++ compiler." in caplog.text
    waits(*example_inputs(NAME, VARIANT, CPU)[0])


def test_a_compiler_that_fails_costs_the_kernels_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process, which cannot write there."""
    network = small(1)
    monkeypatch.setattr(kernels, "missing_build_tools", lambda: None)
    (tmp_path / "file").touch()
    swap = KernelSwap({NAME: network}, tmp_path / "file")
    swap.run()
    assert "was not compiled (exit code" in swap.failures[NAME]
    assert network.awaits_kernels


def test_networks_in_several_threads_see_their_own_switches() -> None:
    """torch's permission for TF32 belongs to the process: calls take turns."""
    seen: dict[str, set[bool]] = {"fp32": set(), "tf32": set()}

    class Probe(nn.Linear):
        precision = ""

        def forward(self, x: Tensor) -> Tensor:
            seen[self.precision].add(torch.backends.cudnn.allow_tf32)
            result = super().forward(x)
            threading.Event().wait(0.0005)  # lets the other thread in
            seen[self.precision].add(torch.backends.cudnn.allow_tf32)
            return result

    def work(precision: str) -> None:
        probe = Probe(2, 2)
        probe.precision = precision
        network = prepare("arcface", probe, InferenceVariant(precision))  # type: ignore[arg-type]
        for _ in range(50):
            network(torch.zeros(1, 2))

    threads = [threading.Thread(target=work, args=(precision,)) for precision in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"fp32": {False}, "tf32": {True}}
