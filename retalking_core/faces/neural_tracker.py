"""Face tracking with S3FD and 2DFAN4, by the rules of the dlib tracker, but in batches.

Frame by frame, a GPU would idle: the detector sees every fifth frame of a batch, boxes in between are interpolated, and
the landmarks of the whole batch are found together. The result is a proposal that `FaceFollower` accepts or rejects.
Both networks read luma (the same in all three channels); the descriptor that tells people apart stays dlib's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms

from retalking_core.faces.dlib_models import Box, DlibModels, Gray
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.follower import FaceFollower, FaceSearch, LandmarkProposal, implied_box
from retalking_core.faces.landmarks import iou
from retalking_core.imaging import crop_resized
from retalking_core.networks.inference import upload
from retalking_core.types import Frame

MEANS_BGR = (104.0, 117.0, 123.0)
# A face this large in the detector's input is found reliably; its smallest anchors are 16 px.
DETECTOR_FACE_PX = 40
SCORE, LOW_SCORE, NMS_OVERLAP = 0.5, 0.3, 0.3
CENTER_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
# What a GPU needs to be busy, and 64 MB of heat maps do not outgrow.
DETECT_BATCH, LANDMARK_BATCH = 8, 16
# 2DFAN4's crop around a detector box of side s: 200 / 195 * 2 s wide, its middle 0.12 s above the box's (its own rule).
FAN_PX, HEAT_PX = 256, 64
FAN_SIDE, FAN_RISE = 2 * 200 / 195, 0.12
# The follower expects dlib's boxes: as large, but this share of the side further down (they leave out the forehead).
DROP = 0.06


class FaceNetworks(Protocol):
    device: torch.device

    def get(self, name: str) -> Callable[..., Any]: ...


class NeuralFaceModels(DlibModels):
    """Loads each network when it is first asked. What asks for one face goes through the same steps as many."""

    def __init__(self, networks: FaceNetworks) -> None:
        self._networks = networks

    def detect(self, gray: Gray, window: Box, smallest_px: float, threshold: float = 0.0) -> list[Box]:
        """Faces of at least smallest_px inside a window (left, top, right, bottom), best first, in frame pixels.

        A threshold below 0 asks for faces that are less sure.
        """
        return self.detect_many([gray], window, smallest_px, threshold)[0]

    def detect_many(
        self, grays: Sequence[Gray], window: Box, smallest_px: float, threshold: float = 0.0
    ) -> list[list[Box]]:
        """`detect` in the same window of frames of one size."""
        height, width = grays[0].shape
        left, top = max(0, int(window[0])), max(0, int(window[1]))
        right, bottom = min(width, int(np.ceil(window[2]))), min(height, int(np.ceil(window[3])))
        if right - left < 16 or bottom - top < 16:
            return [[] for _ in grays]
        scale = min(1.0, DETECTOR_FACE_PX / smallest_px)
        size = [max(16, round((bottom - top) * scale)), max(16, round((right - left) * scale))]
        factors = np.array([(right - left) / size[1], (bottom - top) / size[0]] * 2) if scale < 1 else np.ones(4)
        means = upload(np.array(MEANS_BGR, np.float32), self._networks.device).view(1, 3, 1, 1)
        found: list[list[Box]] = []
        for start in range(0, len(grays), DETECT_BATCH):
            pictures = self._tensor([gray[top:bottom, left:right] for gray in grays[start : start + DETECT_BATCH]])
            if scale < 1:
                pictures = torch.nn.functional.interpolate(pictures, size, mode="bilinear", antialias=True)
            with torch.inference_mode():
                levels = self._networks.get("s3fd")(pictures.expand(-1, 3, -1, -1) - means)
            for boxes in decode_boxes(levels, LOW_SCORE if threshold < 0 else SCORE):
                found.append([_to_follower(box * factors + (left, top, left, top)) for box in boxes])
        return found

    def landmarks(self, gray: Gray, box: Box) -> NDArray[np.float32]:
        """The 68 points of the face in a box, f32 [68, 2] px, to a fraction of a pixel."""
        return self.landmarks_many([gray], [box])[0]

    def landmarks_many(self, grays: Sequence[Gray], boxes: Sequence[Box]) -> list[NDArray[np.float32]]:
        """The points of one face a frame, frames of one size."""
        found: list[NDArray[np.float32]] = []
        for start in range(0, len(grays), LANDMARK_BATCH):
            part = slice(start, start + LANDMARK_BATCH)
            found.extend(self._landmarks_batch(grays[part], [fan_crop(box) for box in boxes[part]]))
        return found

    def _landmarks_batch(self, grays: Sequence[Gray], crops: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        # Only what the crops reach goes to the device, of one size for all. Where a crop leaves the frame its region
        # ends with the frame, so that the same edge is repeated.
        height, width = grays[0].shape
        reach = max(float(crop[2] - crop[0]) for crop in crops)
        side = int(np.ceil(reach + 2 * (2 + reach / FAN_PX)))
        across, down = min(side, width), min(side, height)
        corners = [
            (_start(crop[0] + crop[2], across, width), _start(crop[1] + crop[3], down, height)) for crop in crops
        ]
        regions = [gray[y : y + down, x : x + across] for gray, (x, y) in zip(grays, corners, strict=True)]
        inside = np.stack([crop - (x, y, x, y) for crop, (x, y) in zip(crops, corners, strict=True)])
        places = upload(inside, self._networks.device)
        with torch.inference_mode():
            faces = crop_resized(self._tensor(regions), places, FAN_PX)
            heat = self._networks.get("fan2d")(faces.expand(-1, 3, -1, -1) / 255)[-1]
        points = heat_peaks(heat.flatten(0, 1)).view(len(heat), -1, 2).cpu().numpy()
        cells = np.array([(crop[2] - crop[0]) / HEAT_PX for crop in crops])[:, None, None]
        origins = np.stack([crop[:2] for crop in crops])[:, None] - 0.5
        return list((points * cells + origins).astype(np.float32))

    def _tensor(self, grays: Sequence[Gray]) -> Tensor:
        return upload(np.stack(grays), self._networks.device)[:, None].float()


def fan_crop(box: Box) -> NDArray[np.float64]:
    """The square that 2DFAN4 sees of the face in a follower's box: left, top, right, bottom."""
    side = float(box[2] - box[0] + box[3] - box[1]) / 2
    x, y = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2 - (DROP + FAN_RISE) * side
    half = FAN_SIDE * side / 2
    return np.array([x - half, y - half, x + half, y + half])


