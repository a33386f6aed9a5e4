"""Files that schemathesis can send: random bytes would never get past the look at their first bytes."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies as st

from tests.api.running import MP4, PNG, WAV

_FILES = {
    MP4: ["video/mp4", "video/quicktime", "audio/mp4"],
    b"\x1aE\xdf\xa3" + bytes(100): ["video/x-matroska", "video/webm"],
    b"RIFF\0\0\0\0AVI " + bytes(100): ["video/x-msvideo"],
    PNG: ["image/png"],
    b"\xff\xd8\xff\xe0" + bytes(100): ["image/jpeg"],
    b"RIFF\0\0\0\0WEBP" + bytes(100): ["image/webp"],
    WAV: ["audio/wav"],
    b"ID3" + bytes(100): ["audio/mpeg"],
    b"fLaC" + bytes(100): ["audio/flac"],
    b"OggS" + bytes(100): ["audio/ogg"],
}
for content, (name, *aliases) in _FILES.items():
    schemathesis.openapi.media_type(name, st.just(content), aliases=aliases)
