"""The speech as an AAC track of exactly the length of the video, encoded in a thread beside the pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from numpy.typing import NDArray

from retalking_core.media.faults import reading
from retalking_core.media.limits import MediaLimits
from retalking_core.media.sound import decoded_speech
from retalking_core.threads import ReadAhead
from retalking_core.types import AudioInfo, Timeline

# Sample rates of AAC (ISO 14496-3, table 1.18).
_AAC_RATES_HZ = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
# Three bits a sample and channel: 132 kb/s for one channel at 44.1 kHz, where FFmpeg's own AAC encoder is transparent.
BITS_PER_SAMPLE = 3
# FFmpeg's plain search for quantizers. At this rate its other one (twoloop) takes twice the CPU time and leaves more
# noise in every band: 42 against 56 dB below the speech in all (`bench/speech_codec.py`).
_AAC_OPTIONS = {"aac_coder": "fast"}
BLOCK = 1024  # samples of one AAC frame
# Blocks that may be encoded before they are asked for: 48 s at 44.1 kHz, 1.6 MB.
_AHEAD_BLOCKS = 2048


def nearest_aac_rate(rate_hz: int) -> int:
    """The rate itself if AAC has it, else the nearest by ratio, the higher of two equally near."""
    return min(_AAC_RATES_HZ, key=lambda legal: abs(math.log(legal / rate_hz)))


class SpeechTrack:
    """Adds an AAC stream to an open container; after `begin` gives its packets up to a given time on request.

    One or two channels stay as they are; more are mixed down to stereo, which every player shows.
    """

    def __init__(
        self, container: OutputContainer, speech: Path, info: AudioInfo, timeline: Timeline, limits: MediaLimits
    ) -> None:
        self._rate_hz = nearest_aac_rate(info.rate_hz)
        self._layout = "mono" if info.channels == 1 else "stereo"
        self._stream: AudioStream = container.add_stream("aac", rate=self._rate_hz, options=_AAC_OPTIONS)
        self._stream.codec_context.layout = self._layout
        self._stream.codec_context.format = "fltp"
        self._stream.codec_context.bit_rate = BITS_PER_SAMPLE * self._rate_hz * (1 if info.channels == 1 else 2)
        self._stream.codec_context.time_base = Fraction(1, self._rate_hz)
        self._total = round(len(timeline.source_index) / timeline.fps * self._rate_hz)
        if container.format.name == "matroska":
            # Matroska states the encoder's 1024 lead-in samples as duration. Without a last, partly filled AAC frame
            # (23 ms at most) sound and pictures still agree within one picture.
            self._total = max(BLOCK, self._total // BLOCK * BLOCK)
        self._spoken = min(self._total, round(timeline.speech_s * self._rate_hz))
        self._speech, self._limits = speech, limits
        self._ahead: ReadAhead[tuple[int, list[Packet]]] | None = None
        self._blocks: Iterator[tuple[int, list[Packet]]] = iter(())
        self._given = 0

    def begin(self) -> None:
        """Start encoding; the container must have begun, which opens the encoder."""
        self._ahead = ReadAhead(self._encoded_blocks(), _AHEAD_BLOCKS)
        self._blocks = iter(self._ahead)

    def packets_until(self, time_s: Fraction | None) -> Iterator[Packet]:
        """Encoded packets for all samples up to a time; None: the rest, flushed."""
        while time_s is None or self._given < time_s * self._rate_hz:
            end, packets = next(self._blocks, (None, []))
            if end is None:
                return
            self._given = end
            yield from packets

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.close()

    def _encoded_blocks(self) -> Iterator[tuple[int, list[Packet]]]:
        """Number of samples so far, and the packets that they have filled."""
        taken = 0
        for block in self._sample_blocks(self._speech, self._limits):
            frame = AudioFrame.from_ndarray(block, format="fltp", layout=self._layout)
            frame.sample_rate = self._rate_hz
            frame.time_base = Fraction(1, self._rate_hz)
            frame.pts = taken
            taken += block.shape[1]
            yield taken, self._stream.encode(frame)
        yield taken, self._stream.encode(None)

    def _sample_blocks(self, speech: Path, limits: MediaLimits) -> Iterator[NDArray[np.float32]]:
        """f32 [channels, <= 1024] pieces: the speech, cut, then silence, in all exactly `total` samples."""
        channels = 1 if self._layout == "mono" else 2
        rest = np.zeros((channels, 0), np.float32)
        taken = 0
        for piece in self._resampled(speech, limits):
            spoken = piece[:, : self._spoken - taken]
            taken += spoken.shape[1]
            rest = np.concatenate([rest, spoken], axis=1)
            while rest.shape[1] >= BLOCK:
                yield np.ascontiguousarray(rest[:, :BLOCK])
                rest = rest[:, BLOCK:]
            if taken == self._spoken:
                break
        missing = self._total - taken
        while rest.shape[1] + missing > 0:
            fill = min(missing, BLOCK - rest.shape[1])
            yield np.pad(rest, ((0, 0), (0, fill)))
            missing -= fill
            rest = rest[:, :0]

    def _resampled(self, speech: Path, limits: MediaLimits) -> Iterator[NDArray[np.float32]]:
        # rematrix_maxval: keep the level when more than two channels are mixed (float sound is summed unscaled else).
        resampler = AudioResampler(
            format="fltp", layout=self._layout, rate=self._rate_hz, options={"rematrix_maxval": "1.0"}
        )
        with reading("speech file"):
            for frame in decoded_speech(speech, limits):
                frame.pts = None
                for piece in resampler.resample(frame):
                    yield piece.to_ndarray()
            for piece in resampler.resample(None):
                yield piece.to_ndarray()
