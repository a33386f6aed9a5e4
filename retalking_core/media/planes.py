"""A decoded picture of any pixel format as upright, square-pixel, 8-bit 4:2:0 planes in its own matrix and range, and
regions of them as BGR and back, touching nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

import cv2
import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from retalking_core.errors import CodecUnsupportedError
from retalking_core.types import ColorTags, Frame, VideoInfo

Box = tuple[int, int, int, int]

# Kr, Kb by ITU-T H.273 matrix code point: BT.709, FCC, BT.601 (625 and 525 lines), SMPTE 240M, BT.2020.
_LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
HD_HEIGHT_PX = 720


def resolve_matrix(color: ColorTags, height: int) -> int:
    """The matrix code point to compute with: the stream's own, else BT.601 below 720 rows and BT.709 from there on."""
    if color.matrix in _LUMA_WEIGHTS:
        return color.matrix
    return 6 if height < HD_HEIGHT_PX else 1


def even_box(box: tuple[float, float, float, float], width: int, height: int) -> Box:
    """Grow a box (left, top, right, bottom px) to even coordinates inside a picture of even size.

    Raises ValueError when nothing of the box lies inside the picture.
    """
    left = max(0, int(np.floor(box[0] / 2)) * 2)
    top = max(0, int(np.floor(box[1] / 2)) * 2)
    right = min(width, int(np.ceil(box[2] / 2)) * 2)
    bottom = min(height, int(np.ceil(box[3] / 2)) * 2)
    if right <= left or bottom <= top:
        raise ValueError(f"box {box} lies outside the {width}x{height} picture")
    return left, top, right, bottom


def region_to_bgr(frame: Frame, box: Box, color: ColorTags) -> NDArray[np.uint8]:
    """The pixels inside an even box as BGR u8 [h, w, 3].

    Chroma is repeated, not interpolated: averaging 2x2 on the way back then returns the same chroma.
    """
    y, u, v = _planes_in(frame, box)
    height, width = y.shape
    size = (width, height)
    yuv = cv2.merge(
        (
            y,
            cv2.resize(u, size, interpolation=cv2.INTER_NEAREST),
            cv2.resize(v, size, interpolation=cv2.INTER_NEAREST),
        )
    )
    to_bgr, _ = color_matrices(color, frame.y.shape[0])
    return cv2.transform(yuv, to_bgr)


