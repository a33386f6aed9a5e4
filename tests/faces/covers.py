"""Things in front of a mouth, drawn onto pictures: a hand, a cup, a microphone, a bar of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Cover = Literal["hand", "cup", "microphone", "bar"]
COVERS: tuple[Cover, ...] = get_args(Cover)
# Where each rests, in face scales from the middle of the mouth, and from where it comes.
AWAY: dict[Cover, tuple[float, float]] = {
    "hand": (0.6, 2.2),
    "cup": (-0.8, 2.2),
    "microphone": (1.6, 1.6),
    "bar": (0.0, 1.8),
}


def covered(
    pictures: Sequence[Picture],
    mouths: NDArray[np.float32],
    scale: float,
    cover: Cover,
    frames: tuple[int, int],
    travel: int = 5,
) -> list[Picture]:
    """The pictures with something over the mouth.

    mouths: f32 [N, 2] px, its middle on each picture. scale: of the face, px. frames: first with the mouth covered and
    first without. travel: frames on which it comes, before them, and goes, after them.
    """
    start, stop = frames
    made = []
    for k, picture in enumerate(pictures):
        away = max(start - k, k - stop + 1, 0) / (travel + 1)
        if away >= 1:
            made.append(picture)
            continue
        sway = 0.04 * np.array([np.sin(k / 5), np.cos(k / 7)])
        center = mouths[k] + scale * (sway + away * np.array(AWAY[cover]))
        made.append(_paint(picture, cover, center, scale, mouths[k]))
    return made


def _paint(
    picture: Picture, cover: Cover, center: NDArray[np.float64], scale: float, mouth: NDArray[np.float32]
) -> Picture:
    height, width = picture.shape[:2]
    mask, inner = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    x, y = (float(v) for v in center)

    def at(right: float, down: float) -> tuple[int, int]:
        return round(x + right * scale), round(y + down * scale)

    if cover == "hand":
        cv2.ellipse(mask, at(0.1, 0.35), (round(0.5 * scale), round(0.42 * scale)), 20, 0, 360, 255, -1)
        for finger in range(4):
            root, tip = at(0.3 - 0.2 * finger, 0.25), at(0.15 - 0.24 * finger, -0.22 + 0.05 * finger)
            cv2.line(mask, root, tip, 255, round(0.17 * scale))
            cv2.line(inner, (root[0] + round(0.1 * scale), root[1]), (tip[0] + round(0.1 * scale), tip[1]), 90, 2)
        color = _skin(picture, mouth, scale)
    elif cover == "cup":
        cv2.rectangle(mask, at(-0.4, -0.2), at(0.4, 0.75), 255, -1)
        cv2.rectangle(inner, at(-0.4, -0.2), at(-0.2, 0.75), 60, -1)
        color = np.array([205.0, 210.0, 215.0])
    elif cover == "microphone":
        cv2.circle(mask, at(0, 0.1), round(0.3 * scale), 255, -1)
        cv2.line(mask, at(0, 0.1), at(0.9, 1.2), 255, round(0.22 * scale))
        for step in np.arange(-0.3, 0.4, 0.06):
            cv2.line(inner, at(step, -0.25), at(step, 0.45), 30, 1)
        color = np.array([45.0, 45.0, 48.0])
    else:
        cv2.rectangle(mask, (0, at(0, -0.22)[1]), (width, at(0, 0.32)[1]), 255, -1)
        cv2.putText(inner, "TEXT IN A BAR", at(-1.1, 0.17), cv2.FONT_HERSHEY_SIMPLEX, scale / 65, 255, 3)
        color = np.array([20.0, 18.0, 16.0])
    # Its own light and grain, which move with it.
    rng = np.random.default_rng(7)
    grain = cv2.resize(rng.normal(0, 9, (24, 24)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    grain = cv2.warpAffine(grain, np.float64([[1, 0, x - width / 2], [0, 1, y - height / 2]]), (width, height))
    shine = inner.astype(np.float32) * (1 if cover == "bar" else -1)
    surface = np.clip(color + (grain + shine)[..., None], 0, 255)
    soft = cv2.GaussianBlur(mask, (0, 0), 1.0).astype(np.float32)[..., None] / 255
    return (picture * (1 - soft) + surface * soft).astype(np.uint8)


def _skin(picture: Picture, mouth: NDArray[np.float32], scale: float) -> NDArray[np.float64]:
    """BGR of the cheek beside the nose, a little paler."""
    x, y = round(float(mouth[0] - 0.35 * scale)), round(float(mouth[1] - 0.4 * scale))
    return picture[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 3).mean(axis=0) * 1.04
