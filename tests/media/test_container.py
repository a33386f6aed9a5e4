"""Every odd or hostile file gets its own named error; nothing else is ever opened."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from retalking_core.errors import (
    EmptyFileError,
    InputError,
    MediaTooLongError,
    MediaUnreadableError,
    NoVideoStreamError,
    PictureTooLargeError,
    TooManyStreamsError,
    UnsupportedContainerError,
)
from retalking_core.media import container
from retalking_core.media.container import open_container, sniff_kind
from retalking_core.media.limits import MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.still import exif_orientation
from retalking_core.types import Frame
from retalking_core.vocabulary.containers import ContainerKind
from tests.faults.hostile_bases import videos
from tests.faults.hostile_media import alias, outside_data
from tests.media import clips

LIMITS = MediaLimits()


def read_all(path: Path) -> list[Frame]:
    return list(open_video(path, LIMITS).frames())


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (clips.make_empty, EmptyFileError, "empty"),
        (clips.make_text, UnsupportedContainerError, "which is not accepted"),
        (clips.make_truncated_mp4, MediaUnreadableError, "damaged or incomplete"),
        (lambda path: clips.make_truncated_mp4(path, faststart=True), MediaUnreadableError, "ends early"),
        (clips.make_sound_only_mp4, NoVideoStreamError, "no video"),
        (clips.make_huge_png, PictureTooLargeError, "20000x20000"),
        (clips.make_huge_png_header, PictureTooLargeError, "20000x20000"),
        (lambda path: clips.make_damaged_video(path.with_suffix(".mov"), range(3, 40)), MediaUnreadableError, "half"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, make: object, error: type[InputError], says: str) -> None:
    path = make(tmp_path / "clip.mp4")
    with pytest.raises(error, match=says) as caught:
        read_all(path)
    assert str(tmp_path) not in str(caught.value)


def test_a_huge_picture_is_refused_without_decoding_it(tmp_path: Path) -> None:
    path = clips.make_huge_png(tmp_path / "face.png")
    start = time.perf_counter()
    with pytest.raises(PictureTooLargeError):
        open_video(path, LIMITS)
    assert time.perf_counter() - start < 0.2


def test_a_picture_inside_a_video_is_held_to_the_same_limit(tmp_path: Path) -> None:
    path = clips.make_video(tmp_path / "clip.mov", frames=2, size=(640, 480), codec="mjpeg", pixel_format="yuvj420p")
    with pytest.raises(PictureTooLargeError, match="640x480"):
        open_video(path, MediaLimits(max_side_px=500))
    with pytest.raises(PictureTooLargeError, match="640x480"):
        open_video(path, MediaLimits(max_picture_px=640 * 479))
    with pytest.raises(MediaUnreadableError, match="far larger"):
        open_video(path, MediaLimits(max_picture_px=100))


LOOK_AT_SPEECH = """
import sys
from pathlib import Path
from retalking_core.media.limits import MediaLimits
from retalking_core.media.sound import decode_sound, packet_duration_s

def peak_kb():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

