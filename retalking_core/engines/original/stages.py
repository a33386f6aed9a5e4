"""The original's versions of single stages: crops, boxes, references, batches of the lip network, emotion; and its
image arithmetic on single images: OpenCV's resizing, warping, blurring and u8 pyramids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from retalking_core.errors import FaceNotFoundError
from retalking_core.faces.landmarks import oriented_square
from retalking_core.imaging import resampling_matrix
from retalking_core.networks.inference import upload
from retalking_core.stages.lips import LIP_PX, EmotionNetwork, action_units, to_face_size, to_network_size
from retalking_core.stages.regions import CROP_PX, NOMINAL_PX, FirstFrameCrop, pad_boxes
from retalking_core.stages.stabilize import from_signed

SMOOTHING = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 16


def blur_gaussian(picture: NDArray[np.float32], size: int, sigma: float) -> NDArray[np.float32]:
    """size 0: as long as the sigma asks for; sigma 0: as wide as the size asks for. Mirrored borders."""
    return cv2.GaussianBlur(picture, (size, size), sigma)


def erode_block(mask: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Least value in a size x size block (even: -size/2 .. size/2 - 1); outside the picture does not count."""
    return cv2.erode(mask, np.ones((size, size), np.uint8))


def smooth_3x3(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.filter2D(picture, -1, SMOOTHING)


def absolute_u8(values: NDArray[Any]) -> NDArray[np.uint8]:
    """min(255, |v| rounded half to even)."""
    return np.minimum(np.rint(np.abs(values)), 255).astype(np.uint8)


def truncate_u8(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Clipped to 0..255 and cut off, which darkens by half a level on average: the original's habit, kept for golden
    vectors only."""
    return np.clip(values, 0, 255).astype(np.uint8)


def resize_bilinear(picture: NDArray[Any], width: int, height: int) -> NDArray[Any]:
    """u8 or f32 [H, W(, C)] to the new size: half-pixel centers, no antialiasing, u8 in OpenCV's fixed point.

    An equal size returns a copy. A trailing axis of one channel is dropped (as OpenCV does).
    """
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)


def warp_affine(
    picture: NDArray[Any], matrix: NDArray[np.float64], width: int, height: int, border: tuple[float, ...] = (0.0,)
) -> NDArray[Any]:
    """The picture moved by a forward 2x3 matrix, bilinear; outside neighbors have the border color."""
    value = (*border, *([0.0] * (4 - len(border))))
    return cv2.warpAffine(picture, np.asarray(matrix, np.float64), (width, height), borderValue=value)


def warp_quad(picture: NDArray[np.uint8], corners: NDArray[np.float64], width: int, height: int) -> NDArray[np.uint8]:
    """Pillow's QUAD, bilinear: the four-sided area of the picture as an upright one.

    corners: [4, 2] top left, bottom left, bottom right, top right, continuous (a pixel's center is at +0.5).
    """
    quad = tuple(np.asarray(corners, np.float64).ravel().tolist())
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.transform((width, height), Image.Transform.QUAD, quad, Image.Resampling.BILINEAR))


def warp_perspective(
    picture: NDArray[np.uint8], coefficients: NDArray[np.float64], width: int, height: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Pillow's PERSPECTIVE, bilinear. Returns the picture (black outside) and where it is inside, [height, width].

    coefficients: k0..k7, which send an output place to one of the picture.
    """
    x, y = (np.arange(n) + 0.5 for n in (width, height))
    x, y = x[None, :], y[:, None]
    k = np.asarray(coefficients, np.float64)
    below = k[6] * x + k[7] * y + 1
    return _sample(picture, (k[0] * x + k[1] * y + k[2]) / below, (k[3] * x + k[4] * y + k[5]) / below)


def perspective_coefficients(places: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """k0..k7 of the map that sends four places to four targets, each [4, 2]."""
    rows, values = [], []
    for (x, y), (u, v) in zip(places, targets, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(np.array(rows, np.float64), np.array(values, np.float64))


def _sample(
    picture: NDArray[np.uint8], u: NDArray[np.float64], v: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Bilinear at continuous places, neighbors clamped, truncated; black where a place lies outside the picture."""
    height, width = picture.shape[:2]
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    u, v = np.where(inside, u, 0.5) - 0.5, np.where(inside, v, 0.5) - 0.5
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    across, down = (u - left)[..., None], (v - top)[..., None]
    x0, x1 = np.clip(left, 0, width - 1), np.clip(left + 1, 0, width - 1)
    y0, y1 = np.clip(top, 0, height - 1), np.clip(top + 1, 0, height - 1)
    upper = picture[y0, x0] * (1 - across) + picture[y0, x1] * across
    lower = picture[y1, x0] * (1 - across) + picture[y1, x1] * across
    color = np.where(inside[..., None], upper * (1 - down) + lower * down, 0)
    return color.astype(np.uint8), inside


def pyr_down(picture: NDArray[Any]) -> NDArray[Any]:
    """1-4-6-4-1 filter, every second sample, size ceil(n / 2); u8 stays u8, rounded."""
    if picture.shape[0] == picture.shape[1] == 1:
        return picture.copy()
    return cv2.pyrDown(picture)


def pyr_up(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    return cv2.pyrUp(picture)


def blend_laplacian_original(
    inside: NDArray[np.uint8], outside: NDArray[np.uint8], mask: NDArray[np.float32], levels: int
) -> NDArray[np.float32]:
    """`inside` where mask is 1, `outside` where it is 0, each band of frequencies over a seam of its own width.

    Pictures u8 [n, n, 3], mask f32 [n, n], n a multiple of 2^(levels - 1). Result f32 [n, n, 3], not clipped.
    """
    stacks = [_gaussian_stack(picture, levels) for picture in (inside, outside, mask.astype(np.float32))]

    def mixed(level: int) -> NDArray[np.float32]:
        weight = stacks[2][level][..., None]
        inner, outer = (_band(stack, level, levels) for stack in stacks[:2])
        return inner * weight + outer * (1 - weight)

    result = mixed(levels - 1)
    for level in reversed(range(levels - 1)):
        result = pyr_up(result) + mixed(level)
    return result.astype(np.float32)


def _gaussian_stack(picture: NDArray[Any], levels: int) -> list[NDArray[Any]]:
    stack = [picture]
    while len(stack) < levels:
        stack.append(pyr_down(stack[-1]))
    return stack


def _band(stack: list[NDArray[Any]], level: int, levels: int) -> NDArray[np.float32]:
    here = stack[level].astype(np.float32)
    if level == levels - 1:
        return here
    return here - pyr_up(stack[level + 1].astype(np.float32))


ORIGINAL_WINDOW = 5
# Top, bottom, left, right px; also used where the original does not correct for the jaw.
ORIGINAL_PADS = (0, 20, 0, 0)
BATCH = 16


def crop_first_frame_original(landmarks: NDArray[Any], width: int, height: int) -> FirstFrameCrop:
    """The original's arithmetic, with its defects for 4K faces (11) and portrait frames, for golden vectors."""
    square = oriented_square(landmarks)
    quad, size = square.corners, float(square.side)
    image_width, image_height = width, height
    shrink = int(np.floor(size / NOMINAL_PX * 0.5))
    if shrink > 1:
        image_width, image_height = int(np.rint(width / shrink)), int(np.rint(height / shrink))
        quad, size = quad / shrink, size / shrink
    border = max(int(np.rint(size * 0.1)), 3)
    low, high = np.floor(quad.min(axis=0)).astype(int), np.ceil(quad.max(axis=0)).astype(int)
    left, top = (max(int(v) - border, 0) for v in low)
    right, bottom = min(int(high[0]) + border, image_width), min(int(high[1]) + border, image_height)
    if right - left < image_width or bottom - top < image_height:
        quad = quad - (left, top)
    quad = quad + 0.5
    (tlx, tly), (blx, bly), (brx, bry), (trx, try_) = quad
    # The bound of the lower edge is the width: a defect of the original that cuts tall portrait faces.
    x1, y1 = max(min(tlx, blx), 0.0), max(min(tly, try_), 0.0)
    x2, y2 = min(max(brx, trx), image_width), min(max(bly, bry), image_width)
    box = (top + int(y1), min(top + int(y2), height), left + int(x1), min(left + int(x2), width))
    return FirstFrameCrop((left, top, right, bottom), (float(x1), float(y1), float(x2), float(y2)), box)


def first_rectangle(
    landmarks: NDArray[np.floating[Any]], visible: NDArray[np.bool_], width: int, height: int
) -> tuple[int, int, int, int]:
    """Y1, Y2, X1, X2 of all frames, from the first one with a face. Raises: FaceNotFoundError without any."""
    if not visible.any():
        raise FaceNotFoundError("No face was found in the video.")
    return crop_first_frame_original(landmarks[visible.argmax()], width, height).box


def resize_256_original(region: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """u8 [256, 256, 3]; the aspect ratio is not kept."""
    return resize_bilinear(region, CROP_PX, CROP_PX)


def smooth_boxes_original(boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The original's smoothing: means over five frames, cut off to whole pixels, in place.

    It looks ahead, mixes shots over a cut, and near the end averages what it has already averaged; with four boxes each
    becomes the last. Kept for golden vectors: the engine's boxes come from a smoothed track.
    """
    result = boxes.copy()
    for i in range(len(result)):
        window = result[i : i + ORIGINAL_WINDOW]
        if i + ORIGINAL_WINDOW > len(result):
            window = result[len(result) - ORIGINAL_WINDOW :]
        result[i] = np.trunc(window.mean(axis=0))
    return result


def face_boxes_original(
    detected: NDArray[np.int64],
    width: int,
    height: int,
    pads: tuple[int, int, int, int] = ORIGINAL_PADS,
    smooth: bool = True,
) -> NDArray[np.int64]:
    """i64 [N, 4] in the original's order y1, y2, x1, x2, from boxes x1, y1, x2, y2."""
    boxes = pad_boxes(detected, pads, width, height)
    return (smooth_boxes_original(boxes) if smooth else boxes)[:, [1, 3, 0, 2]]


def quad_crop_original(face: NDArray[np.uint8], quad: NDArray[np.float64], size: int = CROP_PX) -> NDArray[np.uint8]:
    """The face inside a quad (corners in pixel centers), upright, u8 [size, size, 3]; black beyond the picture.

    A quad whose diagonal has more than four times the size is read from a picture shrunk by a whole factor (Lanczos).
    (The specification says side; the golden vector was made with the diagonal. Faces of 256 never get there.)
    """
    factor = int(np.floor(float(np.linalg.norm(quad[2] - quad[0])) / size * 0.5))
    if factor > 1:
        face, quad = _shrunk(face, factor), quad / factor
    return warp_quad(face, quad + 0.5, size, size)


def paste_coefficients(quad: NDArray[np.float64], size: int = CROP_PX) -> NDArray[np.float64]:
    """k0..k7 of the map from the patch to the upright crop of a quad."""
    corners = np.array([[0, 0], [0, size], [size, size], [size, 0]], np.float64)
    return perspective_coefficients(quad + 0.5, corners)


def paste_original(face: NDArray[np.uint8], landmarks: NDArray[Any], patch: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The face in its square over a 256 patch of the frame, hard edged; both u8 [256, 256, 3] BGR."""
    quad = oriented_square(landmarks).corners
    crop = quad_crop_original(face, quad)
    warped, inside = warp_perspective(crop, paste_coefficients(quad), CROP_PX, CROP_PX)
    return np.where(inside[..., None], warped, patch)


def insert_original(
    frame: NDArray[np.uint8], face: NDArray[np.uint8], landmarks: NDArray[Any], box: tuple[int, int, int, int]
) -> NDArray[np.uint8]:
    """A copy of the frame with the face in it. box: Y1, Y2, X1, X2 of the first-frame crop."""
    y1, y2, x1, x2 = box
    patch = resize_bilinear(frame[y1:y2, x1:x2], CROP_PX, CROP_PX)
    result = frame.copy()
    result[y1:y2, x1:x2] = resize_bilinear(paste_original(face, landmarks, patch), x2 - x1, y2 - y1)
    return result


def _shrunk(face: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Lanczos, across first, rounded to 8 bit after each pass (Pillow's order)."""
    picture = torch.from_numpy(face.astype(np.float32)).permute(2, 0, 1)
    for _ in ("across", "down"):
        length = picture.shape[2]
        count = int(np.rint(length / factor))
        weights = resampling_matrix(torch.zeros(1), torch.tensor([length / count]), length, count, "lanczos")[0]
        picture = (picture @ weights.T).round().clamp(0, 255).transpose(1, 2)
    return picture.permute(1, 2, 0).numpy().astype(np.uint8)


@dataclass(frozen=True)
class LipBatch:
    """Up to 16 items of the original's data generator.

    six: f32 [B, 6, n, n] in 0..1: the face with its lower half 0, then the reference, BGR each. sound: f32
    [B, 1, 80, 16]. faces: f32 [B, 3, n, n], the unmasked faces, BGR 0..1. frames: i64 [B] source frame of each.
    """

    six: NDArray[np.float32]
    sound: NDArray[np.float32]
    faces: NDArray[np.float32]
    frames: NDArray[np.int64]


def lip_batches_original(
    frames: NDArray[np.uint8],
    references: NDArray[np.uint8],
    boxes: NDArray[np.int64],
    sound: NDArray[np.float32],
    static: bool = False,
    size: int = LIP_PX,
    batch: int = BATCH,
) -> Iterator[LipBatch]:
    """The original's data generator: one item a sound window, frames reused from the start when they run out.

    frames, references: u8 [N, H, W, 3] BGR; boxes: i64 [N, 4] y1, y2, x1, x2; sound: f32 [M, 80, 16].
    """
    order = np.zeros(len(sound), int) if static else np.arange(len(sound)) % min(len(frames), len(sound))
    for start in range(0, len(sound), batch):
        used = order[start : start + batch]
        faces = np.stack([_cut(frames[j], boxes[j], size) for j in used])
        masked = faces.copy()
        masked[:, size // 2 :] = 0
        pasted = np.stack([_cut(references[j], boxes[j], size) for j in used])
        six = np.concatenate([masked, pasted], axis=3) / 255.0
        yield LipBatch(
            six.transpose(0, 3, 1, 2).astype(np.float32),
            sound[start : start + batch, None].astype(np.float32),
            faces.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255),
            used,
        )


def full_references_original(
    frames: NDArray[np.uint8], faces: NDArray[np.uint8], landmarks: NDArray[Any], box: tuple[int, int, int, int]
) -> NDArray[np.uint8]:
    """The frames with their stabilized faces put in, u8 [N, H, W, 3]. box: Y1, Y2, X1, X2 of the first-frame crop."""
    return np.stack([insert_original(*item, box) for item in zip(frames, faces, landmarks, strict=True)])


def _cut(picture: NDArray[np.uint8], box: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    y1, y2, x1, x2 = box
    return resize_bilinear(picture[y1:y2, x1:x2], size, size)


def stabilized_u8_original(output: Tensor) -> NDArray[np.uint8]:
    """DNet's picture as the original stores it: truncated, u8 [B, 256, 256, 3], BGR."""
    return truncate_u8(from_signed(output).permute(0, 2, 3, 1).flip(-1).numpy())


def edit_emotion_original(network: EmotionNetwork, faces: Tensor, emotion: str) -> Tensor:
    """Faces with the emotion, f32 [B, 3, n, n], BGR 0..1. The network gets BGR and the whole face at 128."""
    units = upload(action_units(emotion, len(faces)), faces.device)
    return to_face_size(network(to_network_size(faces), units).composed, faces.shape[-1])


def compose_halves_original(prediction: Tensor, masked: Tensor, upper: Tensor) -> Tensor:
    """The network's picture where the masked face is exactly 0, channel by channel, else `upper`.

    All f32 [B, 3, n, n], BGR 0..1; the prediction is clamped first. Dark samples of the upper half count as masked.
    """
    hole = (masked == 0).to(prediction.dtype)
    return prediction.clamp(0, 1) * hole + upper * (1 - hole)
