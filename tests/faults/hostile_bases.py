"""Valid files of every accepted container, as bytes, with a real face: the hostile files are made from them."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from cli.demo_input import write_portrait
from tests.media import clips

FRAMES = 6
SPEECH_S = 0.4


@cache
def face_rgb() -> NDArray[np.uint8]:
    """u8 [256, 256, 3]: the part of the portrait that shows the face, about 120 px wide."""
    with tempfile.TemporaryDirectory() as folder, av.open(str(write_portrait(Path(folder)))) as picture:
        return next(picture.decode(video=0)).to_ndarray(format="rgb24")[0:256, 100:356].copy()


def made(suffix: str, make: Callable[[Path], object]) -> bytes:
    """The bytes of the file that `make` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"file{suffix}")
        make(path)
        return path.read_bytes()


def face_video(
    container: str,
    codec: str,
    pixel_format: str,
    *,
    stamps: Sequence[int] | None = None,
    skip: int = 0,
    time_base: Fraction = Fraction(1, 25),
    options: dict[str, str] | None = None,
    size: int = 256,
) -> bytes:
    """stamps: presentation stamp of each packet, unchecked. skip: packets left out at the start."""
    sink = io.BytesIO()
    with av.open(sink, "w", format=container) as out:
        stream = out.add_stream(codec, rate=25, options=options or {})
        stream.width = stream.height = size
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = Fraction(1, 25)
        packets = []
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.roll(face_rgb(), number, 1), "rgb24")
            frame = frame.reformat(size, size, format=pixel_format)
            frame.pts = number
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for number, packet in enumerate(packets):
            if number < skip:
                continue
            if stamps is not None:
                packet.time_base = time_base
                packet.pts = packet.dts = stamps[number % len(stamps)]
            try:
                out.mux(packet)
            except av.error.FFmpegError:
                continue  # the muxer refuses this packet; the others make the input
    return sink.getvalue()


def speech(
    container: str, codec: str, *, rate_hz: int = 44100, layout: str = "mono", seconds: float = SPEECH_S
) -> bytes:
    return made(f".{container}", lambda path: clips.make_speech(path, codec, seconds, rate_hz, layout))


@cache
def videos() -> dict[str, bytes]:
    """By suffix; stills among them."""
    return {
        "mp4": face_video("mp4", "libx264", "yuv420p"),
        "mov": face_video("mov", "mjpeg", "yuvj420p"),
        "mkv": face_video("matroska", "libx264", "yuv420p"),
        "webm": face_video("webm", "libvpx", "yuv420p"),
        "avi": face_video("avi", "mpeg4", "yuv420p"),
        "png": made(".png", lambda path: clips.make_png(path, face_rgb())),
        "jpg": made(".jpg", lambda path: clips.make_jpeg(path, face_rgb())),
        "webp": made(".webp", lambda path: clips.make_webp(path, face_rgb())),
    }


@cache
def speeches() -> dict[str, bytes]:
    return {
        "wav": made(".wav", lambda path: clips.make_wav(path, SPEECH_S)),
        "mp3": speech("mp3", "libmp3lame"),
        "flac": speech("flac", "flac"),
        "ogg": speech("ogg", "libopus", rate_hz=48000),
        "m4a": speech("mp4", "aac"),
    }
