"""The speech, decoded once: samples for the result's sound track, and the waveform that the lips follow.

`SpeechMixer` makes the sound of a result: speeches at their times, and what is kept of the video's own sound under and
between them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.filter import Graph
from numpy.typing import NDArray

from retalking_core.errors import AudioInvalidError
from retalking_core.media.container import reading
from retalking_core.media.limits import MediaLimits
from retalking_core.media.sound import MIN_SPEECH_S, SoundRecord, decode_sound, empty_speech
from retalking_core.notes import Note, Range, join_ranges
from retalking_core.options import SoundOptions
from retalking_core.types import AudioTrack, Waveform

ANALYSIS_RATE_HZ = 16_000
LAYOUTS = {1: "mono", 2: "stereo"}
# A long interpolated filter. Mel distance to a soxr-HQ resampling of the same speech: mean 1e-4, largest 0.034 of 8.
_RESAMPLING = {"filter_size": "128", "phase_shift": "10", "cutoff": "0.97", "linear_interp": "1"}
# Sample rates of AAC (ISO 14496-3, table 1.18).
_AAC_RATES_HZ = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
# PCM of at most 16 bits; the logarithmic ones decode to no more.
_PCM_16_BITS = frozenset({"pcm_s16le", "pcm_s16be", "pcm_u8", "pcm_s8", "pcm_alaw", "pcm_mulaw"})
# Samples stay in memory up to here (3 minutes of stereo at 44.1 kHz) and lie in a temporary file beyond.
_MEMORY_BYTES = 64 * 2**20
# Channels cancel where their mean has less than an eighth of their mean power; without any relation it has half.
_CANCELED, _BLOCK_S, _SMOOTH_BLOCKS = 0.125, 0.1, 10
# Speech is recorded at -16 to -30 LUFS. Below the first bound it is brought to the second, if it is modulated as speech
# is: its loud tenths of a second (98 %) lie so far above the quiet ones (10 %). Noise has 1 to 2 dB there.
_QUIET_LUFS, _TARGET_LUFS, _MODULATION_DB = -38.0, -26.0, 8.0
_SOUND_DB = -66.0
# A mean above this (-46 dB) is a constant offset of a recorder: nobody hears it, but every level would count it.
_DC_OFFSET = 0.005


class SoundStore:
    """Samples f32 [n, channels] at rate_hz, read any number of times by one reader at a time.

    samples: how many. peak: largest absolute value that was stored. gain: factor of everything that is read. pcm_bits:
    16 or 24 where samples of so many bits are to stay as they are in containers that hold PCM.
    """

    def __init__(self, rate_hz: int, channels: int) -> None:
        self.rate_hz, self.channels = rate_hz, channels
        self.samples = 0
        self.peak = 0.0
        self.gain = 1.0
        self.pcm_bits: Literal[16, 24] | None = None
        self._file = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115 closed by `close`

    def write(self, block: NDArray[np.float32]) -> None:
        """block: f32 [channels, k]."""
        self._file.write(block.T.tobytes())
        self.samples += block.shape[1]
        self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))

    def add(self, start: int, block: NDArray[np.float32]) -> None:
        """Mix a block f32 [channels or 1, k] in from sample `start` on; a gap before it is silent."""
        block = np.broadcast_to(block, (self.channels, block.shape[1]))
        self._file.seek(4 * self.channels * start)
        below = np.frombuffer(self._file.read(block.nbytes), np.float32).reshape(-1, self.channels).T
        mixed = block.astype(np.float32)
        mixed[:, : below.shape[1]] += below
        self._file.seek(4 * self.channels * start)
        self._file.write(mixed.T.tobytes())
        self.samples = max(self.samples, start + block.shape[1])
        self.peak = max(self.peak, float(np.abs(mixed).max(initial=0.0)))

    def blocks(self, size: int, start: int = 0) -> Iterator[NDArray[np.float32]]:
        """f32 [channels, <= size] in order from sample `start` on, times `gain`."""
        self._file.seek(4 * self.channels * start)
        while raw := self._file.read(4 * self.channels * size):
            samples = np.frombuffer(raw, np.float32).reshape(-1, self.channels).T
            yield samples * np.float32(self.gain) if self.gain != 1.0 else samples

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class Speech:
    """A decoded speech file; a context manager that owns its samples.

    waveform: what the lips follow. sound: what the result plays, at a rate of AAC, in one or two channels.
    loudness: of the sound in LUFS (`speech_loudness`); None where it is silent or as steady as noise.
    track: where it comes from; None: made, not read. notes: what was filled, chosen or corrected.
    """

    waveform: Waveform
    sound: SoundStore
    loudness: float | None = None
    track: AudioTrack | None = None
    notes: tuple[Note, ...] = ()

    @property
    def duration_s(self) -> float:
        return self.waveform.duration_s

    def __enter__(self) -> Speech:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sound.close()


def sound_format(path: Path, limits: MediaLimits, audio_track: str | None = None) -> tuple[int, int]:
    """Rate in Hz and number of channels that `Speech.sound` of a file has. Raises the errors of `decode_sound`."""
    with closing(decode_sound(path, limits, audio_track)) as frames:
        frame = next(frames, None)
    if frame is None:
        raise empty_speech()
    return nearest_aac_rate(frame.sample_rate), min(2, frame.layout.nb_channels)


def read_speech(path: Path, limits: MediaLimits, audio_track: str | None = None, rate_hz: int | None = None) -> Speech:
    """Decode the speech of a sound or video file, once and to the end. rate_hz: of `sound`; None: its own.

    The result's sound keeps level and channels; more than two are mixed to stereo with the coefficients of ITU-R
    BS.775 (FFmpeg's default), scaled down only where they would clip. Memory: 128 kB a second (77 MB at the default
    cap) and 64 MB; longer sound lies in a temporary file. Raises the errors of `decode_sound`.
    """
    record, pieces, source_s = SoundRecord(), list[NDArray[np.float32]](), 0.0
    store: SoundStore | None = None
    try:
        with reading("speech file"):
            for frame in decode_sound(path, limits, audio_track, record):
                if store is None:
                    channels = min(2, frame.layout.nb_channels)
                    layout = LAYOUTS[channels]
                    store = SoundStore(rate_hz or nearest_aac_rate(frame.sample_rate), channels)
                    played = AudioResampler(format="fltp", layout=layout, rate=store.rate_hz)
                    heard = AudioResampler(format="fltp", layout=layout, rate=ANALYSIS_RATE_HZ, options=_RESAMPLING)
                source_s += frame.samples / frame.sample_rate
                frame.pts = None
                for piece in played.resample(frame):
                    store.write(_samples(piece))
                pieces.extend(map(_samples, heard.resample(frame)))
            if store is None:
                raise empty_speech()
            for piece in played.resample(None):
                store.write(_samples(piece))
            pieces.extend(map(_samples, heard.resample(None)))
        if store.channels == 2 and record.track is not None and record.track.channels > 2:
            store.gain = min(1.0, 1.0 / max(store.peak, 1e-9))
        waveform, loudness, notes = _heard(pieces, int(np.ceil(round(source_s * ANALYSIS_RATE_HZ, 3))))
    except BaseException:
        if store is not None:
            store.close()
        raise
    return Speech(waveform, store, loudness, record.track, (*record.notes(), *notes))


def load_waveform(path: Path, limits: MediaLimits) -> Waveform:
    """The waveform of `read_speech` alone."""
    with read_speech(path, limits) as speech:
        return speech.waveform


def silent_speech(duration_s: float) -> Speech:
    """Silence, for files without sound."""
    samples = np.zeros(max(1, round(duration_s * ANALYSIS_RATE_HZ)), np.float32)
    store = SoundStore(ANALYSIS_RATE_HZ, 1)
    store.write(samples[None])
    return Speech(Waveform(samples), store)


def pcm_bits_of(codec: str) -> Literal[16, 24] | None:
    """Bits that hold every sample of a lossless codec (FFmpeg's name), as far as float32 holds it; None for others."""
    if codec.startswith("pcm_"):
        return 16 if codec in _PCM_16_BITS else 24
    return 24 if codec in ("flac", "alac") else None


def nearest_aac_rate(rate_hz: int) -> int:
    """The rate itself if AAC has it, else the nearest by ratio, the higher of two equally near."""
    return min(_AAC_RATES_HZ, key=lambda legal: abs(np.log(legal / rate_hz)))


def is_audible(speech: Waveform) -> bool:
    """Whether anything is louder than -66 dBFS for a tenth of a second."""
    return bool(block_levels_db(speech.samples).max(initial=-np.inf) > _SOUND_DB)


def _heard(pieces: list[NDArray[np.float32]], wanted: int) -> tuple[Waveform, float | None, list[Note]]:
    """One channel of exactly `wanted` samples at a level at which speech is heard, and how loud it was."""
    channels = np.concatenate(pieces, axis=1)[:, :wanted]
    pieces.clear()
    # The resampler's filter may end a few samples early or late.
    channels = np.pad(channels, ((0, 0), (0, wanted - channels.shape[1]))).astype(np.float32, copy=False)
    if channels.shape[1] < MIN_SPEECH_S * ANALYSIS_RATE_HZ:
        raise empty_speech()
    if not np.isfinite(channels).all():
        raise AudioInvalidError("The speech holds samples that are not numbers (NaN or infinity); export it again.")
    offsets = channels.mean(axis=1, keepdims=True)
    channels -= np.where(np.abs(offsets) > _DC_OFFSET, offsets, np.float32(0))
    samples, canceled_s = mix_channels(channels)
    notes = []
    if canceled_s > 0:
        sentence = f"The channels cancel each other for {canceled_s:.1f} s; there the lips follow the louder one."
        notes.append(Note("audio_out_of_phase", sentence))
    loudness = speech_loudness(samples)
    if loudness is not None and loudness < _QUIET_LUFS:
        samples = samples * np.float32(10 ** ((_TARGET_LUFS - loudness) / 20))
        sentence = f"The speech is very quiet ({loudness:.0f} LUFS); the lips follow an amplified copy of it."
        notes.append(Note("audio_quiet", sentence))
    return Waveform(samples), loudness, notes


def mix_channels(channels: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """f32 [1 or 2, n] at 16 kHz to f32 [n], and the seconds in which the channels cancel.

    The mean of both, but where that cancels (one inverted, ITU-R BS.1770 adds powers and not samples) the louder one.
    """
    if len(channels) == 1:
        return channels[0], 0.0
    mean = channels.mean(axis=0)
    powers = [_block_power(one) for one in (*channels, mean)]
    if not any(power.any() for power in powers[:2]):
        return mean, 0.0
    kernel = np.ones(2 * _SMOOTH_BLOCKS + 1)
    left, right, both = (np.convolve(power, kernel, mode="same") for power in powers)
    canceled = both < _CANCELED * (left + right) / 2
    if not canceled.any():
        return mean, 0.0
    block = round(_BLOCK_S * ANALYSIS_RATE_HZ)
    centers = (np.arange(len(left)) + 0.5) * block
    is_left = left >= right
    mixed = np.zeros_like(mean)
    # Weights change over a tenth of a second, so that no step is heard.
    for channel, is_louder in zip(channels, (is_left, ~is_left), strict=True):
        weights = np.where(canceled, np.where(is_louder, 1.0, 0.0), 0.5)
        mixed += channel * np.interp(np.arange(len(mean)), centers, weights).astype(np.float32)
    heard = np.maximum(powers[0], powers[1]) > 10 ** (_SOUND_DB / 10)
    return mixed, float((canceled & heard).sum() * _BLOCK_S)


def speech_loudness(samples: NDArray[np.float32]) -> float | None:
    """Integrated loudness in LUFS (ITU-R BS.1770-4, FFmpeg's ebur128) of samples at 16 kHz; None where they are silent
    or as steady as noise."""
    levels = block_levels_db(samples)
    if len(levels) == 0 or levels.max() < -90:
        return None
    quiet, loud = np.percentile(levels, (10, 98))
    if loud - quiet < _MODULATION_DB:
        return None
    graph = Graph()
    source = graph.add_abuffer(sample_rate=ANALYSIS_RATE_HZ, format="fltp", layout="mono")
    meter, sink = graph.add("ebur128", "metadata=1:peak=none"), graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    # The gate of BS.1770 is absolute, at -70 LUFS: quiet speech is measured louder and the gain taken off again.
    gain_db = max(0.0, -20.0 - float(loud))
    last = None
    for start in range(0, len(samples), ANALYSIS_RATE_HZ):
        block = samples[None, start : start + ANALYSIS_RATE_HZ] * np.float32(10 ** (gain_db / 20))
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = ANALYSIS_RATE_HZ, start
        graph.push(frame)
        last = _last(graph, last)
    measured = float(last.metadata.get("lavfi.r128.I", "-inf")) if last is not None else -np.inf
    # Nothing was longer than the meter's block of 0.4 s.
    return (measured if measured > -70 else -20.0) - gain_db


def block_levels_db(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean power of each tenth of a second in dB of full scale."""
    return 10 * np.log10(_block_power(samples) + 1e-12)


def _block_power(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    block = round(_BLOCK_S * ANALYSIS_RATE_HZ)
    padded = np.pad(samples, (0, -len(samples) % block))
    power: NDArray[np.float64] = np.square(padded.reshape(-1, block)).mean(axis=1, dtype=np.float64)
    return power


def _samples(frame: AudioFrame) -> NDArray[np.float32]:
    """f32 [channels, n] of a frame in planar float."""
    return frame.to_ndarray().astype(np.float32, copy=False)


def _last(graph: Graph, last: AudioFrame | None) -> AudioFrame | None:
    while True:
        try:
            pulled = graph.pull()
            last = pulled if isinstance(pulled, AudioFrame) else last
        except (av.error.BlockingIOError, av.error.EOFError):
            return last


# In which the video's own sound goes and comes back, always while somebody speaks: outside it keeps every bit.
CROSSFADE_S = 0.02
# Loudness of a speech is brought to that of the video's own sound, but by no more than this.
MOST_GAIN_DB = 15.0
# Speeches that would clip together with the sound under them are lowered by no more than 6 dB.
LEAST_GAIN = 0.5


class SpeechMixer:
    """Adds up speeches; `finish` lays the video's own sound under them.

    sound: the speeches so far, which the caller closes.
    """

    def __init__(self, rate_hz: int, channels: int) -> None:
        self.sound = SoundStore(rate_hz, channels)
        self._loudest = 0.0

    def place(self, speech: SoundStore, start_s: float, end_s: float, offset_s: float, gain_db: float = 0.0) -> None:
        """The speech from `offset_s` on, from start_s to end_s of the result, or to its end.

        Its first sample lies within half a sample of start_s. A speech that begins or ends in its midst is faded over
        20 ms there. gain_db: less where it would clip.
        """
        first, skipped = self._sample(start_s), self._sample(offset_s)
        rest = max(0, speech.samples - skipped)
        count = rest if np.isinf(end_s) else min(rest, self._sample(end_s) - first)
        gain = 1.0 if gain_db == 0 else min(10 ** (gain_db / 20), max(1.0, 1.0 / max(speech.peak, 1e-9)))
        self._loudest = max(self._loudest, gain * speech.gain * speech.peak)
        done = 0
        for piece in speech.blocks(self.sound.rate_hz, start=skipped):
            block = piece[:, : count - done]
            if block.shape[1] == 0:
                break
            numbers = np.arange(done, done + block.shape[1])
            level = np.full(len(numbers), gain)
            if skipped:
                level *= self._ramp(numbers)
            if count < rest:
                level *= self._ramp(count - 1 - numbers)
            self.sound.add(first + done, block if (level == 1).all() else block * level.astype(np.float32))
            done += block.shape[1]

    def finish(
        self, own: SoundStore | None, spoken_s: Sequence[Range], options: SoundOptions, end_s: float
    ) -> SoundStore:
        """The sound of the result. own: the video's own, of the mixer's rate; None: nothing of it is kept.

        spoken_s: when somebody speaks, in seconds of the result, which ends at end_s. Where nobody does, the samples
        are those of `own`. Where the sum would clip, the speeches are lowered, never `own`.
        """
        if own is None:
            self.sound.gain = max(1.0, self._loudest) / max(1.0, self._loudest, self.sound.peak)
            return self.sound
        joined = [(self._sample(start), self._sample(min(end, end_s))) for start, end in join_ranges(spoken_s)]
        lowered = 10 ** (options.ducking_db / 20) if options.mix == "over" else 0.0
        total, size = self._sample(end_s), self.sound.rate_hz
        room = 1.0 - lowered * own.peak
        self.sound.gain = float(np.clip(room / max(self.sound.peak, 1e-9), LEAST_GAIN, 1.0))
        mixed = SoundStore(self.sound.rate_hz, self.sound.channels)
        for at, block in zip(range(0, total, size), own.blocks(size), strict=False):
            level = self._own_level(joined, at, block.shape[1], lowered)
            mixed.add(at, block if (level == 1).all() else block * level)
        for at, block in zip(range(0, self.sound.samples, size), self.sound.blocks(size), strict=False):
            mixed.add(at, block)
        return mixed

    def _own_level(self, spoken: Sequence[tuple[int, int]], at: int, count: int, lowered: float) -> NDArray[np.float32]:
        """Factor of the video's own sound for `count` samples from `at` on: 1 outside the spoken ranges."""
        numbers, speaking = np.arange(at, at + count), np.zeros(count)
        for first, last in spoken:
            if first < at + count and last > at:
                inside = np.minimum(self._ramp(numbers - first), self._ramp(last - numbers))
                np.maximum(speaking, inside, out=speaking)
        return (1 - (1 - lowered) * speaking).astype(np.float32)

    def _ramp(self, samples: NDArray[np.int64]) -> NDArray[np.float64]:
        """0 at and before sample 0 .. 1 from CROSSFADE_S on."""
        return np.clip(samples / (CROSSFADE_S * self.sound.rate_hz), 0, 1)

    def _sample(self, time_s: float) -> int:
        return round(time_s * self.sound.rate_hz)
