"""Reads golden sets: `networks/<name>/golden.json` and `golden.npz`, and runs a network on what they describe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from retalking_core import networks
from retalking_core.weights.synthesis import draw_weights, tensor_generator
from retalking_core.weights.table import Manifest, TensorSpec, load_manifest

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class GoldenSet:
    """One network of one folder. manifest: the folder's own, or the packaged one where it has none."""

    network: str
    document: dict
    arrays: dict[str, NDArray[np.float32]]
    manifest: Manifest

    @property
    def seed(self) -> int:
        return self.document["seed"]


@dataclass(frozen=True)
class Result:
    """outputs: full tensors by golden name. samples: 64 values and the largest absolute value a module, by path."""

    outputs: dict[str, NDArray[np.float32]]
    samples: dict[str, tuple[NDArray[np.float32], tuple[int, ...]]]


def read_golden(root: Path, network: str) -> GoldenSet:
    folder = root / "networks" / network
    document = json.loads((folder / "golden.json").read_text())
    with np.load(folder / "golden.npz") as stored:
        arrays = dict(stored)
    manifest_file = folder / "manifest.json"
    manifest = parse_manifest(manifest_file) if manifest_file.exists() else load_manifest(network)
    return GoldenSet(network, document, arrays, manifest)


def parse_manifest(path: Path) -> Manifest:
    entries = json.loads(path.read_text()).items()
    return {key: TensorSpec(e["dtype"], tuple(e["shape"]), tuple(e["init"])) for key, e in entries}


def make_input(recipe: dict, network: str, seed: int) -> Tensor:
    """The float32 tensor that an input recipe describes (`golden/README.md`)."""
    shape = tuple(recipe["shape"])
    rng = tensor_generator(seed, network, "input:" + recipe["name"])
    match recipe["kind"]:
        case "uniform":
            x = rng.uniform(recipe["low"], recipe["high"], shape)
        case "normal":
            x = recipe["mean"] + recipe["std"] * rng.standard_normal(shape)
        case "smooth":
            x = _smooth_field(recipe, shape, rng)
        case "grouped":
            counts, means, deviations = zip(*recipe["groups"], strict=True)
            column = (1, -1) + (1,) * (len(shape) - 2)
            noise = rng.standard_normal(shape)
            x = np.repeat(means, counts).reshape(column) + np.repeat(deviations, counts).reshape(column) * noise
        case kind:
            raise ValueError(f"unknown input kind {kind}")
    x = np.ascontiguousarray(x, dtype=np.float32)
    if "zero" in recipe:
        x[tuple(slice(*bounds) for bounds in recipe["zero"])] = 0
    return torch.from_numpy(x)


def _smooth_field(recipe: dict, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """A bilinearly enlarged coarse random field, mixed with white noise, over the last two axes."""
    cells, share = recipe["cells"], recipe["noise"]
    coarse = rng.uniform(0.0, 1.0, (*shape[:-2], cells + 1, cells + 1))
    rows, columns = (
        np.maximum(0, 1 - np.abs(np.linspace(0, cells, size)[:, None] - np.arange(cells + 1))) for size in shape[-2:]
    )
    unit = (1 - share) * (rows @ coarse @ columns.T) + share * rng.uniform(0.0, 1.0, shape)
    return recipe["low"] + (recipe["high"] - recipe["low"]) * unit


def sample64(tensor: Tensor) -> NDArray[np.float32]:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat[(torch.arange(64) * flat.numel()) // 64].float().numpy()


def load_synthetic(network: str, seed: int, manifest: Manifest | None = None) -> nn.Module:
    """The network with the synthetic weights of a seed, loaded strictly."""
    manifest = manifest or load_manifest(network)
    with torch.device("meta"):
        net = networks.build(network)
    state = {key: torch.from_numpy(np.array(value)) for key, value in draw_weights(manifest, network, seed)}
    net.load_state_dict(state, strict=True, assign=True)
    return net.requires_grad_(False)


def _run_enet(net: nn.Module, x: Inputs) -> dict[str, Tensor]:
    image, low_res = net(x["audio"], x["face"], x["reference"])
    return {"image": image, "low_res": low_res}


def _noisy_style_conv(net: nn.Module, x: Inputs) -> dict[str, Tensor]:
    conv = net.style_convs[0]
    conv.weight.fill_(0.5)
    return {"noisy_style_conv": conv(x["unit_features"], x["unit_style"], x["unit_noise"])}


def _run_syncnet(net: nn.Module, x: Inputs) -> dict[str, Tensor]:
    lip, audio = net(x["lip"], x["mfcc"])
    return {"lip_embedding": lip, "audio_embedding": audio}


def _named(*names: str) -> Callable[[nn.Module, Inputs], dict[str, Tensor]]:
    """Runs the network on its inputs in order; its result or results bear these names."""

    def run(net: nn.Module, x: Inputs) -> dict[str, Tensor]:
        result = net(*x.values())
        return dict(zip(names, [result] if isinstance(result, Tensor) else result, strict=True))

    return run


RUNNERS: dict[str, Callable[[nn.Module, Inputs], dict[str, Tensor]]] = {
    "dnet": _named("flow_field", "warp_image", "fake_image"),
    "lnet": _named("image"),
    "enet": _run_enet,
    "deep3d": _named("coefficients"),
    "gpen512": _named("image"),
    "ganimation": _named("color", "attention", "composed"),
    "syncnet": _run_syncnet,
    "gfpgan": _named("image"),
    "parsenet": _named("mask_logits", "image"),
    "retinaface": _named("box", "score", "landmark"),
    "s3fd": _named(*(f"{kind}{level}" for level in range(1, 7) for kind in ("class", "box"))),
    "fan2d": _named("heatmaps0", "heatmaps1", "heatmaps2", "heatmaps3"),
    "arcface": _named("embedding"),
}
# Run with the hooks off: parts of a network called by themselves.
EXTRA_RUNNERS: dict[str, Callable[[nn.Module, Inputs], dict[str, Tensor]]] = {
    "enet": _noisy_style_conv,
    "syncnet": lambda net, x: {"lip_feature": net.lip_feature(x["lip"])},
}


def run_network(golden: GoldenSet) -> Result:
    """Draws weights and inputs, runs the network once, and samples every module that a checkpoint names."""
    net = load_synthetic(golden.network, golden.seed, golden.manifest)
    x = {r["name"]: make_input(r, golden.network, golden.seed) for r in golden.document["inputs"]}
    modules = dict(net.named_modules())
    samples: dict[str, tuple[NDArray[np.float32], tuple[int, ...]]] = {}

    def watch(path: str) -> None:
        def record(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            samples[path] = (sample64(output), tuple(output.shape))

        hooks.append(modules[path].register_forward_hook(record))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for checkpoint in golden.document["checkpoints"].values():
        watch(checkpoint["module"])
    with torch.inference_mode():
        outputs = RUNNERS[golden.network](net, x)
        for hook in hooks:
            hook.remove()
        outputs |= EXTRA_RUNNERS.get(golden.network, lambda _net, _x: {})(net, x)
    return Result({name: tensor.float().numpy() for name, tensor in outputs.items()}, samples)
