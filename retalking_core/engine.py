"""The seat every engine sits in. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from retalking_core.options import RenderOptions
from retalking_core.progress import ProgressHook
from retalking_core.types import RenderReport


@dataclass(frozen=True)
class EngineCapabilities:
    """What an engine offers, published for `GET /engines`.

    fingerprint: of what the engine computes with (weights, precision); two of one version and fingerprint draw the
    same. unsupported_options: option name -> values it can not honour (an empty tuple: any value but the default).
    """

    name: str
    version: str
    device: str
    description: str
    unsupported_options: dict[str, tuple[str, ...]]
    synthetic_weights: bool = False
    fingerprint: str = ""


class Engine(Protocol):
    """A video and a speech track in, a lip-synced video out. Loaded once a process; not safe for parallel renders."""

    capabilities: EngineCapabilities

    def warm_up(self) -> None:
        """Load what the first render would otherwise wait for."""
        ...

    def render(
        self, video: Path, audio: Path, result: Path, options: RenderOptions, progress: ProgressHook
    ) -> RenderReport:
        """Write `result`. Raises a `RetalkingError`; leaves no partial file behind when it does."""
        ...
