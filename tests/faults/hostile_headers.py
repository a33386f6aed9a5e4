"""Headers with impossible sizes, counts, rates and lengths, written into valid files or by hand."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from tests.faults.hostile_bases import face_rgb, speeches, videos

Named = Iterator[tuple[str, str, bytes]]
"""(name, slot, bytes)"""


def box(kind: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack(">I", len(body) + 8 if size is None else size) + kind + body


def patched(content: bytes, mark: bytes, offset: int, new: bytes) -> bytes:
    """`new` written `offset` bytes after the first `mark`."""
    at = content.index(mark) + offset
    return content[:at] + new + content[at + len(new) :]


def wav(
    *,
    channels: int = 1,
    rate: int = 16000,
    bits: int = 16,
    tag: int = 1,
    align: int = 2,
    size: int | None = None,
    body: bytes = bytes(12800),
) -> bytes:
    form = struct.pack("<HHIIHH", tag, channels & 0xFFFF, rate, (rate * align) & 0xFFFFFFFF, align, bits)
    data = struct.pack("<I", len(body) if size is None else size) + body
    return b"RIFF" + struct.pack("<I", 36 + len(body)) + b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + data


def png(width: int, height: int, *chunks: bytes, body: bytes = bytes(100), depth: int = 8, colour: int = 2) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def mp4_headers() -> Named:
    mp4 = videos()["mp4"]
    ftyp = box(b"ftyp", b"isom\0\0\2\0isomiso2mp41")
    for name, (mark, offset, new) in {
        "mvhd endless": (b"mvhd", 20, b"\xff\xff\xff\xfe"),
        "mvhd scale 0": (b"mvhd", 16, bytes(4)),
        "mdhd endless": (b"mdhd", 20, b"\x7f\xff\xff\xff"),
        "mdhd zero": (b"mdhd", 20, bytes(4)),
        "mdhd scale 0": (b"mdhd", 16, bytes(4)),
        "tkhd 0x0": (b"tkhd", 80, bytes(8)),
        "tkhd 65535x65535": (b"tkhd", 80, b"\xff\xff\0\0\xff\xff\0\0"),
        "tkhd matrix": (b"tkhd", 44, b"\x80\0\0\0" * 9),
        "avc1 0x0": (b"avc1", 28, bytes(4)),
        "avc1 65535x65535": (b"avc1", 28, b"\xff\xff\xff\xff"),
        "stts count": (b"stts", 8, b"\xff\xff\xff\xff"),
        "stts delta": (b"stts", 16, b"\xff\xff\xff\xff"),
        "stts delta 0": (b"stts", 16, bytes(4)),
        "stsz count": (b"stsz", 12, b"\xff\xff\xff\xff"),
        "stsz size": (b"stsz", 8, b"\x7f\xff\xff\xff"),
        "stco beyond": (b"stco", 12, b"\xff\xff\xff\x00"),
        "stco count": (b"stco", 8, b"\xff\xff\xff\xff"),
        "stsc chunks": (b"stsc", 12, b"\xff\xff\xff\xff"),
        "moov too long": (b"moov", -4, b"\x7f\xff\xff\xff"),
        "trak size 0": (b"trak", -4, bytes(4)),
        "stbl size 1": (b"stbl", -4, b"\0\0\0\1"),
        "avcC size": (b"avcC", -4, b"\0\0\xff\xff"),
        "codec unknown": (b"avc1", 0, b"zzzz"),
        "handler text": (b"vide", 0, b"text"),
        "drefs outside": (b"url \0\0\0\1", 4, bytes(4)),
    }.items():
        yield f"mp4 {name}", "video", patched(mp4, mark, offset, new)
    yield "mp4 nested 3000 deep", "video", ftyp + _nested(3000)
    yield "mp4 only ftyp", "video", ftyp
    yield "mp4 box of 2^63", "video", ftyp + struct.pack(">I4sQ", 1, b"moov", 2**63)
    yield "mp4 empty boxes", "video", ftyp + box(b"free") * 20000
    yield "mp4 moov empty", "video", ftyp + box(b"moov")


def _nested(depth: int) -> bytes:
    body = b""
    for _ in range(depth):
        body = box(b"moov" if len(body) % 2 else b"trak", body)
    return box(b"moov", body)


def sound_headers() -> Named:
    for name, asked in {
        "0 channels": {"channels": 0},
        "9 channels": {"channels": 9, "align": 18},
        "65535 channels": {"channels": 65535, "align": 65535},
        "rate 0": {"rate": 0},
        "rate 4 GHz": {"rate": 2**32 - 1},
        "align 0": {"align": 0},
        "bits 0": {"bits": 0},
        "bits 65535": {"bits": 65535},
        "size 4 GB": {"size": 2**32 - 1},
        "size 0": {"size": 0},
        "no samples": {"body": b""},
        "one byte": {"body": b"\1"},
        "codec unknown": {"tag": 0x7777},
        "extensible short": {"tag": 0xFFFE},
        "a-law": {"tag": 6, "bits": 8, "align": 1},
        "u-law": {"tag": 7, "bits": 8, "align": 1},
        "u8": {"bits": 8, "align": 1},
        "24 bit": {"bits": 24, "align": 3, "body": bytes(38400)},
        "64 bit": {"bits": 64, "align": 8},
        "NaN": {"tag": 3, "bits": 32, "align": 4, "body": struct.pack("<f", float("nan")) * 8000},
        "infinity": {"tag": 3, "bits": 32, "align": 4, "body": struct.pack("<f", float("inf")) * 8000},
        "one NaN late": {"tag": 3, "bits": 32, "align": 4, "body": bytes(40000) + struct.pack("<f", float("nan"))},
        "huge floats": {"tag": 3, "bits": 32, "align": 4, "body": struct.pack("<f", 3e38) * 8000},
        "denormals": {"tag": 3, "bits": 32, "align": 4, "body": struct.pack("<f", 1e-44) * 8000},
        "NaN doubles": {"tag": 3, "bits": 64, "align": 8, "body": struct.pack("<d", float("nan")) * 8000},
        "1 Hz": {"rate": 1, "body": bytes(20)},
        "8 channels 192 kHz": {"channels": 8, "rate": 192000, "align": 16, "body": bytes(16 * 96000)},
        "384 kHz": {"rate": 384000, "body": bytes(2 * 192000)},
        "hours": {"rate": 100, "body": bytes(2 * 100 * 3600)},
    }.items():
        yield f"wav {name}", "audio", wav(**asked)
    flac = speeches()["flac"]
    yield "flac rate 0", "audio", patched(flac, b"fLaC", 18, b"\0\0\x02")
    yield "flac block sizes", "audio", patched(flac, b"fLaC", 8, b"\0\0\xff\xff")
    yield "flac samples 2^36", "audio", patched(flac, b"fLaC", 21, b"\xff\xff\xff\xff\xff")
    yield "mp3 ID3 of 256 MB", "audio", b"ID3\4\0\0\x7f\x7f\x7f\x7f" + speeches()["mp3"]
    yield "ogg serial", "audio", patched(speeches()["ogg"], b"OggS", 14, b"\xff\xff\xff\xff")
    yield "ogg granule", "audio", patched(speeches()["ogg"], b"OggS", 6, b"\xff" * 8)
    yield "ogg segments", "audio", patched(speeches()["ogg"], b"OggS", 26, b"\xff")
    m4a = speeches()["m4a"]
    yield "m4a rate 0", "audio", patched(m4a, b"mp4a", 28, bytes(4))
    yield "m4a channels", "audio", patched(m4a, b"mp4a", 20, b"\xff\xff")
    yield "m4a endless", "audio", patched(m4a, b"mdhd", 20, b"\x7f\xff\xff\xff")


def picture_headers() -> Named:
    for width, height in ((0, 0), (0, 100), (65535, 65535), (2**31 - 1, 1), (2**32 - 1, 2**32 - 1), (1, 1), (8193, 16)):
        yield f"png {width}x{height}", "video", png(width, height)
    yield "png 20000x20000 bomb", "video", png(20000, 20000, body=bytes(20_000_000))
    yield "png 8000x4000 black", "video", png(8000, 4000, body=bytes(4000 * 24001))
    yield "png text bomb", "video", png(256, 256, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000))))
    yield "png profile bomb", "video", png(256, 256, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(80_000_000))))
    yield "png depth 16", "video", png(64, 64, body=bytes(64 * 385), depth=16)
    yield "png depth 3", "video", png(64, 64, depth=3)
    yield "png palette missing", "video", png(64, 64, body=bytes(65 * 64), colour=3)
    yield "png chunk of 2 GB", "video", patched(videos()["png"], b"IDAT", -4, b"\x7f\xff\xff\xff")
    jpeg = videos()["jpg"]
    for name, size in {"0x0": bytes(4), "65535x65535": b"\xff" * 4, "1x65535": b"\xff\xff\0\1"}.items():
        yield f"jpg {name}", "video", patched(jpeg, b"\xff\xc0", 5, size)
    yield "jpg components", "video", patched(jpeg, b"\xff\xc0", 9, b"\xff")
    yield "jpg no tables", "video", jpeg.replace(b"\xff\xdb", b"\xff\xfe")
    webp = videos()["webp"]
    yield "webp riff size", "video", patched(webp, b"RIFF", 4, b"\xff\xff\xff\xff")
    yield "webp 16383x16383", "video", patched(webp, b"\x9d\x01\x2a", 3, b"\xff\x3f\xff\x3f")
    yield "webp 0x0", "video", patched(webp, b"\x9d\x01\x2a", 3, bytes(4))
    avi = videos()["avi"]
    for name, (mark, offset, new) in {
        "0 us a frame": (b"avih", 8, bytes(4)),
        "streams": (b"avih", 32, b"\xff\xff\xff\xff"),
        "frames": (b"avih", 24, b"\xff\xff\xff\x7f"),
        "rate 0": (b"strh", 28, bytes(8)),
        "rate absurd": (b"strh", 28, b"\1\0\0\0\xff\xff\xff\xff"),
        "0x0": (b"strf", 12, bytes(8)),
        "65535x65535": (b"strf", 12, b"\xff\xff\0\0\xff\xff\0\0"),
        "negative size": (b"strf", 12, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        "codec unknown": (b"strf", 24, b"????"),
        "list size": (b"LIST", 4, b"\xff\xff\xff\xff"),
    }.items():
        yield f"avi {name}", "video", patched(avi, mark, offset, new)
    mkv = videos()["mkv"]
    yield "mkv EBML size", "video", mkv[:4] + b"\x01\xff\xff\xff\xff\xff\xff\xfe" + mkv[12:]
    yield "mkv wide 0", "video", patched(mkv, b"\xb0\x82", 2, bytes(2))
    yield "mkv wide 65535", "video", patched(mkv, b"\xb0\x82", 2, b"\xff\xff")
    yield "mkv both 65535", "video", patched(patched(mkv, b"\xb0\x82", 2, b"\xff\xff"), b"\xba\x82", 2, b"\xff\xff")
    yield "mkv codec unknown", "video", mkv.replace(b"V_MPEG4/ISO/AVC", b"V_NOTHING/EVERX", 1)
    yield "grey of one value", "video", png(256, 256, body=bytes(256 * 769))
    yield "noise", "video", png(256, 256, body=b"".join(b"\0" + row.tobytes() for row in face_rgb() ^ 0x5A))
