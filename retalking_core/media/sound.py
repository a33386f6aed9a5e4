"""The sound of a media file as decoded frames on the clock of the file: the right track, gaps filled with silence."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Disposition, Stream

from retalking_core.errors import (
    AudioEmptyError,
    AudioInvalidError,
    AudioTrackMissingError,
    CodecUnsupportedError,
    InputError,
    MediaUnreadableError,
    NoAudioStreamError,
)
from retalking_core.media.container import DAMAGED_PACKET, UNSUPPORTED, MediaFile, open_container, reading
from retalking_core.media.cursor import too_long
from retalking_core.media.limits import MediaLimits
from retalking_core.media.priming import Priming
from retalking_core.notes import Note, Range, join_ranges
from retalking_core.types import AudioTrack
from retalking_core.vocabulary.containers import AAC, AIFF, FLAC, MP3, OGG, WAV, is_one_frame

# Shorter than this there is no syllable, and no AAC frame.
MIN_SPEECH_S = 0.02
# Full scale is 1. Float sound may pass it, but what passes it by 80 dB is no sound, and overflows in the resampler.
_MAX_LEVEL = 1e4
_FLOAT_FORMATS = frozenset({"flt", "fltp", "dbl", "dblp"})
_MOST_CHANNELS = 8
# Telephones take 8000. Of the few samples of a broken header nothing is left at the rate of the analysis.
_LEAST_RATE_HZ = 2000
_LAYOUT_BY_CHANNELS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
# Demuxers whose time stamps come from the file (FLAC: the numbers of its frames). Those of the others are counted from
# bytes or samples, so that a gap in them says nothing.
_STAMPED = frozenset({"mov", "matroska", "ogg", "flac"})
# A late start and a gap count from here on: above the rounding of Matroska's milliseconds, and above the jitter of
# recorders that stamp packets on arrival. One lost packet (20 ms of Opus, 21 ms of AAC) is a gap.
_LATE_START_S, _GAP_S = 0.005, 0.018
# Stamps that fall back by more begin a new chain (Ogg files one after the other); less is an overlap of packets.
_FALL_BACK_S = 0.5
# No pause of a recording; a damaged stamp, or two recordings in one file.
_LONGEST_GAP_S = 60.0
# Less damage than this is inaudible among other silences and not reported.
_REPORTED_LOSS_S = 0.1
# A file that holds so much less sound than it states was cut. Above what encoders pad at the end.
_CUT_S = 0.5
# Sizes from here on are those of streams of unknown length (all bits set, or all but the highest).
_UNKNOWN_WAV_BYTES = 0x7FFFF000


@dataclass
class SoundRecord:
    """What became known while `decode_sound` ran.

    track: chosen, of how many. good_s: decoded. late_s: silence before the first sample, since the sound starts after
    the picture. gaps_s, damaged_s: ranges on the clock of the speech that are silent since the file holds no packets
    there, and since its packets do not decode. cut_s: (stated, there) seconds of a file that ends early.
    """

    track: AudioTrack | None = None
    good_s: float = 0.0
    late_s: float = 0.0
    gaps_s: list[Range] = field(default_factory=list)
    damaged_s: list[Range] = field(default_factory=list)
    cut_s: Range | None = None

    def notes(self) -> list[Note]:
        """For the caller. Gaps that lie closer than half a second are one pause."""
        notes = []
        if self.late_s > _REPORTED_LOSS_S:
            sentence = f"The sound begins {self.late_s:.2f} s after the picture; the time before it is silent."
            notes.append(Note("audio_starts_late", sentence, ((0.0, round(self.late_s, 3)),)))
        damaged_s, gaps_s = (sum(end - start for start, end in each) for each in (self.damaged_s, self.gaps_s))
        if gaps_s > _REPORTED_LOSS_S:
            sentence = f"The file holds no sound for {gaps_s:.2f} s between its packets; silence was inserted there."
            notes.append(Note("audio_gap_filled", sentence, _rounded(self.gaps_s)))
        if damaged_s > _REPORTED_LOSS_S:
            sentence = f"{damaged_s:.2f} s of the sound do not decode and are silent; export the speech again."
            notes.append(Note("audio_damaged", sentence, _rounded(self.damaged_s)))
        if self.cut_s is not None:
            stated_s, there_s = self.cut_s
            sentence = (
                f"The file states {stated_s:.2f} s of sound and ends after {there_s:.2f} s: if it was cut on its way, "
                "upload the whole file again."
            )
            notes.append(Note("audio_ends_early", sentence))
        track = self.track
        if track is not None and track.count > 1:
            language = f" ({track.language})" if track.language else ""
            sentence = (
                f"Track {track.number}{language} of {track.count} sound tracks was used; "
                "the option audio_track picks another."
            )
            notes.append(Note("audio_track_chosen", sentence))
        return notes


def decode_sound(
    path: Path, limits: MediaLimits, wanted: str | None = None, record: SoundRecord | None = None
) -> Generator[AudioFrame, None, None]:
    """Decoded frames of one format, layout and rate, in order, with silence where the file has none; time 0 is the
    start of the file's first picture or sound, whichever is earlier (ISO 14496-12, 8.6.6; RFC 9559, 10.2).

    wanted: the track, see `choose_track`. record: filled on the way. Raises AudioEmptyError, AudioInvalidError (samples
    that are not finite), MediaTooLongError as soon as the sound passes the cap, MediaUnreadableError when less than
    half of it decodes or its time stamps jump, and the errors of `open_container` and `choose_track`.
    """
    record = SoundRecord() if record is None else record
    with open_container(path, limits) as media:
        stream, record.track = choose_track(media, wanted)
        priming = Priming(path, media, stream)
        clock = _FileClock(media, priming, limits, record)
        shape: tuple[str, str, int] | None = None
        packets = _Counted(media.container.demux(stream))
        with _naming_chains(path, media), reading("speech file"):
            for packet in filter(None, map(priming.sound_of, packets)):
                try:
                    decoded = [_countable(frame) for frame in packet.decode()]
                    clock.add_packet(packet)
                except (*DAMAGED_PACKET, *UNSUPPORTED) as error:
                    if isinstance(error, UNSUPPORTED) and not record.good_s:
                        raise
                    priming.lose(clock.add_damaged(packet))
                    if record.track.codec.startswith("mp3"):
                        # Frames borrow bits from those before: what is left of those would sound as a burst of noise.
                        stream.codec_context.flush_buffers()
                    continue
                for frame in map(_checked, filter(None, map(priming.trim, decoded))):
                    found = (frame.format.name, frame.layout.name, frame.sample_rate)
                    shape = shape or found
                    if found != shape:
                        raise MediaUnreadableError("The speech changes its rate or channels midway; re-export it.")
                    yield from clock.silence_before(frame)
                    clock.add(frame)
                    yield frame
        stated_s = _stated_s(path, media, stream, priming, clock.now_s, packets.count)
        if stated_s > clock.now_s + _CUT_S:
            record.cut_s = stated_s, clock.now_s
    if sum(end - start for start, end in record.damaged_s) > record.good_s:
        raise MediaUnreadableError("More than half of the speech does not decode; re-export it.")
    if record.good_s < MIN_SPEECH_S:
        raise empty_speech()


def choose_track(media: MediaFile, wanted: str | None = None) -> tuple[AudioStream, AudioTrack]:
    """The sound that players play: the first decodable track marked as default (track_enabled of ISO 14496-12, 8.3.2;
    FlagDefault of RFC 9559, 5.1.4.1.5), else the first decodable one.

    wanted: number of the track among the sound tracks, from 1, or the beginning of its language as the file states it.
    Raises NoAudioStreamError, AudioTrackMissingError (no such track), CodecUnsupportedError, AudioEmptyError (a stream
    without rate or channels), AudioInvalidError (a rate at which nothing is heard).
    """
    if media.kind.is_picture:
        raise NoAudioStreamError("The speech file is a picture; send a sound file, or a video with sound.")
    streams = list(media.container.streams.audio)
    if not streams:
        raise NoAudioStreamError("The speech file holds no sound; send a sound file, or a video with sound.")
    candidates = [stream for number, stream in enumerate(streams, 1) if _is_wanted(number, stream, wanted)]
    if not candidates:
        listed = ", ".join(
            f"{number} ({_language(stream) or 'no language'})" for number, stream in enumerate(streams, 1)
        )
        raise AudioTrackMissingError(
            f"The speech file has no sound track {wanted}; it has {listed}. Name one of them in audio_track.",
            tracks=len(streams),
        )
    faults: list[Exception] = []
    for stream in sorted(candidates, key=lambda each: not each.disposition & Disposition.default):
        try:
            _check_stream(stream)
        except (CodecUnsupportedError, AudioEmptyError, AudioInvalidError) as fault:
            faults.append(fault)
            continue
        return stream, AudioTrack(
            number=streams.index(stream) + 1,
            count=len(streams),
            language=_language(stream),
            codec=stream.codec_context.name,
            rate_hz=stream.rate,
            channels=stream.codec_context.channels,
        )
    raise faults[0]


def packet_duration_s(path: Path, limits: MediaLimits) -> float:
    """Seconds of sound by the packets or the header, whichever is less: exact for files of our own."""
    with open_container(path, limits) as media, reading("speech file"):
        stream, _ = choose_track(media)
        packets = (packet for packet in media.container.demux(stream) if packet.size and not packet.is_discard)
        counted = sum(packet.duration or 0 for packet in packets)
        ticks = min(counted, stream.duration) if counted and stream.duration else counted or stream.duration or 0
        return float(ticks * _tick(stream))


def empty_speech() -> AudioEmptyError:
    return AudioEmptyError(f"The speech is empty or shorter than {MIN_SPEECH_S * 1000:.0f} ms; send a longer one.")


@contextmanager
def _naming_chains(path: Path, media: MediaFile) -> Iterator[None]:
    """FFmpeg calls Ogg files that were joined unsupported or damaged where codec, rate or channels change."""
    try:
        yield
    except InputError as error:
        if media.kind is OGG and isinstance(error.__cause__, av.FFmpegError) and _is_chain(path):
            raise MediaUnreadableError(
                "The speech is several Ogg recordings in one file, of different codecs, rates or channels; "
                "re-export it as one."
            ) from error
        raise


def _is_chain(path: Path) -> bool:
    """Whether an Ogg stream begins behind pages of another one (RFC 3533, 4 and 6: bit 2 of the header type)."""
    has_pages, end = False, b""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            data, at = end + block, -1
            while (at := data.find(b"OggS", at + 1)) >= 0 and at + 5 < len(data):
                is_first = bool(data[at + 5] & 2)
                if is_first and has_pages:
                    return True
                has_pages |= not is_first
            end = data[-5:]
    return False


class _Counted:
    """Packets, and how many of them held data so far."""

    def __init__(self, packets: Iterator[Packet[AudioStream]]) -> None:
        self._packets = packets
        self.count = 0

    def __iter__(self) -> Iterator[Packet[AudioStream]]:
        for packet in self._packets:
            self.count += packet.size > 0
            yield packet


def _stated_s(
    path: Path, media: MediaFile, stream: AudioStream, priming: Priming, there_s: float, packets: int
) -> float:
    """Seconds of sound that the file states it has, where that is no guess of FFmpeg; else 0. there_s: how much there
    is. packets: how many. Sound that was recorded into a pipe states nothing, and says so in one of two ways.
    """
    if media.kind.demuxer == "mov":
        indexed = len(stream.index_entries)
        return there_s * indexed / packets if packets else 0.0
    if media.kind is MP3:
        return priming.stated_samples / stream.rate
    if media.kind is WAV:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8)[4:], "little")
        bytes_there = path.stat().st_size - 8
        is_stated = bytes_there < size < _UNKNOWN_WAV_BYTES
        return there_s * size / bytes_there if is_stated else 0.0
    if media.kind in (FLAC, AIFF):
        return float((stream.duration or 0) * _tick(stream))
    if media.kind.demuxer == "matroska" and not media.films:
        return ((media.container.duration or 0) - max(0, media.container.start_time or 0)) / av.time_base
    return 0.0


class _FileClock:
    """Where the next sample belongs. Sound is never cut and never stretched: only missing time is filled in."""

    def __init__(self, media: MediaFile, priming: Priming, limits: MediaLimits, record: SoundRecord) -> None:
        self._is_stamped = media.kind.demuxer in _STAMPED
        self._has_start = media.kind is not FLAC
        self._is_raw = media.kind in (MP3, AAC)
        self._origin = _origin(media)
        self._priming, self._limits, self._record = priming, limits, record
        self._written = 0  # samples
        self._lost_s = self._excess_s = Fraction(
            0
        )  # damaged since the last frame, by durations and beyond them by size
        self._good_bytes, self._good_s = 0, Fraction(0)  # of the packets that decoded
        self._has_started = False
        self._rate_hz = 1

    @property
    def now_s(self) -> float:
        """Seconds of sound and silence so far."""
        return self._written / self._rate_hz

    def silence_before(self, frame: AudioFrame) -> Iterator[AudioFrame]:
        """Frames of silence up to the time stamp of `frame`."""
        rate = frame.sample_rate
        now = Fraction(self._written, rate)
        if self._excess_s:  # counted only when sound follows: at the end of a file it is a tag
            self._extend_damage(float(now), float(self._excess_s))
        behind, self._lost_s, self._excess_s = self._lost_s + self._excess_s, Fraction(0), Fraction(0)
        if self._is_stamped and frame.pts is not None:
            behind = frame.pts * _tick(frame) - self._origin - now
        if behind < -_FALL_BACK_S:
            self._origin += behind
            behind = Fraction(0)
        is_first, self._has_started = not self._has_started, True
        # The numbers of FLAC frames that were cut out of a stream begin where they were cut.
        if is_first and (self._priming.is_stamped_as_sound or not self._has_start):
            self._origin += behind
            behind = Fraction(0)
        if behind < (_LATE_START_S if is_first else _GAP_S):
            return
        if behind > _LONGEST_GAP_S and not is_first:
            raise MediaUnreadableError(
                f"The time stamps of the speech jump ahead by {float(behind):.0f} s after {float(now):.1f} s; "
                "re-export it, or cut it into its parts."
            )
        missing = round(behind * rate)
        if is_first:
            self._record.late_s = missing / rate
        elif self._record.damaged_s and self._record.damaged_s[-1][1] > now:
            self._record.damaged_s[-1] = (self._record.damaged_s[-1][0], float(now + behind))
        else:
            self._record.gaps_s.append((float(now), float(now + behind)))
        while missing > 0:
            silence = _silence(frame, min(missing, rate))
            missing -= silence.samples
            self._count(silence)
            yield silence

    def add(self, frame: AudioFrame) -> None:
        self._record.good_s += frame.samples / frame.sample_rate
        self._count(frame)
        self._rate_hz = frame.sample_rate

    def add_packet(self, packet: Packet[AudioStream]) -> None:
        """One that decoded."""
        self._good_bytes += packet.size
        self._good_s += (packet.duration or 0) * _tick(packet)

    def add_damaged(self, packet: Packet[AudioStream]) -> int:
        """How many samples are missing: where stamps are counted, the packet's own duration; elsewhere the next stamp
        tells."""
        duration = (packet.duration or 0) * _tick(packet)
        self._lost_s += duration
        if self._is_raw and self._good_bytes and not is_one_frame(bytes(packet)):
            # All bytes between two frames of a raw stream are one packet.
            self._excess_s += max(Fraction(0), self._good_s * packet.size / self._good_bytes - duration)
        now = self._written / self._rate_hz if self._has_started else 0.0
        self._extend_damage(now, float(duration))
        return round((duration + self._excess_s) * self._rate_hz)

    def _extend_damage(self, now: float, seconds: float) -> None:
        ranges = self._record.damaged_s
        start, end = ranges.pop() if ranges and now <= ranges[-1][1] else (now, now)
        ranges.append((start, end + seconds))

    def _count(self, frame: AudioFrame) -> None:
        self._written += frame.samples
        if self._written > self._limits.max_audio_s * frame.sample_rate:
            raise too_long("speech", None, self._limits.max_audio_s)


def _origin(media: MediaFile) -> Fraction:
    """Time of the file's first picture or sound. A presentation of ISO 14496-12 without pictures begins at 0."""
    starts = [
        stream.start_time * _tick(stream)
        for stream in (*media.films, *media.container.streams.audio)
        if stream.start_time is not None
    ]
    if media.kind.demuxer == "mov" and not media.films:
        starts.append(Fraction(0))
    return min(starts, default=Fraction(0))


