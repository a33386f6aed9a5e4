"""Odd and hostile media, made on the spot with PyAV. Every `make_*` writes one file and returns its path."""

from __future__ import annotations

import struct
import wave
import zlib
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray


def gradient_rgb(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """A smooth moving pattern u8 [h, w, 3]; its mean luma grows with `number`, so that frames can be told apart."""
    level = 40 + (number * 7) % 160
    picture = np.empty((height, width, 3), np.uint8)
    x, y = np.arange(width), np.arange(height)[:, None]
    picture[..., 0] = _color(level + 30 * np.sin(x / 17 + number))
    picture[..., 1] = _color(level + 25 * np.cos(y / 13))
    picture[..., 2] = _color(level + 20 * np.sin(np.arange(width + height) / 29))[x + y]
    return picture


def _color(level: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(level, 0, 255).astype(np.uint8)


def decoded_luma(path: Path) -> list[NDArray[np.uint8]]:
    """What FFmpeg itself decodes: the luma plane of every picture, u8 [h, w]."""
    with av.open(str(path)) as media:
        return [picture.to_ndarray()[: picture.height] for picture in media.decode(video=0)]


def make_video(
    path: Path,
    frames: int = 30,
    size: tuple[int, int] = (96, 64),
    fps: Fraction | int = 25,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    container: str | None = None,
    times_ms: Sequence[int] | None = None,
    rotation_deg: float | None = None,
    mirrored: bool = False,
    pixel_aspect: Fraction | None = None,
    color: tuple[int, int, int, int] | None = None,
    options: dict[str, str] | None = None,
    speech_s: float | None = None,
) -> Path:
    """A moving pattern. times_ms: times for a variable rate. rotation_deg: display matrix, counterclockwise.

    color: (matrix, primaries, transfer, range) code points as FFmpeg numbers them. speech_s: adds an AAC tone.
    """
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        time_base = Fraction(1, 1000) if times_ms is not None else 1 / Fraction(fps)
        stream.codec_context.time_base = time_base
        _tag_stream(stream, rotation_deg, mirrored, pixel_aspect, color)
        sound = out.add_stream("aac", rate=44100) if speech_s is not None else None
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(gradient_rgb(number, *size), "rgb24").reformat(format=pixel_format)
            picture.pts = times_ms[number] if times_ms is not None else number
            picture.time_base = time_base
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
        if sound is not None:
            _encode_tone(out, sound, speech_s, 44100)
    return path


def make_variable_rate(path: Path) -> Path:
    """Steps of 33 and 67 ms, as screen recorders write them."""
    times_ms = np.cumsum([0] + [33, 67, 67] * 10)
    return make_video(path, frames=len(times_ms), fps=30, times_ms=[int(time) for time in times_ms])


def make_tone(samples: int, rate_hz: int, channels: int = 1) -> NDArray[np.float64]:
    """A speech-like buzz f64 [n, channels] within -1..1; channel k is a little quieter than the one before."""
    t = np.arange(samples) / rate_hz
    buzz = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 9)) / 4 * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))
    return np.stack([buzz * 0.8**channel for channel in range(channels)], axis=1)


def make_wav(path: Path, seconds: float = 1.0, rate_hz: int = 16000, channels: int = 1) -> Path:
    """PCM 16 bit."""
    samples = make_tone(round(seconds * rate_hz), rate_hz, channels)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        out.writeframes((samples * 30000).astype("<i2").tobytes())
    return path


def make_float_wav(path: Path, samples: NDArray[np.float32], rate_hz: int = 16000) -> Path:
    """PCM 32 bit float, mono: the samples may hold anything, NaN included."""
    body = samples.astype("<f4").tobytes()
    form = struct.pack("<HHIIHH", 3, 1, rate_hz, rate_hz * 4, 4, 32)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(body)) + body
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path


