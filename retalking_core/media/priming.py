"""Samples that lossy codecs put before and after the sound, where neither FFmpeg nor time stamps account for them.

An encoder delays the sound, and so does the decoder's filter bank. MP4 (edit list, iTunSMPB), Matroska (CodecDelay) and
the Info header of an MP3 state the delay, and FFmpeg takes it off. It does not read the headers of MP3 files that were
joined to the first; this module does. Where nothing states a delay (raw AAC, MP3 without a header), it is unknown, no
player removes it, and it stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.packet import Packet
from numpy.typing import NDArray

from retalking_core.media.container import MediaFile
from retalking_core.vocabulary.containers import MP3, locate, tag_bytes

# Demuxers of files that hold frames alone, from the first sample of the encoder on.
_RAW = frozenset({"mp3", "wav"})
# Samples by which every Layer III decoder is late (hybrid filter bank and overlap).
_MP3_DECODER_DELAY = 529
# LAME's extension of the Xing header: 9 bytes of name, then 12 bytes, then 12 bits each of delay and padding.
_ENCODER_NAMES = (b"LAME", b"Lavf", b"Lavc")
_DELAYS_AT = 21
_ID3V1_BYTES = 128
_MAX_FRAME_BYTES = 1441


@dataclass(frozen=True)
class Mp3Info:
    """What an Info header states of the file it begins, in decoded samples.

    start, end: range that is sound; end None: not stated. total: how many samples the file has; 0: not stated.
    """

    start: int = 0
    end: int | None = None
    total: int = 0


class Priming:
    """Takes the codec's own samples off a decoded stream: decode `sound_of` each packet, then `trim` each frame.

    is_stamped_as_sound: iTunSMPB states the lead-in and FFmpeg skips it, but its time stamps begin at 0, so the first
    sample of sound belongs there. None before the first packet.
    """

    def __init__(self, path: Path, media: MediaFile, stream: AudioStream) -> None:
        is_raw, codec = media.kind.demuxer in _RAW, stream.codec_context.name
        self._has_pictures = bool(media.films)
        self._is_mp3 = is_raw and codec.startswith("mp3")
        self.is_stamped_as_sound: bool | None = None
        self._info = (self._is_mp3 and _first_info(path)) or Mp3Info()
        # Samples since the file, or the one joined to it, began. FFmpeg skips the delay that a first header states, and
        # says so by a later start; the end of the first of joined files it does not skip.
        self._position = self._info.start if self._is_mp3 and stream.start_time else 0
        self._tag_left = 0  # bytes of a tag that further packets hold
        # Samples of sound that the header of an MP3 states; 0: none.
        self.stated_samples = (self._info.end or 0) - self._info.start if self._info.total else 0

    def sound_of(self, packet: Packet[AudioStream]) -> Packet[AudioStream] | None:
        """The packet without the tags of a joined MP3; None where it holds nothing else, or a header frame."""
        if self.is_stamped_as_sound is None:
            self.is_stamped_as_sound = (
                packet.pts == 0 and packet.has_sidedata("skip_samples") and not self._has_pictures
            )
        if not self._is_mp3 or not packet.size:
            return packet
        data = bytes(packet)
        frame = self._behind_tags(data)
        info = read_mp3_info(frame)
        if info is None and len(frame) == len(data):
            return packet
        self._info, self._position = info or Mp3Info(), 0
        if info is not None or not frame:
            return None
        rest = cast("Packet[AudioStream]", Packet(frame))
        rest.stream, rest.time_base, rest.duration = packet.stream, packet.time_base, packet.duration
        return rest

    def _behind_tags(self, data: bytes) -> bytes:
        """What follows the tags that `data` begins with."""
        length = self._tag_left
        while length or (length := _tag_bytes(data)):
            data, self._tag_left, length = data[length:], max(0, length - len(data)), 0
        return data

    def trim(self, frame: AudioFrame) -> AudioFrame | None:
        """The part of the frame that is sound; None where nothing is."""
        at, info = self._position, self._info
        self._position += frame.samples
        start, end = max(info.start - at, 0), frame.samples
        if info.end is not None and at < info.total:
            end = min(info.end - at, end)
        if (start, end) == (0, frame.samples):
            return frame
        return _part(frame, start, end) if start < end else None

    def lose(self, samples: int) -> None:
        """Samples that did not decode."""
        self._position += samples


def _tag_bytes(data: bytes) -> int:
    """Length of the tag that `data` begins with: ID3v2 before a file, ID3v1 or APEv2 behind one; 0 without one."""
    if data.startswith(b"TAG"):
        return _ID3V1_BYTES
    if data.startswith(b"APETAGEX"):
        return 32 + int.from_bytes(data[12:16], "little")
    return tag_bytes(data)


def _first_info(path: Path) -> Mp3Info | None:
    with path.open("rb") as file:

        def read(offset: int, size: int) -> bytes:
            file.seek(offset)
            return file.read(size)

        offset, kind = locate(read)
        return read_mp3_info(read(offset, _MAX_FRAME_BYTES)) if kind is MP3 else None


def read_mp3_info(packet: bytes) -> Mp3Info | None:
    """The Xing, Info or VBRI header that a Layer III frame holds instead of sound; None where it holds sound."""
    if len(packet) < 4:
        return None
    is_mpeg1, is_mono = packet[1] & 0x18 == 0x18, packet[3] & 0xC0 == 0xC0
    if packet[36:40] == b"VBRI":
        return Mp3Info()
    # Behind the side information, whose size depends on version and channels (ISO/IEC 11172-3, 2.4.1.7).
    at = 4 + ((17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17))
    if packet[at : at + 4] not in (b"Xing", b"Info"):
        return None
    flags = int.from_bytes(packet[at + 4 : at + 8], "big")
    frames = int.from_bytes(packet[at + 8 : at + 12], "big") if flags & 1 else 0
    at += 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    delays = packet[at + _DELAYS_AT : at + _DELAYS_AT + 3]
    if packet[at : at + 4] not in _ENCODER_NAMES or len(delays) < 3:
        return Mp3Info()
    delay, padding = (int.from_bytes(delays, "big") >> shift & 0xFFF for shift in (12, 0))
    total = frames * (1152 if is_mpeg1 else 576)
    end = total - padding + _MP3_DECODER_DELAY if total else None
    return Mp3Info(delay + _MP3_DECODER_DELAY, end, total)


def _part(frame: AudioFrame, start: int, end: int) -> AudioFrame:
    """Samples [start, end)."""
    samples = frame.to_ndarray()
    step = 1 if frame.format.is_planar else frame.layout.nb_channels
    kept = cast("NDArray[np.float32]", np.ascontiguousarray(samples[:, start * step : end * step]))
    part = AudioFrame.from_ndarray(kept, frame.format.name, frame.layout.name)
    part.sample_rate, part.time_base = frame.sample_rate, frame.time_base
    part.pts = None if frame.pts is None else frame.pts + round(start / frame.sample_rate / (frame.time_base or 1))
    return part
