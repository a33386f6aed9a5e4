"""S3FD and 2DFAN4 in the places of dlib's detector and predictor: the same seat, other eyes.

Both read luma alone (all three channels alike), as the follower does; the descriptor that tells people apart stays
dlib's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import nms

from retalking_core.faces.dlib_models import Box, DlibModels, Gray
from retalking_core.imaging.separable import crop_resized

MEANS_BGR = (104.0, 117.0, 123.0)
# A face this large in the detector's input is found reliably; its smallest anchors are 16 px.
DETECTOR_FACE_PX = 40
SCORE, LOW_SCORE, NMS_OVERLAP = 0.5, 0.3, 0.3
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
# 2DFAN4's crop around a detector box of side s: 200 / 195 * 2 s wide, its middle 0.12 s above the box's (its own rule).
FAN_PX, HEAT_PX = 256, 64
FAN_SIDE, FAN_RISE = 2 * 200 / 195, 0.12
# The follower speaks in dlib's boxes: as large, but this share of the side further down (they leave out the forehead).
DROP = 0.06


class FaceNetworks(Protocol):
    device: torch.device

    def get(self, name: str) -> Callable[..., Any]: ...


class NeuralFaceModels(DlibModels):
    """Loads each network when it is first asked. One face at a time: the follower needs the last to find the next."""

    def __init__(self, networks: FaceNetworks) -> None:
        self._networks = networks

    def detect(self, gray: Gray, window: Box, smallest_px: float, threshold: float = 0.0) -> list[Box]:
        """Faces of at least smallest_px inside a window (left, top, right, bottom), best first, in frame pixels.

        A threshold below 0 asks for faces that are less sure.
        """
        height, width = gray.shape
        left, top = max(0, int(window[0])), max(0, int(window[1]))
        right, bottom = min(width, int(np.ceil(window[2]))), min(height, int(np.ceil(window[3])))
        if right - left < 16 or bottom - top < 16:
            return []
        scale = min(1.0, DETECTOR_FACE_PX / smallest_px)
        size = [max(16, round((bottom - top) * scale)), max(16, round((right - left) * scale))]
        picture = self._tensor(gray[top:bottom, left:right])
        if scale < 1:
            picture = torch.nn.functional.interpolate(picture, size, mode="bilinear", antialias=True)
        means = torch.tensor(MEANS_BGR, device=picture.device).view(1, 3, 1, 1)
        with torch.inference_mode():
            levels = self._networks.get("s3fd")(picture.expand(-1, 3, -1, -1) - means)
        boxes = decode_boxes(levels, LOW_SCORE if threshold < 0 else SCORE).cpu().numpy()
        factors = np.array([(right - left) / picture.shape[3], (bottom - top) / picture.shape[2]] * 2)
        return [_to_follower(box * factors + (left, top, left, top)) for box in boxes]

    def landmarks(self, gray: Gray, box: Box) -> NDArray[np.float32]:
        """The 68 points of the face in a box, f32 [68, 2] px, to a fraction of a pixel."""
        side = float(box[2] - box[0] + box[3] - box[1]) / 2
        x, y = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2 - (DROP + FAN_RISE) * side
        half = FAN_SIDE * side / 2
        # Only what the crop reaches goes to the device.
        height, width = gray.shape
        x0, y0 = (int(np.clip(v - half - 2, 0, n - 1)) for v, n in ((x, width), (y, height)))
        x1, y1 = (int(np.clip(v + half + 2, 1, n)) for v, n in ((x, width), (y, height)))
        picture = self._tensor(gray[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)])
        crop = torch.tensor([[x - half - x0, y - half - y0, x + half - x0, y + half - y0]], device=picture.device)
        with torch.inference_mode():
            heat = self._networks.get("fan2d")(crop_resized(picture, crop, FAN_PX).expand(-1, 3, -1, -1) / 255)[-1]
        places = heat_peaks(heat[0]).cpu().numpy() * (2 * half / HEAT_PX)
        corner = np.array([x - half, y - half]) - 0.5
        return (places + corner).astype(np.float32)

    def _tensor(self, gray: Gray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(gray)).to(self._networks.device)[None, None].float()


def decode_boxes(levels: tuple[Tensor, ...], least: float) -> Tensor:
    """S3FD's twelve results for one picture -> f32 [n, 4] left, top, right, bottom, best first."""
    boxes, scores = [], []
    for level, (classes, offsets) in enumerate(zip(levels[::2], levels[1::2], strict=True)):
        stride = 2 ** (level + 2)
        score = classes[0].softmax(dim=0)[1]
        row, column = torch.nonzero(score > least, as_tuple=True)
        offset = offsets[0, :, row, column].T
        centre = (torch.stack([column, row], dim=1) + 0.5) * stride + offset[:, :2] * CENTRE_VARIANCE * 4 * stride
        half = 2 * stride * torch.exp(offset[:, 2:] * SIZE_VARIANCE)
        boxes.append(torch.cat([centre - half, centre + half], dim=1))
        scores.append(score[row, column])
    found, score = torch.cat(boxes), torch.cat(scores)
    return found[nms(found, score, NMS_OVERLAP)]


def heat_peaks(heat: Tensor) -> Tensor:
    """Places of 68 peaks in heat maps [68, 64, 64], continuous px of them, [68, 2] (x, y).

    The centre of gravity of five by five cells around the highest one: the original rounds to whole pixels, which
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


def _to_follower(box: NDArray) -> Box:
    """A detector's box -> the square one that the follower reckons with."""
    half = (box[2] - box[0] + box[3] - box[1]) / 4
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2 + DROP * 2 * half
    return np.array([x - half, y - half, x + half, y + half], np.float32)