def make_speech(path: Path, codec: str, seconds: float = 1.0, rate_hz: int = 44100, layout: str = "stereo") -> Path:
    """Compressed sound; the container follows the suffix."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate_hz)
        stream.codec_context.layout = layout
        _encode_tone(out, stream, seconds, rate_hz)
    return path


def make_song_with_covers(path: Path, codec: str, side: int, covers: int = 2) -> Path:
    """A second of sound with attached PNG pictures of side x side pixels; the container (MP3, FLAC, MP4) follows the
    suffix."""
    picture = make_huge_png(path.with_suffix(".png"), side).read_bytes()
    with av.open(str(path), "w") as out:
        sound = out.add_stream(codec, rate=44100)
        sound.codec_context.layout = "stereo"
        streams = [out.add_stream("png") for _ in range(covers)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = side, side, "rgb24"
            stream.disposition = Disposition.attached_pic
        out.start_encoding()
        for stream in streams:
            packet = av.Packet(picture)
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, 0, 0, True
            out.mux(packet)
        _encode_tone(out, sound, 1.0, 44100)
    return path


def make_large_video(path: Path, width: int = 8192, height: int = 4048, frames: int = 3) -> Path:
    """Gray H.264 pictures at the limit of what is let in: some 100 kB of which a render needs gigabytes."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count, stream.options = 2, {"preset": "ultrafast", "crf": "40"}
        picture = av.VideoFrame(width, height, "yuv420p")
        for plane in picture.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        for number in range(frames):
            picture.pts, picture.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return path


def make_long_wav(path: Path, seconds: float = 3 * 3600, rate_hz: int = 8000) -> Path:
    """Three hours of silence as a sparse file: real in length, nearly nothing on disk."""
    size = round(seconds * rate_hz)
    head = (
        b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate_hz, rate_hz, 1, 8)
    )
    with path.open("wb") as out:
        out.write(head + b"data" + struct.pack("<I", size))
        out.truncate(44 + size)
    return path


def make_silent_video(path: Path, frames: int = 10) -> Path:
    """A video without a sound stream."""
    return make_video(path, frames=frames)


def make_sound_only_mp4(path: Path) -> Path:
    return make_speech(path, "aac")


def make_empty_wav(path: Path) -> Path:
    """A correct header and not one sample."""
    return make_wav(path, seconds=0)


