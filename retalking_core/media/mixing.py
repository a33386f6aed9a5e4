"""The sound of a result: speeches at their times, and what is kept of the video's own sound under and between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retalking_core.media.speech import SoundStore
from retalking_core.notes import Range, join_ranges
from retalking_core.options import SoundOptions

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
