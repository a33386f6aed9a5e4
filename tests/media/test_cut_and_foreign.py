"""Files that were cut on their way, and codings that only some players understand."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from retalking_core.errors import AudioInvalidError, CodecUnsupportedError, MediaUnreadableError
from retalking_core.media.limits import MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.speech import read_speech
from tests.faults.hostile_headers import wav
from tests.media import clips
from tests.media.corpus import Sound, utterance, write_file

LIMITS = MediaLimits()
SPOKEN = utterance(3.0, 48_000)
FASTSTART = {"movflags": "faststart"}


def write_sound(path: Path, codec: str, **options: str) -> Path:
    return write_file(path, [Sound(SPOKEN[None], codec=codec)], options=options)


WHOLE: dict[str, Callable[[Path], Path]] = {
    "WAV": lambda d: write_sound(d / "a.wav", "pcm_s16le"),
    "AIFF": lambda d: write_sound(d / "a.aiff", "pcm_s16be"),
    "FLAC": lambda d: write_sound(d / "a.flac", "flac"),
    "MP3": lambda d: write_sound(d / "a.mp3", "libmp3lame"),
    "M4A": lambda d: write_sound(d / "a.m4a", "aac", **FASTSTART),
    "MOV": lambda d: write_sound(d / "a.mov", "pcm_s16le", **FASTSTART),
    "Matroska": lambda d: write_sound(d / "a.mka", "libopus"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_sound_that_ends_early_is_noted(name: str, tmp_path: Path) -> None:
    """Accepted, since a header may be wrong: what is there is used, and the caller learns what is missing."""
    path = WHOLE[name](tmp_path)
    with read_speech(path, LIMITS) as speech:
        assert [note.code for note in speech.notes] == []
        assert speech.duration_s == pytest.approx(3.0, abs=0.05)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with read_speech(path, LIMITS) as speech:
        (note,) = speech.notes
        assert speech.duration_s < 2.0
        assert note.code == "audio_ends_early"
        stated_s, there_s = (float(word) for word in note.sentence.split() if word[0].isdigit())
    assert stated_s == pytest.approx(3.0, abs=0.1)
    assert there_s == pytest.approx(speech.duration_s, abs=0.02)


@pytest.mark.parametrize("size", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"])
def test_a_wav_of_unknown_length_states_none(size: bytes, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "pipe.wav", "pcm_s16le")
    data = bytearray(path.read_bytes())
    at = data.find(b"data") + 4
    data[4:8] = data[at : at + 4] = size
    path.write_bytes(data[:100_000])
    with read_speech(path, LIMITS) as speech:
        assert [note.code for note in speech.notes] == []


@pytest.mark.parametrize("samples", [10, 10_000])
def test_a_rate_at_which_nothing_is_heard_is_refused(samples: int, tmp_path: Path) -> None:
    path = tmp_path / "broken.wav"
    path.write_bytes(wav(rate=1, body=bytes(2 * samples)))
    with pytest.raises(AudioInvalidError, match="1 samples a second"):
        read_speech(path, LIMITS)


@pytest.mark.parametrize(
    ("codec", "channels", "layout"), [("libopus", 2, "stereo"), ("flac", 1, "mono")], ids=["channels", "codec"]
)
def test_joined_ogg_recordings_that_differ_are_refused_as_such(
    codec: str, channels: int, layout: str, tmp_path: Path
) -> None:
    first = write_sound(tmp_path / "first.ogg", "libopus").read_bytes()
    samples = np.repeat(SPOKEN[None], channels, axis=0)
    second = write_file(tmp_path / "second.ogg", [Sound(samples, codec=codec, layout=layout)]).read_bytes()
    path = tmp_path / "joined.ogg"
    path.write_bytes(first + second)
    with pytest.raises(MediaUnreadableError, match="several Ogg recordings in one file"):
        read_speech(path, LIMITS)


def test_numbers_without_a_picture_in_avi_hold_the_one_before(tmp_path: Path) -> None:
    """As capture programs write dropped frames: an empty chunk. Left out, they would make the video shorter."""
    source, path = clips.make_video(tmp_path / "source.avi", frames=40, codec="mpeg4"), tmp_path / "dropped.avi"
    with av.open(str(source)) as read, av.open(str(path), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                packet.pts = packet.dts = packet.dts + packet.dts // 8
                written.mux(packet)
    info = open_video(path, LIMITS).info
    assert (info.frame_count, info.fps) == (40, 25)
    assert info.duration_s == pytest.approx(44 / 25)
    assert info.frame_times_s[39] == pytest.approx(43 / 25)
    assert len(list(open_video(path, LIMITS).frames())) == 40


def mark_as_dolby_vision(path: Path, tag: bytes, profile: int, compatible: int) -> Path:
    """Put the box `dvcC` or `dvvC` into the sample entry of an MP4 whose index is behind its media."""
    data = bytearray(path.read_bytes())
    at = data.find(b"hvc1", data.find(b"stsd"))
    entry = at - 4
    body = struct.pack(">BBHB", 1, 0, profile << 9 | 1 << 3 | 0b101, compatible << 4) + bytes(19)
    box = struct.pack(">I", 8 + len(body)) + (b"dvcC" if profile < 8 else b"dvvC") + body
    end = entry + int.from_bytes(data[entry:at], "big")
    for start in (entry, *(data.rfind(box_name, 0, entry) - 4 for box_name in ENCLOSING)):
        data[start : start + 4] = (int.from_bytes(data[start : start + 4], "big") + len(box)).to_bytes(4, "big")
    data[at : at + 4] = tag
    data[end:end] = box
    path.write_bytes(data)
    return path


ENCLOSING = (b"stsd", b"stbl", b"minf", b"mdia", b"trak", b"moov")


def hevc(path: Path, parameters: str = "") -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx265", rate=25, options={"x265-params": f"log-level=none:pools=1{parameters}"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        stream.codec_context.codec_tag = "hvc1"
        for number in range(3):
            picture = av.VideoFrame.from_ndarray(clips.gradient_rgb(number, 64, 48), "rgb24")
            picture = picture.reformat(format="yuv420p10le")
            picture.pts = number
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("tag", [b"dvh1", b"dvhe"])
def test_dolby_vision_that_only_its_decoders_show_is_refused(tag: bytes, tmp_path: Path) -> None:
    """Profile 5: its planes are IPT-PQ-c2, green and purple to everyone else."""
    path = mark_as_dolby_vision(hevc(tmp_path / "clip.mp4"), tag, profile=5, compatible=0)
    with pytest.raises(CodecUnsupportedError, match=r"Dolby Vision.*HDR10"):
        open_video(path, LIMITS)


def test_dolby_vision_over_hlg_is_read_as_hlg(tmp_path: Path) -> None:
    """Profile 8.4, as phones record it."""
    clip = hevc(tmp_path / "clip.mp4", ":colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc")
    video = open_video(mark_as_dolby_vision(clip, b"hvc1", profile=8, compatible=4), LIMITS)
    assert len(list(video.frames())) == 3
    assert (video.info.color.primaries, video.info.color.transfer, video.info.color.matrix) == (9, 18, 9)


@pytest.mark.parametrize(("matrix", "name"), [("YCgCo", "YCgCo"), ("ictcp", "ICtCp")])
def test_planes_that_are_no_luma_and_color_difference_are_refused(matrix: str, name: str, tmp_path: Path) -> None:
    path = hevc(tmp_path / "clip.mp4", f":colormatrix={matrix.lower()}")
    with pytest.raises(CodecUnsupportedError, match=f"coded as {name}"):
        open_video(path, LIMITS)
