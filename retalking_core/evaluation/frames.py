"""Frames as the published toolkits see them: BGR bytes equal to OpenCV's `VideoCapture`, and their JPEG round trip.

The published scores were computed on those bytes, so they are reproduced instead of derived from our upright 4:2:0
planes: swscale's bicubic conversion in the stream's own matrix, to full range, turned upright. Compared with OpenCV
5.0.0 on three clips and ten kinds of tagged streams: no byte differs (BT.2020 excepted)."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from retalking_core.media.container import DAMAGED_PACKET, open_container, reading
from retalking_core.media.cursor import choose_threads, video_stream
from retalking_core.media.limits import MediaLimits
from retalking_core.media.planes import SCALER_THREADS, is_untouched, to_picture
from retalking_core.threads import ReadAhead
from retalking_core.types import Frame, VideoInfo

Picture = NDArray[np.uint8]
"""u8 [H, W, 3], blue first."""


def read_bgr(path: Path, limits: MediaLimits) -> Generator[Picture, None, None]:
    """Every picture that decodes, in order. Raises the errors of `open_container`, and NoVideoStreamError."""
    reformatter = VideoReformatter()
    yield from (_to_bgr(picture, reformatter) for picture in _decode(path, limits))


class BgrOfFrames:
    """The pictures of `read_bgr` for a video whose frames are decoded anyway.

    is_shared: the planes of a `Frame` are the decoder's own bytes, so that `of` makes the picture from them. They are
    not where a picture was turned, scaled or converted on its way; `decoded` decodes such a file a second time.
    """

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        limits: MediaLimits,
        may_share: bool = True,
        first: av.VideoFrame | None = None,
    ) -> None:
        """first: the first picture as the decoder gives it; None: it is decoded here."""
        self._reformatter = VideoReformatter()
        self._pictures = read_bgr(path, limits)
        self._number = -1
        self._picture: av.VideoFrame | None = None
        if may_share and first is None:
            with closing(_decode(path, limits)) as decoded:
                first = next(decoded, None)
        self.is_shared = False
        if first is not None and is_untouched(first, info):
            self.is_shared = True
            self._tags = (first.format.name, first.colorspace, first.color_range)

    def of(self, frame: Frame) -> Picture:
        """Only when shared. Not from several threads at a time."""
        pixel_format, matrix, color_range = self._tags
        picture = self._picture = to_picture(frame, pixel_format, self._picture)
        picture.colorspace, picture.color_range = matrix, color_range
        return _to_bgr(picture, self._reformatter)

    def decoded(self, number: int) -> Picture | None:
        """The picture of this number, asked for in ascending order, each once; None beyond the end."""
        picture = None
        while self._number < number:
            picture, self._number = next(self._pictures, None), self._number + 1
        return picture

    def close(self) -> None:
        self._pictures.close()


def _decode(path: Path, limits: MediaLimits) -> Generator[av.VideoFrame, None, None]:
    with open_container(path, limits) as media:
        stream = video_stream(media)
        choose_threads(stream.codec_context)
        with reading("video"):
            for packet in media.container.demux(stream):
                try:
                    pictures = packet.decode()
                except DAMAGED_PACKET:
                    continue
                yield from pictures


def _to_bgr(picture: av.VideoFrame, reformatter: VideoReformatter) -> Picture:
    bgr = reformatter.reformat(picture, format="bgr24", interpolation="BICUBIC", threads=SCALER_THREADS)
    pixels = np.asarray(bgr.to_ndarray(), np.uint8)
    # The display matrix turns counterclockwise, and so does rot90.
    turns = round(picture.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


DEFAULT_BIT_RATE = 200_000  # FFmpeg's AV_CODEC_DEFAULT_BITRATE


def through_jpeg(pictures: Iterable[Picture], fps: Fraction) -> Iterator[Picture]:
    """Each BGR picture after FFmpeg's default-quality JPEG at this frame rate. All are of one size.

    Every published LSE value was computed on such JPEGs, and SyncNet's distances depend on them. Default quality
    targets 200 kbit/s, which intra-only video cannot meet: the encoder soon reaches its coarsest quantizer.

    One thread encodes while another decodes: each takes about as long as everything else that a picture costs.
    """
    with ReadAhead(encode_jpegs(pictures, fps)) as jpegs:
        for jpeg in jpegs:
            yield np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)


def encode_jpegs(pictures: Iterable[Picture], fps: Fraction) -> Iterator[bytes]:
    """The JPEG of each picture. The first few are finer: rate control comes to its coarsest quantizer step by step."""
    encoder: av.VideoCodecContext | None = None
    reformatter = VideoReformatter()
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, "bgr24")
        frame = reformatter.reformat(
            frame, format="yuvj420p", interpolation="BICUBIC", dst_color_range=2, threads=SCALER_THREADS
        )
        if encoder is None:
            encoder = _open_encoder(frame.width, frame.height, fps)
        frame.pts, frame.time_base = number, 1 / fps
        # The encoder holds nothing back: a picture in, a packet out.
        yield from map(bytes, encoder.encode(frame))


def _open_encoder(width: int, height: int, fps: Fraction) -> av.VideoCodecContext:
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.time_base, encoder.framerate = 1 / fps, fps
    encoder.bit_rate = DEFAULT_BIT_RATE
    # Frame threads would hold pictures back.
    encoder.thread_count = 1
    return encoder
