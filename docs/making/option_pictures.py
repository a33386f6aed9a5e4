"""Makes docs/images/options/*.jpg, the pictures of the options page: `python -m docs.making.option_pictures`.

Made from the demo's own input: the NASA portrait of Eileen Collins (public domain) and the synthesized speech.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import get_args

import av
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from cli.demo_input import write_demo_speech, write_portrait
from retalking_core.clip_plan import plan_timeline
from retalking_core.engine import render_files
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.options import LengthMode, OutputOptions, RenderOptions
from retalking_core.progress import ignore_progress
from retalking_core.types import ColorTags, VideoInfo

TARGET = Path(__file__).resolve().parents[1] / "images" / "options"
_HEAD = (96, 24, 352, 280)
"""Left, top, right, bottom of the head in the 512x512 portrait."""


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    draw_length_modes(TARGET / "length_mode.jpg")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speech = folder / "speech.wav"
        write_demo_speech(speech)
        portrait = write_portrait(folder)
        show_faces(portrait, speech, folder, TARGET / "face.jpg")
        show_heights(portrait, speech, folder, TARGET / "output.jpg")


def draw_length_modes(target: Path) -> None:
    """The source time that is shown at each output time: a 2 s video, 5 s of speech."""
    rate = Fraction(25)
    times_s = np.arange(50) / 25.0
    info = VideoInfo(64, 64, rate, times_s, 2.0, 0, ColorTags(), False, "mp4", "h264")
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    for place, mode in enumerate(get_args(LengthMode)):
        axes = figure.add_subplot(1, 5, place + 1)
        timeline = plan_timeline(info, 5.0, mode)
        axes.plot(np.arange(len(timeline.source_index)) / float(timeline.fps), times_s[timeline.source_index])
        axes.set(title=mode, xlim=(0, 5), ylim=(0, 2.1), xlabel="result, s", ylabel="video, s" if place == 0 else "")
        axes.tick_params(labelleft=place == 0)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    picture.save(target, quality=90, optimize=True)


def show_faces(portrait: Path, speech: Path, folder: Path, target: Path) -> None:
    """Two heads side by side; the chosen one speaks, the other stays as it is."""
    head = Image.open(portrait).convert("RGB").crop(_HEAD)
    pair = Image.new("RGB", (2 * head.width, head.height))
    pair.paste(head, (0, 0))
    pair.paste(head, (head.width, 0))
    source = folder / "two.png"
    pair.save(source)
    rows = [_widest(source, speech, folder, RenderOptions(face=face)) for face in ("left_most", "right_most")]
    sheet = Image.new("RGB", (rows[0].width, 2 * rows[0].height + 8), "white")
    for place, row in enumerate(rows):
        sheet.paste(row, (0, place * (row.height + 8)))
    sheet.save(target, quality=85, optimize=True)


def show_heights(portrait: Path, speech: Path, folder: Path, target: Path) -> None:
    frames = [
        _widest(portrait, speech, folder, RenderOptions(output=OutputOptions(max_height=height)))
        for height in (512, 256, 128)
    ]
    sheet = Image.new("RGB", (sum(frame.width + 8 for frame in frames) - 8, frames[0].height), "white")
    left = 0
    for frame in frames:
        sheet.paste(frame, (left, sheet.height - frame.height))
        left += frame.width + 8
    sheet.save(target, quality=85, optimize=True)


def _widest(face: Path, speech: Path, folder: Path, options: RenderOptions) -> Image.Image:
    """The frame of the widest open mouth."""
    result = folder / "result.mp4"
    report = render_files(
        PreviewEngine(), face, speech, result, replace(options, output=replace(options.output, crf=8)), ignore_progress
    )
    number = int(report.mouth_target.argmax())
    with av.open(str(result)) as container:
        return next(frame.to_image() for place, frame in enumerate(container.decode(video=0)) if place == number)


if __name__ == "__main__":
    main()
