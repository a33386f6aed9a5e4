"""Pieces of a result: each a file of pictures of its own, joined without encoding them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
from av.container import InputContainer
from av.packet import Packet

from retalking_core.errors import EngineFaultError
from retalking_core.media.encoder import GROUP_FRAMES, PictureEncoder, place
from retalking_core.media.speech import SoundStore
from retalking_core.media.writer import ResultFile, output_size, writing
from retalking_core.options import OutputOptions
from retalking_core.progress import Progress, ProgressHook, ignore_progress
from retalking_core.types import Frame, Timeline, VideoInfo


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
