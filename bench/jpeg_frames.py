"""How coarse the JPEG round trip of the SyncNet protocols is: `python -m bench.jpeg_frames VIDEO`.

Prints size and PSNR of the encoder's first pictures, while its rate control is still looking for the quantizer, and of
the rest, where it has come to its coarsest one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from retalking_core.evaluation.frames import encode_jpegs, read_bgr
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video

SETTLING = 8


def main() -> None:
    """Print one row for the first eight pictures, and one for the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    video = parser.parse_args().video
    sizes, ratios = [], []
    pictures = list(read_bgr(video, DEFAULT_LIMITS))
    for jpeg, picture in zip(encode_jpegs(pictures, open_video(video, DEFAULT_LIMITS).info.fps), pictures, strict=True):
        back = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        sizes.append(len(jpeg) / 1000)
        ratios.append(cv2.PSNR(back, picture))
    print(f"{video.name}: {picture.shape[1]}x{picture.shape[0]}, {len(pictures)} pictures")
    for name, part in (
        (f"first {SETTLING}", slice(SETTLING)),
        ("the rest", slice(SETTLING, None)),
        ("all", slice(None)),
    ):
        print(f"{name:<10}{np.mean(sizes[part]):>7.1f} kB{np.mean(ratios[part]):>7.1f} dB (BGR)")


if __name__ == "__main__":
    main()
