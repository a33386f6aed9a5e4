"""Excerpts of a result for lists and messengers: a poster picture, and a small clip of its beginning with sound."""

from __future__ import annotations

from pathlib import Path

import av
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from PIL import Image

POSTER_PX = 960
PREVIEW_PX = 360
PREVIEW_S = 4.0
_JPEG_QUALITY = 85


def write_poster(result: Path, poster: Path) -> None:
    """JPEG of the picture in the middle, with at most POSTER_PX on its longer side. result: a file that ResultWriter
    made. Raises av.FFmpegError, OSError."""
    with av.open(str(result)) as media:
        middle_s = float((media.duration or 0) / av.time_base) / 2
        media.seek(int(middle_s * av.time_base))
        shown = None
        for shown in media.decode(video=0):
            if shown.time is not None and shown.time >= middle_s:
                break
        if shown is None:
            raise ValueError("the result has no picture")
        width, height = fitted(shown.width, shown.height, POSTER_PX)
        rgb = shown.reformat(width=width, height=height, format="rgb24").to_ndarray()
        Image.fromarray(rgb).save(poster, "JPEG", quality=_JPEG_QUALITY)


def write_preview(result: Path, preview: Path) -> None:
    """MP4 (H.264, AAC) of the first PREVIEW_S seconds, with at most PREVIEW_PX on its longer side. result and errors:
    as in write_poster."""
    with (
        av.open(str(result)) as media,
        av.open(str(preview), "w", format="mp4", container_options={"movflags": "+faststart"}) as out,
    ):
        source = media.streams.video[0]
        pictures = out.add_stream("libx264", rate=source.average_rate, options={"crf": "27", "preset": "veryfast"})
        pictures.width, pictures.height = fitted(source.width, source.height, PREVIEW_PX)
        pictures.pix_fmt = "yuv420p"
        tags = ("colorspace", "color_primaries", "color_trc", "color_range")
        for tag in tags:
            setattr(pictures.codec_context, tag, getattr(source.codec_context, tag))
        sound = None
        if media.streams.audio:
            track = media.streams.audio[0]
            sound = out.add_stream("aac", rate=track.rate, options={"b": "64k"})
            sound.codec_context.layout = track.layout
        for packet in media.demux(video=0, audio=0 if sound else ()):
            if packet.dts is not None and packet.dts * packet.time_base >= PREVIEW_S + 1:
                break  # what is shown before PREVIEW_S was decoded before this
            for frame in packet.decode():
                if not isinstance(frame, VideoFrame | AudioFrame) or frame.time is None or frame.time >= PREVIEW_S:
                    continue
                if isinstance(frame, VideoFrame):
                    small = frame.reformat(width=pictures.width, height=pictures.height, format="yuv420p")
                    out.mux(pictures.encode(small))
                elif sound is not None:
                    out.mux(sound.encode(frame))
        out.mux(pictures.encode(None))
        if sound is not None:
            out.mux(sound.encode(None))


def fitted(width: int, height: int, longest: int) -> tuple[int, int]:
    """Even width and height with at most `longest` on the longer side, in the same proportion; never larger."""
    scale = min(1.0, longest / max(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)
