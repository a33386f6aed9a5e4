"""Visemes: which shape the mouth takes for each sound of speech.

A viseme is a class of phones that look alike on the lips (Fisher 1968, "Confusions among visually perceived
consonants"). Times are on the clock of the speech. A small convolutional network recognizes them in any language, and
PocketSphinx (`phones`) in English; docs/visemes.md explains how both are weighed, and what they were compared with.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retalking_core.audio.mel import FFT_SIZE, RATE_HZ, mel_basis
from retalking_core.audio.phones import Report, Viseme, ignore_share, phone_visemes
from retalking_core.audio.transcript import TranscriptMismatchError, align_transcript
from retalking_core.notes import Note
from retalking_core.numerics import tiled_matmul
from retalking_core.types import Waveform

VISEME_RATE_HZ = 100.0
BANDS = 40
_HOP, _WINDOW = 160, 400
# Speech is heard this far below its loud parts; below lie a microphone's noise and digital silence.
RANGE_DB, ACTIVE_DB, SCALE_DB = 60.0, 25.0, 15.0
# Loudest band of a track without any speech. White noise of -60 dB full scale peaks at -43, speech at 0 to 10.
SILENCE_LEVEL_DB = -38.0
# A shorter stretch of bilabial frames is more often a mistake than a sound.
SHORTEST_HOLD = 3
_BLOCK_FRAMES = 6000
# Mean of the likeliest class: 0.8 in clear speech, 0.5 in music.
CONFIDENCE_FRAMES, GUESSED, SURE = 11, 0.4, 0.8
_last_answer: dict[tuple[bytes, int, str], VisemeTrack] = {}
NETWORK_FILE = Path(__file__).with_name("visemes.npz")
# From an agreement of network and phones to the share of frames in which the phones count as right.
AGREEMENT, PHONES_RIGHT = (0.15, 0.45), (0.0, 0.6)
# Lengths of vocal tracts that are tried, the usual one first, and on how much speech.
WARPS, _TRIAL_FRAMES = (1.0, 0.87, 0.93, 1.08, 1.16), 2000


@dataclass(frozen=True)
class VisemeTrack:
    """Visemes of one speech track.

    posteriors: f32 [T, 9], at `VISEME_RATE_HZ`; row k covers k/100 to (k+1)/100 s and sums to 1. Columns: `Viseme`.
    confidence: f32 [T], 0 (guessed) .. 1 (sure), of the most probable classes around each row.
    tongue: f32 [T], probability of a dental that shows the tongue (θ, ð or l); at most the posterior of DENTAL.
    notes: what became of the transcript, where it was not used.
    """

    posteriors: NDArray[np.float32]
    confidence: NDArray[np.float32]
    tongue: NDArray[np.float32]
    notes: tuple[Note, ...] = ()


def band_levels(speech: Waveform) -> NDArray[np.float32]:
    """Levels of 40 mel bands (Slaney, 55 to 7600 Hz) in dB, f32 [T, 40]; T: hundredths of a second, rounded up.

    Row k is a Hann window of 25 ms around (k + 0.5)/100 s. Raises ValueError when the waveform is not at 16 kHz.
    """
    if speech.rate_hz != RATE_HZ:
        raise ValueError(f"visemes are recognized at {RATE_HZ} Hz, the waveform has {speech.rate_hz}")
    count = -(-len(speech.samples) // _HOP)
    padded = np.pad(speech.samples, ((_WINDOW - _HOP) // 2, _WINDOW + _HOP))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    window, basis = np.hanning(_WINDOW), mel_basis()
    levels = np.empty((count, BANDS), np.float32)
    # In blocks of 60 s: the spectra of ten minutes would take 400 MB.
    for start in range(0, count, _BLOCK_FRAMES):
        stop = min(start + _BLOCK_FRAMES, count)
        spectrum = np.abs(np.fft.rfft(windows[start:stop] * window, FFT_SIZE, axis=1)) ** 2
        power = tiled_matmul(basis, spectrum.T).reshape(BANDS, 2, -1).mean(axis=1)
        levels[start:stop] = 10 * np.log10(power.T + 1e-10)
    return levels


def normalize_levels(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the network sees, f32 [T, 40] in -3..3: each band against its mean over the loud parts of the speech."""
    loudness = levels.max(axis=1)
    # A word in a minute of silence is what the level is about; a click is not.
    loud = max(np.quantile(loudness, 0.95), loudness.max() - 12)
    heard = np.maximum(levels, loud - RANGE_DB)
    mean = heard[loudness > loud - ACTIVE_DB].mean(axis=0)
    return np.clip((heard - mean) / SCALE_DB, -3, 3).astype(np.float32)


