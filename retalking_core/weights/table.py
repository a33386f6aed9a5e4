"""Weight files: publisher, license, checkpoint layout, required tensors; finding them, and their lock file.

`url` is the publisher's address; a mirror (`RETALKING_WEIGHTS_URL`) replaces it, and a file can be put into the folder
by hand. Every file is checked strictly, key by key, before it is used. `size_bytes` is None where it is unknown.
docs/weights.md shows the same table. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from retalking_core.errors import WeightsDigestMismatchError, WeightsMissingError


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
    source = resources.files("retalking_core.weights") / "manifests" / f"{network}.json"
    document = json.loads(source.read_text(encoding="utf-8"))
    manifest: Manifest = {}
    for prefix, included in document["include"].items():
        manifest.update({prefix + key: spec for key, spec in load_manifest(included).items()})
    for key, (dtype, shape, init) in document["tensors"].items():
        manifest[key] = TensorSpec(dtype, tuple(shape), tuple(init))
    return manifest


@dataclass(frozen=True)
class Layout:
    """How a checkpoint wraps the state dict of the bare network.

    nesting: entries to look under, the first that is there counts; "" is the file's top level. prefix: `module.` is
    removed from the start of a key, or wherever it stands. ignored: keys left out (regular expression). elsewhere:
    prefix of the manifest's keys that another file provides.
    """

    nesting: tuple[str, ...] = ("",)
    prefix: Literal["none", "leading", "anywhere"] = "none"
    ignored: str | None = None
    elsewhere: str | None = None

    def bare_key(self, key: str) -> str | None:
        """The key of the bare network, or None for one to leave out."""
        if self.prefix == "anywhere":
            key = key.replace("module.", "")
        elif self.prefix == "leading":
            key = key.removeprefix("module.")
        return None if self.ignored and re.search(self.ignored, key) else key

    def wrapped_key(self, key: str) -> str:
        return key if self.prefix == "none" else f"module.{key}"


@dataclass(frozen=True)
class WeightFile:
    """One file. aliases: other names under which the same layout is published. licence: of the publisher's repository;
    few state one for the weights themselves."""

    name: str
    file: str
    used_for: str
    publisher: str
    licence: str
    layout: Layout = Layout()
    aliases: tuple[str, ...] = ()
    url: str | None = None
    size_bytes: int | None = None

    @property
    def network(self) -> str:
        return self.name

    def manifest(self) -> Manifest:
        """The keys that this very file has to provide."""
        manifest = load_manifest(self.network)
        if self.layout.elsewhere is None:
            return manifest
        return {key: spec for key, spec in manifest.items() if not key.startswith(self.layout.elsewhere)}


_RELEASE = "https://github.com/vinthony/video-retalking/releases/download/v0.0.1/"
_FACEXLIB = "https://github.com/xinntao/facexlib/releases/download/"
_FACE_ALIGNMENT = "https://www.adrianbulat.com/downloads/python-fan/"

_ENTRIES = (
    WeightFile(
        "dnet",
        "DNet.pt",
        "canonical expression and pose, 256",
        "VideoReTalking",
        "Apache-2.0",
        Layout(nesting=("net_G_ema",)),
        url=_RELEASE + "DNet.pt",
    ),
    WeightFile(
        "lnet",
        "LNet.pth",
        "lip synthesis, 96",
        "VideoReTalking",
        "Apache-2.0",
        Layout(nesting=("state_dict",), prefix="anywhere", ignored="low_res"),
        url=_RELEASE + "LNet.pth",
    ),
    WeightFile(
        "enet",
        "ENet.pth",
        "enhancing upsampler around LNet, 384",
        "VideoReTalking",
        "Apache-2.0",
        # The file may hold a copy of LNet of its own, which the method ignores: the lip network is LNet.pth's.
        Layout(nesting=("state_dict",), prefix="anywhere", ignored="low_res", elsewhere="low_res."),
        url=_RELEASE + "ENet.pth",
    ),
    WeightFile(
        "deep3d",
        "face3d_pretrain_epoch_20.pth",
        "3DMM coefficients",
        "Deep3DFaceRecon_pytorch",
        "MIT; trained with the Basel Face Model, which is for research only",
        Layout(nesting=("net_recon",)),
        url=_RELEASE + "face3d_pretrain_epoch_20.pth",
    ),
    WeightFile(
        "gpen512",
        "GPEN-BFR-512.pth",
        "restoration of the reference faces, 512",
        "GPEN",
        "academic and non-commercial use only",
        url=_RELEASE + "GPEN-BFR-512.pth",
    ),
    WeightFile(
        "ganimation",
        "30_net_gen.pth",
        "upper-face expression, 128",
        "GANimation",
        "not stated for the weights",
        # Older files carry running statistics of instance norms, which have no use in evaluation.
        Layout(ignored=r"(running_mean|running_var|num_batches_tracked)$"),
        url=_RELEASE + "30_net_gen.pth",
    ),
    WeightFile(
        "syncnet",
        "syncnet_v2.model",
        "LSE-C and LSE-D scores",
        "syncnet_python",
        "MIT",
        url="https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
    ),
    WeightFile(
        "gfpgan",
        "GFPGANv1.3.pth",
        "restoration of the mouth, 512",
        "GFPGAN",
        "Apache-2.0",
        Layout(nesting=("params_ema", "params")),
        size_bytes=348_632_874,
        url="https://github.com/TencentARC/GFPGAN/releases/download/v1.3.0/GFPGANv1.3.pth",
    ),
    WeightFile(
        "parsenet",
        "ParseNet-latest.pth",
        "face parsing, 19 classes",
        "GPEN; facexlib as parsing_parsenet.pth",
        "GPEN's: academic and non-commercial use only; facexlib's: Apache-2.0",
        aliases=("parsing_parsenet.pth",),
        url=_RELEASE + "ParseNet-latest.pth",
    ),
    WeightFile(
        "retinaface",
        "RetinaFace-R50.pth",
        "faces and five points",
        "GPEN; facexlib as detection_Resnet50_Final.pth",
        "GPEN's: academic and non-commercial use only; facexlib's: Apache-2.0",
        Layout(nesting=("state_dict", ""), prefix="leading"),
        aliases=("detection_Resnet50_Final.pth",),
        url=_RELEASE + "RetinaFace-R50.pth",
    ),
    WeightFile(
        "s3fd",
        "s3fd-619a316812.pth",
        "face boxes",
        "face-alignment",
        "BSD-3-Clause",
        url=_FACE_ALIGNMENT + "s3fd-619a316812.pth",
    ),
    WeightFile(
        "fan2d",
        "2DFAN4-11f355bf06.pth.tar",
        "68 landmarks",
        "face-alignment",
        "BSD-3-Clause",
        url=_FACE_ALIGNMENT + "2DFAN4-11f355bf06.pth.tar",
    ),
    WeightFile(
        "arcface",
        "recognition_arcface_ir_se50.pth",
        "identity similarity score",
        "facexlib",
        "Apache-2.0",
        url=_FACEXLIB + "v0.1.0/recognition_arcface_ir_se50.pth",
    ),
    WeightFile(
        "inception",
        "pt_inception-2015-12-05-6726825d.pth",
        "FID over a set",
        "pytorch-fid, converted from TensorFlow's",
        "Apache-2.0",
        url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    ),
)
WEIGHT_FILES: Mapping[str, WeightFile] = {entry.name: entry for entry in _ENTRIES}

# What the videoretalking engine runs on; the others serve evaluation or a neural face tracker.
ENGINE_WEIGHTS = ("deep3d", "dnet", "gpen512", "lnet", "enet", "gfpgan", "parsenet", "ganimation")


def find_file(folder: Path, entry: WeightFile) -> Path:
    """The entry's file in a folder, under its own name or an alias. Raises weights_missing."""
    for name in (entry.file, *entry.aliases):
        if (folder / name).is_file():
            return folder / name
    raise WeightsMissingError(f"{entry.file} is not in the weights folder", file=entry.file)


LOCK_NAME = "weights.lock.json"


@dataclass(frozen=True)
class LockedFile:
    """source: the address it came from, or how it was made."""

    sha256: str
    size_bytes: int
    source: str


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_lock(folder: Path) -> dict[str, LockedFile]:
    path = folder / LOCK_NAME
    if not path.exists():
        return {}
    return {name: LockedFile(**entry) for name, entry in json.loads(path.read_text())["files"].items()}


def record(folder: Path, name: str, locked: LockedFile) -> None:
    """Adds or replaces one file's entry; the lock file itself is replaced in one step."""
    files = read_lock(folder) | {name: locked}
    document = {"version": 1, "files": {key: asdict(files[key]) for key in sorted(files)}}
    partial = folder / f"{LOCK_NAME}.{os.getpid()}.part"
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.replace(folder / LOCK_NAME)


def check_digest(path: Path, locked: LockedFile | None) -> None:
    """Raises if a lock entry exists and the file is another one."""
    if locked is not None and digest_of(path) != locked.sha256:
        raise WeightsDigestMismatchError(
            f"{path.name} is not the file that {LOCK_NAME} recorded (from {locked.source}); remove it and "
            "fetch it again, or remove its entry if the change was wanted",
            file=path.name,
        )