def blend_bgr_into(
    frame: Frame, box: Box, bgr: NDArray[np.uint8], alpha: NDArray[np.float32] | None, color: ColorTags
) -> None:
    """Lay BGR pixels (u8 [h, w, 3]) over an even box of a writable frame, in place.

    alpha: f32 [h, w], 0 (keep) .. 1 (replace); None replaces the whole box. Where alpha is 0 the luma byte stays as it
    is; a chroma byte stays where alpha is 0 on all four pixels that it covers. Raises ValueError on wrong shapes.
    """
    y, u, v = _planes_in(frame, box)
    height, width = y.shape
    if bgr.shape != (height, width, 3) or (alpha is not None and alpha.shape != (height, width)):
        raise ValueError(f"pixels {bgr.shape} or alpha do not fit the {width}x{height} box")
    if not (y.flags.writeable and u.flags.writeable and v.flags.writeable):
        raise ValueError("the frame is read-only; blend into frame.copy()")
    half = (width // 2, height // 2)
    _, to_yuv = color_matrices(color, frame.y.shape[0])
    # All three channels at once: OpenCV has a fast path for 3 -> 3 and none for 3 -> 1 (0.5 against 1.0 ms at 400x400).
    yuv = cv2.transform(bgr, to_yuv)
    half_yuv = cv2.resize(yuv, half, interpolation=cv2.INTER_AREA)
    new_y, new_u, new_v = cv2.extractChannel(yuv, 0), cv2.extractChannel(half_yuv, 1), cv2.extractChannel(half_yuv, 2)
    if alpha is None:
        y[:], u[:], v[:] = new_y, new_u, new_v
        return
    half_alpha = cv2.resize(alpha, half, interpolation=cv2.INTER_AREA)
    for plane, new, weight in ((y, new_y, alpha), (u, new_u, half_alpha), (v, new_v, half_alpha)):
        # Divides by the sum of the weights + 1e-5 and rounds: a weight of 0 gives the old byte back exactly.
        plane[:] = cv2.blendLinear(plane, new, 1.0 - weight, weight)


def color_matrices(color: ColorTags, height: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(YUV -> BGR, BGR -> YUV) of a picture of this height, each f32 [3, 4] on 0..255, the offset last."""
    return _matrices(resolve_matrix(color, height), color.full_range)


def _planes_in(frame: Frame, box: Box) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    left, top, right, bottom = box
    height, width = frame.y.shape
    if any(side % 2 for side in box) or not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ValueError(f"box {box} must be even and inside the {width}x{height} picture; use even_box")
    half = np.s_[top // 2 : bottom // 2, left // 2 : right // 2]
    return frame.y[top:bottom, left:right], frame.u[half], frame.v[half]


@lru_cache(maxsize=32)
def _matrices(matrix: int, full_range: bool) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(YUV -> BGR, BGR -> YUV), each 3x4 with the offset in the last column, on 0..255 (ITU-T H.273, 8.3)."""
    red, blue = _LUMA_WEIGHTS[matrix]
    green = 1.0 - red - blue
    luma_scale, chroma_scale, luma_zero = (1.0, 1.0, 0.0) if full_range else (219 / 255, 224 / 255, 16.0)
    luma = np.array([blue, green, red])
    to_yuv = np.stack(
        [
            luma * luma_scale,
            (np.array([1.0, 0.0, 0.0]) - luma) / (2 * (1 - blue)) * chroma_scale,
            (np.array([0.0, 0.0, 1.0]) - luma) / (2 * (1 - red)) * chroma_scale,
        ]
    )
    offset = np.array([luma_zero, 128.0, 128.0])
    to_bgr = np.linalg.inv(to_yuv)
    return (
        np.hstack([to_bgr, (-to_bgr @ offset)[:, None]]).astype(np.float32),
        np.hstack([to_yuv, offset[:, None]]).astype(np.float32),
    )


# (a, b, c, d) of the display matrix, each -1, 0 or 1: x' = a x + c y, y' = b x + d y, y downwards.
Turn = tuple[int, int, int, int]
# EXIF orientation 1..8 (CIPA DC-008, 4.6.5.1.6) as turns.
EXIF_TURNS: tuple[Turn, ...] = (
    (1, 0, 0, 1),
    (-1, 0, 0, 1),
    (-1, 0, 0, -1),
    (1, 0, 0, -1),
    (0, 1, 1, 0),
    (0, 1, -1, 0),
    (0, -1, -1, 0),
    (0, -1, 1, 0),
)
_EXACT_FORMATS = frozenset({"yuv420p", "yuvj420p"})
_FULL, _LIMITED = 2, 1  # AVCOL_RANGE_JPEG, AVCOL_RANGE_MPEG
# VP8 and so lossy WebP have one range, 16..235 (RFC 6386, 9.2); FFmpeg reads the clamping bit as a range tag.
_ALWAYS_LIMITED = frozenset({"vp8", "libvpx", "webp"})
_PICTURE_CODECS = frozenset({"png", "apng", "mjpeg"})
_BICUBIC = "BICUBIC"
# More threads of swscale's make the same bytes in no less time, and take a quarter more CPU time. The stack of each
# counts 8 MiB against a limit of memory: where that is refused, a conversion fails with EAGAIN.
SCALER_THREADS = 1
# swscale's own numbers for the matrices (SWS_CS_*); it knows no others.
_SWS_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
# Matrix code points of planes that are no luma and color difference, or not with fixed weights (ITU-T H.273, table 4).
_FOREIGN_MATRICES = {
    8: "YCgCo",
    11: "Y'D'zD'x",
    13: "BT.2020 with constant luminance and derived chroma",
    14: "ICtCp",
    15: "IPT-C2 (Dolby Vision)",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
# A pixel shape beyond this is a broken header, not a film format (the widest in use, PAL 16:9, is 1.46).
_MAX_PIXEL_ASPECT = 4
_SAME_SHAPE_PX = 4


@dataclass(frozen=True)
class PictureGeometry:
    """decoded_*: size of the pictures that it is for; pixel_aspect: width of their pixels over height.

    stored_*: size to scale the decoded picture to (square pixels); turn: brings it upright.

    width, height: of the upright, even result.
    """

    stored_width: int
    stored_height: int
    turn: Turn
    decoded_width: int
    decoded_height: int
    pixel_aspect: Fraction

    @property
    def is_sideways(self) -> bool:
        return self.turn[0] == 0

    @property
    def width(self) -> int:
        return (self.stored_height if self.is_sideways else self.stored_width) & ~1

    @property
    def height(self) -> int:
        return (self.stored_width if self.is_sideways else self.stored_height) & ~1

    @property
    def rotation_deg(self) -> int:
        """Clockwise, 0..270; of a mirrored picture the turn after the mirroring."""
        a, b, c, d = self.turn
        mirrored = a * d - b * c < 0
        return round(math.degrees(math.atan2(b, -a if mirrored else a))) % 360


def picture_geometry(picture: VideoFrame, pixel_aspect: Fraction | None, turn: Turn) -> PictureGeometry:
    """How to bring pictures like this one upright. pixel_aspect: width of a pixel over its height."""
    width, height = picture.width, picture.height
    aspect = pixel_aspect or Fraction(1)
    if 1 < aspect <= _MAX_PIXEL_ASPECT:
        width = round(width * aspect)
    elif Fraction(1, _MAX_PIXEL_ASPECT) <= aspect < 1:
        height = round(height / aspect)
    return PictureGeometry(width, height, turn, picture.width, picture.height, aspect)


def fitted_geometry(picture: VideoFrame, turn: Turn, canvas: PictureGeometry) -> PictureGeometry:
    """How to bring a picture of another size or turn upright and as large as the canvas allows, in its own shape."""
    own = picture_geometry(picture, canvas.pixel_aspect, turn)
    scale = min(canvas.width / max(own.width, 2), canvas.height / max(own.height, 2))
    width, height = (max(2, round(side * scale / 2) * 2) for side in (own.width, own.height))
    # The same shape but for rounding: no bars of a pixel or two.
    if abs(width - canvas.width) <= _SAME_SHAPE_PX and abs(height - canvas.height) <= _SAME_SHAPE_PX:
        width, height = canvas.width, canvas.height
    width, height = min(width, canvas.width), min(height, canvas.height)
    stored = (height, width) if own.is_sideways else (width, height)
    return replace(own, stored_width=stored[0], stored_height=stored[1])


def picture_color(picture: VideoFrame, codec: str) -> ColorTags:
    """The color tags of the planes that `to_frame` makes. codec: FFmpeg's name of the decoder.

    RGB and palette pictures have no YUV matrix: they get BT.601 below 720 rows, BT.709 from there on, limited range,
    sRGB primaries and transfer. Raises CodecUnsupportedError for planes that are no luma and color difference.
    """
    if _is_rgb(picture):
        return ColorTags(
            matrix=6 if picture.height < HD_HEIGHT_PX else 1,
            primaries=picture.color_primaries if picture.color_primaries != 2 else 1,
            transfer=picture.color_trc if picture.color_trc != 2 else 13,
            full_range=False,
        )
    matrix = int(picture.colorspace) or 2
    if matrix in _FOREIGN_MATRICES:
        raise CodecUnsupportedError(
            f"The colors of the video are coded as {_FOREIGN_MATRICES[matrix]}, which is not supported; "
            "convert it to H.264 in BT.709."
        )
    return ColorTags(
        matrix=matrix,
        primaries=int(picture.color_primaries),
        transfer=int(picture.color_trc),
        full_range=_is_full_range(picture, codec),
    )


class PlaneConverter:
    """Turns decoded pictures of one stream into `Frame`s. Keeps swscale's tables between pictures.

    geometry: of the first picture; pictures of another size or turn are fitted into its canvas, with black bars.
    follows_turns: key pictures may state a turn of their own. fitted: numbers of the frames that were fitted so.
    """

    def __init__(
        self,
        geometry: PictureGeometry,
        color: ColorTags,
        follows_turns: bool = False,
        fitted: set[int] | None = None,
    ) -> None:
        self._canvas = self._geometry = geometry
        self._color = color
        self._reformatter = VideoReformatter()
        self._follows_turns = follows_turns
        self._fitted = set() if fitted is None else fitted

    def to_frame(self, picture: VideoFrame, index: int) -> Frame:
        """Planes are views of the decoder's own bytes (read-only) when the picture already is 8-bit 4:2:0."""
        self._geometry = geometry = self._geometry_of(picture)
        planes = self._upright(picture, geometry)
        if geometry != self._canvas:
            self._fitted.add(index)
            planes = self._on_canvas(planes)
        for plane in planes:
            plane.flags.writeable = False
        return Frame(index, *planes)

    def _geometry_of(self, picture: VideoFrame) -> PictureGeometry:
        last, canvas = self._geometry, self._canvas
        turn = display_turn(picture) if self._follows_turns and picture.key_frame else last.turn
        for known in (last, canvas):
            if (picture.width, picture.height, turn) == (known.decoded_width, known.decoded_height, known.turn):
                return known
        return fitted_geometry(picture, turn, canvas)

    def _on_canvas(self, planes: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        height, width = planes[0].shape
        left, top = (self._canvas.width - width) // 4, (self._canvas.height - height) // 4
        result = []
        for plane, black, step in zip(planes, (self._black, 128, 128), (2, 1, 1), strict=True):
            canvas = np.full((self._canvas.height * step // 2, self._canvas.width * step // 2), black, np.uint8)
            canvas[top * step : top * step + plane.shape[0], left * step : left * step + plane.shape[1]] = plane
            result.append(canvas)
        return result

    @property
    def _black(self) -> int:
        return 0 if self._color.full_range else 16

    def _upright(self, picture: VideoFrame, geometry: PictureGeometry) -> list[NDArray[np.uint8]]:
        size = (geometry.stored_width, geometry.stored_height)
        has_alpha = any(part.is_alpha for part in picture.format.components)
        if has_alpha or picture.format.name not in _EXACT_FORMATS or (picture.width, picture.height) != size:
            picture = self._converted(picture, "yuva420p" if has_alpha else "yuv420p")
        planes = [plane_samples(picture.planes[number]) for number in range(3)]
        if has_alpha:
            planes = self._over_black(planes, plane_samples(picture.planes[3]))
        width, height = size[0] & ~1, size[1] & ~1
        cut = (planes[0][:height, :width], *(plane[: height // 2, : width // 2] for plane in planes[1:]))
        return [_turned(plane, geometry.turn) for plane in cut]

    def _converted(self, picture: VideoFrame, pixel_format: str) -> VideoFrame:
        matrix = _SWS_MATRIX[resolve_matrix(self._color, picture.height)]
        wanted_range = _FULL if self._color.full_range else _LIMITED
        return self._reformatter.reformat(
            picture,
            self._geometry.stored_width,
            self._geometry.stored_height,
            pixel_format,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            interpolation=_BICUBIC,
            src_color_range=_FULL if _is_rgb(picture) else wanted_range,
            dst_color_range=wanted_range,
            threads=SCALER_THREADS,
        )

    def _over_black(self, planes: list[NDArray[np.uint8]], alpha: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """What lies under transparent pixels is arbitrary; a player shows black there, and so do we."""
        opacity = alpha.astype(np.float32) / 255
        height, width = (side & ~1 for side in alpha.shape)
        blocks = opacity[:height, :width].reshape(height // 2, 2, width // 2, 2)
        half = np.pad(
            blocks.mean(axis=(1, 3)),
            ((0, planes[1].shape[0] - height // 2), (0, planes[1].shape[1] - width // 2)),
            mode="edge",
        )
        blacks = (float(self._black), 128.0, 128.0)
        weights = (opacity, half, half)
        return [
            np.rint(black + (plane - black) * weight).astype(np.uint8)
            for plane, black, weight in zip(planes, blacks, weights, strict=True)
        ]


def is_untouched(picture: VideoFrame, info: VideoInfo) -> bool:
    """Whether the frames of the stream that this picture is from hold its very bytes: 8-bit 4:2:0, upright, of even
    size and square pixels."""
    return (
        picture.format.name in _EXACT_FORMATS
        and not info.field_order
        and (picture.width, picture.height) == (info.width, info.height)
        and display_turn(picture) == (1, 0, 0, 1)
    )


def to_picture(frame: Frame, pixel_format: str = "yuv420p", into: VideoFrame | None = None) -> VideoFrame:
    """A copy of the planes as FFmpeg takes them, untagged. pixel_format: yuv420p or yuvj420p. into: a picture of this
    format and size that nobody needs any more; filling it takes half as long as filling fresh memory."""
    height, width = frame.y.shape
    picture = into or VideoFrame(width, height, pixel_format)
    for plane, samples in zip(picture.planes, (frame.y, frame.u, frame.v), strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8)[: plane.height * plane.line_size].reshape(
            plane.height, plane.line_size
        )
        rows[:, : plane.width] = samples
    return picture


def _is_full_range(picture: VideoFrame, codec: str) -> bool:
    if codec in _ALWAYS_LIMITED or picture.color_range == _LIMITED:
        return False
    name = picture.format.name
    is_stored_gray = codec in _PICTURE_CODECS and name.startswith(("gray", "ya", "mono"))
    return picture.color_range == _FULL or name.startswith("yuvj") or is_stored_gray


def _is_rgb(picture: VideoFrame) -> bool:
    return picture.format.is_rgb or picture.format.has_palette


def plane_samples(plane: VideoPlane) -> NDArray[np.uint8]:
    """u8 [h, w], a view of the plane's memory without the padding of its rows."""
    rows = np.frombuffer(memoryview(plane), np.uint8)[: plane.height * plane.line_size]
    return rows.reshape(plane.height, plane.line_size)[:, : plane.width]


def display_turn(picture: VideoFrame) -> Turn:
    """The nearest of the eight upright orientations to the display matrix of a video picture."""
    try:
        data = picture.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV 18.1 cannot list side data newer than its own table (EXIF: "31 is not a valid Type").
        return EXIF_TURNS[{90: 7, 180: 2, -180: 2, -90: 5}.get(round(picture.rotation / 90) * 90, 0)]
    if not isinstance(data, SideData):
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].astype(np.int64)
    if max(abs(a), abs(b)) == 0 or max(abs(c), abs(d)) == 0:
        return 1, 0, 0, 1
    if abs(a) >= abs(b):
        return int(np.sign(a)), 0, 0, int(np.sign(d)) or int(np.sign(a))
    return 0, int(np.sign(b)), int(np.sign(c)) or -int(np.sign(b)), 0


def _turned(plane: NDArray[np.uint8], turn: Turn) -> NDArray[np.uint8]:
    a, b, c, d = turn
    if turn == (1, 0, 0, 1):
        return plane.view()
    if a == 0:
        return np.ascontiguousarray(plane.T[::b, ::c])
    return np.ascontiguousarray(plane[::d, ::a])
