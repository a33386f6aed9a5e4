"""The matrix of docs/inputs.md: containers, codecs, pixel formats, rates and channel layouts, each made and tried.

`python -m tests.media.formats` prints the tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from pillow_heif import register_heif_opener

from tests.media.corpus import Sound, utterance, write_file

# Sound in each container, by FFmpeg's names of the encoders.
SOUNDS: dict[str, tuple[str, ...]] = {
    ".wav": (
        *("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_alaw", "pcm_mulaw"),
        *("adpcm_ms", "adpcm_ima_wav", "libmp3lame"),
    ),
    ".aiff": ("pcm_s16be", "pcm_s24be"),
    ".caf": ("pcm_s16be", "alac"),
    ".flac": ("flac",),
    ".mp3": ("libmp3lame",),
    ".aac": ("aac",),
    ".amr": ("libopencore_amrnb",),
    ".ogg": ("libopus", "vorbis", "flac"),
    ".m4a": ("aac", "alac"),
    ".mp4": ("aac", "libmp3lame", "ac3", "eac3", "libopus", "flac", "alac"),
    ".mov": ("aac", "alac", "pcm_s16le", "pcm_s24be", "pcm_f32le", "adpcm_ima_qt"),
    ".mkv": ("aac", "libmp3lame", "mp2", "ac3", "eac3", "libopus", "vorbis", "flac", "pcm_s16le", "wavpack"),
    ".webm": ("libopus", "vorbis"),
    ".avi": ("pcm_s16le", "libmp3lame", "ac3"),
    ".3gp": ("aac", "libopencore_amrnb"),
}
RATES_HZ = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000)
LAYOUTS = ("mono", "stereo", "2.1", "3.0", "quad", "4.0", "5.0", "5.1", "6.1", "7.1")
# Pictures in each container: encoder and pixel formats.
PICTURES: dict[str, dict[str, tuple[str, ...]]] = {
    ".mp4": {
        "libx264": (
            *("yuv420p", "yuv422p", "yuv444p", "gray", "yuv420p10le", "yuv422p10le", "yuv444p10le"),
            *("yuvj420p", "yuvj422p", "yuvj444p", "nv12"),
        ),
        "libx265": ("yuv420p", "yuv422p", "yuv444p", "gray", "yuv420p10le", "yuv422p10le", "yuv420p12le", "gbrp"),
        "libsvtav1": ("yuv420p", "yuv420p10le"),
        "mpeg4": ("yuv420p",),
    },
    ".mov": {
        "prores_ks": ("yuv422p10le", "yuv444p10le", "yuva444p10le"),
        "mjpeg": ("yuvj420p", "yuvj422p", "yuvj444p"),
        "qtrle": ("rgb24", "argb"),
        "png": ("rgb24", "rgba"),
        "cfhd": ("yuv422p10le",),
        "v210": ("yuv422p10le",),
    },
    ".mkv": {
        "libx264rgb": ("rgb24",),
        "ffv1": ("yuv420p", "yuv422p", "yuv444p", "gray", "gray16le", "yuv420p16le", "yuva420p", "bgr0"),
        "mpeg2video": ("yuv420p", "yuv422p"),
        "mpeg1video": ("yuv420p",),
    },
    ".webm": {
        "libvpx": ("yuv420p",),
        "libvpx-vp9": ("yuv420p", "yuv444p"),
    },
    ".avi": {
        "mpeg4": ("yuv420p",),
        "mjpeg": ("yuvj420p",),
        "rawvideo": ("bgr24", "yuv420p"),
        "utvideo": ("gbrp", "yuv422p"),
        "huffyuv": ("yuv422p", "rgb24"),
        "dvvideo": ("yuv420p",),
    },
    ".3gp": {"h263": ("yuv420p",), "libx264": ("yuv420p",)},
}
SIZES = {"h263": (176, 144), "dvvideo": (720, 576)}
# Stills: suffix and Pillow's modes.
STILLS: dict[str, tuple[str, ...]] = {
    ".png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    ".jpg": ("L", "RGB", "CMYK"),
    ".webp": ("RGB", "RGBA"),
    ".heic": ("L", "RGB", "RGBA"),
    ".avif": ("RGB", "RGBA"),
}
# Refused as `container_unsupported`: what FFmpeg calls the muxer, and what it holds.
REFUSED: dict[str, tuple[str, str]] = {
    "MPEG transport stream (.ts)": ("mpegts", "libx264"),
    "MPEG program stream (.mpg)": ("vob", "mpeg2video"),
    "Flash video (.flv)": ("flv", "libx264"),
    "Windows Media (.wmv)": ("asf", "wmv2"),
    "MXF": ("mxf", "mpeg2video"),
    "IVF": ("ivf", "libvpx"),
    "raw H.264": ("h264", "libx264"),
    "animated GIF": ("gif", "gif"),
    "animated PNG": ("apng", "apng"),
    "animated WebP": ("webp", "libwebp_anim"),
    "Windows Media Audio (.wma)": ("asf", "wmav2"),
    "Wave64 (.w64)": ("w64", "pcm_s16le"),
    "Sun audio (.au)": ("au", "pcm_s16be"),
    "WavPack (.wv)": ("wv", "wavpack"),
    "True Audio (.tta)": ("tta", "tta"),
    "raw AC-3": ("ac3", "ac3"),
}


def make_sound(folder: Path, suffix: str, codec: str, rate_hz: int = 48_000, layout: str = "mono") -> Path:
    """3 s of `utterance` in all channels."""
    rate_hz = 8000 if codec == "libopencore_amrnb" else rate_hz
    layout = "stereo" if codec == "vorbis" else layout
    samples = np.tile(utterance(3.0, rate_hz), (av.AudioLayout(layout).nb_channels, 1))
    options = {"strict": "experimental"} if codec in ("vorbis", "opus") else {}
    return write_file(folder / f"speech{suffix}", [Sound(samples, rate_hz, layout, codec, options=options)])


def picture(number: int, width: int, height: int) -> np.ndarray:
    """RGB u8 [h, w, 3]: a white corner, above left, on gray that grows lighter to the right and with the number."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = np.linspace(60, 140, width)[None, :, None] + 2 * number
    pixels[: height // 4, : width // 4] = 255
    return pixels


def make_video(path: Path, codec: str, pixel_format: str, count: int = 10, muxer: str | None = None) -> Path:
    width, height = SIZES.get(codec, (128, 96))
    with av.open(str(path), "w", format=muxer) as out:
        stream = out.add_stream(codec, rate=25, options={"x265-params": "log-level=none"} if codec == "libx265" else {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        if pixel_format.startswith("gray"):
            stream.codec_context.color_range = 2  # as swscale makes it
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, width, height), "rgb24").reformat(format=pixel_format)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def make_still(folder: Path, suffix: str, mode: str) -> Path:
    register_heif_opener()
    pixels = picture(0, 128, 96)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(pixels).convert(mode)
    image.save(folder / f"still{suffix}")
    return folder / f"still{suffix}"


def make_refused(folder: Path, name: str) -> Path:
    muxer, codec = REFUSED[name]
    path = folder / "file.bin"
    encoder = av.Codec(codec, "w")
    if encoder.type == "video":
        formats = {"gif": "rgb8", "apng": "rgb24", "libwebp_anim": "bgra"}
        return make_video(path, codec, formats.get(codec, "yuv420p"), muxer=muxer)
    source = Sound(utterance(1.0, 48_000)[None], codec=codec, options={"b": "96000"})
    return write_file(path, [source], muxer=muxer)


def table() -> Iterator[str]:
    """The lines of docs/inputs.md."""
    yield "| container | sound | pictures |"
    yield "|---|---|---|"
    for suffix in sorted({*SOUNDS, *PICTURES}):
        pictures = "; ".join(f"{name(codec)} ({', '.join(kinds)})" for codec, kinds in PICTURES.get(suffix, {}).items())
        yield f"| {suffix} | {', '.join(map(name, SOUNDS.get(suffix, ())))} | {pictures} |"
    for suffix, modes in STILLS.items():
        yield f"| {suffix} | | {', '.join(modes)} |"


def name(codec: str) -> str:
    """Of the codec, not of the encoder."""
    special = {"libmp3lame": "mp3", "libopencore_amrnb": "amr_nb", "libsvtav1": "av1", "prores_ks": "prores"}
    names = {"libvpx": "vp8", "libvpx-vp9": "vp9", "libx264": "h264", "libx264rgb": "h264", "libx265": "hevc"}
    return (special | names).get(codec, codec.removeprefix("lib"))


if __name__ == "__main__":
    print("\n".join(table()))
