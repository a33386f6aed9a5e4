"""A scene of two people beside each other, and what each of them says, made on the spot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from retalking_core.lines import LineInput
from tests.faces.clips import backdrop, place_face, write_clip
from tests.preview.speech import make_sound, write_wav

WIDTH, HEIGHT, FPS = 480, 224, 25
SECONDS = 7.6
# Each says a line alone, then both speak at once: start and end in seconds.
FIRST_ALONE, SECOND_ALONE, BOTH = (0.4, 2.2), (2.4, 4.2), (4.4, 7.2)


@dataclass(frozen=True)
class Dialog:
    """first, second: speeches of the person on the left and on the right, of 3 s each."""

    video: Path
    first: Path
    second: Path

    @property
    def lines(self) -> list[LineInput]:
        """Four: each alone, then both at once."""
        spoken = (
            (self.first, FIRST_ALONE, "left_most"),
            (self.second, SECOND_ALONE, "right_most"),
            (self.first, BOTH, "left_most"),
            (self.second, BOTH, "right_most"),
        )
        return [LineInput(audio, start_s, end_s, face=face) for audio, (start_s, end_s), face in spoken]


def make_dialog(folder: Path, seconds: float = SECONDS) -> Dialog:
    """Two heads of one portrait, the right one mirrored, swaying a little; and two speeches of different rhythm."""
    pictures = []
    for k in range(round(seconds * FPS)):
        canvas = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        for side, sway in ((0, 3 * np.sin(k / 11)), (1, 3 * np.cos(k / 13))):
            half = backdrop(WIDTH // 2, HEIGHT)
            place_face(half, 92, 120 + sway, 108)
            canvas[:, side * WIDTH // 2 :][:, : WIDTH // 2] = cv2.flip(half, 1) if side else half
        pictures.append(canvas)
    video = write_clip(folder / "two.mp4", pictures, FPS)
    quick = [(sound, length) for vowel in "aaaaaaa" for sound, length in ((vowel, 0.22), (" ", 0.2))]
    slow = [(sound, length) for vowel in "aaaa" for sound, length in ((" ", 0.45), (vowel, 0.4))]
    first = write_wav(folder / "first.wav", make_sound(quick))
    second = write_wav(folder / "second.wav", make_sound(slow, seed=11))
    return Dialog(video, first, second)
