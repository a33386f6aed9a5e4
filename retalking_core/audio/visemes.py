"""Visemes: which shape the mouth takes for each sound of speech.

A viseme is a class of phones that look alike on the lips (Fisher 1968, "Confusions among visually perceived
consonants"). Times are on the clock of the speech.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

VISEME_RATE_HZ = 100.0


class Viseme(IntEnum):
    """Mouth classes, in the order of the columns of `VisemeTrack.posteriors`. IPA examples behind each."""

    SILENCE = 0
    BILABIAL = 1  # p b m
    LABIODENTAL = 2  # f v
    DENTAL = 3  # dental and alveolar: θ ð t d n l s z ts
    VELAR = 4  # velar, uvular, glottal and rhotic: k g ŋ x h r
    ROUNDED = 5  # u o ɔ w y ø, and ʃ ʒ tʃ dʒ, which purse the lips too
    SPREAD = 6  # i ɪ e j
    MID = 7  # half open: ɛ ə ʌ ɜ
    OPEN = 8  # a ɑ æ


@dataclass(frozen=True)
class VisemeTrack:
    """Visemes of one speech track.

    posteriors: f32 [T, 9], at `VISEME_RATE_HZ`; row k covers k/100 to (k+1)/100 s and sums to 1. Columns: `Viseme`.
    confidence: f32 [T], 0 (guessed) .. 1 (sure), of the most probable class.
    """

    posteriors: NDArray[np.float32]
    confidence: NDArray[np.float32]
