"""A media file in the making: it appears under its name only when it is complete."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer
from av.packet import Packet

from retalking_core.errors import OutOfMemoryError, RetalkingError
from retalking_core.media.speech import SoundStore
from retalking_core.media.speech_track import SpeechTrack
from retalking_core.types import Timeline
from retalking_core.vocabulary import containers


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
