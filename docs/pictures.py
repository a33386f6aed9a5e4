"""Makes docs/images/preview.jpg, the picture of the README: `python docs/pictures.py`.

Left the demo's portrait as it goes in, then three frames of what the preview engine makes of it: lips shut, the mouth
half open, and wide open. NASA portrait of Eileen Collins, public domain.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cli.demo_input import write_demo_speech, write_portrait
from retalking_core.engine import render_files
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.options import OutputOptions, RenderOptions
from retalking_core.progress import ignore_progress

TARGET = Path(__file__).parent / "images" / "preview.jpg"
_HEAD = (140, 40, 310, 210)
"""Left, top, right, bottom of the head in the 512x512 portrait."""
_PANEL_PX = 320
_GAP_PX = 8


def make_picture(target: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        face, speech, result = write_portrait(folder), folder / "speech.wav", folder / "result.mp4"
        write_demo_speech(speech)
        options = RenderOptions(output=OutputOptions(crf=8))
        report = render_files(PreviewEngine(), face, speech, result, options, ignore_progress)
        frames = choose_frames(report.mouth_target)
        panels = [Image.open(face).convert("RGB"), *read_frames(result, frames)]
        sheet = Image.new("RGB", (len(panels) * (_PANEL_PX + _GAP_PX) - _GAP_PX, _PANEL_PX), "white")
        for place, panel in enumerate(panels):
            head = panel.crop(_HEAD).resize((_PANEL_PX, _PANEL_PX), Image.Resampling.LANCZOS)
            sheet.paste(head, (place * (_PANEL_PX + _GAP_PX), 0))
        sheet.save(target, quality=88, optimize=True)


def choose_frames(opening: NDArray[np.float32]) -> list[int]:
    """Frames of a closed, a half open and a wide open mouth, away from the silence at the ends."""
    inner = slice(len(opening) // 8, -len(opening) // 6)
    part = opening[inner]
    wanted = (part.min(), (part.min() + part.max()) / 2, part.max())
    return [inner.start + int(np.abs(part - value).argmin()) for value in wanted]


def read_frames(video: Path, numbers: list[int]) -> list[Image.Image]:
    with av.open(str(video)) as container:
        found = {n: frame.to_image() for n, frame in enumerate(container.decode(video=0)) if n in numbers}
    return [found[number] for number in numbers]


if __name__ == "__main__":
    make_picture(TARGET)
