"""How much media one job may bring. Checked on what is found in the file, whatever its header states."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MediaLimits:
    """Caps with the reason for each default.

    max_side_px: 8192, the largest side H.264 level 6.2 encodes and dlib or a network is ever shown.
    max_picture_px: 7680x4320 (8K UHD); its 4:2:0 frame is 50 MB, so that the frames in flight stay under about 1 GB.
    max_video_s, max_audio_s: ten minutes; a longer talk is cut into jobs by the caller, a job stays retryable.
    max_fps: 240, what phones record in slow motion, by the nominal rate. max_frames: ten minutes at 60 per second.
    max_streams: 16; a camera file has up to six, films with many dubs are no talking-face clips.
    max_held_bytes: decoded frames kept to run a clip backwards (at least 4 frames whatever their size).
    """

    max_picture_px: int = 7680 * 4320
    max_side_px: int = 8192
    max_video_s: float = 600.0
    max_audio_s: float = 600.0
    max_frames: int = 36_000
    max_fps: float = 240.0
    max_streams: int = 16
    max_held_bytes: int = 256 * 1024 * 1024


DEFAULT_LIMITS = MediaLimits()