@dataclass(frozen=True)
class _Network:
    """layers: kernel [taps, in, out], bias [out] and dilation of each. kernel [160, 9], bias: of the classes. tongue
    [160], tongue_bias: among dentals, of those that show the tongue."""

    layers: list[tuple[NDArray[np.float32], NDArray[np.float32], int]]
    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    tongue: NDArray[np.float32]
    tongue_bias: NDArray[np.float32]


@lru_cache(maxsize=1)
def _network() -> _Network:
    with np.load(NETWORK_FILE, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    dilations = [1, *arrays["dilations"].tolist()]
    layers = [
        (arrays[f"kernel_{k}"] * arrays[f"scale_{k}"], arrays[f"bias_{k}"], dilation)
        for k, dilation in enumerate(dilations)
    ]
    kernel = arrays["kernel_out"][0] * arrays["scale_out"]
    return _Network(layers, kernel, arrays["bias_out"], arrays["kernel_tongue"], arrays["bias_tongue"])


def run_network(levels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Posteriors f32 [T, 9] of levels in dB [T, 40], and the probability f32 [T] that a dental, if it is one, shows the
    tongue.

    The formants are first moved to where the network is surest by vocal tract length normalization (Lee and Rose 1996):
    a small head has its formants higher. Tried on the loudest 20 s.
    """
    begin = 0
    if len(levels) > _TRIAL_FRAMES:
        total = np.cumsum(np.concatenate([[0], levels.max(axis=1)]))
        begin = int((total[_TRIAL_FRAMES:] - total[:-_TRIAL_FRAMES]).argmax())
    trial = levels[begin : begin + _TRIAL_FRAMES]
    sureness = {}
    for factor in WARPS:
        posteriors = _posteriors(hidden_activity(normalize_levels(_warp(trial, factor))))
        sounds = posteriors[:, Viseme.SILENCE] < 0.5
        sureness[factor] = float(posteriors[sounds].max(axis=1).mean()) if sounds.any() else 0.0
    best = max(WARPS, key=lambda factor: sureness[factor])
    hidden = hidden_activity(normalize_levels(_warp(levels, best)))
    network = _network()
    shown = 1 / (1 + np.exp(-(tiled_matmul(hidden, network.tongue[:, None])[:, 0] + network.tongue_bias)))
    return _posteriors(hidden), shown.astype(np.float32)


def _warp(levels: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """Each band takes the level at `factor` times its frequency."""
    basis, hz = mel_basis(), np.arange(FFT_SIZE // 2 + 1) * RATE_HZ / FFT_SIZE
    centers_hz = (basis @ hz / basis.sum(axis=1)).reshape(BANDS, 2).mean(axis=1)
    places = np.interp(factor * centers_hz, centers_hz, np.arange(BANDS))
    below = np.minimum(places.astype(int), BANDS - 2)
    part = (places - below).astype(np.float32)
    return levels[:, below] * (1 - part) + levels[:, below + 1] * part


def hidden_activity(levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalized levels [T, 40] -> what the network's last hidden layer makes of them, f32 [T, 160]."""
    hidden = levels
    for k, layer in enumerate(_network().layers):
        found = np.maximum(_convolve(hidden, *layer), 0)
        hidden = found if k == 0 else hidden + found
    return hidden


def _posteriors(hidden: NDArray[np.float32]) -> NDArray[np.float32]:
    """Hidden activity [T, 160] -> probabilities of the classes [T, 9]."""
    logits = tiled_matmul(hidden, _network().kernel) + _network().bias
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def _convolve(
    values: NDArray[np.float32], kernel: NDArray[np.float32], bias: NDArray[np.float32], dilation: int
) -> NDArray[np.float32]:
    """Centered convolution over time with zeros outside, [T, in] -> [T, out]."""
    count, reach = len(values), dilation * (len(kernel) // 2)
    padded = np.pad(values, ((reach, reach), (0, 0)))
    found = np.broadcast_to(bias, (count, kernel.shape[2])).copy()
    for tap, weights in enumerate(kernel):
        found += tiled_matmul(padded[tap * dilation : tap * dilation + count], weights)
    return found


def recognize_visemes(speech: Waveform, transcript: str = "", report: Report = ignore_share) -> VisemeTrack:
    """Mouth classes of a speech track in any language, at about 1/10 of real time on one core.

    transcript: what is said, in letters that stand for sounds; it makes the classes surer. Where it does not fit the
    speech it is left out, with a note. report: see `phone_visemes`. The last answer is kept: a metric asks again for
    what the engine heard.
    """
    question = (blake2b(speech.samples.tobytes()).digest(), speech.rate_hz, transcript)
    track = _last_answer.get(question)
    if track is None:
        track = _recognize(speech, transcript, report)
        _last_answer.clear()
        _last_answer[question] = track
    return track


def _recognize(speech: Waveform, transcript: str, report: Report) -> VisemeTrack:
    levels = band_levels(speech)
    if not len(levels) or levels.max() < SILENCE_LEVEL_DB:
        return _silence(len(levels))
    posteriors, shown = run_network(levels)
    phones = phone_visemes(speech, report)
    if phones is not None:
        posteriors = _fuse(posteriors, phones)
    notes: tuple[Note, ...] = ()
    if transcript:
        try:
            posteriors, shown = align_transcript(transcript, posteriors, shown)
        except TranscriptMismatchError as error:
            notes = (Note("transcript_unused", f"The transcript was left out: {error}"),)
    return VisemeTrack(posteriors, _confidence(posteriors), posteriors[:, Viseme.DENTAL] * shown, notes)


def _fuse(posteriors: NDArray[np.float32], phones: NDArray[np.float32]) -> NDArray[np.float32]:
    """The network's posteriors, and the phones' visemes as observations that are right as often as both agree on it.

    Agreement is the posterior of the phone's class: 0.5 to 0.7 in English, 0.2 to 0.4 in other languages, and less in
    music. Both [T, 9].
    """
    sounds = posteriors[:, Viseme.SILENCE] < 0.5
    if not sounds.any():
        return posteriors
    agreement = float((posteriors[sounds] * phones[sounds]).sum(axis=1).mean())
    right = float(np.interp(agreement, AGREEMENT, PHONES_RIGHT))
    fused = posteriors * (right * phones + (1 - right) / len(Viseme))
    return (fused / fused.sum(axis=1, keepdims=True)).astype(np.float32)


def _confidence(posteriors: NDArray[np.float32]) -> NDArray[np.float32]:
    """[T, 9] -> [T]: the likeliest class, averaged over `CONFIDENCE_FRAMES` (between two sounds even clear speech is
    unsure), from `GUESSED` to `SURE`."""
    padded = np.pad(posteriors.max(axis=1), CONFIDENCE_FRAMES // 2, mode="edge")
    likeliest = np.lib.stride_tricks.sliding_window_view(padded, CONFIDENCE_FRAMES).mean(axis=1, dtype=np.float32)
    return np.clip((likeliest - GUESSED) / (SURE - GUESSED), 0, 1)


def _silence(count: int) -> VisemeTrack:
    posteriors = np.zeros((count, len(Viseme)), np.float32)
    posteriors[:, Viseme.SILENCE] = 1
    return VisemeTrack(posteriors, np.ones(count, np.float32), np.zeros(count, np.float32))


def bilabial_holds(track: VisemeTrack, least_confidence: float = 0.5) -> list[tuple[float, float]]:
    """Start and end in seconds of each stretch in which the lips are surely shut for p, b or m."""
    pressed = track.posteriors[:, Viseme.BILABIAL] > 0.5
    edges = np.flatnonzero(np.diff(np.concatenate([[False], pressed, [False]]))).reshape(-1, 2)
    return [
        (start / VISEME_RATE_HZ, stop / VISEME_RATE_HZ)
        for start, stop in edges.tolist()
        if stop - start >= SHORTEST_HOLD and track.confidence[start:stop].max() >= least_confidence
    ]
