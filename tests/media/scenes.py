"""Made scenes of two people in one shot."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from skimage import data

from tests.media.clips import make_tone


def make_two_faces(path: Path, seconds: float = 4.0, fps: int = 25) -> Path:
    """The astronaut's portrait and its mirror image side by side, 512x256, with a tone of one channel at 16 kHz."""
    face = data.astronaut()[:256, 96:352]
    scene = np.ascontiguousarray(np.concatenate([face, face[:, ::-1]], axis=1))
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = scene.shape[1], scene.shape[0], "yuv420p"
        sound = out.add_stream("aac", rate=16000)
        sound.codec_context.layout = "mono"
        picture = av.VideoFrame.from_ndarray(scene, "rgb24").reformat(format="yuv420p")
        for number in range(round(seconds * fps)):
            picture.pts = number
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
        tone = (make_tone(round(seconds * 16000), 16000) * 0.1).astype(np.float32).reshape(1, -1)
        for start in range(0, tone.shape[1], 1024):
            block = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone[:, start : start + 1024]), "fltp", "mono")
            block.sample_rate, block.pts = 16000, start
            out.mux(sound.encode(block))
        out.mux(sound.encode(None))
    return path
