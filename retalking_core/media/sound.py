"""The speech inside a media file as decoded frames, checked while they stream."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream

from retalking_core.errors import (
    AudioEmptyError,
    AudioInvalidError,
    CodecUnsupportedError,
    MediaUnreadableError,
    NoAudioStreamError,
)
from retalking_core.media.container import MediaFile, open_container
from retalking_core.media.faults import DAMAGED_PACKET, reading
from retalking_core.media.limits import MediaLimits
from retalking_core.media.packets import too_long

# Shorter than this there is no syllable, and no AAC frame.
MIN_SPEECH_S = 0.02
# Full scale is 1. Float sound may pass it, but what passes it by 80 dB is no sound, and overflows in the resampler.
_MAX_LEVEL = 1e4
_FLOAT_FORMATS = frozenset({"flt", "fltp", "dbl", "dblp"})
_LAYOUT_BY_CHANNELS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


def audio_stream(media: MediaFile) -> AudioStream:
    """The first sound stream. Raises NoAudioStreamError, AudioEmptyError (a stream without rate or channels)."""
    if media.kind.is_picture:
        raise NoAudioStreamError("The speech file is a picture; send a sound file, or a video with sound.")
    stream = next(iter(media.container.streams.audio), None)
    if stream is None:
        raise NoAudioStreamError("The speech file holds no sound; send a sound file, or a video with sound.")
    if stream.codec_context is None:
        raise CodecUnsupportedError("The sound uses an unknown codec; convert the speech to WAV, AAC or MP3.")
    if not stream.rate or not stream.codec_context.channels:
        raise empty_speech()
    if stream.codec_context.channels not in _LAYOUT_BY_CHANNELS:
        raise CodecUnsupportedError(
            f"The speech has {stream.codec_context.channels} channels; at most 8 are understood. Mix it down to stereo."
        )
    return stream


def empty_speech() -> AudioEmptyError:
    return AudioEmptyError(f"The speech is empty or shorter than {MIN_SPEECH_S * 1000:.0f} ms; send a longer one.")


def decoded_speech(path: Path, limits: MediaLimits) -> Iterator[AudioFrame]:
    """Decoded sound in order, time 0 at the first sample. Damaged packets are left out.

    Raises AudioEmptyError, AudioInvalidError (samples that are not finite), MediaTooLongError as soon as the sound
    passes the cap whatever its header says, MediaUnreadableError when less than half of it decodes.
    """
    with open_container(path, limits) as media:
        stream = audio_stream(media)
        _check_declared(media, stream, limits)
        good_s, bad_s = 0.0, 0.0
        shape: tuple[str, str, int] | None = None
        with reading("speech file"):
            for packet in media.container.demux(stream):
                try:
                    frames = packet.decode()
                except DAMAGED_PACKET:
                    bad_s += float((packet.duration or 0) * stream.time_base)
                    continue
                for frame in map(_checked, frames):
                    found = (frame.format.name, frame.layout.name, frame.sample_rate)
                    shape = shape or found
                    if found != shape:
                        raise MediaUnreadableError("The speech changes its rate or channels midway; re-export it.")
                    good_s += frame.samples / frame.sample_rate
                    if good_s > limits.max_audio_s:
                        raise too_long("speech", None, limits.max_audio_s)
                    yield frame
    if bad_s > good_s:
        raise MediaUnreadableError("More than half of the speech does not decode; re-export it.")
    if good_s < MIN_SPEECH_S:
        raise empty_speech()


def speech_length(media: MediaFile, limits: MediaLimits) -> Fraction:
    """Seconds of sound by header, or by counting packets. Raises MediaTooLongError, AudioEmptyError."""
    stream = audio_stream(media)
    declared = _check_declared(media, stream, limits)
    counted = Fraction(0)
    with reading("speech file"):
        for packet in media.container.demux(stream):
            if packet.size and not packet.is_discard:
                counted += (packet.duration or 0) * stream.time_base
            if counted > limits.max_audio_s + 1:
                raise too_long("speech", None, limits.max_audio_s)
    length = min(declared, counted) if declared and counted else declared or counted
    if length < MIN_SPEECH_S:
        raise empty_speech()
    return length


def _checked(frame: AudioFrame) -> AudioFrame:
    # Not written as `> _MAX_LEVEL`: NaN compares as false both ways
    if frame.format.name in _FLOAT_FORMATS and not (np.abs(frame.to_ndarray()) <= _MAX_LEVEL).all():
        raise AudioInvalidError(
            "The speech holds samples that are no sound (NaN, infinity, or far over full scale); export it again."
        )
    if "channels" not in frame.layout.name:
        return frame
    # An order of channels that nobody states can not be mixed down: take the usual one for their number.
    layout = _LAYOUT_BY_CHANNELS[frame.layout.nb_channels]
    try:
        samples = frame.to_ndarray()
    except ValueError:
        raise CodecUnsupportedError(
            f"The speech has samples of the rare format {frame.format.name}; export it as WAV with 16 or 24 bits."
        ) from None
    relabelled = AudioFrame.from_ndarray(samples, frame.format.name, layout)
    relabelled.sample_rate = frame.sample_rate
    return relabelled


def _check_declared(media: MediaFile, stream: AudioStream, limits: MediaLimits) -> Fraction | None:
    """The length that the header states. Raises MediaTooLongError."""
    declared = stream.duration * stream.time_base if stream.duration is not None else None
    if declared is None and media.container.duration is not None:
        declared = Fraction(media.container.duration, av.time_base)
    if declared is not None and declared > limits.max_audio_s:
        raise too_long("speech", float(declared), limits.max_audio_s)
    return declared
