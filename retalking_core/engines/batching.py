"""Networks on batches: what they may give, and what happens when a batch does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from retalking_core.errors import EngineFaultError, OutOfMemoryError

Item = TypeVar("Item")
Result = TypeVar("Result")
# Networks whose (first) result is a picture, which can not be of one colour.
PICTURES = ("dnet", "gpen512", "enet", "gfpgan", "ganimation")
# Deviation over a picture below which it counts as constant; all are about 0..1 or -1..1.
LEAST_DEVIATION = 1e-4


class NetworkSource(Protocol):
    """The networks by name (`retalking_core.weights.store.NetworkStore`)."""

    device: torch.device

    def get(self, name: str) -> Callable[..., Any]: ...


class GuardedNetworks:
    """Networks whose results are looked at: NaN or a picture of one colour never leaves."""

    def __init__(self, source: NetworkSource) -> None:
        self._source = source

    @property
    def device(self) -> torch.device:
        return self._source.device

    def get(self, name: str) -> Callable[..., Any]:
        network = self._source.get(name)

        def guarded(*inputs: Any, **options: Any) -> Any:
            with torch.inference_mode():
                result = network(*inputs, **options)
            check_result(name, result)
            return result

        return guarded


def check_result(name: str, result: object) -> None:
    """Raises: EngineFaultError for numbers that are not finite, or a constant picture."""
    tensors = [part for part in _parts(result) if isinstance(part, Tensor)]
    # A sum is not finite where one of its terms is not, and costs one pass.
    if not all(bool(torch.isfinite(tensor.sum())) for tensor in tensors):
        raise EngineFaultError(f"The network {name} gave numbers that are not finite.", network=name)
    if name in PICTURES and bool((_picture(result).flatten(1).std(dim=1) < LEAST_DEVIATION).any()):
        raise EngineFaultError(f"The network {name} gave a picture of a single colour.", network=name)


def _parts(result: object) -> Iterable[object]:
    return result if isinstance(result, tuple | list) else (result,)


def _picture(result: object) -> Tensor:
    for name in ("fake_image", "composed"):
        if hasattr(result, name):
            return getattr(result, name)
    return next(part for part in _parts(result) if isinstance(part, Tensor))


class HalvingBatches:
    """Runs work on batches; one that does not fit into the device's memory is tried again in halves from then on."""

    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, items: Sequence[Item], work: Callable[[Sequence[Item]], list[Result]]) -> Iterator[Result]:
        """Results in the order of the items. Raises: OutOfMemoryError when even one item does not fit."""
        start = 0
        while start < len(items):
            part = items[start : start + self.size]
            try:
                done = work(part)
            except torch.OutOfMemoryError as error:
                self._halve(len(part), str(error))
                continue
            start += len(part)
            yield from done

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
