"""The JPEG round trip that every published LSE value went through.

The evaluators let ffmpeg write frames as JPEG at its default quality, and read those. Default means a target of 200
kbit/s, which no sequence of key pictures can meet: the encoder ends at its coarsest quantiser within a few frames.
SyncNet's distances depend on it, so it is reproduced, with the same encoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from retalking_core.evaluation.bgr_frames import Picture
from retalking_core.threads import ReadAhead

DEFAULT_BIT_RATE = 200_000  # FFmpeg's AV_CODEC_DEFAULT_BITRATE


def through_jpeg(pictures: Iterable[Picture], fps: Fraction) -> Iterator[Picture]:
    """Each BGR picture after FFmpeg's default-quality JPEG at this frame rate. All are of one size.

    One thread encodes while another decodes: each takes about as long as everything else that a picture costs.
    """
    with ReadAhead(encode_jpegs(pictures, fps)) as jpegs:
        for jpeg in jpegs:
            yield cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def encode_jpegs(pictures: Iterable[Picture], fps: Fraction) -> Iterator[bytes]:
    """The JPEG of each picture. The first few are finer: rate control comes to its coarsest quantiser step by step."""
    encoder: av.VideoCodecContext | None = None
    reformatter = VideoReformatter()
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, "bgr24")
        frame = reformatter.reformat(frame, format="yuvj420p", interpolation="BICUBIC", dst_color_range=2)
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
