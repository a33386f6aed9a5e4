"""Face tracks as the SyncNet evaluation makes them: S3FD boxes, joined inside a scene, cropped to 224 x 224.

Chung and Zisserman, ACCV-W 2016, the public pipeline's constants; S3FD: Zhang et al., ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import medfilt

from retalking_core.errors import MetricUnavailableError
from retalking_core.evaluation.frames import Picture
from retalking_core.faces.landmarks import iou
from retalking_core.networks.inference import InferenceNetwork

DETECT_SCALE, CONFIDENCE, NMS_OVERLAP = 0.25, 0.9, 0.1
# One picture at a time is bound by launches on a GPU: 125 frames took 0.49 s of its driver's time (H100).
DETECT_BATCH = 16
CHANNEL_MEANS = (104.0, 117.0, 123.0)
TRACK_OVERLAP, MOST_MISSED, LEAST_FRAMES, LEAST_SIDE_PX = 0.5, 25, 100, 100.0
# Content detector: mean change of hue, saturation and value (8 bit) that makes a new scene.
SCENE_LEVELS, SCENE_LEAST_FRAMES = 27.0, 15
CROP_SCALE, MEDIAN_FRAMES, BORDER_GRAY, SIDE_PX = 0.4, 13, 110, 224

Boxes = NDArray[np.float64]


@dataclass(frozen=True)
class SceneTrack:
    """One face inside one scene. boxes: f64 [n, 4] left, top, right, bottom px on frames first .. last (inclusive)."""

    first: int
    boxes: Boxes

    @property
    def last(self) -> int:
        return self.first + len(self.boxes) - 1


def find_tracks(pictures: Iterable[Picture], detector: InferenceNetwork) -> list[SceneTrack]:
    """Tracks of all faces, longest first. Raises MetricUnavailableError when there is none to speak of."""
    faces: list[Boxes] = []
    waiting: list[NDArray[np.float32]] = []
    starts = [0]
    before: Picture | None = None
    for number, picture in enumerate(pictures):
        colors = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)
        if before is not None and number - starts[-1] >= SCENE_LEAST_FRAMES and _change(before, colors) > SCENE_LEVELS:
            starts.append(number)
        before = colors
        waiting.append(shrunk(picture))
        if len(waiting) == DETECT_BATCH:
            faces += detect_faces(waiting, detector)
            waiting = []
    faces += detect_faces(waiting, detector) if waiting else []
    bounds = [*starts, len(faces)]
    tracks = [track for first, end in pairwise(bounds) for track in join_boxes(faces[first:end], first)]
    if not tracks:
        raise MetricUnavailableError(
            f"no face is followed for more than {LEAST_FRAMES} frames (4 s) at a size above {LEAST_SIDE_PX:.0f} px, "
            "which is what the face-track protocol asks for"
        )
    return sorted(tracks, key=lambda track: -len(track.boxes))


def shrunk(picture: Picture) -> NDArray[np.float32]:
    """What the detector sees: a quarter of the size, BGR minus its means, as trained; f32 [h, w, 3]."""
    size = [max(1, round(side * DETECT_SCALE)) for side in (picture.shape[1], picture.shape[0])]
    return cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR).astype(np.float32) - np.float32(CHANNEL_MEANS)


def detect_faces(smalls: Sequence[NDArray[np.float32]], detector: InferenceNetwork) -> list[Boxes]:
    """Boxes with a confidence above 0.9 in each of some shrunk pictures of one size, in pixels of the pictures
    themselves, best first; f64 [n, 4]."""
    stacked = torch.from_numpy(np.stack(smalls)).to(detector.device).permute(0, 3, 1, 2)
    outputs = [output.cpu().numpy() for output in detector(stacked)]
    results = []
    for k in range(len(smalls)):
        found = [_decode(outputs[2 * level][k], outputs[2 * level + 1][k], 4 << level) for level in range(6)]
        boxes, scores = (np.concatenate(part) for part in zip(*found, strict=True))
        results.append(boxes[_suppress(boxes, scores)] / DETECT_SCALE)
    return results


def _decode(
    classes: NDArray[np.float32], offsets: NDArray[np.float32], stride: int
) -> tuple[Boxes, NDArray[np.float64]]:
    """One level of one picture: anchors of four strides around (i + 1/2) strides, variances 0.1 and 0.2."""
    background = classes[:-1].max(axis=0)
    score = 1 / (1 + np.exp(np.clip(background - classes[-1], -60, 60).astype(np.float64)))
    rows, columns = np.nonzero(score > CONFIDENCE)
    dx, dy, dw, dh = offsets[:, rows, columns].astype(np.float64)
    anchor = 4.0 * stride
    center_x = (columns + 0.5) * stride + 0.1 * dx * anchor
    center_y = (rows + 0.5) * stride + 0.1 * dy * anchor
    half_w, half_h = (anchor / 2 * np.exp(np.clip(0.2 * d, -10, 10)) for d in (dw, dh))
    boxes = np.stack([center_x - half_w, center_y - half_h, center_x + half_w, center_y + half_h], axis=1)
    return boxes, score[rows, columns]


def _suppress(boxes: Boxes, scores: NDArray[np.float64]) -> list[int]:
    """Best first; whatever overlaps a better box by more than a tenth goes."""
    order, kept = np.argsort(-scores, kind="stable"), []
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    while len(order):
        best, order = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        high = np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        order = order[shared <= NMS_OVERLAP * (areas[best] + areas[order] - shared)]
    return kept


def _change(before: Picture, after: Picture) -> float:
    """Mean of the three channels' mean differences, in one pass."""
    return cv2.norm(before, after, cv2.NORM_L1) / before.size


