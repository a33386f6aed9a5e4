"""Speech of any rate and layout becomes the same 16 kHz samples."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from retalking_core.audio.mel import mel_spectrogram
from retalking_core.errors import MediaTooLongError
from retalking_core.media.limits import MediaLimits
from retalking_core.media.speech import load_waveform
from retalking_core.types import Waveform
from tests.media import clips

LIMITS = MediaLimits()


@pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_layout_gives_the_same_tone(tmp_path: Path, rate_hz: int, channels: int) -> None:
    path = clips.make_wav(tmp_path / "speech.wav", 1.0, rate_hz, channels)
    waveform = load_waveform(path, LIMITS)
    level = 30000 / 32768 * (1 if channels == 1 else 0.9)
    expected = clips.make_tone(16000, 16000)[:, 0] * level
    assert waveform.rate_hz == 16000
    assert waveform.samples.dtype == np.float32
    assert waveform.samples.shape == (16000,)
    inner = slice(200, -200)
    assert np.abs(waveform.samples[inner] - expected[inner]).max() < 2e-3


def test_the_length_is_rounded_up(tmp_path: Path) -> None:
    path = clips.make_wav(tmp_path / "speech.wav", 10001 / 44100, 44100)
    assert len(load_waveform(path, LIMITS).samples) == int(np.ceil(10001 * 16000 / 44100))


def test_what_lies_above_the_band_does_not_fold_back(tmp_path: Path) -> None:
    t = np.arange(48000) / 48000
    path = clips.make_float_wav(tmp_path / "speech.wav", (0.5 * np.sin(2 * np.pi * 9000 * t)).astype(np.float32), 48000)
    assert np.abs(load_waveform(path, LIMITS).samples[300:-300]).max() < 2e-3


@pytest.mark.parametrize("channels", [3, 4, 5, 6, 8])
def test_many_channels_are_mixed_without_clipping(tmp_path: Path, channels: int) -> None:
    waveform = load_waveform(clips.make_wav(tmp_path / "speech.wav", 0.5, 48000, channels), LIMITS)
    assert 0.05 < np.abs(waveform.samples).max() < 1.0


def test_the_cap_holds_while_decoding(tmp_path: Path) -> None:
    """A WAV whose header claims to be a stream of unknown length."""
    path = clips.make_wav(tmp_path / "speech.wav", 3.0)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(MediaTooLongError):
        load_waveform(path, MediaLimits(max_audio_s=2.0))


@pytest.mark.golden
@pytest.mark.media
def test_the_shared_speech_is_near_the_reference() -> None:
    """Another resampler: the references differ among themselves by 0.012 (wave) and 0.0062 (mean mel)."""
    shared = Path(__file__).resolve().parents[3] / "shared"
    golden = Path(os.environ.get("RETALKING_GOLDEN_DIR", shared / "golden")) / "pipeline" / "01_audio.npz"
    speech = Path(os.environ.get("RETALKING_MEDIA_DIR", shared / "media")) / "1.wav"
    if not (golden.is_file() and speech.is_file()):
        pytest.skip(f"no golden vectors at {golden} or no clip at {speech}")
    reference = np.load(golden)
    waveform = load_waveform(speech, LIMITS)
    samples, stored = waveform.samples, reference["media_wav16k"]
    assert len(samples) == math.ceil(int(reference["media_src_len"]) * 16_000 / int(reference["media_src_rate"]))
    # Resamplers differ by a sample in how they round the length.
    assert abs(len(samples) - len(stored)) <= 1
    count = min(len(samples), len(stored))
    assert np.abs(samples[:count] - stored[:count]).max() < 0.012
    own, mel = mel_spectrogram(Waveform(samples)), reference["media_mel"]
    columns = min(own.shape[1], mel.shape[1])
    assert np.abs(own[:, :columns] - mel[:, :columns]).mean() < 0.0062
