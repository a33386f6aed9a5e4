"""Pictures to H.264, in groups that stand alone: pieces of a result can be made on different machines and joined.

Every GROUP_FRAMES pictures a fresh encoder begins, also in a result that one machine makes. A group then depends on
nothing outside it, and joining is copying packets: the joined stream is the one that a single machine writes. One
encoder with forced key pictures does not do: x264 takes a key picture's quantizer from the pictures before it, and of
480 pictures 250 decoded differently. Fresh encoders cost no time and no bytes (`bench/joining.py`: 4.6 s of CPU and
1,167 kB against 4.7 s and 1,171 kB).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
from av.codec.context import CodecContext, Flags
from av.container import OutputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from retalking_core.errors import EngineFaultError
from retalking_core.media.planes import SCALER_THREADS, plane_samples, resolve_matrix, to_picture
from retalking_core.options import OutputOptions
from retalking_core.types import ColorTags, Frame, VideoInfo

# True of every engine; "AI" would not be of the preview engine.
TEXT = "SYNTHETIC VIDEO"
# Of the shorter side. 4 % keeps capitals over 10 pixels on a picture of 480 rows, the smallest that stays legible.
_HEIGHT_SHARE = 0.04
_LEAST_HEIGHT_PX = 16
_FONT = cv2.FONT_HERSHEY_DUPLEX
_PLATE_OPACITY = 0.7
_NEUTRAL = 128


class Badge:
    """A visible note that a video is synthetic: white letters on a dark plate, bottom left. Drawn into the encoded
    picture itself, so that no player or platform loses it. width, height: of the encoded picture, even."""

    def __init__(self, width: int, height: int, full_range: bool) -> None:
        black, white = (0, 255) if full_range else (16, 235)
        self.box = badge_box(width, height)
        left, top, right, bottom = self.box
        letters = _letters(right - left, bottom - top)
        # What the plate leaves of the picture, and what is added to it: f32 [h, w].
        self._keep = (1.0 - _PLATE_OPACITY) * (1.0 - letters)
        self._add = _PLATE_OPACITY * (1.0 - letters) * black + letters * white

    def stamp(self, picture: VideoFrame) -> None:
        """Draw into a yuv420p picture in place. Not a sample outside `box` changes."""
        left, top, right, bottom = self.box
        y, u, v = (plane_samples(picture.planes[number]) for number in range(3))
        luma = y[top:bottom, left:right]
        luma[:] = np.rint(luma * self._keep + self._add).astype(np.uint8)
        # Chroma has half the size; the box is even, so that its samples belong to it alone.
        keep = cv2.resize(self._keep, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        for plane in (u, v):
            chroma = plane[top // 2 : bottom // 2, left // 2 : right // 2]
            chroma[:] = np.rint(chroma * keep + _NEUTRAL * (1 - keep)).astype(np.uint8)


def badge_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom px, all even; at most the lower half of the picture."""
    size = max(_LEAST_HEIGHT_PX, round(min(width, height) * _HEIGHT_SHARE)) // 2 * 2
    left, bottom = min(size // 4 * 2, width // 8 * 2), (height - min(size // 2, height // 8)) // 2 * 2
    size = min(size, (bottom - height // 2) // 2 * 2)
    (text_width, text_height), _ = cv2.getTextSize(TEXT, _FONT, 1.0, 1)
    wide = round(text_width / text_height * size * 0.55 + size) // 2 * 2
    return left, bottom - size, min(left + wide, width), bottom


def _letters(width: int, height: int) -> NDArray[np.float32]:
    """f32 [height, width], 0..1: the text, centered. Drawn four times as large, so that its edges are smooth."""
    scale = 4
    mask = np.zeros((height * scale, width * scale), np.uint8)
    (text_width, text_height), _ = cv2.getTextSize(TEXT, _FONT, 1.0, 1)
    size = min(width * scale * 0.88 / text_width, height * scale * 0.55 / text_height)
    thickness = max(1, round(size * 1.6))
    (text_width, text_height), _ = cv2.getTextSize(TEXT, _FONT, size, thickness)
    corner = ((width * scale - text_width) // 2, (height * scale + text_height) // 2)
    cv2.putText(mask, TEXT, corner, _FONT, size, 255, thickness, cv2.LINE_AA)
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


CODEC = "libx264"
# `python -m bench.encoder` prints the choice beside its neighbors: veryfast with the motion search of superfast and
# without B pictures. Leaving these out takes 12 to 16 % less CPU time on three clips and gives 0.5 to 1.1 dB more, for
# 12 to 18 % more bytes. superfast itself has no macroblock tree, and its files are up to twice as large.
PRESET = {"preset": "veryfast", "x264-params": "subme=1:me=dia:partitions=i4x4,i8x8:bframes=0"}
# About ten seconds, as far apart as x264 puts key pictures anyway (250). Whole batches of 16 and less fit into it, so
# that a network sees the same batches whether the clip is split or not.
GROUP_FRAMES = 240
# What x264 gives depends on how many threads it has, so the number must not depend on the machine. Eight cores' worth;
# on two cores it is as fast as their own three. Above 4K fewer: for 8000 x 4000 pictures twelve take 3.8 GB before the
# first of them comes, four take 1.6 GB.
THREADS, LARGE_THREADS, LARGE_PX = 12, 4, 3840 * 2160
# The lookahead that x264 has for AVX-512 (FFmpeg 8, PyAV 18.1) gives other numbers on the first encode of a process
# than on the next: two different results in ten encodes of one pattern (`bench/joining.py`). Its AVX2 code, which every
# such CPU has too, gave one.
_UP_TO_AVX2 = "MMX2,SSE2Fast,LZCNT,SSSE3,SSE4.2,AVX,FMA3,BMI1,BMI2,AVX2"
_CPU_AVX_512F = 13  # OpenCV's number, CV_CPU_AVX_512F
_FULL, _LIMITED = 2, 1  # AVCOL_RANGE_JPEG, AVCOL_RANGE_MPEG


def encoder_version() -> str:
    """Two workers for which this is equal encode the same pictures to the same bytes."""
    versions = av.library_versions
    codec, scaler = (".".join(map(str, versions[name])) for name in ("libavcodec", "libswscale"))
    preset = "-".join(PRESET.values())
    return f"{CODEC}-{preset}-{GROUP_FRAMES}x{THREADS},{LARGE_THREADS}-{codec}-{scaler}"


@dataclass(frozen=True)
class PictureSettings:
    """Settings of an encoder. width, height: of the encoded picture. source_height: of the picture given to it."""

    width: int
    height: int
    source_height: int
    color: ColorTags
    fps: Fraction
    crf: int

    def apply(self, context: VideoCodecContext) -> None:
        fps, color = self.fps, self.color
        context.width, context.height = self.width, self.height
        context.pix_fmt = "yuv420p"
        context.time_base = 1 / fps
        context.framerate = fps
        context.options = {"crf": str(self.crf), **steady_preset()}
        context.thread_type = "FRAME"
        context.thread_count = THREADS if self.width * self.height <= LARGE_PX else LARGE_THREADS
        context.color_range = _FULL if color.full_range else _LIMITED
        # An untagged stream is read by its height; scaling must not change how it is read.
        scaled = self.height != self.source_height
        context.colorspace = resolve_matrix(color, self.source_height) if scaled else color.matrix
        context.color_primaries = color.primaries
        context.color_trc = color.transfer


class PictureEncoder:
    """Adds a video stream to a container and turns frames into its packets, the first frame at time 0.

    info: of the source. size: (width, height) of the encoded pictures. taken: pictures so far. Raises EngineFaultError
    for a frame of another size than the source's.
    """

    def __init__(
        self,
        container: OutputContainer,
        info: VideoInfo,
        size: tuple[int, int],
        fps: Fraction,
        output: OutputOptions,
        watch: Callable[[VideoFrame], None] | None = None,
    ) -> None:
        """watch: gets each picture as it is given to x264, which it must leave as it is."""
        self._info, self._size, self._watch = info, size, watch
        self._settings = PictureSettings(*size, info.height, info.color, fps, output.crf)
        self._badge = Badge(*size, info.color.full_range) if output.badge else None
        self._reformatter = VideoReformatter()
        stream = container.add_stream(CODEC, rate=fps)
        assert isinstance(stream, av.VideoStream)
        self._stream, self._context = stream, stream.codec_context
        self._settings.apply(self._context)
        self.taken = 0

    @property
    def context(self) -> VideoCodecContext:
        """The first encoder, whose settings are those of all."""
        return self._stream.codec_context

    def encode(self, frame: Frame) -> list[Packet[av.VideoStream]]:
        """The next picture. x264's frame threads work on while the caller makes the next one."""
        info = self._info
        if (frame.y.shape[1], frame.y.shape[0]) != (info.width, info.height):
            raise EngineFaultError(
                f"An output picture is {frame.y.shape[1]}x{frame.y.shape[0]}, the video {info.width}x{info.height}."
            )
        picture = to_picture(frame)
        if self._size != (picture.width, picture.height):
            picture = self._reformatter.reformat(
                picture, *self._size, "yuv420p", interpolation="BICUBIC", threads=SCALER_THREADS
            )
        if self._badge is not None:
            self._badge.stamp(picture)
        if self._watch is not None:
            self._watch(picture)
        ended = self._next_group() if self.taken and self.taken % GROUP_FRAMES == 0 else []
        picture.pts, picture.time_base = self.taken % GROUP_FRAMES, 1 / self._settings.fps
        self.taken += 1
        return ended + self._placed(self._context.encode(picture))

    def finish(self) -> list[Packet[av.VideoStream]]:
        return self._placed(self._context.encode(None))

    def _next_group(self) -> list[Packet[av.VideoStream]]:
        ended = self.finish()
        context = CodecContext.create(CODEC, "w")
        assert isinstance(context, VideoCodecContext)
        self._settings.apply(context)
        context.flags |= Flags.global_header.value  # as the stream's own encoder: parameter sets stand in the header
        context.open()
        if context.extradata != self._stream.codec_context.extradata:
            raise EngineFaultError("Two encoders of one result disagree about its header.")
        self._context = context
        return ended

    def _placed(self, packets: list[Packet[av.VideoStream]]) -> list[Packet[av.VideoStream]]:
        """Packets of the present group at their place in the stream."""
        first = (self.taken - 1) // GROUP_FRAMES * GROUP_FRAMES if self.taken else 0
        for packet in packets:
            place(packet, self._stream, first)
        return packets


def steady_preset(preset: dict[str, str] = PRESET) -> dict[str, str]:
    """A preset, kept to code of x264 whose results can be repeated."""
    if not cv2.checkHardwareSupport(_CPU_AVX_512F):
        return preset
    parameters = ":".join(filter(None, (preset.get("x264-params"), f"asm={_UP_TO_AVX2}")))
    return preset | {"x264-params": parameters}


def place(packet: Packet[av.VideoStream], stream: av.VideoStream, first: int) -> None:
    """Make a packet of a group that begins at picture `first` one of the stream. Its times are in pictures."""
    packet.pts = (packet.pts or 0) + first
    packet.dts = (packet.dts or 0) + first
    packet.stream = stream
