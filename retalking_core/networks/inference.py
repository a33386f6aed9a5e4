"""How each network runs: memory layout, precision, folded norms, compiled kernels, CUDA graphs.

`prepare` changes a loaded network once. Folding, fusing and layout change results by rounding only (within the
tolerance of the golden vectors). Half precision changes more, so networks whose output is a score or a geometry refuse
it.

And the device below: copies that do not block, timing without synchronization, how CUDA memory is allocated.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from retalking_core.errors import KernelsUnfitError
from retalking_core.networks.layers import SpectralNormConv2d


def upload(values: NDArray[Any] | Tensor, device: torch.device | str) -> Tensor:
    """The values on the device, f64 as f32.

    From page-locked memory, so that the copy takes its turn behind the work already given to a GPU. A plain copy would
    wait for all of that work first.
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    if tensor.dtype == torch.float64:
        tensor = tensor.float()
    device = torch.device(device)
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def download(tensor: Tensor) -> Tensor:
    """A copy on the host, complete only once the device has done all that it was given before: wait for an event."""
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


class DeviceClock:
    """Seconds by step: of a GPU between two events in its own queue, elsewhere by the wall.

    Add up a batch with `collect` once its work is done; what was started later is left for the next call.
    """

    def __init__(self, device: torch.device) -> None:
        self.times_s: dict[str, float] = {}
        self._on_gpu = device.type == "cuda"
        self._running: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        if not self._on_gpu:
            began = time.perf_counter()
            try:
                yield
            finally:
                self._add(name, time.perf_counter() - began)
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        yield
        last.record()
        self._running.append((name, first, last))

    def collect(self) -> None:
        while self._running and self._running[0][2].query():
            name, first, last = self._running.pop(0)
            self._add(name, first.elapsed_time(last) / 1000)

    def _add(self, name: str, seconds: float) -> None:
        self.times_s[name] = self.times_s.get(name, 0.0) + seconds


# Either configures the allocator; the operator's choice is kept.
OPERATORS_CHOICE = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def enable_expandable_segments(device: torch.device) -> bool:
    """One segment of the allocator that grows, instead of ever new ones, each of the size of one request.

    The recordings of the networks share their memory one after the other, and each asks for pieces of other sizes: they
    hold 4.8 instead of 6.9 GiB so (H100, batch 16). It holds for what is put on the device from then on; to say it
    again changes nothing.

    Not on a slice of a GPU (MIG): there the allocator may not look at the memory that is left, and fails where it
    should say that it is full (vllm-project/ci-infra, pull request 355). Returns whether segments grow by this call.
    """
    if device.type != "cuda" or any(name in os.environ for name in OPERATORS_CHOICE):
        return False
    if " MIG " in torch.cuda.get_device_name(device):
        return False
    torch._C._accelerator_setAllocatorSettings("expandable_segments:True")
    return True


Precision = Literal["fp32", "tf32", "bf16", "fp16"]
HALF_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Networks whose children stand in the order in which they are applied, so that a batch norm follows what it normalizes.
# Not the libraries' detectors: FAN, for one, registers a convolution before the norm that *precedes* it.
FOLDABLE = ("lnet", "enet", "deep3d", "syncnet")
# Networks whose result is a picture that is rounded to 8 bits afterwards, and the parser, of whose logits only the
# largest counts and whose masks are blurred. The others decide geometry or scores.
HALF_ALLOWED = ("dnet", "lnet", "enet", "gpen512", "ganimation", "gfpgan", "parsenet")
# Ours. The libraries' networks use `view` where this layout would need `reshape`.
CHANNELS_LAST_ALLOWED = ("dnet", "lnet", "enet", "deep3d", "gpen512", "ganimation", "syncnet")
# Every convolution in channels_last, which the compiler would give up for networks whose channels shrink, as decoders'
# do; the tensor cores read no other layout.
COMPILER_OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {"force_layout_optimization": True}
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class InferenceVariant:
    """How a network runs. precision: of convolutions and matrix products. `tf32` is float32 with ten bits of mantissa
    inside them, on CUDA only; `bf16` and `fp16` run under autocast, where FFTs, norms' statistics, grid positions and
    demodulation stay in float32, and products use TF32. Results are always float32.
    compiled_batch: if given, the network can be compiled for batches of exactly this size (`compile_kernels`;
    elementwise work is merged into few kernels), and then cuts and fills other batches up to it; on CUDA its call is
    recorded and replayed. Until then it runs torch's own kernels, on batches of any size."""

    precision: Precision = "fp32"
    channels_last: bool = False
    fold: bool = True
    compiled_batch: int | None = None

    def check(self, name: str) -> None:
        if self.precision in HALF_DTYPES and name not in HALF_ALLOWED:
            raise ValueError(f"{name} does not run in half precision: its numbers are not rounded to a picture")
        if self.channels_last and name not in CHANNELS_LAST_ALLOWED:
            raise ValueError(
                f"{name} does not run in the channels_last layout: its library views tensors as contiguous"
            )


