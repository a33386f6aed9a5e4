"""Light networks in the places of the real ones: they keep the face as it is, except where a test asks for more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from retalking_core.vocabulary.engines import KernelState


class Warped(NamedTuple):
    flow_field: Tensor
    warp_image: Tensor
    fake_image: Tensor


class Edit(NamedTuple):
    color: Tensor
    attention: Tensor
    composed: Tensor


def class_map() -> Tensor:
    """An oval of skin with a mouth, as a face lies in a 512 crop; logits f32 [1, 19, 512, 512]."""
    y, x = np.mgrid[:512, :512]
    classes = np.zeros((512, 512), np.int64)
    classes[((x - 256) / 150) ** 2 + ((y - 290) / 190) ** 2 < 1] = 1
    classes[((x - 256) / 70) ** 2 + ((y - 372) / 35) ** 2 < 1] = 11
    return F.one_hot(torch.from_numpy(classes), 19).permute(2, 0, 1)[None].float()


class StandIns:
    """A `NetworkSource`. asked: name -> batch sizes it was called with. fits: frames that memory holds at once."""

    device = torch.device("cpu")

    def __init__(self, fits: int = 1000, **replaced: Callable[..., Any]) -> None:
        self.asked: dict[str, list[int]] = {}
        self.kernel_state: KernelState | None = None
        self._fits, self._replaced, self._classes = fits, replaced, class_map()

    def digest(self, name: str) -> str:
        return f"stand-in {name}"

    def run_in_float32(self, name: str) -> bool:
        return False

    def kernels(self) -> KernelState | None:
        return self.kernel_state

    def get(self, name: str) -> Callable[..., Any]:
        plain = getattr(self, f"_{name}")
        chosen = self._replaced.get(name, plain)

        def network(*inputs: Tensor, **options: Any) -> Any:
            self.asked.setdefault(name, []).append(len(inputs[0]))
            if len(inputs[0]) > self._fits:
                raise torch.OutOfMemoryError(f"stand-in: {len(inputs[0])} do not fit")
            return chosen(*inputs, **options)

        return network

    def _deep3d(self, faces: Tensor) -> Tensor:
        return faces.mean(dim=(1, 2, 3))[:, None] * torch.linspace(-1, 1, 257)

    def _dnet(self, image: Tensor, semantics: Tensor) -> Warped:
        return Warped(image, image, image)

    def _gpen512(self, faces: Tensor) -> Tensor:
        return faces

    def _gfpgan(self, faces: Tensor) -> Tensor:
        return faces

    def _parsenet(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        return self._classes.expand(len(faces), -1, -1, -1), faces

    def _enet(
        self, sound: Tensor, six: Tensor, reference: Tensor, noises: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        return reference, reference

    def _lnet(self, *inputs: Tensor) -> Tensor:
        raise AssertionError("the engine calls LNet through ENet")

    def _ganimation(self, image: Tensor, units: Tensor) -> Edit:
        composed = image + units[:, :, None, None].sum(dim=1, keepdim=True)
        return Edit(composed, torch.zeros_like(image[:, :1]), composed)


def speaking_enet(sound: Tensor, six: Tensor, reference: Tensor, noises: Any = None) -> tuple[Tensor, Tensor]:
    """Darkens the mouth by how loud the window is."""
    loud = ((sound.mean(dim=(1, 2, 3)) + 4) / 4).clamp(0, 1)
    dark = torch.zeros_like(reference)
    dark[:, :, 250:330, 120:264] = loud[:, None, None, None] * 0.5
    return (reference - dark).clamp(0, 1), reference