def make_truncated_mp4(path: Path, keep: float = 0.6, faststart: bool = False) -> Path:
    """The first part of an MP4; with faststart its index is complete and the pictures end early."""
    with av.open(
        str(path), "w", format="mp4", container_options={"movflags": "faststart"} if faststart else None
    ) as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(50):
            picture = av.VideoFrame.from_ndarray(gradient_rgb(number, 96, 64), "rgb24")
            out.mux(stream.encode(picture.reformat(format="yuv420p")))
        out.mux(stream.encode(None))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def make_damaged_video(path: Path, damaged: Iterable[int], frames: int = 40) -> Path:
    """Every picture a key picture of its own packet; the chosen packets are overwritten with noise."""
    make_video(path, frames=frames, codec="mjpeg", pixel_format="yuvj420p", container="mov")
    with av.open(str(path)) as media:
        places = [(packet.pos, packet.size) for packet in media.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number in damaged:
        start, size = places[number]
        data[start : start + size] = bytes(size)
    path.write_bytes(data)
    return path


def make_text(path: Path) -> Path:
    path.write_text("This is a shopping list, not a film.\n" * 50)
    return path


def make_playlist(path: Path, target: Path) -> Path:
    """An HLS playlist that points at a local file."""
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{target}\n#EXT-X-ENDLIST\n")
    return path


def make_concat_list(path: Path, target: Path) -> Path:
    path.write_text(f"ffconcat version 1.0\nfile '{target}'\n")
    return path


def make_empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def make_huge_png(path: Path, side: int = 20000) -> Path:
    """A complete, well-formed picture of side x side pixels: some 400 kB that would decode to 1.2 GB."""
    block = zlib.compressobj(9)
    rows = bytes(100 * (1 + side * 3))
    # One flushed block of 100 black rows, repeated; the checksum (Adler-32) of n zero bytes is (n mod 65521, 1).
    packed = block.compress(rows) + block.flush(zlib.Z_FULL_FLUSH)
    head, piece, tail = packed[:2], packed[2:], zlib.compressobj(9, zlib.DEFLATED, -15).flush()
    adler = struct.pack(">HH", len(rows) * (side // 100) % 65521, 1)
    path.write_bytes(_png(side, side, 2, head + piece * (side // 100) + tail + adler))
    return path


def make_huge_png_header(path: Path, side: int = 20000) -> Path:
    """Only the header says 20000x20000; cheap to make."""
    path.write_bytes(_png(side, side, 2, zlib.compress(bytes(100))))
    return path


def make_png(path: Path, pixels: NDArray[np.uint8]) -> Path:
    """u8 [h, w] gray, [h, w, 3] RGB or [h, w, 4] RGBA."""
    color_type = {2: 0, 3: 2, 4: 6}[pixels.ndim if pixels.ndim == 2 else pixels.shape[2]]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    path.write_bytes(_png(pixels.shape[1], pixels.shape[0], color_type, zlib.compress(rows)))
    return path


def make_palette_png(path: Path, indices: NDArray[np.uint8], palette: NDArray[np.uint8]) -> Path:
    """indices u8 [h, w] into palette u8 [n, 3]."""
    rows = b"".join(b"\0" + row.tobytes() for row in indices)
    extra = png_chunk(b"PLTE", palette.tobytes())
    path.write_bytes(_png(indices.shape[1], indices.shape[0], 3, zlib.compress(rows), extra))
    return path


def make_jpeg(path: Path, pixels: NDArray[np.uint8], orientation: int | None = None) -> Path:
    """RGB u8 [h, w, 3] as JPEG, with an EXIF orientation 1..8 when given."""
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as out:
        stream = out.add_stream("mjpeg", rate=1, options={"qmin": "1", "qmax": "1"})
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = "yuvj420p"
        picture = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuvj420p")
        out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    if orientation is not None:
        entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
        exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
        data = path.read_bytes()
        path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    return path


def make_webp(path: Path, pixels: NDArray[np.uint8]) -> Path:
    with av.open(str(path), "w", format="webp") as out:
        stream = out.add_stream("libwebp", rate=1, options={"quality": "95"})
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = "yuv420p"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")))
        out.mux(stream.encode(None))
    return path


def make_many_streams(path: Path, count: int = 20) -> Path:
    with av.open(str(path), "w", format="matroska") as out:
        streams = [out.add_stream("aac", rate=16000) for _ in range(count)]
        for stream in streams:
            _encode_tone(out, stream, 0.2, 16000)
    return path


def _tag_stream(
    stream: av.VideoStream,
    rotation_deg: float | None,
    mirrored: bool,
    pixel_aspect: Fraction | None,
    color: tuple[int, int, int, int] | None,
) -> None:
    context = stream.codec_context
    if pixel_aspect is not None:
        context.sample_aspect_ratio = pixel_aspect
    if color is not None:
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = color
    if rotation_deg is not None or mirrored:
        stream.set_display_rotation(rotation_deg or 0.0, hflip=mirrored)


def _encode_tone(out: av.container.OutputContainer, stream: av.AudioStream, seconds: float, rate_hz: int) -> None:
    channels = stream.codec_context.layout.nb_channels
    tone = make_tone(round(seconds * rate_hz), rate_hz, channels)
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(tone.T.astype(np.float32)), format="fltp", layout=stream.codec_context.layout.name
    )
    frame.sample_rate = rate_hz
    resampler = av.AudioResampler(
        format=stream.codec_context.format.name,
        layout=stream.codec_context.layout.name,
        rate=rate_hz,
        frame_size=stream.codec_context.frame_size or 1024,
    )
    for piece in (*resampler.resample(frame), *resampler.resample(None)):
        out.mux(stream.encode(piece))
    out.mux(stream.encode(None))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, color_type: int, body: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    )
