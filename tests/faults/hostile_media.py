"""More than 300 broken or hostile inputs, the same in every run: `python -m tests.faults.hostile_media FOLDER`.

Each is made from its own seed, so that one can be looked at without making the others before it.
"""

from __future__ import annotations

import gzip
import io
import random
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from tests.faults.hostile_bases import face_video, made, speech, speeches, videos
from tests.faults.hostile_headers import Named, mp4_headers, picture_headers, sound_headers
from tests.media import clips

# The caller's mistakes; any other code (internal_error, worker_lost, render_timeout) is a fault of the service
INPUT_CODES = {
    "file_empty",
    "container_unsupported",
    "media_unreadable",
    "codec_unsupported",
    "video_stream_missing",
    "audio_stream_missing",
    "audio_empty",
    "audio_invalid",
    "media_too_long",
    "picture_too_large",
    "streams_too_many",
    "face_not_found",
}

SEED = 20240607
CUTS = (0.02, 0.3, 0.6, 0.9, 0.999)
FLIPS = (1, 4, 16, 64, 400)


@dataclass(frozen=True)
class HostileFile:
    """slot: video or audio. The other input of its job is valid."""

    name: str
    slot: str
    content: bytes


@dataclass(frozen=True)
class Bait:
    """What no process may open: a file beside the work folder, and a port that counts connections."""

    file: Path
    port: int


def hostile_files(bait: Bait) -> list[HostileFile]:
    """All of them, in one order; names are unique."""
    found = [
        HostileFile(name, slot, content)
        for family in (
            damaged(),
            strangers(),
            playlists(bait),
            mp4_headers(),
            sound_headers(),
            picture_headers(),
            odd(),
        )
        for name, slot, content in family
    ]
    if len({each.name for each in found}) != len(found):
        raise ValueError("two hostile files have one name")
    return found


def damaged() -> Named:
    """Every container with flipped bits (everywhere, and in its first 200 bytes), cut short, shuffled, and repeated."""
    for slot, files in (("video", videos()), ("audio", speeches())):
        for suffix, content in files.items():
            for flips in FLIPS:
                yield f"{suffix} {flips} flips", slot, flipped(content, flips, len(content), f"{suffix}{flips}")
            for flips in (1, 12):
                yield f"{suffix} {flips} flips in the head", slot, flipped(content, flips, 200, f"{suffix}h{flips}")
            for cut in CUTS:
                yield f"{suffix} cut at {cut}", slot, content[: max(1, int(len(content) * cut))]
            half = len(content) // 2
            yield f"{suffix} halves swapped after the head", slot, content[:64] + content[half:] + content[64:half]
            yield f"{suffix} hole of zeros", slot, content[: half // 2] + bytes(half) + content[half // 2 + half :]
            yield f"{suffix} twice", slot, content + content


def flipped(content: bytes, flips: int, span: int, mark: str) -> bytes:
    choose, out = random.Random(f"{SEED}{mark}"), bytearray(content)
    for _ in range(flips):
        out[choose.randrange(min(span, len(out)))] ^= 1 << choose.randrange(8)
    return bytes(out)


def strangers() -> Iterator[tuple[str, str, bytes]]:
    """Content that does not match its slot or its first bytes."""
    noise = random.Random(SEED).randbytes(20_000)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10_000_000))
    files = {
        "empty": b"",
        "one byte": b"\0",
        "zeros": bytes(5000),
        "noise": noise,
        "text": b"This is a shopping list, not a film.\n" * 50,
        "zip bomb": packed.getvalue(),
        "gzip bomb": gzip.compress(bytes(50_000_000)),
        "ELF": b"\x7fELF" + noise,
        "PDF": b"%PDF-1.7\n" + noise,
        "HTML": b"<!doctype html><script>alert(1)</script>",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "XML entities": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        "GIF": b"GIF89a\xff\xff\xff\xff\0\0\0" + noise,
        "BMP": b"BM" + noise,
        "TIFF": b"II*\0" + noise,
        "FLV": b"FLV\1\5\0\0\0\x09" + noise,
        "MPEG-TS": (b"\x47" + noise[:187]) * 30,
        "shell": b"#!/bin/sh\ntouch /tmp/owned\n",
    }
    for name, content in files.items():
        for slot in ("video", "audio"):
            yield f"{name} as {slot}", slot, content
    for suffix, content in speeches().items():
        yield f"{suffix} as video", "video", content
    for suffix, content in videos().items():
        yield f"{suffix} as audio", "audio", content
    for suffix, content in (videos() | speeches()).items():
        yield f"{suffix} head and noise", "audio" if suffix in speeches() else "video", content[:48] + noise


def playlists(bait: Bait) -> Named:
    """Playlists that point elsewhere, alone and after the first bytes of a container."""
    for where, target in {"local": f"file://{bait.file}", "remote": f"http://127.0.0.1:{bait.port}/x"}.items():
        plain = str(bait.file) if where == "local" else target
        lists = {
            "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n",
            "hls key": f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF:1,\n{target}\n',
            "hls nested": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{target}\n",
            "concat": f"ffconcat version 1.0\nfile '{plain}'\n",
            "dash": f'<?xml version="1.0"?><MPD><Period><AdaptationSet><Representation><BaseURL>{target}</BaseURL>'
            "</Representation></AdaptationSet></Period></MPD>",
            "pls": f"[playlist]\nFile1={target}\nNumberOfEntries=1\n",
            "sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
            "subfile": f"subfile,,start,0,end,100,,:{plain}",
        }
        for kind, text in lists.items():
            yield f"{kind} {where} as video", "video", text.encode()
            if kind in ("hls", "concat"):
                yield f"{kind} {where} as audio", "audio", text.encode()
                yield (
                    f"{kind} {where} behind an mp4 head",
                    "video",
                    b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + text.encode(),
                )
                yield f"{kind} {where} with a mark", "video", b"\xef\xbb\xbf\n" + text.encode()
        yield f"mp4 data in a {where} file", "video", outside_data(b"url " + bytes(4) + target.encode() + b"\0")
        yield f"svg {where}", "video", f'<svg xmlns:x="a"><image x:href="{target}"/></svg>'.encode()
        yield f"subtitles {where}", "video", f"1\n00:00:00,000 --> 00:00:01,000\n{target}\n".encode()
    yield "mp4 data behind an alias", "video", outside_data(alias(bait.file))


