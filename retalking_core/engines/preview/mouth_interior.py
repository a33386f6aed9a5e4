"""The inside of the mouth: taken from the clip's own most open mouth or painted, and drawn between the lips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.engines.preview.mouth_curves import MouthCurves, MouthPatch, ease, mouth_curves
from retalking_core.faces.landmarks import INNER_PAIRS, Points, face_scale
from retalking_core.types import Frame

TEXTURE_ROWS, TEXTURE_COLUMNS = 64, 128
FLAT_PLACES = np.linspace(-0.97, 0.97, TEXTURE_COLUMNS)
# Gap (in face scales) from which a frame's own mouth shows enough to be used for all others.
OPEN_ENOUGH = 0.07


@dataclass(frozen=True)
class MouthInterior:
    """The inside of a mouth, flattened: rows from the upper to the lower lip, columns from corner to corner.

    yuv: f32 [rows, columns, 3], 8-bit levels. half_width, gaps (f32 [columns]): its size, in units of the face scale.
    light: mean luma of the skin around it, above black. drawn: painted, not taken from the clip.
    """

    yuv: NDArray[np.float32]
    half_width: float
    gaps: NDArray[np.float32]
    light: float
    drawn: bool


def skin_light(frame: Frame, marks: Points, black: float) -> float:
    """Mean luma above black of both cheeks and the chin: the reference for the mouth's brightness."""
    side = max(1, int(0.08 * float(face_scale(marks))))
    centers = ((marks[48] + marks[4]) / 2, (marks[54] + marks[12]) / 2, (marks[57] + marks[8]) / 2)
    height, width = frame.y.shape
    patches = []
    for x, y in centers:
        left, top = int(min(max(x - side, 0), width - 1)), int(min(max(y - side, 0), height - 1))
        patches.append(cv2.mean(frame.y[top : top + 2 * side, left : left + 2 * side])[0])
    return max(sum(patches) / len(patches) - black, 4.0)


def rank_open_frames(gaps: NDArray[np.float32], closed_gap: float) -> list[int]:
    """Source frames whose mouth is open enough to show its inside, most useful first, at most six.

    gaps: f32 [N] in face scales, NaN where no face. Frames next to an even wider one are preferred to lonely peaks,
    which are more often a landmark error than a mouth.
    """
    known = np.where(np.isnan(gaps), 0, gaps) - closed_gap
    padded = np.pad(known, 1, mode="edge")
    steady = np.minimum(known, np.maximum(padded[:-2], padded[2:]) + 0.02)
    order = np.argsort(-steady)[:6]
    return [int(k) for k in order if steady[k] >= max(OPEN_ENOUGH, 0.88 * steady[order[0]])]


def sharpest(frames: Sequence[Frame], marks: Sequence[Points]) -> int:
    """Which of some frames shows its mouth with the most detail (variance of the Laplacian)."""
    scores = []
    for frame, points in zip(frames, marks, strict=True):
        x0, y0 = np.maximum(points[60:68].min(axis=0).astype(int) - 2, 0)
        x1, y1 = points[60:68].max(axis=0).astype(int) + 3
        scores.append(float(cv2.Laplacian(frame.y[y0:y1, x0:x1], cv2.CV_32F).var()))
    return int(np.argmax(scores))


