"""Every inference variant against the plain float32 network, on the same weights and inputs."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from retalking_core.networks.enet import FourierUnit
from retalking_core.networks.inference import (
    CHANNELS_LAST_ALLOWED,
    FOLDABLE,
    HALF_ALLOWED,
    REFERENCE,
    InferenceNetwork,
    InferenceVariant,
    optimize_for_inference,
    prepare,
)
from retalking_core.networks.layers import STYLE_LENGTH
from tests.networks.bfloat16 import Float32Sums
from tests.networks.golden import load_synthetic, make_input, read_golden

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
HEAVY = ("enet", "gpen512", "gfpgan")  # 276 to 408 GFLOP a picture
EXACT = 1e-4
WARP = 3e-4  # DNet's warp: the picture's gradients multiply rounding differences of the flow
# About 1.4 times the largest error of bfloat16 measured on CPU, relative to the largest value: 2.1e-2, 6.4e-2, 6.3e-2,
# 1.4e-2, 6.7e-2, 1.8e-2, 1.8e-2.
BF16 = {
    "dnet": 0.03,
    "lnet": 0.09,
    "enet": 0.09,
    "gpen512": 0.02,
    "ganimation": 0.095,
    "gfpgan": 0.025,
    "parsenet": 0.026,
}


@cache
def network_and_inputs(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    recipes = [r for r in read_golden(GOLDEN, name).document["inputs"] if not r["name"].startswith("unit_")]
    return load_synthetic(name, 1), tuple(make_input(r, name, 1)[:1] for r in recipes)


@cache
def reference(name: str) -> list[Tensor]:
    network, inputs = network_and_inputs(name)
    return tensors(prepare(name, copy.deepcopy(network), REFERENCE)(*inputs))


def tensors(result: object) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for part in result for t in tensors(part)]


def errors(name: str, variant: InferenceVariant) -> list[float]:
    if name in HEAVY and "RETALKING_TEST_HEAVY" not in os.environ:
        pytest.skip(f"{name} takes minutes on two cores; RETALKING_TEST_HEAVY=1 runs it")
    return measured(name, variant)


def largest_errors(outputs: list[Tensor], expected: list[Tensor]) -> list[float]:
    """Largest difference of each output relative to its largest value."""
    return [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(outputs, expected, strict=True)]


@cache
def measured(name: str, variant: InferenceVariant) -> list[float]:
    network, inputs = network_and_inputs(name)
    prepared = prepare(name, copy.deepcopy(network), variant)
    with Float32Sums() if variant.precision == "bf16" else nullcontext():
        outputs = tensors(prepared(*inputs))
    assert all(t.dtype == torch.float32 and t.isfinite().all() for t in outputs)
    found = largest_errors(outputs, reference(name))
    print(f"{name} {variant}: {', '.join(f'{e:.1e}' for e in found)}")
    return found


@pytest.mark.parametrize("name", FOLDABLE)
def test_folding_changes_rounding_only(name: str) -> None:
    assert max(errors(name, InferenceVariant(fold=True))) <= EXACT


def run_enlargement(enet: nn.Module) -> list[Tensor]:
    noises = (None,) * len(enet.noise_sizes)
    return [enet.upsample(torch.rand(1, 3, 24, 24), torch.randn(1, STYLE_LENGTH), noises)]


def run_doublings(gfpgan: nn.Module) -> list[Tensor]:
    convs = [conv for conv in gfpgan.stylegan_decoder.style_convs if conv.modulated_conv.up]
    assert len(convs) == 7
    noise = torch.randn(1, 1, 48, 48)
    return [
        conv(torch.randn(1, conv.modulated_conv.weight.shape[2], 24, 24), torch.randn(1, STYLE_LENGTH), noise)
        for conv in convs
    ]


def run_whole(parsenet: nn.Module) -> list[Tensor]:
    return tensors(parsenet(torch.rand(1, 3, 128, 128) * 2 - 1))


@pytest.mark.parametrize(
    ("name", "run"), [("enet", run_enlargement), ("gfpgan", run_doublings), ("parsenet", run_whole)]
)
def test_rearranging_changes_rounding_only(name: str, run: Callable[[nn.Module], list[Tensor]]) -> None:
    """On small pictures: all that it changes are convolutions, which take any size."""
    network = load_synthetic(name, 1).eval()
    rearranged = copy.deepcopy(network)
    optimize_for_inference(rearranged)
    found = []
    for each in (network, rearranged):
        torch.manual_seed(1)
        with torch.inference_mode():
            found.append(run(each))
    plain, quick = found
    assert max(largest_errors(quick, plain)) <= EXACT
    assert any(not torch.equal(a, b) for a, b in zip(plain, quick, strict=True)), "nothing is rearranged"


def test_only_half_precision_is_rearranged() -> None:
    network, _ = network_and_inputs("parsenet")
    found = {
        precision: prepare("parsenet", copy.deepcopy(network), InferenceVariant(precision)).network.heads
        for precision in ("fp32", "tf32", "fp16")
    }
    assert found["fp32"] is found["tf32"] is None
    assert found["fp16"] is not None


@pytest.mark.parametrize("name", CHANNELS_LAST_ALLOWED)
def test_channels_last_changes_rounding_only(name: str) -> None:
    found = errors(name, InferenceVariant(channels_last=True))
    assert max(found) <= (WARP if name == "dnet" else EXACT)


@pytest.mark.parametrize("name", HALF_ALLOWED)
def test_bfloat16_stays_within_what_was_measured(name: str) -> None:
    found = errors(name, InferenceVariant("bf16"))
    assert max(found) <= BF16[name]
    assert max(found) > EXACT, "not in half precision at all?"


def test_dnets_flow_and_warp_stay_exact_in_half_precision() -> None:
    flow, warped, _fake = errors("dnet", InferenceVariant("bf16"))
    assert flow <= EXACT
    assert warped <= WARP


def rounded_to_bfloat16(*shape: int) -> Tensor:
    return torch.randn(shape).bfloat16()


# Of the results, torch's own: the transposed convolution of a CPU without bfloat16 instructions rounds every one of its
# nine terms and sums.
PRODUCTS = [
    (nn.functional.conv2d, [(1, 24, 9, 11), (16, 24, 3, 3), (16,)], 1),
    (nn.functional.conv2d, [(1, 40, 7, 7), (8, 40, 1, 1)], 1),
    (nn.functional.conv_transpose2d, [(1, 24, 5, 6), (24, 8, 3, 3), (8,)], 18),
    (nn.functional.conv1d, [(1, 24, 30), (16, 24, 3), (16,)], 1),
    (nn.functional.linear, [(3, 64), (16, 64), (16,)], 1),
    (torch.matmul, [(2, 5, 32), (2, 32, 7)], 1),
]


@pytest.mark.parametrize(("product", "shapes", "roundings"), PRODUCTS)
@torch.inference_mode()
def test_bfloat16_products_are_those_of_torchs_kernels(
    product: Callable[..., Tensor], shapes: list[tuple[int, ...]], roundings: int
) -> None:
    torch.manual_seed(1)
    inputs = [rounded_to_bfloat16(*shape) for shape in shapes]
    own = product(*inputs)
    with Float32Sums() as mode:
        ours = product(*inputs)
    assert (mode.products, ours.dtype) == (1, own.dtype) == (1, torch.bfloat16)
    exact = product(*(x.double() for x in inputs))
    scale = exact.abs().max()
    assert (ours - exact).abs().max() <= 2**-8 * scale
    assert (ours - own).abs().max() <= 2**-8 * (1 + roundings) * scale


@pytest.mark.parametrize("name", ["deep3d", "syncnet", "retinaface", "s3fd", "fan2d", "arcface"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_geometry_and_scores_refuse_half_precision(name: str, precision: str) -> None:
    with pytest.raises(ValueError, match=name):
        InferenceVariant(precision).check(name)


@pytest.mark.parametrize("name", ["gfpgan", "parsenet", "retinaface", "s3fd", "fan2d", "arcface"])
def test_the_libraries_networks_refuse_channels_last(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        InferenceVariant(channels_last=True).check(name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_fft_runs_in_float32_whatever_comes_in(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    rfftn = torch.fft.rfftn
    monkeypatch.setattr(torch.fft, "rfftn", lambda x, **options: seen.append(x.dtype) or rfftn(x, **options))
    unit = FourierUnit(4).eval().to(dtype)
    assert unit(torch.randn(1, 4, 12, 12, dtype=dtype)).dtype == dtype
    assert seen == [torch.float32]


def test_the_inverse_fft_is_torchs_for_a_spectrum_that_is_not_hermitian() -> None:
    from retalking_core.networks.enet import _inverse_spectrum

    for width in (11, 12):
        spectrum = torch.randn(2, 3, 12, width // 2 + 1, dtype=torch.complex64)
        expected = torch.fft.irfftn(spectrum, s=(12, width), dim=(-2, -1), norm="ortho")
        torch.testing.assert_close(_inverse_spectrum(spectrum, torch.Size((12, width))), expected)


def test_folding_leaves_no_norm_with_running_statistics_behind() -> None:
    network, _ = network_and_inputs("lnet")
    folded = prepare("lnet", copy.deepcopy(network), InferenceVariant()).network
    kinds = {type(module).__name__ for module in folded.modules()}
    assert not kinds & {"BatchNorm2d", "SpectralNormConv2d"}


def test_half_precision_weights_are_cast_once_except_where_positions_hang_on_them() -> None:
    with torch.device("meta"):
        from retalking_core.networks.dnet import DNet

        network = prepare("dnet", DNet().eval(), InferenceVariant("fp16")).network
    assert network.editing_net.encoder.first.model[0].weight.dtype == torch.float16
    assert network.warpping_net.flow_out[2].weight.dtype == torch.float32
    assert network.mapping_net.first[0].weight.dtype == torch.float32


@pytest.fixture
def seemingly_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switches are for CUDA alone; the numbers are a CPU's."""
    autocast = torch.autocast
    monkeypatch.setattr(InferenceNetwork, "device", torch.device("cuda"))
    monkeypatch.setattr(torch, "autocast", lambda _device, **options: autocast("cpu", **options))


def test_tf32_is_allowed_only_where_the_variant_says_so(seemingly_on_cuda: None) -> None:
    seen: list[bool] = []

    class Probe(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.backends.cudnn.allow_tf32)
            return super().forward(x)

    before = torch.backends.cudnn.allow_tf32
    for precision in ("fp32", "tf32", "fp16"):
        prepare("dnet", Probe(2, 2), InferenceVariant(precision))(torch.zeros(1, 2))
    assert seen == [False, True, True]
    assert torch.backends.cudnn.allow_tf32 == before


def test_networks_in_several_threads_see_their_own_switches(seemingly_on_cuda: None) -> None:
    """torch's permission for TF32 belongs to the process: an evaluation beside a render must not change it under it."""
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