before = peak_kb()
assert packet_duration_s(Path(sys.argv[1]), MediaLimits()) > 0.9
assert sum(frame.samples for frame in decode_sound(Path(sys.argv[1]), MediaLimits())) > 40_000
print(peak_kb() - before)
"""


@pytest.mark.parametrize(("suffix", "codec"), [("mp3", "libmp3lame"), ("flac", "flac"), ("mp4", "aac")])
def test_cover_pictures_are_never_decoded(tmp_path: Path, suffix: str, codec: str) -> None:
    """Two covers of 8000 x 8000 pixels are 384 MB when decoded, and less than 1 MB in the file."""
    path = clips.make_song_with_covers(tmp_path / f"song.{suffix}", codec, side=8000)
    assert path.stat().st_size < 1e6
    with av.open(str(path)) as media:
        pictures = [each for each in media.streams.video if each.disposition & Disposition.attached_pic]
        assert len(pictures) == 2
    told = subprocess.run([sys.executable, "-c", LOOK_AT_SPEECH, str(path)], check=True, capture_output=True, text=True)
    assert int(told.stdout) < 100_000, "kilobytes more than before"


def test_a_cover_picture_is_no_packet_of_the_video(tmp_path: Path) -> None:
    """The demuxer itself leaves it out: FFmpeg puts it before the first packet again after each seek."""
    path = clips.make_song_with_covers(tmp_path / "song.mp4", "aac", side=200)
    with open_container(path, LIMITS) as media:
        media.container.seek(0)
        assert {packet.stream.type for packet in media.container.demux() if packet.size} == {"audio"}
    with pytest.raises(NoVideoStreamError):
        open_video(path, LIMITS)


@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.mkv", "list.wav"])
def test_a_playlist_never_reaches_the_file_it_points_at(tmp_path: Path, name: str) -> None:
    secret = clips.make_silent_video(tmp_path / "secret.mp4")
    for make in (clips.make_playlist, clips.make_concat_list):
        with pytest.raises(UnsupportedContainerError, match="playlist"):
            open_container(make(tmp_path / name, secret), LIMITS)


@pytest.mark.parametrize(("demuxer", "make"), [("hls", clips.make_playlist), ("concat", clips.make_concat_list)])
def test_even_a_playlist_demuxer_would_get_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demuxer: str, make: object
) -> None:
    """The second line of defence: were such a demuxer ever forced, its nested files stay closed."""
    secret = clips.make_silent_video(tmp_path / "secret.mp4")
    path = make(tmp_path / "list.mp4", secret)
    monkeypatch.setattr(container, "sniff_kind", lambda _: ContainerKind(demuxer, demuxer, "", "video"))
    with pytest.raises((InputError, PermissionError)):
        read_all(path)
    with av.open(str(path), format=demuxer, options={"allowed_extensions": "ALL", "safe": "0"}) as unguarded:
        assert unguarded.streams.video, "the playlist itself works, so it was the guard that refused"


def test_pictures_in_another_file_are_never_read(tmp_path: Path) -> None:
    """The index names a QuickTime alias; FFmpeg would follow it if it were asked to."""
    target, path = tmp_path / "secret.mp4", tmp_path / "clip.mp4"
    target.write_bytes(videos()["mp4"])
    content = bytearray(outside_data(alias(target)))
    at = content.index(b"mdat")
    content[at + 4 : content.index(b"moov") - 4] = bytes(content.index(b"moov") - at - 8)
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_all(path)
    asked = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(path), options=asked) as unguarded:
        assert list(unguarded.decode(video=0)), "the alias itself works, so it was the guard that refused"


def test_the_name_never_decides(tmp_path: Path) -> None:
    video = clips.make_silent_video(tmp_path / "clip.mp4")
    disguised = Path(shutil.copy(video, tmp_path / "face.png"))
    assert not open_video(disguised, LIMITS).info.is_still
    picture = clips.make_png(tmp_path / "face.mp4", clips.gradient_rgb(0, 64, 48))
    assert open_video(picture, LIMITS).info.is_still


def test_too_many_streams_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TooManyStreamsError, match="20 streams"):
        open_container(clips.make_many_streams(tmp_path / "many.mkv"), LIMITS)


def test_length_pictures_and_rate_are_capped_before_decoding(tmp_path: Path) -> None:
    path = clips.make_video(tmp_path / "clip.mp4", frames=30)
    with pytest.raises(MediaTooLongError, match="1 s"):
        open_video(path, MediaLimits(max_video_s=1.0))
    with pytest.raises(MediaTooLongError, match="pictures"):
        open_video(path, MediaLimits(max_frames=29))
    with pytest.raises(MediaTooLongError, match="a second"):
        open_video(path, MediaLimits(max_fps=24))
    matroska = clips.make_video(tmp_path / "clip.mkv", frames=30)
    with pytest.raises(MediaTooLongError, match="pictures"):
        open_video(matroska, MediaLimits(max_frames=29))
    with pytest.raises(MediaTooLongError):
        open_video(matroska, MediaLimits(max_video_s=1.0))


@pytest.mark.parametrize("cut", [1, 4, 11, 30, 200, 900])
@pytest.mark.parametrize("kind", ["mp4", "mkv", "png", "jpg", "webp", "wav", "avi"])
def test_a_file_cut_anywhere_gives_a_named_error_or_works(tmp_path: Path, kind: str, cut: int) -> None:
    pixels = clips.gradient_rgb(0, 64, 48)
    make = {
        "png": lambda path: clips.make_png(path, pixels),
        "jpg": lambda path: clips.make_jpeg(path, pixels),
        "webp": lambda path: clips.make_webp(path, pixels),
        "wav": clips.make_wav,
        "avi": lambda path: clips.make_video(path, frames=5, codec="mpeg4"),
    }.get(kind, lambda path: clips.make_video(path, frames=5))
    path = make(tmp_path / f"clip.{kind}")
    path.write_bytes(path.read_bytes()[:cut])
    outcome = None
    try:
        outcome = len(read_all(path))
    except InputError as error:
        outcome = error.message
    assert outcome
    assert str(tmp_path) not in str(outcome)


def test_random_damage_never_leaks_a_foreign_exception(tmp_path: Path) -> None:
    source = clips.make_video(tmp_path / "clip.mp4", frames=12, speech_s=0.5).read_bytes()
    rng = np.random.default_rng(7)
    outcomes = set()
    for trial in range(60):
        data = bytearray(source)
        for place in rng.integers(0, len(data), 12):
            data[place] = rng.integers(0, 256)
        path = tmp_path / f"damaged{trial}.mp4"
        path.write_bytes(data)
        try:
            video = open_video(path, LIMITS)
            assert len(list(video.frames())) == video.info.frame_count
            outcomes.add("read")
        except InputError as error:
            outcomes.add(error.code)
    assert "read" in outcomes


def test_sniffing_knows_the_allow_list_and_nothing_else() -> None:
    assert sniff_kind(b"\x00\x00\x00\x18ftypqt  ").name == "mov"
    assert sniff_kind(b"\x00\x00\x00\x18ftypM4A ").name == "m4a"
    assert sniff_kind(b"\xff\xfb\x90\x00" + bytes(10)).name == "mp3"
    for head in (
        b"\xff\xff\xff\xff",
        b"MZ\x90\x00",
        b"%PDF-1.7",
        b"PK\x03\x04",
        b"RIFF\0\0\0\0ABCD",
        b"\0" * 64,
        b"\xff",
    ):
        with pytest.raises(UnsupportedContainerError):
            sniff_kind(head)
    assert sniff_kind(b"\x00\x00\x00\x18ftypheic").name == "heic"
    with pytest.raises(UnsupportedContainerError, match="archive"):
        sniff_kind(b"PK\x03\x04")


def test_damaged_exif_means_upright() -> None:
    for exif in (
        b"",
        b"Exif\0\0",
        b"Exif\0\0MM\0*",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
    ):
        assert exif_orientation(exif) == 1
