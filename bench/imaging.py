"""Our image arithmetic and SSIM against the libraries': `python -m bench.imaging [--device cuda]`.

Prints, by turns, the milliseconds of either (the fastest call; on CUDA with the queue empty before and after), the
largest difference of their results and, on CUDA, how often a call waits for the device: the renderer queues batches, so
a wait stalls all of them. docs/dependencies.md draws its conclusions from these figures.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import kornia
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from retalking_core.imaging import blur, invert_affine, pyr_down, pyr_up, warp_batch
from retalking_core.media.planes import color_matrices
from retalking_core.networks.inference import upload
from retalking_core.stages.regions import convert_colors
from retalking_core.types import ColorTags


@dataclass(frozen=True)
class Pair:
    """The same step in two implementations. scale: what the results span, for the difference."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]
    scale: str


def warp_kornia(pictures: Tensor, out_to_in: np.ndarray, size: int) -> Tensor:
    """kornia takes the map from the picture to the result, with pixel centers at integers."""
    forward = invert_affine(out_to_in)
    forward[..., 2] += 0.5 * forward[..., :2].sum(axis=-1) - 0.5
    return kornia.geometry.transform.warp_affine(
        pictures, upload(forward, pictures.device), (size, size), padding_mode="border", align_corners=True
    )


def blur_kornia(mask: Tensor, sigma_px: float) -> Tensor:
    size = 2 * math.ceil(3 * sigma_px) + 1
    return kornia.filters.gaussian_blur2d(mask, (size, size), (sigma_px, sigma_px), "reflect")


def to_bgr_kornia(luma: Tensor, chroma: Tensor) -> Tensor:
    """BT.601 in full range is the only matrix that kornia has."""
    return kornia.color.yuv420_to_rgb(luma / 255, chroma / 255 - 0.5).flip(1) * 255


def to_bgr_ours(luma: Tensor, chroma: Tensor, tags: ColorTags) -> Tensor:
    planes = torch.cat([luma, F.interpolate(chroma, scale_factor=2, mode="nearest")], dim=1)
    return convert_colors(planes, color_matrices(tags, luma.shape[2])[0])


def make_pairs(device: torch.device, batch: int) -> list[Pair]:
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(batch, 3, 56, 56, generator=generator) * 255, size=448, mode="bicubic")
    pictures = smooth.clamp(0, 255).to(device)
    mask = (torch.rand(batch, 1, 512, 512, generator=generator) > 0.5).float().to(device)
    angle, scale = 0.1, 448 / 512
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    matrix = np.broadcast_to(np.array([[cosine, -sine, 20.0], [sine, cosine, -10.0]]), (batch, 2, 3))
    luma, chroma = pictures[:, :1].round(), pictures[:, 1:, ::2, ::2].round()
    transform = kornia.geometry.transform
    pairs = [
        Pair(
            "affine warp 448 -> 512",
            partial(warp_batch, pictures, matrix, 512, 512),
            partial(warp_kornia, pictures, matrix, 512),
            "0..255",
        ),
        Pair("pyramid down 448", partial(pyr_down, pictures), partial(transform.pyrdown, pictures), "0..255"),
        Pair("pyramid up 448", partial(pyr_up, pictures), partial(transform.pyrup, pictures), "0..255"),
    ]
    for sigma_px in (2.0, 4.0):
        name = f"mask blur 512, sigma {sigma_px:g}"
        pairs.append(Pair(name, partial(blur, mask, sigma_px), partial(blur_kornia, mask, sigma_px), "0..1"))
    for name, tags in (("BT.601 full range", ColorTags(5, full_range=True)), ("BT.709 limited range", ColorTags(1))):
        pairs.append(
            Pair(
                f"YUV to BGR 448, {name}",
                partial(to_bgr_ours, luma, chroma, tags),
                partial(to_bgr_kornia, luma, chroma),
                "0..255",
            )
        )
    return pairs


def elapsed_ms(work: Callable[[], object], device: torch.device) -> float:
    """One call, with the device idle before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


def waits(work: Callable[[], object], device: torch.device) -> int:
    """Synchronizations of one call with a CUDA device; 0 elsewhere."""
    if device.type != "cuda":
        return 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=0, help="16 on CUDA, else 2")
    parser.add_argument("--turns", type=int, default=15)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    batch = arguments.batch or (16 if device.type == "cuda" else 2)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, batch {batch}, torch {torch.__version__}, kornia {kornia.__version__}")
    print(f"{'step':<40}{'ours ms':>10}{'theirs ms':>11}{'difference':>12}  {'of':<8}{'waits':>6}")
    with torch.inference_mode():
        for pair in make_pairs(device, batch):
            one, other = (torch.as_tensor(work()).cpu() for work in (pair.ours, pair.theirs))
            difference = float((one - other).abs().max())
            turns = [(elapsed_ms(pair.ours, device), elapsed_ms(pair.theirs, device)) for _ in range(arguments.turns)]
            ours, theirs = (min(times) for times in zip(*turns, strict=True))
            print(
                f"{pair.name:<40}{ours:>10.2f}{theirs:>11.2f}{difference:>12.2g}  {pair.scale:<8}"
                f"{waits(pair.ours, device):>3}/{waits(pair.theirs, device)}"
            )


if __name__ == "__main__":
    main()
