"""Inputs of the engine's measurement, made from one clip and one speech track: other sizes, other lengths."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.types import FaceTrack, Frame

GRAY = (96, 128, 128)


@dataclass(frozen=True)
class Canvas:
    """A clip in the middle of a larger picture. scale: of the clip. width, height: 0 for the scaled clip's own."""

    name: str
    width: int = 0
    height: int = 0
    scale: float = 1.0


CANVASES = (
    Canvas("480p", 854, 480, 480 / 700),
    Canvas("700x700"),
    Canvas("1080p", 1920, 1080),
    Canvas("1080p, face scaled", 1920, 1080, 1080 / 700),
    Canvas("4K", 3840, 2160),
    Canvas("4K, face scaled", 3840, 2160, 2160 / 700),
)


def place_clip(video: Path, canvas: Canvas, result: Path) -> tuple[float, float]:
    """Write the clip on its canvas, nearly lossless. Returns how far it was moved: right, down, in px."""
    source = open_video(video, DEFAULT_LIMITS)
    inner = [int(side * canvas.scale) & ~1 for side in (source.info.width, source.info.height)]
    width, height = canvas.width or inner[0], canvas.height or inner[1]
    left, top = ((width - inner[0]) // 2) & ~1, ((height - inner[1]) // 2) & ~1
    with av.open(str(result), "w") as container:
        stream = container.add_stream("libx264", rate=source.info.fps, options={"crf": "10", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in source.frames():
            container.mux(stream.encode(_placed(frame, inner, (left, top), (width, height))))
        container.mux(stream.encode(None))
    return float(left), float(top)


def repeat_clip(video: Path, times: int, result: Path) -> None:
    """The clip several times over, its packets copied: each round begins with a key picture."""
    with av.open(str(result), "w") as container:
        for k in range(times):
            with av.open(str(video)) as source:
                stream = source.streams.video[0]
                copy = container.streams.video[0] if k else container.add_stream_from_template(stream)
                length = round(stream.frames / stream.average_rate / stream.time_base)
                for packet in (each for each in source.demux(stream) if each.dts is not None):
                    packet.pts, packet.dts, packet.stream = packet.pts + k * length, packet.dts + k * length, copy
                    container.mux(packet)


def repeat_track(track: FaceTrack, times: int) -> FaceTrack:
    return FaceTrack(*(np.concatenate([each] * times) for each in (track.boxes, track.landmarks, track.visible)))


def move_track(track: FaceTrack, scale: float, shift: tuple[float, float]) -> FaceTrack:
    """The track of the clip on its canvas. Landmarks have pixel centers at integers, boxes are continuous."""
    boxes = track.boxes * scale + np.array([*shift, *shift], np.float32)
    landmarks = (track.landmarks + 0.5) * scale - 0.5 + np.array(shift, np.float32)
    return FaceTrack(boxes.astype(np.float32), landmarks.astype(np.float32), track.visible)


def cut_speech(speech: Path, seconds: float, result: Path) -> None:
    """A WAV file of this length; a shorter track is repeated."""
    with wave.open(str(speech)) as reader:
        parameters = reader.getparams()
        data = reader.readframes(reader.getnframes())
    wanted = round(seconds * parameters.framerate) * parameters.sampwidth * parameters.nchannels
    with wave.open(str(result), "wb") as writer:
        writer.setparams(parameters)
        writer.writeframes((data * (wanted // len(data) + 1))[:wanted])


def _placed(frame: Frame, inner: list[int], corner: tuple[int, int], size: tuple[int, int]) -> av.VideoFrame:
    planes = []
    for plane, gray, part in zip((frame.y, frame.u, frame.v), GRAY, (1, 2, 2), strict=True):
        canvas = np.full((size[1] // part, size[0] // part), gray, np.uint8)
        scaled = cv2.resize(plane, (inner[0] // part, inner[1] // part), interpolation=cv2.INTER_CUBIC)
        top, left = corner[1] // part, corner[0] // part
        canvas[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
        planes.append(canvas.ravel())
    return av.VideoFrame.from_ndarray(np.concatenate(planes).reshape(-1, size[0]), format="yuv420p")
