"""The sound of a result as a track of exactly the length of the video, encoded in a thread beside the pictures."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from numpy.typing import NDArray

from retalking_core.media.speech import LAYOUTS, SoundStore
from retalking_core.threads import ReadAhead
from retalking_core.types import Timeline

# Three bits a sample and channel: 132 kb/s for one channel at 44.1 kHz, where FFmpeg's own AAC encoder is transparent.
BITS_PER_SAMPLE = 3
# FFmpeg's plain search for quantizers. At this rate its other one (twoloop) takes twice the CPU time and leaves more
# noise in every band: 42 against 56 dB below the speech in all (`bench/speech_codec.py`).
_AAC_OPTIONS = {"aac_coder": "fast"}
BLOCK = 1024  # samples of one AAC frame
# Blocks that may be encoded before they are asked for: 48 s at 44.1 kHz, 1.6 MB.
_AHEAD_BLOCKS = 2048


# Containers whose players take PCM. In MP4 it is too new (ISO 23003-5).
_PCM_MUXERS = frozenset({"mov", "matroska"})
# Encoder, its sample format and options, by the bits of PCM (None: AAC). Of 32 bits, that of 24 takes the upper ones.
_ENCODERS: dict[int | None, tuple[str, str, dict[str, str]]] = {
    None: ("aac", "fltp", _AAC_OPTIONS),
    16: ("pcm_s16le", "s16", {}),
    24: ("pcm_s24le", "s32", {}),
}


class SpeechTrack:
    """Adds a sound stream to an open container; after `begin` gives its packets up to a given time on request.

    Rate and channels are those of the `SoundStore`. AAC; PCM where the store asks for it and the container takes it.
    """

    def __init__(self, container: OutputContainer, sound: SoundStore, timeline: Timeline) -> None:
        self._sound, self._rate_hz = sound, sound.rate_hz
        self._layout = LAYOUTS[sound.channels]
        muxer = container.format.name
        self._pcm_bits = sound.pcm_bits if muxer in _PCM_MUXERS else None
        codec, self._format, options = _ENCODERS[self._pcm_bits]
        stream = container.add_stream(codec, rate=self._rate_hz, options=options)
        assert isinstance(stream, AudioStream)
        self._stream = stream
        self._stream.codec_context.layout = self._layout
        self._stream.codec_context.format = self._format
        self._stream.codec_context.time_base = Fraction(1, self._rate_hz)
        self._total = round(len(timeline.source_index) / timeline.fps * self._rate_hz)
        if self._pcm_bits is None:
            self._stream.codec_context.bit_rate = BITS_PER_SAMPLE * self._rate_hz * sound.channels
        if self._pcm_bits is None and muxer == "matroska":
            # Matroska states the encoder's 1024 lead-in samples as duration. Without a last, partly filled AAC frame
            # (23 ms at most) sound and pictures still agree within one picture.
            self._total = max(BLOCK, self._total // BLOCK * BLOCK)
        self._ahead: ReadAhead[tuple[int, list[Packet[AudioStream]]]] | None = None
        self._blocks: Iterator[tuple[int, list[Packet[AudioStream]]]] = iter(())
        self._given = 0

    def begin(self) -> None:
        """Start encoding; the container must have begun, which opens the encoder."""
        self._ahead = ReadAhead(self._encoded_blocks(), _AHEAD_BLOCKS)
        self._blocks = iter(self._ahead)

    def packets_until(self, time_s: Fraction | None) -> Iterator[Packet[AudioStream]]:
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

    def _encoded_blocks(self) -> Iterator[tuple[int, list[Packet[AudioStream]]]]:
        """Number of samples so far, and the packets that they have filled."""
        taken = 0
        for block in self._sample_blocks():
            samples = block if self._pcm_bits is None else _integers(block, self._pcm_bits)
            frame = AudioFrame.from_ndarray(samples, format=self._format, layout=self._layout)
            frame.sample_rate = self._rate_hz
            frame.time_base = Fraction(1, self._rate_hz)
            frame.pts = taken
            taken += block.shape[1]
            yield taken, self._stream.encode(frame)
        yield taken, self._stream.encode(None)

    def _sample_blocks(self) -> Iterator[NDArray[np.float32]]:
        """f32 [channels, <= 1024] pieces: the speech, cut, then silence, in all exactly `total` samples."""
        taken = 0
        for piece in self._sound.blocks(BLOCK):
            spoken = piece[:, : self._total - taken]
            taken += spoken.shape[1]
            if spoken.shape[1] == BLOCK:
                yield np.ascontiguousarray(spoken)
                continue
            fill = min(BLOCK, spoken.shape[1] + self._total - taken) - spoken.shape[1]
            taken += fill
            if spoken.shape[1] + fill:
                yield np.ascontiguousarray(np.pad(spoken, ((0, 0), (0, fill))))
            break
        while taken < self._total:
            silence = np.zeros((self._sound.channels, min(BLOCK, self._total - taken)), np.float32)
            taken += silence.shape[1]
            yield silence


def _integers(block: NDArray[np.float32], bits: int) -> NDArray[np.int16] | NDArray[np.int32]:
    """f32 [channels, n] of full scale 1 to interleaved samples [1, n * channels]: integers of so many bits come back
    as they were."""
    scale = 2.0 ** (bits - 1)
    whole = np.clip(np.rint(block.T.reshape(1, -1) * scale), -scale, scale - 1)
    return whole.astype(np.int16) if bits == 16 else whole.astype(np.int32) << 32 - bits
