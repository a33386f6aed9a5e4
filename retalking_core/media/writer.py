"""The result: pictures and speech into one H.264 + AAC file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType

from retalking_core.errors import EngineFaultError
from retalking_core.media.encoder import PictureEncoder
from retalking_core.media.result_file import ResultFile, writing
from retalking_core.media.speech import SoundStore
from retalking_core.media.tap import ResultTap
from retalking_core.options import OutputOptions
from retalking_core.types import Frame, Timeline, VideoInfo

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