REFERENCE = InferenceVariant(fold=False)


def fast_variants(batch: int) -> dict[str, InferenceVariant]:
    """For a GPU: half precision where it is allowed, TF32 for what finds the face, to be compiled for batches of this
    size. S3FD alone is not: it sees windows of many sizes.

    fp16 and not bf16: its ten bits of mantissa keep the networks 5 to 10 times nearer to float32
    (bench/results/networks-h200.md). What leaves its range is caught, and that network goes on in float32
    (`NetworkStore.run_in_float32`).
    """
    half = {name: InferenceVariant("fp16", compiled_batch=batch) for name in HALF_ALLOWED if name != "ganimation"}
    found = {name: InferenceVariant("tf32", compiled_batch=batch) for name in ("fan2d", "deep3d")}
    return half | found | {"s3fd": InferenceVariant("tf32")}


# Root mean square of the difference between compiled and plain kernels, relative to that of the plain result. Rounding
# in half precision stays below 0.02; kernels that read wrong weights give about 1.
MOST_DIFFERENCE = 0.25
# Held while networks on CUDA launch their kernels: torch's switches for TF32 and cuDNN belong to the whole process.
_launching = threading.RLock()


class InferenceNetwork(nn.Module):
    """A network behind its variant: tensors in, float32 tensors out, no gradients. `network` is the bare module.

    Networks may be called from several threads: on CUDA, one launches its kernels after the other.
    """

    def __init__(self, network: nn.Module, variant: InferenceVariant) -> None:
        super().__init__()
        self.network, self.variant = network, variant
        # At most one. In a tuple, or torch would take it for a second child with the same weights.
        self._compiled: tuple[Callable[..., Any], ...] = ()

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def awaits_kernels(self) -> bool:
        """Whether it runs torch's own kernels and can be compiled."""
        return self.variant.compiled_batch is not None and not self._compiled

    def compile_kernels(self, *inputs: Tensor, check: bool = True, **options: Any) -> None:
        """Compile for `compiled_batch` samples, and on CUDA record the call. From the next call on the network runs
        compiled kernels; if this raises, it keeps the plain ones. The compiler uses TORCHINDUCTOR_CACHE_DIR.

        inputs, options: a call as the caller makes it, at most `compiled_batch` samples. check: compare its results
        with those of the plain kernels. Raises: KernelsUnfitError if they differ by more than rounding, and what the
        compiler and the driver raise.
        """
        expected = self(*inputs, **options) if check else None
        run: Callable[..., Any] = torch.compile(self.network, fullgraph=True, dynamic=False, options=COMPILER_OPTIONS)
        if self.device.type == "cuda":
            run = CudaGraphCall(run)
        found = self._run((run,), inputs, options)
        if check and not (error := _relative_difference(found, expected)) <= MOST_DIFFERENCE:
            raise KernelsUnfitError(f"compiled kernels differ from the plain ones by {error:.2g} of the result")
        self._compiled = (run,)

    @contextlib.contextmanager
    def context(self, *, fixed_sizes: bool = False) -> Iterator[None]:
        """For calling a method of `network` other than its forward. On CUDA no other network launches meanwhile: wait
        for results outside. fixed_sizes: those of the inputs never change, so that it pays to try cuDNN's algorithms.
        """
        half = HALF_DTYPES.get(self.variant.precision)
        device = self.device.type
        autocast = torch.autocast(device, dtype=half, enabled=half is not None)
        with contextlib.ExitStack() as held:
            if device == "cuda":
                held.enter_context(_launching)
                held.enter_context(_switches(self.variant.precision != "fp32", fixed_sizes))
            held.enter_context(torch.inference_mode())
            held.enter_context(autocast)
            yield

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self._run(self._compiled, inputs, options)

    def _run(self, compiled: tuple[Callable[..., Any], ...], inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if self.variant.channels_last:
            inputs = tuple(_channels_last(x) for x in inputs)
        with self.context(fixed_sizes=bool(compiled)):
            if not compiled:
                return _map_tensors(self.network(*inputs, **options), Tensor.float)
            return self._in_fixed_batches(compiled[0], inputs, options)

    def _in_fixed_batches(self, run: Callable[..., Any], inputs: tuple[Tensor, ...], options: dict[str, Any]) -> Any:
        """Inputs have the batch on their first axis; options are the same for every sample."""
        parts, size = [], self.variant.compiled_batch
        assert size is not None
        for start in range(0, len(inputs[0]), size):
            count = min(size, len(inputs[0]) - start)
            filled = (_filled(x[start : start + count], size) for x in inputs)
            result = run(*filled, **options)
            # A copy in any case: the next call overwrites what a recording gave.
            kept = partial(_first_in_float32, count)
            parts.append(_map_tensors(result, kept))
        return parts[0] if len(parts) == 1 else _joined(parts)


def _relative_difference(found: Any, expected: Any) -> float:
    """The largest of all outputs. NaN and infinities count as 0: half precision may reach them with any kernels."""
    pairs = zip(_tensors(found), _tensors(expected), strict=True)
    return max(_rms(a.nan_to_num(0, 0, 0) - b.nan_to_num(0, 0, 0)) / max(_rms(b), 1e-6) for a, b in pairs)


def _rms(x: Tensor) -> float:
    return x.nan_to_num(0, 0, 0).square().mean().sqrt().item()


def _tensors(value: Any) -> list[Tensor]:
    """The tensors of a nested result, in order."""
    found: list[Tensor] = []
    _taken_apart(value, found)
    return found


def _first_in_float32(count: int, x: Tensor) -> Tensor:
    return x[:count].to(torch.float32, copy=True)


@contextlib.contextmanager
def _switches(tf32: bool, try_algorithms: bool) -> Iterator[None]:
    """torch allows TF32 in cuDNN's convolutions by default, so `fp32` has to forbid it."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32 = matmul.allow_tf32 = tf32
    cudnn.benchmark = try_algorithms
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


def prepare(name: str, network: nn.Module, variant: InferenceVariant) -> InferenceNetwork:
    """Folds, casts and lays out a loaded network in place; one copy of each tensor stays."""
    variant.check(name)
    if variant.fold and name in FOLDABLE:
        fold(network)
    if half := HALF_DTYPES.get(variant.precision):
        if variant.fold:
            optimize_for_inference(network)
        _cast_products(network, half)
    if variant.channels_last:
        for parameter in network.parameters():
            parameter.data = _channels_last(parameter.data)
    return InferenceNetwork(network.requires_grad_(False), variant)


def fold(network: nn.Module) -> None:
    """Divides spectral norms out and merges batch norms into what precedes them. Only for networks of `FOLDABLE`."""
    for parent in list(network.modules()):
        for key, child in list(parent.named_children()):
            if isinstance(child, SpectralNormConv2d):
                setattr(parent, key, child.folded())
        for (first, product), (second, norm) in pairwise(list(parent.named_children())):
            merged = _merge(product, norm)
            if merged is not None:
                setattr(parent, first, merged)
                setattr(parent, second, nn.Identity())


def optimize_for_inference(network: nn.Module) -> None:
    """Lets networks that know a quicker form of the same function take it (their method `optimize_for_inference`).

    In half precision only, where it was measured to pay and to be right: for GFPGAN's quicker form in float32 cuDNN
    9.19 chose an algorithm on an H100, at a batch of 16 and not of 1, whose result was off by 12 %.
    """
    for module in list(network.modules()):
        optimize = getattr(module, "optimize_for_inference", None)
        if optimize is not None:
            optimize()


def _merge(product: nn.Module, norm: nn.Module) -> nn.Module | None:
    if isinstance(product, CONVOLUTIONS) and isinstance(norm, (nn.BatchNorm2d, nn.BatchNorm3d)):
        return fuse_conv_bn_eval(product, norm)
    if isinstance(product, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
        return fuse_linear_bn_eval(product, norm)
    return None


def _cast_products(network: nn.Module, dtype: torch.dtype) -> None:
    """Convolution and matrix weights to half precision now, which autocast would otherwise do at every call."""
    kept = tuple(f"{part}." for part in getattr(network, "float32_parts", ()))
    for path, module in network.named_modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)) and not path.startswith(kept):
            module.to(dtype)


def _channels_last(value: Any) -> Any:
    """Four and five axes have such a layout; a modulated weight `[1, out, in, k, k]` then has it in its four, too."""
    layout = CHANNELS_LAST.get(value.ndim) if isinstance(value, Tensor) else None
    return value if layout is None else value.contiguous(memory_format=layout)


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The change on every tensor of a nested result; named tuples keep their type."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_map_tensors(v, change) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_map_tensors(v, change) for v in value)
    return value


def _filled(x: Tensor, size: int) -> Tensor:
    """Up to the size, by repeating the last sample."""
    missing = size - len(x)
    return torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) if missing else x


def _joined(parts: list[Any]) -> Any:
    """Results of several batches as one; named tuples keep their type."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*(_joined(list(part)) for part in zip(*parts, strict=True)))
    if isinstance(first, (tuple, list)):
        return type(first)(_joined(list(part)) for part in zip(*parts, strict=True))
    return first


# Calls before the recording: what is compiled, tried out or planned lazily is done in them.
PRACTICE = 2
_recorded: WeakSet[CudaGraphCall] = WeakSet()


class CudaGraphCall:
    """`run` with arguments whose tensors never change in shape or type. Any nesting of tuples, lists and dicts.

    The first call records. Later ones copy the tensors of their arguments into those of the recording, and replay it;
    they must come in the inference mode and with the switches (autocast, TF32) of the first. Results are the
    recording's own tensors: the next call overwrites them, so copy what is to stay before it.
    """

    def __init__(self, run: Callable[..., Any]) -> None:
        self._run = run
        self._graph: torch.cuda.CUDAGraph | None = None
        self._held: list[Tensor] = []
        self._shape: Any = None
        self._results: Any = None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        given: list[Tensor] = []
        shape = _taken_apart((arguments, options), given)
        if self._graph is None:
            self._graph = self._record(shape, given)
        elif shape != self._shape:
            raise ValueError(f"recorded for {self._shape}, called with {shape}")
        for held, tensor in zip(self._held, given, strict=True):
            held.copy_(tensor)
        self._graph.replay()
        return self._results

    def _record(self, shape: Any, given: list[Tensor]) -> torch.cuda.CUDAGraph:
        self._held = [tensor.clone() for tensor in given]
        arguments, options = _put_together(shape, iter(self._held))
        device = self._held[0].device
        beside = torch.cuda.Stream(device)
        beside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(beside):
            for _ in range(PRACTICE):
                self._run(*arguments, **options)
        torch.cuda.current_stream(device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # thread_local: what other threads do with the device meanwhile is none of the recording's business.
        with torch.cuda.graph(graph, pool=_shared_memory(device), capture_error_mode="thread_local"):
            self._results = self._run(*arguments, **options)
        self._shape = shape
        _recorded.add(self)
        return graph

    def memory_on(self, device: torch.device) -> Any:
        """Handle of the memory that the recording works in; None if it is another device's."""
        return self._graph.pool() if self._graph is not None and self._held[0].device == device else None


def _shared_memory(device: torch.device) -> Any:
    """That of the recordings that exist: they run one after the other, so that the largest one's memory serves all.
    Each recording's results stay its own. None, for memory of its own, for the first one: a pool ends with the last of
    its recordings and must not be named again."""
    pools = (call.memory_on(device) for call in _recorded)
    return next((pool for pool in pools if pool is not None), None)


def _taken_apart(value: Any, tensors: list[Tensor]) -> Any:
    """The value with (shape, type) in the place of each tensor; the tensors are appended in order."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return _Place(tuple(value.shape), value.dtype)
    if isinstance(value, dict):
        return {key: _taken_apart(each, tensors) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [_taken_apart(each, tensors) for each in value]
    return value


def _put_together(shape: Any, tensors: Any) -> Any:
    if isinstance(shape, _Place):
        return next(tensors)
    if isinstance(shape, dict):
        return {key: _put_together(each, tensors) for key, each in shape.items()}
    if isinstance(shape, list):
        return [_put_together(each, tensors) for each in shape]
    return shape


class _Place(NamedTuple):
    """Where a tensor of this shape and type goes."""

    shape: tuple[int, ...]
    dtype: torch.dtype
