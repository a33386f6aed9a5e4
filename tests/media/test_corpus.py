"""Every situation of the corpus gives the sound and the timeline that its file means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.signal import correlate

from retalking_core.errors import AudioTrackMissingError
from retalking_core.media.limits import MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.speech import SoundStore, read_speech, speech_loudness
from tests.media.corpus import SITUATIONS, Heard, Samples, Situation

LIMITS = MediaLimits()


def named(situations: list[Situation]) -> dict[str, object]:
    return {"argvalues": situations, "ids": [situation.name for situation in situations]}


def lag_s(found: Samples, expected: Samples) -> tuple[float, float]:
    """Seconds by which `found` is late, and the normalized correlation there."""
    products = correlate(found, expected, mode="full", method="fft")
    at = int(np.argmax(products))
    return (at - len(expected) + 1) / 16_000, float(products[at] / np.linalg.norm(found) / np.linalg.norm(expected))


@pytest.mark.parametrize("situation", **named([each for each in SITUATIONS if each.heard]))
def test_what_is_heard(situation: Situation, tmp_path: Path) -> None:
    heard = situation.heard
    assert isinstance(heard, Heard)
    with read_speech(situation.build(tmp_path), LIMITS, situation.options.get("audio_track")) as speech:
        samples, played_s = speech.waveform.samples, speech.sound.samples / speech.sound.rate_hz
    assert speech.duration_s == pytest.approx(len(heard.samples) / 16_000, abs=0.04)
    assert played_s == pytest.approx(speech.duration_s, abs=0.001)
    late_s, likeness = lag_s(samples, heard.samples)
    assert abs(late_s) <= heard.tolerance_s
    assert likeness > heard.likeness
    assert [note.code for note in speech.notes] == list(heard.notes)
    for start, end in heard.silent_s:
        assert np.abs(samples[round(start * 16_000) : round(end * 16_000)]).max() < 1e-3
    assert speech.track is not None
    assert speech.track.number == heard.track
    level_db = 20 * np.log10(np.sqrt(np.square(samples).mean()))
    assert -40 < level_db < -12, "as loud as speech is recorded"


@pytest.mark.parametrize("situation", **named([each for each in SITUATIONS if each.seen]))
def test_what_is_seen(situation: Situation, tmp_path: Path) -> None:
    info = open_video(situation.build(tmp_path), LIMITS).info
    assert situation.seen is not None
    assert (info.fps, info.frame_count) == (situation.seen.fps, situation.seen.frames)
    assert [note.code for note in info.notes] == list(situation.seen.notes)


@pytest.mark.parametrize("situation", **named([each for each in SITUATIONS if each.refused]))
def test_what_is_refused(situation: Situation, tmp_path: Path) -> None:
    assert situation.refused is not None
    with pytest.raises(situation.refused):
        read_speech(situation.build(tmp_path), LIMITS)


def test_the_center_of_five_channels_keeps_its_level(tmp_path: Path) -> None:
    """ITU-R BS.775: 3 dB less in each of two loudspeakers, together the power of one."""
    (situation,) = (each for each in SITUATIONS if each.name == "speech in the center of 5.1")
    with read_speech(situation.build(tmp_path), LIMITS) as speech:
        played = np.concatenate(list(speech.sound.blocks(48_000)), axis=1)
    assert played.shape[0] == 2
    assert situation.heard is not None
    gain_db = 20 * np.log10(np.sqrt(np.square(played).mean() / np.square(situation.heard.samples).mean()))
    assert gain_db == pytest.approx(-3.01, abs=0.2)


def test_long_sound_lies_on_disk_and_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retalking_core.media.speech._MEMORY_BYTES", 10_000)
    store = SoundStore(48_000, 2)
    samples = np.random.default_rng(0).normal(size=(2, 5000)).astype(np.float32)
    for start in range(0, 5000, 700):
        store.write(samples[:, start : start + 700])
    for _ in range(2):
        assert np.array_equal(np.concatenate(list(store.blocks(999)), axis=1), samples)
    store.close()


def test_steady_noise_is_not_taken_for_quiet_speech() -> None:
    noise = np.random.default_rng(0).normal(scale=1e-3, size=48_000).astype(np.float32)
    assert speech_loudness(noise) is None


def test_a_missing_track_is_named_with_those_there_are(tmp_path: Path) -> None:
    (situation,) = (each for each in SITUATIONS if each.name == "track by language")
    path = situation.build(tmp_path)
    for wanted in ("3", "de"):
        with pytest.raises(AudioTrackMissingError, match=r"1 \(eng\), 2 \(fre|fra\)"):
            read_speech(path, LIMITS, wanted)