def _tick(timed: Stream | AudioFrame | Packet[AudioStream]) -> Fraction:
    """Seconds of one tick of its time stamps."""
    assert timed.time_base is not None  # every stream of an open container has one
    return timed.time_base


def _is_wanted(number: int, stream: AudioStream, wanted: str | None) -> bool:
    if wanted is None or wanted.isdigit():
        return wanted in (None, str(number))
    return (_language(stream) or "").lower().startswith(wanted.lower())


def _language(stream: AudioStream) -> str | None:
    language = stream.metadata.get("language")
    return None if language in (None, "und") else language


def _check_stream(stream: AudioStream) -> None:
    if stream.codec_context is None:
        raise CodecUnsupportedError("The sound uses an unknown codec; convert the speech to WAV, AAC or MP3.")
    if not stream.rate or not stream.codec_context.channels:
        raise empty_speech()
    if stream.rate < _LEAST_RATE_HZ:
        raise AudioInvalidError(
            f"The speech has {stream.rate} samples a second, in which no word can be heard; export it at 16000 or more."
        )
    if stream.codec_context.channels not in _LAYOUT_BY_CHANNELS:
        raise CodecUnsupportedError(
            f"The speech has {stream.codec_context.channels} channels; at most 8 are understood. Mix it down to stereo."
        )


