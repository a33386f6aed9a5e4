"""Speech of any kind is decoded, or refused by name."""

from __future__ import annotations

import struct
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from retalking_core.errors import (
    AudioEmptyError,
    AudioInvalidError,
    CodecUnsupportedError,
    EmptyFileError,
    InputError,
    MediaTooLongError,
    MediaUnreadableError,
    NoAudioStreamError,
    UnsupportedContainerError,
)
from retalking_core.media.limits import MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.speech import load_waveform, read_speech
from tests.media import clips

LIMITS = MediaLimits()


def make_nan_wav(path: Path) -> Path:
    samples = np.zeros(16000, np.float32)
    samples[12345] = np.nan
    return clips.make_float_wav(path, samples)


def make_deafening_wav(path: Path) -> Path:
    """Finite, until a resampler adds them up."""
    return clips.make_float_wav(path, np.full(16000, 3e38, np.float32))


def make_64_bit_wav(path: Path) -> Path:
    form = struct.pack("<HHIIHH", 1, 1, 16000, 128000, 8, 64)
    path.write_bytes(b"RIFF\x24\x7d\0\0WAVEfmt \x10\0\0\0" + form + b"data\0\x7d\0\0" + bytes(32000))
    return path


def make_photo(path: Path) -> Path:
    return clips.make_png(path, clips.gradient_rgb(0, 64, 48))


@pytest.mark.parametrize(
    ("name", "make", "error"),
    [
        ("speech.mp4", clips.make_silent_video, NoAudioStreamError),
        ("speech.wav", make_photo, NoAudioStreamError),
        ("speech.wav", clips.make_empty, EmptyFileError),
        ("speech.wav", clips.make_text, UnsupportedContainerError),
        ("speech.wav", clips.make_empty_wav, AudioEmptyError),
        ("speech.wav", lambda path: clips.make_wav(path, seconds=0.015), AudioEmptyError),
        ("speech.wav", make_nan_wav, AudioInvalidError),
        ("speech.wav", make_deafening_wav, AudioInvalidError),
        ("speech.wav", make_64_bit_wav, CodecUnsupportedError),
        ("speech.wav", lambda path: clips.make_wav(path, channels=9), CodecUnsupportedError),
        ("speech.wav", clips.make_long_wav, MediaTooLongError),
        ("speech.mp4", clips.make_truncated_mp4, MediaUnreadableError),
    ],
)
def test_bad_speech_is_named(tmp_path: Path, name: str, make: object, error: type[InputError]) -> None:
    path = make(tmp_path / name)
    with pytest.raises(error) as caught:
        read_speech(path, LIMITS)
    assert str(tmp_path) not in caught.value.message


def test_a_lying_header_does_not_get_past_the_cap(tmp_path: Path) -> None:
    """A FLAC that claims one second and holds four."""
    path = clips.make_speech(tmp_path / "speech.flac", "flac", seconds=4.0)
    data = bytearray(path.read_bytes())
    # STREAMINFO: 36 bits of sample count end at byte 26 of the file; the claim becomes 44100.
    data[21] &= 0xF0
    data[22:26] = (44100).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(MediaTooLongError):
        read_speech(path, MediaLimits(max_audio_s=2.0))


@pytest.mark.parametrize(
    ("name", "codec", "rate_hz", "layout"),
    [
        ("speech.mp3", "libmp3lame", 44100, "stereo"),
        ("speech.mp3", "libmp3lame", 16000, "mono"),
        ("speech.m4a", "aac", 48000, "5.1"),
        ("speech.flac", "flac", 96000, "stereo"),
        ("speech.ogg", "libopus", 48000, "mono"),
        ("speech.webm", "libopus", 48000, "stereo"),
        ("speech.mov", "aac", 8000, "mono"),
        ("speech.mkv", "aac", 22050, "stereo"),
    ],
)
def test_speech_of_every_container(
    tmp_path: Path, opened: ExitStack, name: str, codec: str, rate_hz: int, layout: str
) -> None:
    path = clips.make_speech(tmp_path / name, codec, 1.5, rate_hz, layout)
    speech = opened.enter_context(read_speech(path, LIMITS))
    waveform = speech.waveform
    assert speech.track is not None
    assert speech.track.rate_hz == rate_hz
    assert speech.track.channels == {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    # Lossy codecs frame by 1024 to 1152 samples and may keep the rest of the last frame.
    assert waveform.duration_s == pytest.approx(1.5, abs=2600 / rate_hz)
    assert 0.1 < np.abs(waveform.samples).max() < 1.0


def test_speech_is_taken_from_a_video(tmp_path: Path, opened: ExitStack) -> None:
    path = clips.make_video(tmp_path / "clip.mp4", frames=10, speech_s=1.0)
    speech = opened.enter_context(read_speech(path, LIMITS))
    assert speech.track is not None
    assert speech.track.codec == "aac"
    assert speech.duration_s == pytest.approx(1.0, abs=0.05)
    assert open_video(path, LIMITS).info.frame_count == 10


def test_damaged_packets_of_speech_are_survived_up_to_half(tmp_path: Path) -> None:
    path = clips.make_speech(tmp_path / "speech.flac", "flac", seconds=4.0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(data)
    assert load_waveform(path, LIMITS).duration_s > 2.0
