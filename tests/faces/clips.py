"""Clips made from the public-domain astronaut portrait that scikit-image carries in its wheel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

from retalking_core.types import ColorTags, Frame, VideoInfo

Picture = NDArray[np.uint8]
# The face of the portrait: center and height in its own 512 x 512 pixels.
FACE_X, FACE_Y, FACE_HEIGHT = 223.0, 125.0, 90.0


def portrait(face_px: float, width: int, height: int, x: float, y: float) -> Picture:
    """BGR u8 [height, width, 3]: the astronaut with a face of face_px (hairline to chin) centerd at (x, y)."""
    canvas = backdrop(width, height)
    place_face(canvas, face_px, x, y)
    return canvas


def place_face(canvas: Picture, face_px: float, x: float, y: float) -> None:
    """Put head and shoulders onto a picture, in place."""
    scale = face_px / FACE_HEIGHT
    head = _head(scale)
    left, top = round(x - (FACE_X - 100) * scale), round(y - (FACE_Y - 20) * scale)
    height, width = canvas.shape[:2]
    x0, y0 = max(0, left), max(0, top)
    x1, y1 = min(width, left + head.shape[1]), min(height, top + head.shape[0])
    if x1 > x0 and y1 > y0:
        canvas[y0:y1, x0:x1] = head[y0 - top : y1 - top, x0 - left : x1 - left]


@lru_cache(maxsize=32)
def _head(scale: float) -> Picture:
    """Reading and scaling it takes longer than all the rest of a frame."""
    picture = data.astronaut()[20:240, 100:350, ::-1]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=method)


def backdrop(width: int, height: int) -> Picture:
    """A soft colored gradient without anything like a face."""
    return _backdrop(width, height).copy()


@lru_cache(maxsize=16)
def _backdrop(width: int, height: int) -> Picture:
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    return np.dstack([150 + 40 * x, 140 + 30 * y, 160 - 30 * x * y]).astype(np.uint8)


def to_frame(index: int, picture: Picture) -> Frame:
    """BGR with even sides -> limited-range BT.601 planes."""
    height, width = picture.shape[:2]
    planes = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420)
    luma, chroma = planes[:height], planes[height:].reshape(2, height // 2, width // 2)
    return Frame(index, luma, chroma[0], chroma[1])


class PictureSource:
    """A `FrameSource` over pictures in memory."""

    def __init__(self, pictures: Sequence[Picture], fps: int = 25) -> None:
        self._frames = [to_frame(k, picture) for k, picture in enumerate(pictures)]
        height, width = pictures[0].shape[:2]
        times_s = np.arange(len(pictures)) / fps
        self.info = VideoInfo(
            width, height, Fraction(fps), times_s, len(pictures) / fps, 0, ColorTags(), False, "mp4", "h264"
        )

    def frames(self) -> Iterator[Frame]:
        yield from self._frames

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        for index in indices:
            yield self._frames[index]


def write_clip(
    path: Path,
    pictures: Sequence[Picture],
    fps: int = 25,
    times_ms: Sequence[int] | None = None,
    rotation_deg: float | None = None,
) -> Path:
    """An H.264 file of BGR pictures, nearly lossless. times_ms: for a variable rate. rotation_deg: display matrix,
    counterclockwise."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "8", "preset": "ultrafast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps if times_ms is None else 1000)
        if rotation_deg is not None:
            stream.set_display_rotation(rotation_deg)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="bgr24")
            frame.pts = number if times_ms is None else times_ms[number]
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
