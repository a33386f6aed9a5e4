"""Weight files: publisher, license, digest, checkpoint layout, required tensors; finding them, and their lock file.

`url` is the publisher's URL. Every file is checked strictly, key by key, before it is used. docs/weights.md shows
the same table. Needs no torch.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from retalking_core.errors import WeightsMissingError


@dataclass(frozen=True)
class TensorSpec:
    """dtype: numpy and torch name. init: recipe of `weights.recipes`."""

    dtype: str
    shape: tuple[int, ...]
    init: tuple[str | float, ...]


Manifest = dict[str, TensorSpec]


@cache
def load_manifest(network: str) -> Manifest:
    """Every key of a network, in checkpoint order. ENet's includes LNet's under `low_res.`."""
    return _read_manifest(network)


def _read_manifest(network: str) -> Manifest:
    source = resources.files("retalking_core.weights") / "manifests" / f"{network}.json"
    document = json.loads(source.read_text(encoding="utf-8"))
    manifest: Manifest = {}
    for prefix, included in document["include"].items():
        manifest.update({prefix + key: spec for key, spec in _read_manifest(included).items()})
    for key, (dtype, shape, init) in document["tensors"].items():
        manifest[key] = TensorSpec(dtype, tuple(shape), tuple(init))
    return manifest


@dataclass(frozen=True)
class Layout:
    """How a checkpoint wraps the state dict of the bare network."""

    nesting: tuple[str, ...] = ("",)
    """Entries to look under; the first that exists counts. "" is the top level of the file."""
    prefix: Literal["none", "leading", "anywhere"] = "none"
    """Whether `module.` is removed from the start of a key, or wherever it stands."""
    extra_keys: Literal["refuse", "ignore"] = "refuse"
    """`ignore`: keys beyond the manifest are listed and left out (docs/decisions/048-official-weight-files.md)."""
    elsewhere: str | None = None
    """Prefix of the manifest's keys that another file provides."""

    def bare_key(self, key: str) -> str:
        """The key of the bare network."""
        if self.prefix == "anywhere":
            return key.replace("module.", "")
        return key.removeprefix("module.") if self.prefix == "leading" else key

    def wrapped_key(self, key: str) -> str:
        return key if self.prefix == "none" else f"module.{key}"


@dataclass(frozen=True)
class Pin:
    """Digest of a published file, as independent public sources state it."""

    sha256: str
    size_bytes: int | None
    sources: int
    """How many sources agree on the digest."""


