"""Networks on batches: what they may give, and what happens when a batch does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from retalking_core.errors import EngineFaultError, OutOfMemoryError
from retalking_core.networks.inference import download
from retalking_core.vocabulary.engines import KernelState

Item = TypeVar("Item")
Result = TypeVar("Result")
# Networks whose (first) result is a picture, which cannot be of one color.
PICTURES = ("dnet", "gpen512", "enet", "gfpgan", "ganimation")
# Deviation over a picture below which it counts as constant; all are about 0..1 or -1..1.
LEAST_DEVIATION = 1e-4
NOT_FINITE, CONSTANT = "numbers that are not finite", "a picture of a single color"


class NetworkSource(Protocol):
    """The networks by name (`retalking_core.weights.store.NetworkStore`)."""

    device: torch.device

    def get(self, name: str) -> Callable[..., Any]: ...

    def digest(self, name: str) -> str:
        """What the network is and how it runs: two results of one digest, device and input are the same."""
        ...

    def run_in_float32(self, name: str) -> bool:
        """From now on, if it ran in half precision. False when it did not: then its numbers are its own."""
        ...

    def kernels(self) -> KernelState | None:
        """What the networks run that can be compiled; None if there are none."""
        ...


class ValidatingNetworks:
    """Networks whose results are looked at: NaN or a picture of one color never leaves.

    Looking does not wait for the device: the findings of a batch are fetched with its results (`findings`).
    """

    def __init__(self, source: NetworkSource) -> None:
        self._source = source
        self._found: list[tuple[str, str, Tensor]] = []

    @property
    def device(self) -> torch.device:
        return self._source.device

    def digest(self, name: str) -> str:
        return self._source.digest(name)

    def run_in_float32(self, name: str) -> bool:
        return self._source.run_in_float32(name)

    def kernels(self) -> KernelState | None:
        return self._source.kernels()

    def get(self, name: str) -> Callable[..., Any]:
        network = self._source.get(name)

        def guarded(*inputs: Any, **options: Any) -> Any:
            with torch.inference_mode():
                result = network(*inputs, **options)
                self._found += [(name, kind, flag) for kind, flag in look_at(name, result)]
            return result

        return guarded

    def findings(self) -> OutputChecks:
        """What the networks were found to give since the last call."""
        found, self._found = self._found, []
        flags = torch.stack([flag for _, _, flag in found]) if found else torch.zeros(0, dtype=torch.bool)
        return OutputChecks([(name, kind) for name, kind, _ in found], download(flags))


class OutputChecks:
    """Of one batch; complete only once the device is done with it."""

    def __init__(self, looked_at: list[tuple[str, str]], flags: Tensor) -> None:
        self._looked_at, self.flags = looked_at, flags

    def check(self) -> None:
        """Raises: EngineFaultError for the first network (in the order of the calls) that gave nonsense."""
        bad = self.flags.numpy().nonzero()[0]
        if len(bad):
            name, kind = self._looked_at[bad[0]]
            raise EngineFaultError(f"The network {name} gave {kind}.", network=name)


def look_at(name: str, result: object) -> Iterator[tuple[str, Tensor]]:
    """(what may be wrong, whether it is: bool []) of a network's result."""
    tensors = [part for part in _parts(result) if isinstance(part, Tensor)]
    # A sum is not finite where one of its terms is not, and costs one pass.
    sums = torch.stack([tensor.sum(dtype=torch.float32) for tensor in tensors])
    yield NOT_FINITE, ~torch.isfinite(sums).all()
    if name in PICTURES:
        yield CONSTANT, (_picture(result).flatten(1).std(dim=1) < LEAST_DEVIATION).any()


def _parts(result: object) -> Iterable[object]:
    return result if isinstance(result, tuple | list) else (result,)


def _picture(result: object) -> Tensor:
    for name in ("fake_image", "composed"):
        if hasattr(result, name):
            return getattr(result, name)
    return next(part for part in _parts(result) if isinstance(part, Tensor))


class AdaptiveBatcher:
    """Runs work on batches; one that does not fit into the device's memory is tried again in halves from then on."""

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, items: Sequence[Item], work: Callable[[Sequence[Item]], Result]) -> Iterator[Result]:
        """One result a batch, in order. Raises: OutOfMemoryError when even one item does not fit."""
        start = 0
        while start < len(items):
            part = items[start : start + self.size]
            try:
                done = work(part)
            except torch.OutOfMemoryError as error:
                self._halve(len(part), str(error))
                continue
            start += len(part)
            yield done

    def _halve(self, tried: int, reason: str) -> None:
        if tried <= 1:
            raise OutOfMemoryError(
                "One frame of this video does not fit into the device's memory; send a smaller picture or use a device "
                "with more memory.",
                reason=reason.split("\n", 1)[0],
            )
        self.size = tried // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def in_groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    group: list[Item] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def in_batches_of(items: Iterable[Item], size: int, wanted: Callable[[Item], bool]) -> Iterator[list[Item]]:
    """Lists of at most `size` items in order. The first wanted one begins a list, so that work on the wanted ones comes
    in full batches wherever others lie between them."""
    group: list[Item] = []
    has_wanted = False
    for item in items:
        is_wanted = wanted(item)
        if group and (len(group) == size or (is_wanted and not has_wanted)):
            yield group
            group, has_wanted = [], False
        group.append(item)
        has_wanted = has_wanted or is_wanted
    if group:
        yield group