def join_boxes(faces: list[Boxes], first: int) -> list[SceneTrack]:
    """The tracks inside one scene: boxes that overlap from frame to frame, gaps of up to 25 frames filled in."""
    left = [list(range(len(boxes))) for boxes in faces]
    tracks = []
    while True:
        frames: list[int] = []
        boxes: list[NDArray[np.float64]] = []
        for number, candidates in enumerate(left):
            if frames and number - frames[-1] > MOST_MISSED:
                break
            for candidate in candidates:
                if not frames or iou(faces[number][candidate], boxes[-1]) > TRACK_OVERLAP:
                    frames.append(number)
                    boxes.append(faces[number][candidate])
                    candidates.remove(candidate)
                    break
        if not frames:
            return tracks
        if len(frames) > LEAST_FRAMES:
            track = _interpolated(np.array(frames), np.stack(boxes), first)
            if np.maximum(*(track.boxes[:, 2:] - track.boxes[:, :2]).T).mean() > LEAST_SIDE_PX:
                tracks.append(track)


def _interpolated(frames: NDArray[np.int64], boxes: Boxes, first: int) -> SceneTrack:
    every = np.arange(frames[0], frames[-1] + 1)
    filled = np.stack([np.interp(every, frames, side) for side in boxes.T], axis=1)
    return SceneTrack(first + int(frames[0]), filled)


def crop_track(pictures: Iterable[Picture], track: SceneTrack) -> Iterator[Picture]:
    """The face on each frame of the track, BGR u8 [224, 224, 3], below the middle of the box as SyncNet expects it."""
    sizes = (track.boxes[:, 2:] - track.boxes[:, :2]).max(axis=1) / 2
    centers = (track.boxes[:, :2] + track.boxes[:, 2:]) / 2
    sizes, xs, ys = (medfilt(values, MEDIAN_FRAMES) for values in (sizes, centers[:, 0], centers[:, 1]))
    for number, picture in enumerate(pictures):
        at = number - track.first
        if at < 0:
            continue
        if at >= len(sizes):
            return
        yield _crop(picture, float(sizes[at]), float(xs[at]), float(ys[at]))


def _crop(picture: Picture, half: float, x: float, y: float) -> Picture:
    border = int(half * (1 + 2 * CROP_SCALE))
    framed = cv2.copyMakeBorder(
        picture, border, border, border, border, cv2.BORDER_CONSTANT, value=(BORDER_GRAY, BORDER_GRAY, BORDER_GRAY)
    )
    x, y = x + border, y + border
    top, bottom = int(y - half), int(y + half * (1 + 2 * CROP_SCALE))
    left, right = int(x - half * (1 + CROP_SCALE)), int(x + half * (1 + CROP_SCALE))
    return cv2.resize(framed[max(0, top) : bottom, max(0, left) : right], (SIDE_PX, SIDE_PX))