def take_interior(frame: Frame, marks: Points, down: NDArray[np.float32], black: float) -> MouthInterior:
    """Flatten the open mouth of a frame."""
    scale = float(face_scale(marks))
    gaps = np.array([(marks[low] - marks[up]) @ down for up, low in INNER_PAIRS], np.float32)
    curves = mouth_curves(marks, np.maximum(gaps, 0.5), FLAT_PLACES)
    x, y, columns = _flat_places(curves)
    luma = cv2.remap(frame.y, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    chroma = cv2.merge([frame.u, frame.v])
    chroma = cv2.remap(chroma, (x - 0.5) / 2, (y - 0.5) / 2, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    yuv = _centerd(np.dstack([luma, chroma]).astype(np.float32))
    return MouthInterior(yuv, curves.half_width / scale, columns / scale, skin_light(frame, marks, black), False)


def _centerd(yuv: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shift the picture sideways so that the upper teeth (the bright part of its upper third) are in the middle: on a
    turned head they are not, and on the next frame the head is turned another way."""
    bright = yuv[: TEXTURE_ROWS // 3, :, 0].mean(axis=0)
    bright = np.clip(bright - bright.mean(), 0, None)
    columns = np.arange(TEXTURE_COLUMNS)
    middle = float((bright * columns).sum() / max(float(bright.sum()), 1e-6)) if bright.any() else TEXTURE_COLUMNS / 2
    shift = float(np.clip(middle - (TEXTURE_COLUMNS - 1) / 2, -0.15 * TEXTURE_COLUMNS, 0.15 * TEXTURE_COLUMNS))
    x, y = np.meshgrid((columns + shift).astype(np.float32), np.arange(TEXTURE_ROWS, dtype=np.float32))
    return cv2.remap(yuv, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _flat_places(curves: MouthCurves) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Picture coordinates of the flattened mouth [rows, columns], and its gap per column, px.

    The outermost 3 % at the corners and 6 % at the lips are left out: they are lip as often as mouth.
    """
    rows = np.linspace(-0.88, 0.94, TEXTURE_ROWS, dtype=np.float32)[:, None]
    along, down = curves.table, curves.middle + curves.half_gap * rows
    x = curves.origin[0] + along * curves.along[0] + down * curves.down[0]
    y = curves.origin[1] + along * curves.along[1] + down * curves.down[1]
    return x.astype(np.float32), y.astype(np.float32), 2 * curves.half_gap


def paint_interior(frame: Frame, marks: Points, black: float) -> MouthInterior:
    """A mouth for a clip that never shows one: dark cavity, upper teeth, a tongue, in the light of the face."""
    light = skin_light(frame, marks, black)
    lip = _mean_yuv(frame, np.concatenate([marks[56:59], marks[65:68]]))
    t, u = np.meshgrid(np.linspace(0, 1, TEXTURE_ROWS), np.linspace(-1, 1, TEXTURE_COLUMNS), indexing="ij")
    # As dark as the darkest parts of the face (pupils, nostrils): a hazy clip has no black, and so has its mouth.
    dark = max(_darkest(frame, marks), black + 0.14 * light)
    cavity = np.array([dark, 128 + 0.5 * (lip[1] - 128), 128 + 0.65 * (lip[2] - 128)])
    yuv = np.broadcast_to(cavity, (*t.shape, 3)).astype(np.float32).copy()
    tongue = _bump((t - 1.05) / 0.68) * _bump(u / 0.9)
    _mix(yuv, tongue, np.array([black + 0.55 * light, lip[1], lip[2] + 2]))
    # The row of teeth is an arch: its edge hangs lower in the middle, and the side teeth stand in the cheek's shadow.
    edge = 0.36 * (1 - 0.45 * u**2) + 0.012 * np.cos(u * 9.4 * np.pi / 1.1)
    teeth = np.clip((edge - t) / 0.08, 0, 1) * np.clip((0.86 - np.abs(u)) / 0.3, 0, 1)
    shade = (0.72 + 0.28 * np.clip(t / 0.22, 0, 1)) * (1 - 0.38 * u**2)
    groove = 1 - 0.09 * np.exp(-((np.abs((u * 4.7) % 1 - 0.5) / 0.07) ** 2))
    enamel = np.stack([black + 1.1 * light * shade * groove, np.full_like(t, 124), np.full_like(t, 131)], axis=2)
    _mix(yuv, 0.88 * teeth, enamel)
    yuv = cv2.GaussianBlur(yuv.astype(np.float32), (0, 0), 1.2)
    return MouthInterior(yuv, 0.29, (0.19 * (1 - u[0] ** 2) ** 0.7).astype(np.float32), light, True)


def _darkest(frame: Frame, marks: Points) -> float:
    """Luma of the darkest 2 % between brows and mouth."""
    x0, y0 = np.maximum(marks[17:60].min(axis=0).astype(int), 0)
    x1, y1 = marks[17:60].max(axis=0).astype(int) + 1
    return float(np.percentile(frame.y[y0:y1, x0:x1], 2))


def _mix(yuv: NDArray, share: NDArray, color: NDArray) -> None:
    yuv += share[..., None] * (color - yuv)


def _bump(x: NDArray) -> NDArray:
    return np.clip(1 - x * x, 0, 1) ** 1.5


def _mean_yuv(frame: Frame, points: NDArray[np.float32]) -> NDArray[np.float64]:
    height, width = frame.y.shape
    x = np.clip(points[:, 0].astype(int), 0, width - 1)
    y = np.clip(points[:, 1].astype(int), 0, height - 1)
    return np.array([plane.mean() for plane in (frame.y[y, x], frame.u[y // 2, x // 2], frame.v[y // 2, x // 2])])


Plane = NDArray[np.uint8]
# Gap (face scales) from which the inside of the mouth begins to be made out; at twice this it is seen in full.
SLIT, SLIT_SHADE = 0.028, 0.6
LEAST_GAP_PX = 0.3


def edge_px(scale: float) -> float:
    """Width of the soft edge of the opening."""
    return max(1.2, 0.018 * scale)


def draw_interior(
    luma: Plane, chroma: Plane, patch: MouthPatch, interior: MouthInterior, scale: float, light: float, black: float
) -> None:
    """Into the luma [h, w] and chroma [h/2, w/2, 2] of the patch's window. light, black: as `draw_mouth` has them."""
    gap, depth, soft = 2 * patch.half_gap, patch.offset + patch.half_gap, edge_px(scale)
    alpha = np.clip(depth / soft + 0.5, 0, 1) * np.clip((gap - depth) / soft + 0.5, 0, 1)
    alpha *= np.clip(gap / soft, 0, 1) * np.clip((patch.half_width - np.abs(patch.along)) / (0.05 * scale), 0, 1)
    yuv = _read_interior(interior, patch.along, depth, gap, scale)
    # The upper lip throws a soft shadow on the teeth, and a narrow slit lets in less light.
    lit = (0.8 + 0.2 * np.clip(gap / (0.1 * scale), 0, 1)) * (0.7 + 0.3 * np.clip(depth / (0.045 * scale), 0, 1))
    # A tongue that was bright in a wide-open mouth lies deeper in the dark of a smaller one.
    lit *= 1 - 0.5 * ease(depth / np.maximum(gap, 1e-3)) * np.clip(1 - gap / (interior.gaps.max() * scale), 0, 1)
    bright = black + (yuv[..., 0] - black) * lit * (light / interior.light)
    # Through a slit nothing can be made out: it is the lips' own color in shadow, and becomes a mouth as it widens.
    seen = ease((gap / scale - SLIT) / SLIT)
    under = luma.astype(np.float32)
    shadow = black + (under - black) * SLIT_SHADE
    bright = shadow + (bright - shadow) * seen
    luma[...] = np.clip(under + (bright - under) * alpha + 0.5, 0, 255)
    size = (chroma.shape[1], chroma.shape[0])
    share = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA) * cv2.resize(seen, size, interpolation=cv2.INTER_AREA)
    color = cv2.resize(yuv, size, interpolation=cv2.INTER_AREA)[..., 1:]
    chroma[...] = np.clip(chroma + (color - chroma) * share[..., None] + 0.5, 0, 255)


def _read_interior(
    interior: MouthInterior, along: NDArray, depth: NDArray, gap: NDArray, scale: float
) -> NDArray[np.float32]:
    """Interior colors for each pixel of the patch, f32 [h, w, 3].

    Teeth keep their size: below the upper lip the picture is read at its own scale from the top, above the lower lip
    from the bottom, and what does not fit into a smaller gap is left out in between. A wider gap stretches it.
    """
    rows, columns = interior.yuv.shape[:2]
    column = np.clip((along * (1 / (0.97 * scale * interior.half_width)) + 1) / 2, 0, 1) * (columns - 1)
    level = np.zeros_like(column)
    own = cv2.remap(interior.gaps[None], column, level, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) * scale
    own, gap = np.maximum(own, 1.0), np.maximum(gap, 1e-3)
    share = np.clip(depth / gap, 0, 1)
    from_bottom = ease((share - 0.4) / 0.5)
    fitted = (1 - from_bottom) * np.clip(depth / own, 0, 1) + from_bottom * np.clip(1 - (gap - depth) / own, 0, 1)
    row = np.where(gap >= own, share, fitted) * (rows - 1)
    return cv2.remap(interior.yuv, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
