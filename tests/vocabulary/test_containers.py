"""Files by their first bytes. Real files, written by real encoders, and what pretends to be one."""

from __future__ import annotations

import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from retalking_core.errors import UnsupportedContainerError
from retalking_core.media.container import open_container, sniff_kind
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.vocabulary.containers import ACCEPTED, HEAD_BYTES, MP3, ContainerKind, describe, sniff

VIDEO_CODECS = {"mp4": "libx264", "mov": "libx264", "matroska": "libx264", "webm": "libvpx-vp9", "avi": "mpeg4"}
SOUND_CODECS = {"wav": "pcm_s16le", "flac": "flac", "ogg": "libopus", "mp3": "libmp3lame", "ipod": "aac"}
NAMES = {"ipod": "m4a"}


def encode_video(kind: str) -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format=kind) as container:
        stream = container.add_stream(VIDEO_CODECS[kind], rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8))))
        container.mux(stream.encode())
    return target.getvalue()


def encode_sound(kind: str, options: dict[str, str] | None = None) -> bytes:
    target = io.BytesIO()
    with av.open(target, "w", format=kind, options=options or {}) as container:
        stream = container.add_stream(SOUND_CODECS[kind], rate=48000, layout="mono")
        for number in range(10):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 960), np.int16), "s16", "mono")
            frame.rate, frame.pts, frame.time_base = 48000, number * 960, Fraction(1, 48000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return target.getvalue()


@pytest.mark.parametrize("kind", VIDEO_CODECS)
def test_films(kind: str) -> None:
    found = sniff(encode_video(kind)[:HEAD_BYTES])
    assert found.name == kind
    assert found in ACCEPTED["video"]
    assert found in ACCEPTED["audio"]


@pytest.mark.parametrize("kind", SOUND_CODECS)
def test_sounds(kind: str) -> None:
    found = sniff(encode_sound(kind)[:HEAD_BYTES])
    assert found.name == NAMES.get(kind, kind)
    assert found in ACCEPTED["audio"]
    assert found not in ACCEPTED["video"]


def test_mp3_without_a_tag() -> None:
    """Measured by its frame headers alone."""
    bare = encode_sound("mp3", {"id3v2_version": "0", "write_xing": "0"})
    assert not bare.startswith(b"ID3")
    assert sniff(bare[:HEAD_BYTES]) is MP3
    second = bare.index(bare[:2], 2)
    assert sniff(bare[:second] + bytes(HEAD_BYTES - second)) is None, "one header alone turns up anywhere"


NOT_MEDIA = {
    "text": (b"hello\n" * 100, "text"),
    "text in UTF-8, cut inside a letter": ("é".encode() * 300, "text"),
    "playlist": (b"#EXTM3U\n#EXT-X-VERSION:3\n", "an HLS playlist"),
    "zip": (b"PK\x03\x04" + bytes(100), "a ZIP archive"),
    "html": (b"<!doctype html>", "HTML or XML"),
    "concat": (b"ffconcat version 1.0\nfile /etc/passwd\n", "a concat script"),
    "animated avif": (b"\0\0\0\x20ftypavis" + bytes(100), "an animated AVIF"),
    "burst of a phone": (b"\0\0\0\x20ftypmsf1" + bytes(100), "a HEIF image sequence"),
    "WMA": (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + bytes(100), "a WMA or WMV (ASF) file"),
    "transport stream": ((b"G" + b"\xff" * 187) * 5, "an MPEG transport stream (TS, MTS, M2TS)"),
    "flash": (b"FLV\x01" + bytes(100), "an FLV video"),
    "animated WebP": (b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x02" + bytes(100), "an animated WebP"),
    "MP3 in a ZIP": (b"PK\x03\x04" + b"\xff\xfb\x90\x00" * 100, "a ZIP archive"),
    "gif": (b"GIF89a" + bytes(100), "a GIF"),
    "zeros": (bytes(5000), "data of an unknown kind"),
    "one byte": (b"\xff", "data of an unknown kind"),
    "RIFF of another kind": (b"RIFF\0\0\0\0ACON" + bytes(100), "data of an unknown kind"),
}


@pytest.mark.parametrize("name", NOT_MEDIA)
def test_what_is_no_media_file(name: str) -> None:
    head, words = NOT_MEDIA[name]
    assert sniff(head) is None
    assert describe(head)[0] == words
    with pytest.raises(UnsupportedContainerError):
        sniff_kind(head)


@pytest.mark.parametrize("kind", [*VIDEO_CODECS, *SOUND_CODECS])
def test_the_demuxer_of_the_kind_reads_the_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(encode_video(kind) if kind in VIDEO_CODECS else encode_sound(kind))
    with open_container(path, DEFAULT_LIMITS) as media:
        assert media.container.streams
        assert isinstance(media.kind, ContainerKind)
        assert media.kind.demuxer in media.container.format.name.split(",")


def test_importing_the_api_is_silent_and_light() -> None:
    code = "import sys, api.main, api.server; assert not {'torch', 'numpy', 'cv2', 'av'} & set(sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", code], cwd=root, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
