"""The result: pictures and speech into one H.264 + AAC file that appears under its name only when it is complete."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from types import TracebackType

import av
from av.video.reformatter import VideoReformatter

from retalking_core.errors import EngineFaultError, RetalkingError
from retalking_core.media.badge import Badge
from retalking_core.media.colour import resolve_matrix
from retalking_core.media.limits import MediaLimits
from retalking_core.media.planes import to_picture
from retalking_core.media.probe import probe_audio
from retalking_core.media.speech_track import SpeechTrack
from retalking_core.options import OutputOptions
from retalking_core.types import Frame, Timeline, VideoInfo

_FORMATS = {"mp4": "mp4", "mov": "mov", "mkv": "matroska"}
_FULL, _LIMITED = 2, 1  # AVCOL_RANGE_JPEG, AVCOL_RANGE_MPEG
# Measured at 700x700, crf 18, two cores, decode and sound included: veryfast 68 frames a second at 49.6 dB luma; faster
# 0.6 times the speed for 1.0 dB, medium 0.4 times for 1.3 dB, all at 435 to 505 kB for five seconds.
PRESET = "veryfast"


class ResultWriter:
    """Writes frames at the constant rate of the timeline, and the speech cut or padded to exactly their length.

    Use as a context manager: on success the file is moved to `path`, on any exception nothing is left behind.
    Raises EngineFaultError for a frame of another size or too few or too many of them, the errors of `probe_audio`
    for the speech, RetalkingError when the disk can not be written.
    """

    def __init__(
        self,
        path: Path,
        info: VideoInfo,
        timeline: Timeline,
        speech: Path,
        output: OutputOptions,
        metadata: dict[str, str],
        limits: MediaLimits,
    ) -> None:
        self._path = path.absolute()
        self._part = self._path.with_name(f".{uuid.uuid4().hex}.part")
        self._info, self._timeline, self._output = info, timeline, output
        self._size = output_size(info, output.max_height)
        self._badge = Badge(*self._size, info.colour.full_range) if output.badge else None
        self._written = 0
        self._reformatter = VideoReformatter()
        speech_info = probe_audio(speech, limits)
        try:
            self._container = av.open(
                str(self._part), "w", format=_FORMATS[output.container], container_options=_muxer_options(output)
            )
            self._container.metadata.update(metadata)
            self._video = self._add_video()
            self._speech = SpeechTrack(self._container, speech, speech_info, timeline, limits)
            self._container.start_encoding()  # opens the file now, so that a bad folder or codec is known before work
        except av.error.FFmpegError as error:
            self._part.unlink(missing_ok=True)
            raise _write_error() from error

    def __enter__(self) -> ResultWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
                os.replace(self._part, self._path)
        except av.error.FFmpegError as failure:
            raise _write_error() from failure
        finally:
            self._speech.close()
            self._close_quietly()
            self._part.unlink(missing_ok=True)

    def write(self, frame: Frame) -> None:
        """The next output picture. x264's frame threads work on while the caller makes the next one."""
        if (frame.y.shape[1], frame.y.shape[0]) != (self._info.width, self._info.height):
            raise EngineFaultError(
                f"An output picture is {frame.y.shape[1]}x{frame.y.shape[0]}, the video {self._info.width}x"
                f"{self._info.height}."
            )
        if self._written == len(self._timeline.source_index):
            raise EngineFaultError(f"More than {self._written} output pictures were made.")
        picture = to_picture(frame)
        if self._size != (picture.width, picture.height):
            picture = self._reformatter.reformat(picture, *self._size, "yuv420p", interpolation="BICUBIC")
        if self._badge is not None:
            self._badge.stamp(picture)
        picture.pts = self._written
        picture.time_base = 1 / self._timeline.fps
        self._written += 1
        try:
            self._container.mux(self._video.encode(picture))
            # Sound and pictures advance together, so that the muxer never holds more than a second of either.
            for packet in self._speech.packets_until(self._written / self._timeline.fps):
                self._container.mux(packet)
        except av.error.FFmpegError as error:
            raise _write_error() from error

    def _add_video(self) -> av.VideoStream:
        stream = self._container.add_stream(
            "libx264", rate=self._timeline.fps, options={"crf": str(self._output.crf), "preset": PRESET}
        )
        stream.width, stream.height = self._size
        stream.pix_fmt = "yuv420p"
        context, colour = stream.codec_context, self._info.colour
        context.time_base = 1 / self._timeline.fps
        context.thread_type = "FRAME"
        # x264 takes half as many again as there are cores, up to 128; past 16 that only costs memory and delay.
        context.thread_count = min(16, (os.cpu_count() or 1) * 3 // 2)
        context.color_range = _FULL if colour.full_range else _LIMITED
        # An untagged stream is read by its height; scaling must not change how it is read.
        scaled = self._size[1] != self._info.height
        context.colorspace = resolve_matrix(colour, self._info.height) if scaled else colour.matrix
        context.color_primaries = colour.primaries
        context.color_trc = colour.transfer
        return stream

    def _finish(self) -> None:
        expected = len(self._timeline.source_index)
        if self._written != expected:
            raise EngineFaultError(f"{self._written} output pictures were made, {expected} were planned.")
        self._container.mux(self._video.encode(None))
        for packet in self._speech.packets_until(None):
            self._container.mux(packet)
        self._container.close()

    def _close_quietly(self) -> None:
        """After a failure the muxer may have nothing to finish; the partial file goes anyway."""
        try:
            self._container.close()
        except (av.error.FFmpegError, ValueError):
            return


def output_size(info: VideoInfo, max_height: int | None) -> tuple[int, int]:
    """(width, height) of the result: even, never larger than the source."""
    if max_height is None or max_height >= info.height:
        return info.width, info.height
    height = max(2, max_height & ~1)
    return max(2, round(info.width * height / info.height / 2) * 2), height


def _muxer_options(output: OutputOptions) -> dict[str, str]:
    if output.container == "mkv":
        return {}
    return {"movflags": "+faststart+use_metadata_tags"}


def _write_error() -> RetalkingError:
    return RetalkingError("The result could not be written; is the disk full?")
