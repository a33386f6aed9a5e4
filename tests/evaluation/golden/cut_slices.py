"""Cuts the committed slices out of the full golden set of the evaluation: same names, smaller pictures and features.

python tests/evaluation/golden/cut_slices.py FULL_GOLDEN_FOLDER

What is cut down and not only left out is small by choice of whole items (one frame pair, one sharpness picture), never
by cropping an input whose output is kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
DROPPED = ("ssim_gray_a0", "mfcc_windows_0_1_10", "arc_img", "arc_crop112")


def cut(full: Path) -> None:
    with np.load(full / "pipeline" / "09_eval.npz") as stored:
        arrays = {key: stored[key] for key in stored.files if key not in DROPPED}
    for key in ("ssim_a", "ssim_b", "ssim_scores", "cpbd_imgs", "cpbd"):
        arrays[key] = arrays[key][:1]
    arrays["ssim_mean"] = arrays["ssim_scores"].mean()
    for key in ("emb_a", "emb_b", "csim"):
        arrays[key] = arrays[key][:2]
    np.savez_compressed(HERE / "09_eval.npz", **arrays)


if __name__ == "__main__":
    cut(Path(sys.argv[1]))