def _silence(like: AudioFrame, samples: int) -> AudioFrame:
    frame = AudioFrame(format=like.format.name, layout=like.layout.name, samples=samples)
    frame.sample_rate = like.sample_rate
    zero = b"\x80" if like.format.name.startswith("u8") else b"\0"
    for plane in frame.planes:
        plane.update(zero * plane.buffer_size)
    return frame


def _rounded(ranges_s: list[Range], near_s: float = 0.5) -> tuple[Range, ...]:
    joined: list[Range] = []
    for start, end in join_ranges(ranges_s):
        if joined and start - joined[-1][1] < near_s:
            joined[-1] = (joined[-1][0], round(end, 3))
        else:
            joined.append((round(start, 3), round(end, 3)))
    return tuple(joined)


def _countable(frame: AudioFrame) -> AudioFrame:
    """PyAV counts the planes of a frame up to the first empty one of eight, and reads past the eighth: 8 channels in
    planes become one plane."""
    if not frame.format.is_planar or frame.layout.nb_channels < _MOST_CHANNELS:
        return frame
    (packed,) = AudioResampler(frame.format.packed, frame.layout, frame.sample_rate).resample(frame)
    packed.pts, packed.time_base = frame.pts, frame.time_base
    return packed


def _checked(frame: AudioFrame) -> AudioFrame:
    # Not written as `> _MAX_LEVEL`: NaN compares as false both ways
    if frame.format.name in _FLOAT_FORMATS and not (np.abs(frame.to_ndarray()) <= _MAX_LEVEL).all():
        raise AudioInvalidError(
            "The speech holds samples that are no sound (NaN, infinity, or far over full scale); export it again."
        )
    if "channels" not in frame.layout.name:
        return frame
    # An order of channels that nobody states cannot be mixed down: take the usual one for their number.
    layout = _LAYOUT_BY_CHANNELS[frame.layout.nb_channels]
    try:
        samples = frame.to_ndarray()
    except ValueError:
        raise CodecUnsupportedError(
            f"The speech has samples of the rare format {frame.format.name}; export it as WAV with 16 or 24 bits."
        ) from None
    relabelled = AudioFrame.from_ndarray(samples, frame.format.name, layout)
    relabelled.sample_rate = frame.sample_rate
    relabelled.pts, relabelled.time_base = frame.pts, frame.time_base
    return relabelled
