"""What the demo works on when it is given nothing: a public-domain portrait, and speech made on the spot."""

from __future__ import annotations

import shutil
import subprocess
from importlib import resources
from pathlib import Path

from cli.demo_speech import write_demo_speech

_SENTENCE = "Hello. This picture has never spoken before, but maybe you would not have guessed. Pretty simple, really!"


def write_portrait(folder: Path) -> Path:
    """The astronaut Eileen Collins (NASA, public domain), 512x512 PNG, from the data files of scikit-image.

    Read as a file: `skimage.data.astronaut()` gives the same pixels, but imports half of scikit-image first.
    """
    target = folder / "astronaut.png"
    with resources.as_file(resources.files("skimage.data") / "astronaut.png") as source:
        shutil.copyfile(source, target)
    return target


def write_speech(folder: Path) -> Path:
    """Real words where espeak-ng is installed, else the synthesizer of this package."""
    target = folder / "speech.wav"
    espeak = shutil.which("espeak-ng")
    if espeak is None or not _speak(espeak, target):
        write_demo_speech(target)
    return target


def _speak(espeak: str, target: Path) -> bool:
    try:
        done = subprocess.run(
            [espeak, "-v", "en-us", "-s", "150", "-w", str(target), _SENTENCE],
            check=False,
            capture_output=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and target.exists() and target.stat().st_size > 10_000
