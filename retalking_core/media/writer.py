"""The result: pictures and sound into one file, which appears under its name only when it is complete.

Or the pieces of a result: each a file of pictures of its own, joined without encoding them again.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from numpy.typing import NDArray

from retalking_core.errors import EngineFaultError, OutOfMemoryError, RetalkingError
from retalking_core.media.encoder import GROUP_FRAMES, PictureEncoder, place
from retalking_core.media.speech import LAYOUTS, SoundStore
from retalking_core.media.tap import ResultTap
from retalking_core.options import OutputOptions
from retalking_core.progress import Progress, ProgressHook, ignore_progress
from retalking_core.threads import ReadAhead
from retalking_core.types import Frame, Timeline, VideoInfo
from retalking_core.vocabulary import containers

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


class ResultFile:
    """A writer adds its video stream to `container`, then the speech, if there is any; begin(), mux(), commit(). In any
    case discard() comes last. Raises RetalkingError when the disk cannot be written.
    """

    def __init__(self, path: Path, container: containers.OutputContainer, metadata: dict[str, str]) -> None:
        self._path = path.absolute()
        self._part = self._path.with_name(f".{uuid.uuid4().hex}.part")
        self._speech: SpeechTrack | None = None
        self._container: OutputContainer | None = None
        options = {} if container == "mkv" else {"movflags": "+faststart+use_metadata_tags"}
        with self._building():
            self._container = av.open(
                str(self._part), "w", format=containers.OUTPUTS[container].muxer, container_options=options
            )
            self._container.metadata.update(metadata)

    @property
    def container(self) -> OutputContainer:
        assert self._container is not None
        return self._container

    def add_sound(self, sound: SoundStore, timeline: Timeline) -> None:
        with self._building():
            self._speech = SpeechTrack(self.container, sound, timeline)

    def begin(self) -> None:
        """Opens the file now, so that a bad folder or codec is known before work, and starts to encode the speech."""
        with self._building():
            self.container.start_encoding()
        if self._speech is not None:
            self._speech.begin()

    def mux(self, packets: Iterable[Packet[Any]], sound_until: Fraction | None) -> None:
        """Video packets, then the sound up to that time (None: the rest): both advance together, so that the muxer
        never holds more than a second of either."""
        with writing():
            for packet in packets:
                self.container.mux(packet)
            if self._speech is not None:
                for packet in self._speech.packets_until(sound_until):
                    self.container.mux(packet)

    def commit(self) -> None:
        """Complete: the file takes its name."""
        with writing():
            self.container.close()
        os.replace(self._part, self._path)

    def discard(self) -> None:
        """Leave nothing behind; after commit() nothing is left to do. After a failure the muxer may have nothing to
        finish; the partial file goes anyway."""
        if self._speech is not None:
            self._speech.close()
        try:
            if self._container is not None:
                self._container.close()
        except (av.error.FFmpegError, ValueError):
            return
        finally:
            self._part.unlink(missing_ok=True)

    @contextmanager
    def _building(self) -> Iterator[None]:
        try:
            with writing():
                yield
        except BaseException:
            self.discard()
            raise


@contextmanager
def writing() -> Iterator[None]:
    """What FFmpeg says while it encodes and muxes is about our own disk, and what x264 says, about memory. Raises:
    RetalkingError, OutOfMemoryError."""
    try:
        yield
    except av.error.ExternalError as error:
        raise OutOfMemoryError(
            "The encoder could not go on, most likely for want of memory: ask for a lower `output.max_height`, or give "
            "the worker more (RETALKING_WORKER_MEMORY_BYTES)."
        ) from error
    except av.error.FFmpegError as error:
        raise RetalkingError("The result could not be written; is the disk full?") from error


_MAX_BLOCKS, _MAX_BLOCKS_PER_S = 36_864, 2_073_600


class ResultWriter:
    """Writes frames at the constant rate of the timeline, and the sound cut or padded to exactly their length. The
    sound is encoded from the beginning on, also while no frame is there yet.

    Use as a context manager: on success the file is moved to `path`, on any exception nothing is left behind.
    Raises EngineFaultError for a frame of another size or too few or too many of them, RetalkingError when the disk can
    not be written.
    """

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        timeline: Timeline,
        sound: SoundStore,
        output: OutputOptions,
        metadata: dict[str, str],
        tap: ResultTap | None = None,
    ) -> None:
        """tap: gets every picture, and every packet of the pictures, as well."""
        self._timeline, self._tap = timeline, tap
        self._file = ResultFile(path, output.container, metadata)
        try:
            size = output_size(info, output.max_height)
            watch = None if tap is None else tap.show
            self._pictures = PictureEncoder(self._file.container, info, size, timeline.fps, output, watch)
            self._file.add_sound(sound, timeline)
            self._file.begin()
            if tap is not None:
                tap.begin(timeline, output.container, self._pictures.context)
        except BaseException:
            self._file.discard()
            raise
        self._is_finished = False

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
                self._file.commit()
                if self._tap is not None:
                    self._tap.end()
        finally:
            self._file.discard()

    def write(self, frame: Frame) -> None:
        """The next output picture."""
        if self._pictures.taken == len(self._timeline.source_index):
            raise EngineFaultError(f"More than {self._pictures.taken} output pictures were made.")
        with writing():
            packets = self._pictures.encode(frame)
        if self._tap is not None:
            self._tap.put(packets)
        self._file.mux(packets, self._pictures.taken / self._timeline.fps)

    def finish(self) -> None:
        """After the last picture: wait for what is still being encoded. Leaving the block does it otherwise."""
        if self._is_finished:
            return
        expected = len(self._timeline.source_index)
        if self._pictures.taken != expected:
            raise EngineFaultError(f"{self._pictures.taken} output pictures were made, {expected} were planned.")
        with writing():
            packets = self._pictures.finish()
        if self._tap is not None:
            self._tap.put(packets)
        self._file.mux(packets, None)
        self._is_finished = True


def output_size(info: VideoInfo, max_height: int | None) -> tuple[int, int]:
    """(width, height) of the result: even, never larger than the source, nor than H.264 level 5.2 allows at its rate,
    unless `max_height` asks for more: phones and televisions play no higher level."""
    if max_height is None:
        max_height = info.height
        while not _is_level_5_2(*_scaled(info, max_height), info.fps):
            max_height -= 2
    return _scaled(info, max_height)


def _scaled(info: VideoInfo, max_height: int) -> tuple[int, int]:
    if max_height >= info.height:
        return info.width, info.height
    height = max(2, max_height & ~1)
    return max(2, round(info.width * height / info.height / 2) * 2), height


def _is_level_5_2(width: int, height: int, fps: Fraction) -> bool:
    """Macroblocks of a frame (4096x2304, or as many pixels in another shape) and of a second (2160p at 60 frames),
    ITU-T H.264, table A-1."""
    across, down = -(-width // 16), -(-height // 16)
    blocks = across * down
    return blocks <= _MAX_BLOCKS and blocks * fps <= _MAX_BLOCKS_PER_S and max(across, down) ** 2 <= 8 * _MAX_BLOCKS


def plan_segments(frames: int) -> list[range]:
    """Output frame numbers of each segment, in order: one group of pictures each, the last one may be shorter."""
    return [range(first, min(first + GROUP_FRAMES, frames)) for first in range(0, frames, GROUP_FRAMES)]


class SegmentWriter:
    """Writes the pictures of one segment, encoded as the same group of the whole result would be. No sound.

    A context manager like `ResultWriter`, with the same errors.
    """

    def __init__(self, path: Path, info: VideoInfo, timeline: Timeline, segment: range, output: OutputOptions) -> None:
        self._segment = segment
        self._file = ResultFile(path, "mp4", {})
        try:
            size = output_size(info, output.max_height)
            self._pictures = PictureEncoder(self._file.container, info, size, timeline.fps, output)
            self._file.begin()
        except BaseException:
            self._file.discard()
            raise

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
                self._file.commit()
        finally:
            self._file.discard()

    def write(self, frame: Frame) -> None:
        """The next picture."""
        with writing():
            packets = self._pictures.encode(frame)
        self._file.mux(packets, None)

    def _finish(self) -> None:
        if self._pictures.taken != len(self._segment):
            raise EngineFaultError(
                f"{self._pictures.taken} pictures of a segment were made, {len(self._segment)} were planned."
            )
        with writing():
            packets = self._pictures.finish()
        self._file.mux(packets, None)


def join_segments(
    path: Path,
    parts: Sequence[Path],
    timeline: Timeline,
    sound: SoundStore,
    output: OutputOptions,
    metadata: dict[str, str],
    progress: ProgressHook = ignore_progress,
) -> None:
    """The segments of `plan_segments`, in order, and the sound into one file: the packets are those that one
    `ResultWriter` would have written.

    Raises EngineFaultError for parts that do not belong together, RetalkingError when the disk cannot be written.
    """
    segments = plan_segments(len(timeline.source_index))
    if len(parts) != len(segments):
        raise EngineFaultError(f"{len(parts)} segments were made, {len(segments)} were planned.")
    file = ResultFile(path, output.container, metadata)
    try:
        with _opened(parts[0]) as first:
            pictures = first.streams.video[0]
            header = pictures.codec_context.extradata
            with writing():
                stream = file.container.add_stream_from_template(pictures)
                stream.time_base = 1 / timeline.fps
        file.add_sound(sound, timeline)
        file.begin()
        for part, segment in zip(parts, segments, strict=True):
            for packet in _packets(part, segment, timeline.fps, header):
                place(packet, stream, segment.start)
                assert packet.dts is not None  # `place` counts from it
                file.mux([packet], (packet.dts + 1) / timeline.fps)
            progress(Progress("synthesize", segment.stop / segments[-1].stop, segment.stop, segments[-1].stop))
        file.mux([], None)
        file.commit()
    finally:
        file.discard()


@contextmanager
def _opened(part: Path) -> Iterator[InputContainer]:
    """Our own file, so damage is our own fault. Raises EngineFaultError."""
    try:
        with av.open(str(part), format="mp4") as media:
            if not media.streams.video:
                raise EngineFaultError("A segment of the result holds no pictures.")
            yield media
    except av.error.FFmpegError as error:
        raise EngineFaultError("A segment of the result could not be read back.") from error


def _packets(part: Path, segment: range, fps: Fraction, header: bytes | None) -> Iterator[Packet[av.VideoStream]]:
    """Packets of a segment with their times in pictures from its beginning. Raises EngineFaultError."""
    count = 0
    with _opened(part) as media:
        stream = media.streams.video[0]
        if stream.codec_context.extradata != header:
            raise EngineFaultError("The segments of the result were encoded in different ways.")
        for packet in media.demux(stream):
            if packet.pts is None or packet.dts is None:
                continue  # the empty packet at the end
            ticks = packet.time_base * fps
            packet.pts, packet.dts = round(packet.pts * ticks), round(packet.dts * ticks)
            packet.duration, packet.time_base = 1, 1 / fps
            count += 1
            yield packet
    if count != len(segment):
        raise EngineFaultError(f"A segment holds {count} pictures, {len(segment)} were planned.")
