"""Mouth classes of speech with known phones, of what is not speech, and with a transcript."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from retalking_core.audio.phones import VISEME_LETTERS
from retalking_core.audio.transcript import TranscriptMismatchError, align_transcript
from retalking_core.audio.visemes import (
    Viseme,
    VisemeTrack,
    band_levels,
    bilabial_holds,
    recognize_visemes,
    run_network,
)
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.speech import load_waveform
from retalking_core.types import Waveform
from tests.audio.spoken import TEXT, read_spoken

BILABIALS, LABIODENTALS = ("p", "b", "m"), ("f", "v")
OTHERS = ("dh", "t", "d", "n", "z", "s", "l", "k", "r", "sh")
MEDIA = Path(os.environ.get("RETALKING_MEDIA_DIR", Path(__file__).parents[3] / "shared" / "media"))
RNG = np.random.default_rng(5)


def found_in(track: VisemeTrack, viseme: Viseme, phones: Sequence[tuple[str, float, float]]) -> list[bool]:
    posteriors = track.posteriors[:, viseme]
    return [bool((posteriors[round(100 * a) : round(100 * b)] > 0.5).any()) for _, a, b in phones]


def of(names: Sequence[str]) -> list[tuple[str, float, float]]:
    return [phone for phone in read_spoken()[1] if phone[0] in names]


def test_closed_lips_are_found_and_not_elsewhere() -> None:
    """docs/visemes.md has the shares over many sentences; this one holds what was reached for its ten bilabials."""
    track = recognize_visemes(read_spoken()[0])
    assert np.mean(found_in(track, Viseme.BILABIAL, of(BILABIALS))) >= 0.9
    # Two of thirteen: an n, and a frame of the z before a b.
    assert np.sum(found_in(track, Viseme.BILABIAL, of(OTHERS))) <= 2
    assert all(found_in(track, Viseme.LABIODENTAL, of(LABIODENTALS)))


def test_the_tongue_is_heard_in_th_and_l_and_not_in_other_dentals() -> None:
    """docs/visemes.md has the shares over many sentences."""
    tongue = recognize_visemes(read_spoken()[0]).tongue
    heard, other = (
        [tongue[round(100 * a) : round(100 * b)].max() > 0.4 for _, a, b in of(names)]
        for names in (("th", "dh", "l"), ("t", "d", "n", "s", "z", *BILABIALS, *LABIODENTALS))
    )
    assert np.mean(heard) >= 0.7
    assert np.mean(other) <= 0.15


@pytest.mark.parametrize("gain", [0.01, 0.1, 2.0])
def test_level_does_not_matter(gain: float) -> None:
    speech, _ = read_spoken()
    plain, other = recognize_visemes(speech), recognize_visemes(Waveform(speech.samples * np.float32(gain)))
    assert (plain.posteriors.argmax(1) == other.posteriors.argmax(1)).mean() > 0.95


def test_noise_and_a_telephone_leave_most_closures_and_add_none() -> None:
    speech, _ = read_spoken()
    noisy = speech.samples + RNG.normal(0, 0.1 * speech.samples.std(), len(speech.samples)).astype(np.float32)
    spectrum, hz = np.fft.rfft(speech.samples), np.fft.rfftfreq(len(speech.samples), 1 / 16_000)
    narrow = np.fft.irfft(np.where((hz > 300) & (hz < 3400), spectrum, 0), len(speech.samples)).astype(np.float32)
    in_noise, on_telephone = recognize_visemes(Waveform(noisy)), recognize_visemes(Waveform(narrow))
    for track in (in_noise, on_telephone):
        assert np.mean(found_in(track, Viseme.BILABIAL, of(OTHERS))) <= 0.2
    assert np.mean(found_in(in_noise, Viseme.BILABIAL, of(BILABIALS))) >= 0.5
    assert np.mean(found_in(on_telephone, Viseme.BILABIAL, of(BILABIALS))) >= 0.7


def test_rows_are_probabilities_of_hundredths_of_seconds() -> None:
    speech, _ = read_spoken()
    for count in (1, 159, 160, 161, 16_001):
        track = recognize_visemes(Waveform(speech.samples[20_000 : 20_000 + count]))
        assert track.posteriors.shape == (-(-count // 160), len(Viseme))
        assert track.posteriors.sum(1) == pytest.approx(1, abs=1e-4)
        assert ((track.confidence >= 0) & (track.confidence <= 1)).all()
        assert ((track.tongue >= 0) & (track.tongue <= track.posteriors[:, Viseme.DENTAL])).all()
    assert recognize_visemes(Waveform(np.zeros(0, np.float32))).posteriors.shape == (0, len(Viseme))


def test_a_sound_is_found_at_its_time_anywhere_in_a_long_track() -> None:
    speech, _ = read_spoken()
    quiet = np.zeros(61 * 16_000, np.float32)
    track = recognize_visemes(Waveform(np.concatenate([quiet, speech.samples, quiet])))
    alone = recognize_visemes(speech)
    inside = track.posteriors[6100 : 6100 + len(alone.posteriors)]
    assert (inside.argmax(1) == alone.posteriors.argmax(1)).mean() > 0.9
    assert (track.posteriors[:6000, Viseme.SILENCE] > 0.5).all()


def test_speech_that_was_heard_before_changes_nothing() -> None:
    speech, _ = read_spoken()
    first = recognize_visemes(speech)
    recognize_visemes(Waveform(unvoiced()["brown noise"]))
    again = recognize_visemes(speech)
    assert again is not first
    assert np.array_equal(again.posteriors, first.posteriors)
    assert recognize_visemes(speech) is again, "asked twice"


def test_without_pocketsphinx_the_network_hears_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    speech, _ = read_spoken()
    both = recognize_visemes(speech)
    monkeypatch.setattr("retalking_core.audio.phones.find_spec", lambda _: None)
    recognize_visemes(Waveform(speech.samples[:16_000]))  # its answer is kept instead
    alone = recognize_visemes(speech)
    assert np.array_equal(alone.posteriors, run_network(band_levels(speech))[0])
    # PocketSphinx makes the network surer of these sounds.
    sureness = []
    for track in (alone, both):
        peaks = [track.posteriors[round(100 * a) : round(100 * b), Viseme.BILABIAL].max() for _, a, b in of(BILABIALS)]
        sureness.append(np.mean(peaks))
    assert sureness[1] > sureness[0]


@pytest.mark.skipif(find_spec("pocketsphinx") is None, reason="PocketSphinx is not installed: no long decoding")
def test_long_speech_reports_every_twenty_seconds_and_can_be_stopped() -> None:
    speech, _ = read_spoken()
    long = Waveform(np.concatenate([speech.samples, np.zeros(125 * 16_000, np.float32)]))
    shares: list[float] = []
    recognize_visemes(long, report=shares.append)
    assert np.diff([0, *shares]).max() * long.duration_s <= 20.01
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)

    def stop(share: float) -> None:
        raise InterruptedError(share)

    with pytest.raises(InterruptedError):
        recognize_visemes(Waveform(long.samples[160:]), report=stop)
    assert recognize_visemes(speech).posteriors.any(), "the decoder serves the next caller"


def test_every_class_has_its_letter() -> None:
    assert len(set(VISEME_LETTERS)) == len(VISEME_LETTERS) == len(Viseme)


def test_the_rate_is_checked() -> None:
    with pytest.raises(ValueError, match="16000"):
        band_levels(Waveform(np.zeros(800, np.float32), 8000))


def music(seconds: float) -> np.ndarray:
    """Plucked chords with a bass, no voice."""
    times_s = np.arange(int(16_000 * seconds)) / 16_000
    sound = np.zeros(len(times_s))
    for k, start_s in enumerate(np.arange(0, seconds, 0.4)):
        after_s = np.clip(times_s - start_s, 0, None)
        for hz in (110 * 2 ** ((k % 4) * 2 / 12), 220, 277, 330):
            envelope = (times_s >= start_s) * np.exp(-4 * after_s)
            sound += sum(envelope * np.sin(2 * np.pi * hz * h * after_s) / h for h in range(1, 8))
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def unvoiced() -> dict[str, np.ndarray]:
    white = RNG.normal(0, 1, 48_000)
    return {
        "digital silence": np.zeros(48_000, np.float32),
        "hum of a microphone": (1e-4 * white).astype(np.float32),
        "white noise": (0.1 * white).astype(np.float32),
        "brown noise": (0.02 * np.convolve(white, np.exp(-np.arange(400) / 80), mode="same")).astype(np.float32),
        "music": music(3.0),
        "a tone": (0.2 * np.sin(2 * np.pi * 440 * np.arange(48_000) / 16_000)).astype(np.float32),
    }


@pytest.mark.parametrize("name", list(unvoiced()))
def test_what_is_not_speech_keeps_the_mouth_closed(name: str) -> None:
    track = recognize_visemes(Waveform(unvoiced()[name]))
    closed = (track.posteriors[:, Viseme.SILENCE] > 0.5) | (track.confidence < 0.5)
    assert closed.mean() > 0.9
    assert len(bilabial_holds(track)) <= 1


@pytest.mark.media
@pytest.mark.skipif(not MEDIA.is_dir(), reason=f"no shared clips at {MEDIA}")
def test_real_speech_closes_its_bilabials() -> None:
    """ "... to be discontinued and need to be replaced by new benchmark rates": five b and p."""
    track = recognize_visemes(load_waveform(MEDIA / "1.wav", DEFAULT_LIMITS))
    assert len(bilabial_holds(track)) >= 5


def test_a_transcript_finds_more_of_the_bilabials() -> None:
    """Of those that are doubtful: the network alone leaves out none here, so closures are made less probable."""
    posteriors, shown = run_network(band_levels(read_spoken()[0]))
    posteriors[:, Viseme.BILABIAL] *= 0.03
    posteriors /= posteriors.sum(1, keepdims=True)
    sure = np.ones(len(posteriors), np.float32)
    spelled_posteriors, _ = align_transcript(TEXT, posteriors, shown)
    heard, spelled = (VisemeTrack(each, sure, shown) for each in (posteriors, spelled_posteriors))
    assert recognize_visemes(read_spoken()[0], TEXT).notes == ()
    assert spelled.posteriors.sum(1) == pytest.approx(1, abs=1e-4)
    before, after = (np.mean(found_in(track, Viseme.BILABIAL, of(BILABIALS))) for track in (heard, spelled))
    assert after >= before + 0.15
    others = [np.mean(found_in(track, Viseme.BILABIAL, of(OTHERS))) for track in (heard, spelled)]
    assert others[1] <= others[0]


@pytest.mark.parametrize(
    ("transcript", "reason"),
    [
        ("It is easy to see the sea if the trees keep their leaves thin and the kings are sleeping.", "match"),
        ("这是一个句子", "script"),
        ("Пусть всегда будет солнце, сказал седой кузнец, и встал.", "match"),
        ("word " * 900, "longer"),
    ],
)
def test_a_transcript_that_does_not_fit_is_noted_and_left_out(transcript: str, reason: str) -> None:
    speech, _ = read_spoken()
    track = recognize_visemes(speech, transcript)
    assert [note.code for note in track.notes] == ["transcript_unused"]
    assert reason in track.notes[0].sentence
    assert np.array_equal(track.posteriors, recognize_visemes(speech).posteriors)


def test_alignment_spells_other_alphabets() -> None:
    """Posteriors of a perfect ear, flattened; the letters bring the bilabials back."""
    classes = [0] * 10 + [1] * 8 + [8] * 12 + [1] * 8 + [8] * 12 + [3] * 8 + [5] * 12 + [0] * 10
    blurred = np.full((len(classes), 9), 0.05, np.float32)
    blurred[np.arange(len(classes)), classes] = 0.35
    blurred[:, Viseme.DENTAL] += 0.25
    blurred /= blurred.sum(1, keepdims=True)
    unknown = np.full(len(classes), 0.5, np.float32)
    for text in ("mama tu", "мама ту", "μπάμπα του", "मामा तू", "ぱぱ とう"):
        aligned, _ = align_transcript(text, blurred, unknown)
        pressed = aligned[:, Viseme.BILABIAL] > 0.5
        assert pressed[11:17].all(), text
        assert pressed[31:37].all(), text
        assert not pressed[50:58].any(), text
    with pytest.raises(TranscriptMismatchError):
        align_transcript("mama tu " * 40, blurred, unknown)


@pytest.mark.parametrize(
    ("text", "shows"),
    [
        *((text, True) for text in ("mala", "matha", "мала", "μαθα", "μαδα", "माला")),
        *((text, False) for text in ("mana", "mata", "masa", "мата", "μανα", "माना")),
    ],
)
def test_letters_tell_which_dentals_show_the_tongue(text: str, shows: bool) -> None:
    """A dental of which the ear cannot tell; other sounds are left as they are."""
    classes = np.repeat([0, 1, 8, 3, 8, 0], [10, 8, 12, 10, 12, 10])
    heard = np.full((len(classes), 9), 0.02, np.float32)
    heard[np.arange(len(classes)), classes] = 0.84
    _, shown = align_transcript(text, heard, np.full(len(classes), 0.5, np.float32))
    assert ((shown[31:39] > 0.7) if shows else (shown[31:39] < 0.3)).all()
    assert (shown[11:17] == 0.5).all()