def _start(double_center: float, length: int, limit: int) -> int:
    """Where a stretch around a center starts, so that it lies inside 0..limit."""
    return int(np.clip(round((double_center - length) / 2), 0, limit - length))


def decode_boxes(levels: Sequence[Tensor], least: float, nms_overlap: float = NMS_OVERLAP) -> list[NDArray[np.float32]]:
    """S3FD's twelve results -> for each picture f32 [n, 4] left, top, right, bottom, best first.

    least: score above which a box counts, 0..1; nms_overlap: intersection over union above which the worse box goes.
    Decodes all pictures together and fetches once, since each read from the device waits for it.
    """
    boxes, scores = [], []
    for level, (classes, offsets) in enumerate(zip(levels[::2], levels[1::2], strict=True)):
        stride = 2 ** (level + 2)
        scores.append(classes.softmax(dim=1)[:, 1].flatten(1))
        offset = offsets.flatten(2).transpose(1, 2)
        center = _cell_centers(classes, stride) + offset[..., :2] * CENTER_VARIANCE * 4 * stride
        half = 2 * stride * torch.exp(offset[..., 2:] * SIZE_VARIANCE)
        boxes.append(torch.cat([center - half, center + half], dim=2))
    score, box = torch.cat(scores, dim=1), torch.cat(boxes, dim=1)
    picture, place = torch.nonzero(score > least, as_tuple=True)
    found = box[picture, place]
    kept = batched_nms(found, score[picture, place], picture, nms_overlap)
    numbers, corners = picture[kept].cpu().numpy(), found[kept].cpu().numpy()
    return [corners[numbers == k] for k in range(len(score))]


def _cell_centers(classes: Tensor, stride: int) -> Tensor:
    """Of a level's cells, row by row, px of the picture, f32 [H * W, 2] (x, y)."""
    rows, columns = (torch.arange(n, device=classes.device) for n in classes.shape[2:])
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return (torch.stack([x, y], dim=2).flatten(0, 1) + 0.5) * stride


def heat_peaks(heat: Tensor) -> Tensor:
    """Places of the peaks in heat maps [n, 64, 64], continuous px of them, [n, 2] (x, y).

    The center of gravity of five by five cells around the highest one: the original rounds to whole pixels, which
    trembles.
    """
    best = heat.flatten(1).argmax(dim=1)
    row, column = best // HEAT_PX, best % HEAT_PX
    reach = torch.arange(-2, 3, device=heat.device)
    rows, columns = row[:, None] + reach, column[:, None] + reach
    kept = ((rows >= 0) & (rows < HEAT_PX))[:, :, None] & ((columns >= 0) & (columns < HEAT_PX))[:, None, :]
    near = heat[
        torch.arange(len(heat), device=heat.device)[:, None, None],
        rows.clamp(0, HEAT_PX - 1)[:, :, None],
        columns.clamp(0, HEAT_PX - 1)[:, None, :],
    ]
    weight = near.clamp(min=0) * kept + 1e-9
    total = weight.sum(dim=(1, 2))
    x = (weight * (columns + 0.5)[:, None, :]).sum(dim=(1, 2)) / total
    y = (weight * (rows + 0.5)[:, :, None]).sum(dim=(1, 2)) / total
    return torch.stack([x, y], dim=1)


