"""What a file is, before anything expensive is done with it."""

from __future__ import annotations

from pathlib import Path

from retalking_core.media.container import open_container
from retalking_core.media.limits import MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.sound import audio_stream, decoded_speech, speech_length
from retalking_core.types import AudioInfo, VideoInfo


def probe_video(path: Path, limits: MediaLimits, still_fps: float = 25.0) -> VideoInfo:
    """The picture stream; decodes one picture. Raises the errors of `open_video`."""
    return open_video(path, limits, still_fps).info


def probe_audio(path: Path, limits: MediaLimits) -> AudioInfo:
    """The speech of a sound or video file, from headers and packets, plus the first decoded samples.

    Uncompressed float sound is read to the end: it alone can hold NaN, and reading it is no decoding. Raises
    NoAudioStreamError, AudioEmptyError, AudioInvalidError, MediaTooLongError, and the errors of `open_container`.
    """
    with open_container(path, limits) as media:
        stream = audio_stream(media)
        codec = stream.codec_context.name
        info = AudioInfo(
            duration_s=float(speech_length(media, limits)),
            rate_hz=stream.rate,
            channels=stream.codec_context.channels,
            container=media.kind.name,
            codec=codec,
        )
    frames = decoded_speech(path, limits)
    if codec.startswith("pcm_f"):
        for _ in frames:
            continue
    else:
        next(frames, None)
    frames.close()
    return info
