"""Phones, the visemes that they belong to, and the phones of English speech by PocketSphinx, without a dictionary.

Its model comes with its package. It was trained on recordings of English speakers, which the network of `visemes` was
not, and hardly hears other languages; `visemes` weighs it by how far both agree.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retalking_core.types import Waveform

Report = Callable[[float], None]


def ignore_share(_: float) -> None:
    """For callers that need no progress."""


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


# A letter for each class, in their order, for tables of letters and phones.
VISEME_LETTERS = "SBFDKRIEA"
# Visemes that each phone passes through in equal times.
ARPABET_VISEMES: dict[str, tuple[Viseme, ...]] = {
    **dict.fromkeys(["p", "b", "m"], (Viseme.BILABIAL,)),
    **dict.fromkeys(["f", "v"], (Viseme.LABIODENTAL,)),
    **dict.fromkeys(["th", "dh", "t", "d", "n", "l", "s", "z"], (Viseme.DENTAL,)),
    **dict.fromkeys(["k", "g", "ng", "hh", "r"], (Viseme.VELAR,)),
    **dict.fromkeys(["uw", "uh", "ow", "ao", "w", "sh", "zh", "ch", "jh"], (Viseme.ROUNDED,)),
    **dict.fromkeys(["iy", "ih", "ey", "y"], (Viseme.SPREAD,)),
    **dict.fromkeys(["eh", "ah", "er"], (Viseme.MID,)),
    **dict.fromkeys(["aa", "ae"], (Viseme.OPEN,)),
    "ay": (Viseme.OPEN, Viseme.SPREAD),
    "aw": (Viseme.OPEN, Viseme.ROUNDED),
    "oy": (Viseme.ROUNDED, Viseme.SPREAD),
}
_FRAME = 160
# The decoder's memory grows with an utterance, and it normalizes the recording over one.
_LONGEST_UTTERANCE_S, _SEARCHED_S = 20.0, 5.0
# Peak that the decoder gets: quiet speech would drown in the rounding to 16 bits.
_PEAK = 20_000
# One decoder, which has state, for all threads.
_LOCK = threading.Lock()


def phone_visemes(speech: Waveform, report: Report = ignore_share) -> NDArray[np.float32] | None:
    """One viseme for each hundredth of a second, f32 [T, 9] of zeros and ones, at 0.08 of real time on one core.

    speech: at 16 kHz. report: called with the share of the speech that is heard, 0..1, at least every 20 s of it; an
    exception from it ends the recognition. None where PocketSphinx is not installed (it has no wheel for Python 3.14).
    """
    if find_spec("pocketsphinx") is None:
        return None
    count = -(-len(speech.samples) // _FRAME)
    classes = np.zeros(count, np.int64)
    peak = max(float(np.abs(speech.samples).max(initial=0.0)), 1e-9)
    samples = (speech.samples * (_PEAK / peak)).astype(np.int16)
    for start, stop in pairwise(_utterances(samples)):
        with _LOCK:
            found = _decode(samples[start * _FRAME : stop * _FRAME])[: stop - start]
        classes[start : start + len(found)] = found
        report(stop / max(count, 1))
    return np.eye(len(Viseme), dtype=np.float32)[classes]


def _utterances(samples: NDArray[np.int16]) -> list[int]:
    """Ends of stretches of 20 s at most, in frames, at the quietest places."""
    count = -(-len(samples) // _FRAME)
    padded = np.pad(samples, (0, count * _FRAME - len(samples))).reshape(count, _FRAME)
    longest, searched = round(_LONGEST_UTTERANCE_S * 100), round(_SEARCHED_S * 100)
    ends = [0]
    while count - ends[-1] > longest:
        first = ends[-1] + longest - searched
        loudness = np.abs(padded[first : first + searched].astype(np.int32)).max(axis=1)
        ends.append(first + int(loudness.argmin()) + 1)
    return [*ends, count]


def _decode(samples: NDArray[np.int16]) -> NDArray[np.int64]:
    """Viseme of each frame, as far as the decoder got: the last 25 ms give none."""
    decoder = _decoder()
    decoder.reinit_feat()  # else its normalization starts from the speech before
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), full_utt=True)
    decoder.end_utt()
    classes: list[int] = []
    for segment in decoder.seg() or ():  # None: too short for a phone
        length = segment.end_frame + 1 - len(classes)
        passed = ARPABET_VISEMES.get(segment.word.lower(), (Viseme.SILENCE,))
        for viseme, frames in zip(passed, np.array_split(np.arange(length), len(passed)), strict=True):
            classes += [viseme] * len(frames)
    return np.array(classes, np.int64)


@lru_cache(maxsize=1)
def _decoder() -> Any:
    import pocketsphinx

    model = Path(pocketsphinx.get_model_path("en-us"))
    return pocketsphinx.Decoder(
        hmm=str(model / "en-us"),
        allphone=str(model / "en-us-phone.lm.bin"),
        lw=2.0,
        beam=1e-20,
        pbeam=1e-20,
        loglevel="FATAL",
    )
