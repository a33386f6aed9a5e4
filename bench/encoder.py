"""What the choice of the encoder's settings rests on: `python -m bench.encoder VIDEO [--frames N] [--repeat N]`.

Encodes the clip's own frames with x264 at crf 18, and prints for each setting CPU time per frame (all threads), size,
and what is left of the picture: luma PSNR (mean and worst frame) and SSIM by the toolkit's procedure on luma. The
settings take turns, and the smallest CPU time of each counts: the machine is rarely quiet.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np

from retalking_core.evaluation.image_quality import SIDE_PX, SimilarityMeter
from retalking_core.media.encoder import PRESET, THREADS, steady_preset
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.planes import to_picture
from retalking_core.media.reader import open_video
from retalking_core.types import Frame, VideoInfo

CHOICE = PRESET["x264-params"]
SETTINGS = {
    "medium": {"preset": "medium"},
    "faster": {"preset": "faster"},
    "veryfast": {"preset": "veryfast"},
    "the choice with B pictures": {"preset": "veryfast", "x264-params": CHOICE.replace(":bframes=0", "")},
    "the choice": PRESET,
    "the choice, lookahead 5": {**PRESET, "x264-params": f"{CHOICE}:rc-lookahead=5"},
    "the choice, subme 0": {**PRESET, "x264-params": CHOICE.replace("subme=1", "subme=0")},
    "the choice, no deblocking": {**PRESET, "x264-params": f"{CHOICE}:no-deblock=1"},
    "the choice, no mbtree": {**PRESET, "x264-params": f"{CHOICE}:mbtree=0"},
    "superfast": {"preset": "superfast"},
    "ultrafast": {"preset": "ultrafast"},
}


@dataclass(frozen=True)
class Encoded:
    """cpu_ms: per frame. psnr_db: mean over all pixels, and of the worst frame."""

    cpu_ms: float
    size_kb: float
    psnr_db: float
    worst_db: float
    ssim: float


def main() -> None:
    """Print one row a setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    source = open_video(arguments.video, DEFAULT_LIMITS)
    frames = list(islice(source.frames(), arguments.frames))
    runs: dict[str, list[Encoded]] = {name: [] for name in SETTINGS}
    for _ in range(arguments.repeat):
        for name, options in SETTINGS.items():
            runs[name].append(encode(frames, source.info, options))
    print(f"{arguments.video.name}: {source.info.width}x{source.info.height}, {len(frames)} frames, crf 18")
    print(f"{'setting':<28}{'cpu ms/frame':>13}{'kB':>8}{'PSNR dB':>9}{'worst':>8}{'SSIM':>9}")
    for name, each in runs.items():
        best = min(each, key=lambda run: run.cpu_ms)
        print(
            f"{name:<28}{best.cpu_ms:>13.1f}{best.size_kb:>8.0f}{best.psnr_db:>9.2f}{best.worst_db:>8.2f}"
            f"{best.ssim:>9.4f}"
        )


def encode(frames: Sequence[Frame], info: VideoInfo, options: dict[str, str]) -> Encoded:
    """The frames through the encoder as `ResultWriter` sets it up, and back."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = info.width, info.height, "yuv420p"
    encoder.time_base, encoder.framerate = 1 / info.fps, info.fps
    encoder.options = {"crf": "18", **steady_preset(options)}
    encoder.thread_type, encoder.thread_count = "FRAME", THREADS
    began, packets = time.process_time(), []
    for number, frame in enumerate(frames):
        picture = to_picture(frame)
        picture.pts = number
        packets += encoder.encode(picture)
    packets += encoder.encode(None)
    cpu_s = time.process_time() - began
    decoder = av.CodecContext.create("h264", "r")
    decoder.extradata = encoder.extradata
    pictures = [picture for packet in (*packets, None) for picture in decoder.decode(packet)]
    pictures.sort(key=lambda picture: picture.pts)
    meter = SimilarityMeter((SIDE_PX, SIDE_PX))
    errors, scores = [], []
    for picture, frame in zip(pictures, frames, strict=True):
        luma = picture.to_ndarray()[: info.height]
        errors.append(cv2.norm(luma, frame.y, cv2.NORM_L2SQR) / luma.size)
        scores.append(meter(*(cv2.resize(plane, (SIDE_PX, SIDE_PX)) for plane in (luma, frame.y))))
    return Encoded(
        1000 * cpu_s / len(frames),
        sum(packet.size for packet in packets) / 1000,
        _decibels(float(np.mean(errors))),
        _decibels(max(errors)),
        float(np.mean(scores)),
    )


def _decibels(mean_square: float) -> float:
    return float(10 * np.log10(255**2 / mean_square))


if __name__ == "__main__":
    main()