def alias(target: Path) -> bytes:
    """A data reference of QuickTime to a file by its absolute path, in the record of type 2."""
    path = str(target).encode()
    path += b"\0" * (len(path) % 2)
    head = bytes(10) + b"\1v" + bytes(26) + bytes(12) + b"\4file" + bytes(59) + bytes(16)
    return (
        b"alis"
        + bytes(4)
        + head
        + bytes((0, 1, 0, 1))
        + bytes(16)
        + b"\0\2"
        + len(path).to_bytes(2, "big")
        + path
        + b"\xff\xff"
    )


def outside_data(entry: bytes) -> bytes:
    """An MP4 that refers to another file for its pictures (ISO 14496-12, 8.7.2); all other boxes stay valid."""
    whole = videos()["mp4"]
    at = whole.index(b"url \0\0\0\1")
    grown = bytearray(whole[: at - 4] + (len(entry) + 4).to_bytes(4, "big") + entry + whole[at + 8 :])
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = grown.index(kind) - 4
        size = int.from_bytes(grown[start : start + 4], "big") + len(entry) - 8
        grown[start : start + 4] = size.to_bytes(4, "big")
    return bytes(grown)


def odd() -> Named:
    """Valid but unusual files: stamps, missing key pictures, many streams, pixel formats, lengths."""
    late = 2**40
    for name, stamps in {
        "negative stamps": [-50, -40, -30, -20, -10, 0],
        "falling stamps": [50, 40, 30, 20, 10, 0],
        "one stamp": [7] * 6,
        "jumping stamps": [0, late, 1, late + 1, 2, late + 2],
        "late start": [late + n for n in range(6)],
    }.items():
        for container, codec in (("matroska", "mjpeg"), ("mp4", "mjpeg"), ("avi", "mjpeg")):
            yield f"{container} {name}", "video", face_video(container, codec, "yuvj420p", stamps=stamps)
    for container in ("mp4", "matroska", "avi"):
        yield f"{container} no key picture", "video", face_video(container, "libx264", "yuv420p", skip=1)
        yield f"{container} no picture", "video", face_video(container, "libx264", "yuv420p", skip=99)
    for codec, pixel_format in {
        "ffv1": "gray16le",
        "rawvideo": "bgr24",
        "huffyuv": "rgb24",
        "libx264": "yuv444p10le",
        "ffvhuff": "yuv420p10le",
        "png": "rgba",
        "libx264rgb": "rgb24",
        "mpeg2video": "yuv422p",
        "prores_ks": "yuva444p10le",
        "dnxhd": "yuv422p",
        "msvideo1": "rgb555le",
        "qtrle": "argb",
    }.items():
        try:
            content = face_video("mov" if codec in ("qtrle", "prores_ks") else "matroska", codec, pixel_format)
        except (av.error.FFmpegError, ValueError):
            continue  # an encoder that this FFmpeg does not have
        yield f"{codec} {pixel_format}", "video", content
    yield "tiny picture", "video", face_video("matroska", "ffv1", "yuv420p", size=2)
    yield (
        "time base of a day",
        "video",
        face_video("mp4", "mjpeg", "yuvj420p", stamps=range(6), time_base=Fraction(86400)),
    )
    for count in (20, 60):
        many = made(".mkv", lambda path, count=count: clips.make_many_streams(path, count))
        yield f"{count} streams as audio", "audio", many
        yield f"{count} streams as video", "video", many
    for suffix, codec in (("mp3", "libmp3lame"), ("flac", "flac"), ("mp4", "aac")):
        covers = made(f".{suffix}", lambda path, codec=codec: clips.make_song_with_covers(path, codec, 11_000, 8))
        yield f"{suffix} with eight covers of 121 megapixels", "audio", covers
    yield "20 minutes of silence", "audio", speech("flac", "flac", rate_hz=8000, seconds=1200)
    yield "10 ms of speech", "audio", made(".wav", lambda path: clips.make_wav(path, 0.01))
    yield "8 channels", "audio", made(".wav", lambda path: clips.make_wav(path, 0.4, 192000, 8))
    yield "aac 5.1", "audio", speech("mp4", "aac", layout="5.1")
    yield "video as speech", "audio", made(".mp4", lambda path: clips.make_video(path, 10, speech_s=0.4))
    yield "silent video as speech", "audio", videos()["mp4"] + b"\0\0\0\x09free!"
    yield "rotated", "video", made(".mp4", lambda path: clips.make_video(path, 5, rotation_deg=33.3))
    yield (
        "pixels of 1000:1",
        "video",
        made(".mp4", lambda path: clips.make_video(path, 5, pixel_aspect=Fraction(1000, 1))),
    )


def main() -> None:
    """Write all of them into a folder, and print their number."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    files = hostile_files(Bait(Path("/nonexistent/bait"), 9))
    for number, each in enumerate(files):
        name = "".join(char if char.isalnum() or char in ".-" else "_" for char in each.name)
        (folder / f"{number:03}-{each.slot}-{name}").write_bytes(each.content)
    print(f"{len(files)} files in {folder}")


if __name__ == "__main__":
    main()
