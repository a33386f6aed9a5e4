"""Every network by its name. A module is imported when its network is built: the libraries behind some are slow."""

from __future__ import annotations

from importlib import import_module

from torch import nn

_CLASSES = {
    "dnet": "DNet",
    "lnet": "LNet",
    "enet": "ENet",
    "deep3d": "Deep3D",
    "gpen512": "GPEN512",
    "ganimation": "GANimation",
    "syncnet": "SyncNet",
    "gfpgan": "GFPGAN",
    "parsenet": "ParseNet",
    "retinaface": "RetinaFace",
    "s3fd": "S3FD",
    "fan2d": "FAN2D",
    "arcface": "ArcFace",
    "inception": "FIDInception",
}
_FILES = {"gpen512": "gpen"}
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


def build(name: str, **arguments: object) -> nn.Module:
    """A network in evaluation mode, weights not loaded. `with torch.device("meta")` around the call costs no memory."""
    module = import_module(f"retalking_core.networks.{_FILES.get(name, name)}")
    return getattr(module, _CLASSES[name])(**arguments).eval()
