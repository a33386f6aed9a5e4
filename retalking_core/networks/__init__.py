"""Network definitions (nn.Module only), by name. A module is imported when its network is built: some load slowly."""

from __future__ import annotations

import threading
from importlib import import_module

from torch import nn

# Network -> module and class.
_CLASSES = {
    "dnet": ("dnet", "DNet"),
    "lnet": ("enet", "LNet"),
    "enet": ("enet", "ENet"),
    "deep3d": ("third_party", "Deep3D"),
    "gpen512": ("gpen", "GPEN512"),
    "ganimation": ("ganimation", "GANimation"),
    "syncnet": ("syncnet", "SyncNet"),
    "gfpgan": ("third_party", "GFPGAN"),
    "parsenet": ("third_party", "ParseNet"),
    "retinaface": ("third_party", "RetinaFace"),
    "s3fd": ("third_party", "S3FD"),
    "fan2d": ("third_party", "FAN2D"),
    "arcface": ("third_party", "ArcFace"),
    "inception": ("third_party", "FIDInception"),
}
NETWORKS = tuple(_CLASSES)
# Inputs of the networks that an engine runs on every frame, without their batch axis.
INPUT_SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    "deep3d": ((3, 224, 224),),
    "dnet": ((3, 256, 256), (73, 26)),
    "gpen512": ((3, 512, 512),),
    "enet": ((1, 80, 16), (6, 384, 384), (3, 384, 384)),
    "gfpgan": ((3, 512, 512),),
    "parsenet": ((3, 512, 512),),
    "fan2d": ((3, 256, 256),),
}


# Held by threads that import the libraries of networks, or others as large, side by side: packages that import each
# other in circles are not safe otherwise, and imports hold the interpreter's lock anyway.
IMPORTS = threading.RLock()


def build(name: str, **arguments: object) -> nn.Module:
    """A network in evaluation mode, weights not loaded. `with torch.device("meta")` around the call costs no memory."""
    module, kind = _CLASSES[name]
    return getattr(import_module(f"retalking_core.networks.{module}"), kind)(**arguments).eval()