@dataclass(frozen=True)
class WeightFile:
    """One file of the table."""

    name: str
    file: str
    used_for: str
    publisher: str
    license: str
    """Of the publisher's repository; few state one for the weights themselves."""
    layout: Layout = Layout()
    aliases: tuple[str, ...] = ()
    """Other names under which the same layout is published."""
    url: str | None = None
    pins: Mapping[str, Pin] = field(default_factory=dict)
    """By file name. A file without one is trusted on first use, and then locked."""
    mirrors: tuple[str, ...] = ()
    """Known copies elsewhere, as in `RETALKING_WEIGHTS_URL`."""
    kind: Literal["network", "templates"] = "network"
    """`templates`: a MATLAB file of expression coefficients (`weights.templates`)."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.file, *self.aliases)

    @property
    def size_bytes(self) -> int | None:
        pin = self.pins.get(self.file)
        return pin.size_bytes if pin else None

    @property
    def network(self) -> str:
        return self.name

    def manifest(self) -> Manifest:
        """The keys that this very file has to provide."""
        manifest = load_manifest(self.network)
        if self.layout.elsewhere is None:
            return manifest
        return {key: spec for key, spec in manifest.items() if not key.startswith(self.layout.elsewhere)}


# Holds all files of the method's release under their own names.
_FULL_SET = "hf:camenduru/video-retalking"
_LATENT_SYNC = "hf:ByteDance/LatentSync-1.5/auxiliary"
_RELEASE = "https://github.com/vinthony/video-retalking/releases/download/v0.0.1/"
_FACEXLIB = "https://github.com/xinntao/facexlib/releases/download/"
_FACE_ALIGNMENT = "https://www.adrianbulat.com/downloads/python-fan/"

_ENTRIES = (
    WeightFile(
        "dnet",
        "DNet.pt",
        "canonical expression and pose, 256",
        "VideoReTalking",
        "none stated for the weights; built on PIRender, CC BY-NC 4.0",
        Layout(nesting=("net_G_ema",), extra_keys="ignore"),
        url=_RELEASE + "DNet.pt",
        mirrors=(_FULL_SET,),
    ),
    WeightFile(
        "lnet",
        "LNet.pth",
        "lip synthesis, 96",
        "VideoReTalking",
        "none stated for the weights; repository Apache-2.0",
        Layout(nesting=("state_dict",), prefix="anywhere", extra_keys="ignore"),
        url=_RELEASE + "LNet.pth",
        mirrors=(_FULL_SET,),
    ),
    WeightFile(
        "enet",
        "ENet.pth",
        "enhancing upsampler around LNet, 384",
        "VideoReTalking",
        "none stated for the weights; repository Apache-2.0",
        # The file may hold a copy of LNet of its own, which the method ignores: the lip network is LNet.pth's.
        Layout(nesting=("state_dict",), prefix="anywhere", extra_keys="ignore", elsewhere="low_res."),
        url=_RELEASE + "ENet.pth",
        mirrors=(_FULL_SET,),
    ),
    WeightFile(
        "deep3d",
        "face3d_pretrain_epoch_20.pth",
        "3DMM coefficients",
        "Deep3DFaceRecon_pytorch",
        "MIT; trained with the Basel Face Model 2009, which is for research only",
        Layout(nesting=("net_recon",)),
        url=_RELEASE + "face3d_pretrain_epoch_20.pth",
        mirrors=(_FULL_SET,),
    ),
    WeightFile(
        "gpen512",
        "GPEN-BFR-512.pth",
        "restoration of the reference faces, 512",
        "GPEN",
        "none stated since 2026-03-10, which grants nothing; before: non-commercial only",
        url=_RELEASE + "GPEN-BFR-512.pth",
        mirrors=("hf:akhaliq/GPEN-BFR-512", _FULL_SET),
        pins={
            "GPEN-BFR-512.pth": Pin(
                "f1002c41add95b0decad69604d80455576f7187dd99ca16bd611bcfd44c10b51", 284_085_738, sources=2
            ),
        },
    ),
    WeightFile(
        "ganimation",
        "30_net_gen.pth",
        "upper-face expression, 128",
        "ganimation_replicate (donydchen)",
        "MIT; none stated for the weights",
        # Older files hold running statistics of instance norms, which evaluation does not read.
        Layout(extra_keys="ignore"),
        url=_RELEASE + "30_net_gen.pth",
        mirrors=(_FULL_SET,),
    ),
    WeightFile(
        "syncnet",
        "syncnet_v2.model",
        "LSE-C and LSE-D scores",
        "syncnet_python",
        "MIT",
        url="https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
        mirrors=(_LATENT_SYNC,),
        pins={
            "syncnet_v2.model": Pin(
                "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442", 54_573_114, sources=3
            ),
        },
    ),
    WeightFile(
        "gfpgan",
        "GFPGANv1.3.pth",
        "restoration of the mouth, 512",
        "GFPGAN",
        "Apache-2.0 except the parts that its LICENSE lists",
        Layout(nesting=("params_ema", "params")),
        url="https://github.com/TencentARC/GFPGAN/releases/download/v1.3.0/GFPGANv1.3.pth",
        mirrors=(_FULL_SET,),
        pins={
            "GFPGANv1.3.pth": Pin(
                "c953a88f2727c85c3d9ae72e2bd4846bbaf59fe6972ad94130e23e7017524a70", 348_632_874, sources=10
            ),
        },
    ),
    WeightFile(
        "parsenet",
        "ParseNet-latest.pth",
        "face parsing, 19 classes",
        "PSFRGAN; GPEN; facexlib as parsing_parsenet.pth",
        "from PSFRGAN, CC BY-NC-SA 4.0",
        aliases=("parsing_parsenet.pth",),
        url=_RELEASE + "ParseNet-latest.pth",
        mirrors=(_FULL_SET,),
        pins={
            "parsing_parsenet.pth": Pin(
                "3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2", 85_331_193, sources=10
            ),
        },
    ),
    WeightFile(
        "retinaface",
        "RetinaFace-R50.pth",
        "faces and five points",
        "GPEN; facexlib as detection_Resnet50_Final.pth",
        "MIT (biubug6/Pytorch_Retinaface)",
        Layout(nesting=("state_dict", ""), prefix="leading"),
        aliases=("detection_Resnet50_Final.pth",),
        url=_RELEASE + "RetinaFace-R50.pth",
        mirrors=("hf:akhaliq/RetinaFace-R50", _FULL_SET),
        pins={
            "RetinaFace-R50.pth": Pin(
                "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d", 109_497_761, sources=1
            ),
            "detection_Resnet50_Final.pth": Pin(
                "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d", 109_497_761, sources=10
            ),
        },
    ),
    WeightFile(
        "s3fd",
        "s3fd-619a316812.pth",
        "face boxes",
        "face-alignment",
        "BSD-3-Clause",
        url=_FACE_ALIGNMENT + "s3fd-619a316812.pth",
        mirrors=(_LATENT_SYNC,),
        pins={
            "s3fd-619a316812.pth": Pin(
                "619a31681264d3f7f7fc7a16a42cbbe8b23f31a256f75a366e5a1bcd59b33543", 89_843_225, sources=10
            ),
        },
    ),
    WeightFile(
        "fan2d",
        "2DFAN4-11f355bf06.pth.tar",
        "68 landmarks",
        "face-alignment",
        "BSD-3-Clause",
        url=_FACE_ALIGNMENT + "2DFAN4-11f355bf06.pth.tar",
        pins={
            "2DFAN4-11f355bf06.pth.tar": Pin(
                "11f355bf0693120222f5955ce3f9dc8fb5763ebb30a47d7906e509490d32e4aa", 95_641_761, sources=4
            ),
        },
    ),
    WeightFile(
        "arcface",
        "recognition_arcface_ir_se50.pth",
        "identity similarity score",
        "facexlib",
        "MIT (TreB1eN/InsightFace_Pytorch)",
        url=_FACEXLIB + "v0.1.0/recognition_arcface_ir_se50.pth",
        pins={
            "recognition_arcface_ir_se50.pth": Pin(
                "a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28", 175_367_323, sources=6
            ),
        },
    ),
    WeightFile(
        "inception",
        "pt_inception-2015-12-05-6726825d.pth",
        "FID over a set",
        "pytorch-fid, converted from TensorFlow's",
        "Apache-2.0",
        url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        pins={
            "pt_inception-2015-12-05-6726825d.pth": Pin(
                "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2", 95_628_359, sources=10
            ),
        },
    ),
    WeightFile(
        "expression",
        "expression.mat",
        "expression templates `neutral` and `smile`",
        "VideoReTalking",
        "none stated for the file; repository Apache-2.0",
        url=_RELEASE + "expression.mat",
        mirrors=(_FULL_SET,),
        kind="templates",
    ),
)
WEIGHT_FILES: Mapping[str, WeightFile] = {entry.name: entry for entry in _ENTRIES}
NETWORK_FILES = tuple(entry.name for entry in _ENTRIES if entry.kind == "network")

# What the videoretalking engine runs on; the others serve evaluation or a neural face tracker.
ENGINE_WEIGHTS = ("deep3d", "dnet", "gpen512", "lnet", "enet", "gfpgan", "parsenet", "ganimation")


def find_file(folder: Path, entry: WeightFile) -> Path:
    """The entry's file in a folder, under its own name or an alias. Raises weights_missing."""
    for name in entry.names:
        if (folder / name).is_file():
            return folder / name
    raise WeightsMissingError(f"{entry.file} is not in the weights folder", file=entry.file)


LOCK_NAME = "weights.lock.json"


@dataclass(frozen=True)
class LockedFile:
    sha256: str
    size_bytes: int
    source: str
    """The URL it came from, or how it was made."""
    accepted: bool = False
    """Accepted knowingly (`--accept-digest`), although the table pins another digest."""


def read_lock(folder: Path) -> dict[str, LockedFile]:
    path = folder / LOCK_NAME
    if not path.exists():
        return {}
    return {name: LockedFile(**entry) for name, entry in json.loads(path.read_text())["files"].items()}


def record(folder: Path, name: str, locked: LockedFile) -> None:
    """Adds or replaces one file's entry; the lock file itself is replaced in one step.

    Processes that record at the same time (fetch, convert, synthesize) wait for each other, so that no entry is lost.
    """
    guard = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)
        files = read_lock(folder) | {name: locked}
        document = {"version": 1, "files": {key: asdict(files[key]) for key in sorted(files)}}
        partial = folder / f"{LOCK_NAME}.part"
        partial.write_text(json.dumps(document, indent=1) + "\n")
        partial.replace(folder / LOCK_NAME)
    finally:
        os.close(guard)