def _to_follower(box: NDArray[Any]) -> Box:
    """A detector's box -> the square one that the follower expects."""
    half = (box[2] - box[0] + box[3] - box[1]) / 4
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2 + DROP * 2 * half
    return np.array([x - half, y - half, x + half, y + half], np.float32)


# A head turns or moves by a fraction of its size in a fifth of a second; dlib's follower checks every tenth frame.
STRIDE = 5
# Sizes of the face that it may move away within one batch.
REACH = 1.5
# Overlap of a detection with the last one, below which it is another face.
SAME_FACE = 0.3
# A smaller face than the last one is still looked for, and, where one was, a doubtful one counts.
SHRINKS_TO, LESS_SURE = 0.7, -0.3


@dataclass(frozen=True)
class LookAhead:
    """search: the area in which faces count."""

    models: NeuralFaceModels
    search: FaceSearch

    def propose(self, grays: Sequence[Gray], last: Box | None) -> list[LandmarkProposal | None]:
        """A proposal for each frame that follows the one where the face was at `last`; None where there is none."""
        if last is None:
            return [None] * len(grays)
        keys = sorted({*range(0, len(grays), STRIDE), len(grays) - 1})
        boxes = self._key_boxes([grays[k] for k in keys], last)
        placed = between(keys, boxes, len(grays))
        known = {k: box for k, box in enumerate(placed) if box is not None}
        points = self.models.landmarks_many([grays[k] for k in known], list(known.values()))
        proposals: list[LandmarkProposal | None] = [None] * len(grays)
        for k, landmarks in zip(known, points, strict=True):
            proposals[k] = LandmarkProposal(landmarks, confirmed=k in keys)
        return proposals

    def _key_boxes(self, grays: Sequence[Gray], last: Box) -> list[Box | None]:
        """The face on the frames that a detector sees, each near where it was on the one before."""
        size = float(last[2] - last[0])
        window = last + np.array([-REACH, -REACH, REACH, REACH], np.float32) * size
        area = self.search.area
        window = np.concatenate([np.maximum(window[:2], area[:2]), np.minimum(window[2:], area[2:])])
        near = last
        chosen: list[Box | None] = []
        for found in self.models.detect_many(grays, window, SHRINKS_TO * size, LESS_SURE):
            best = max(found, key=lambda box: iou(box, near), default=None)
            if best is not None and iou(best, near) < SAME_FACE:
                best = None
            chosen.append(best)
            near = near if best is None else best
        seen = {k: box for k, box in enumerate(chosen) if box is not None}
        # As after every detection: landmarks once, for the box that they themselves imply.
        points = self.models.landmarks_many([grays[k] for k in seen], list(seen.values()))
        for k, landmarks in zip(seen, points, strict=True):
            chosen[k] = implied_box(landmarks)
        return chosen


def between(keys: Sequence[int], boxes: Sequence[Box | None], count: int) -> list[Box | None]:
    """Boxes of all frames: given at the keys, interpolated between two keys that both have one."""
    placed: list[Box | None] = [None] * count
    for key, box in zip(keys, boxes, strict=True):
        placed[key] = box
    for a, b, first, second in zip(keys, keys[1:], boxes, boxes[1:], strict=False):
        if first is not None and second is not None:
            for k in range(a + 1, b):
                share: float = (k - a) / (b - a)
                mixed: NDArray[Any] = (1 - share) * first + share * second
                placed[k] = mixed.astype(np.float32)
    return placed


BATCH = 32
# Luma of the frames that are held at once: 16 frames of 4K.
MOST_PIXELS = 1 << 27


class NeuralFaceTracker(DlibFaceTracker):
    """A `FaceTracker` on the networks `s3fd` and `fan2d`. batch: frames looked at together; 1: one by one."""

    def __init__(self, networks: FaceNetworks, batch: int = BATCH) -> None:
        self._neural, self._batch = NeuralFaceModels(networks), batch
        super().__init__(self._neural)

    def look(
        self, frames: Iterator[Frame], follower: FaceFollower, search: FaceSearch
    ) -> Iterator[tuple[Frame, LandmarkProposal | None]]:
        """A batch is looked up when its first frame is due, from where the follower then is."""
        ahead = LookAhead(self._neural, search)
        size = max(1, min(self._batch, MOST_PIXELS // (search.width * search.height)))
        if size == 1:
            yield from super().look(frames, follower, search)
            return
        while group := list(islice(frames, size)):
            yield from zip(group, ahead.propose([frame.y for frame in group], follower.place), strict=True)

    def refine(self, frame: Frame, landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
        """2DFAN4's lips need no help from the picture's edges."""
        return landmarks
