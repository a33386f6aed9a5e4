"""How near two renders are in the face, frame by frame as the encoder gets them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from retalking_core.engines.videoretalking import engine as videoretalking
from retalking_core.media.writer import ResultWriter
from retalking_core.types import FaceTrack, Frame


def handed_over(work: Callable[[], object]) -> list[Frame]:
    """The frames that the encoder is given meanwhile."""
    frames: list[Frame] = []

    class Watched(ResultWriter):
        def write(self, frame: Frame) -> None:
            frames.append(frame)
            super().write(frame)

    plain, videoretalking.ResultWriter = videoretalking.ResultWriter, Watched
    try:
        work()
    finally:
        videoretalking.ResultWriter = plain
    return frames


def face_area(track: FaceTrack | None, frame: Frame) -> tuple[slice, slice]:
    if track is None:
        return slice(None), slice(None)
    height, width = frame.y.shape
    left, top = np.nanmin(track.landmarks, axis=(0, 1)).clip(0)
    right, bottom = np.nanmax(track.landmarks, axis=(0, 1))
    return slice(int(top), min(int(bottom), height)), slice(int(left), min(int(right), width))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    error = np.square(one.astype(np.float64) - other).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-6)))


def compare(one: list[Frame], other: list[Frame], track: FaceTrack | None) -> dict[str, float]:
    """PSNR of luma in the face's box, dB."""
    box = face_area(track, one[0])
    ratios = [psnr(a.y[box], b.y[box]) for a, b in zip(one, other, strict=True)]
    error = np.mean([10 ** (-ratio / 10) for ratio in ratios])
    return {"psnr_db": float(-10 * np.log10(error)), "worst_frame_db": float(min(ratios))}
