"""Forced alignment of a transcript: which visemes the letters allow, and when the speech passes through them.

No dictionary: in every alphabet a consonant letter says where the mouth closes, vowel letters are vague, and each may
be silent. A left-to-right hidden Markov model over the letters (Rabiner 1989, "A tutorial on hidden Markov models")
with the network's posteriors as emissions finds their times, in any language whose letters stand for sounds.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np
from numpy.typing import NDArray

from retalking_core.audio.phones import VISEME_LETTERS

Posteriors = NDArray[np.float32]
# Classes that a letter may stand for, likeliest first; a letter may always be silent. L is a dental
# that shows the tongue.
_TONGUE = "L"
_LETTERS = {
    **dict.fromkeys("bpm", "B"),
    "f": "F",
    "v": "FB",
    "w": "RF",
    **dict.fromkeys("tdnz", "D"),
    "l": _TONGUE,
    "s": "DR",
    "c": "KDR",
    **dict.fromkeys("kqhr", "K"),
    "g": "KRI",
    "x": "KDR",
    "j": "RIK",
    "y": "IRE",
    "i": "IEA",
    "e": "EIA",
    "a": "AERI",
    "o": "RAE",
    "u": "REI",
}
_DIGRAPHS = {"ph": "F", "th": _TONGUE, "sh": "R", "ch": "RKD", "zh": "R"}
# Alphabets whose letters have names in Unicode that begin (EM: end) with their sound; of kana, all of the name sounds.
_SCRIPTS, _SYLLABLES = ("CYRILLIC", "GREEK", "DEVANAGARI"), ("HIRAGANA", "KATAKANA")
# Names that do not.
_NAMES = {
    **dict.fromkeys(["sha", "shcha", "zhe", "che"], "R"),
    **dict.fromkeys(["hard", "soft", "sign", "virama", "anusvara", "visarga", "nukta", "candrabindu"], ""),
    **{
        "theta": _TONGUE,
        "delta": _TONGUE,
        "beta": "F",
        "phi": "F",
        "fita": "F",
        "ya": "I",
        "yu": "R",
        "io": "R",
        "yeru": "I",
    },
}
_SPECIAL = {"ß": "s", "ł": "w", "ø": "o", "æ": "e", "œ": "o", "ð": "d", "þ": "t", "đ": "d", "ı": "i"}
_SOUNDS = re.compile("|".join([*_DIGRAPHS, "[a-zA-Z]"]))
_VOWELS = frozenset("aeiouy")
# Costs in nats: a letter that is not heard; a class that a letter seldom stands for; the least that a frame can tell.
SILENT_VOWEL, SILENT_CONSONANT, SECOND_CHOICE, FLOOR = 1.5, 5.0, 0.7, 0.03
# States around the best one that are followed: ten seconds of letters.
BEAM = 400
MOST_SILENT = 3
# Weight of a class that the aligned letter does not allow.
UNLIKELY = 0.05
# By how much a letter changes the odds that a dental shows the tongue. th is t in German, and l is silent in "half".
TONGUE_ODDS = 4.0
MOST_MISFIT = 0.5


class TranscriptMismatchError(ValueError):
    """The transcript cannot be aligned with the speech; the message says why."""


def align_transcript(
    transcript: str, posteriors: Posteriors, shown: NDArray[np.float32]
) -> tuple[Posteriors, NDArray[np.float32]]:
    """Posteriors f32 [T, 9] and the probability f32 [T] that a dental shows the tongue, by the letters of the
    transcript.

    Time and memory grow with T times `BEAM`. Raises TranscriptMismatchError.
    """
    kinds, misfit = _align(transcript, posteriors)
    if misfit > MOST_MISFIT:
        raise TranscriptMismatchError("it does not match what is said")
    different, kind_of = np.unique(kinds, return_inverse=True)
    together = posteriors * np.maximum(np.array([_weights(kind) for kind in different], np.float32)[kind_of], UNLIKELY)
    change = [TONGUE_ODDS if kind == _TONGUE else 1 / TONGUE_ODDS if "D" in kind else 1.0 for kind in different]
    odds = np.array(change)[kind_of]
    shown = (shown * odds / (shown * odds + 1 - shown)).astype(np.float32)
    return together / together.sum(axis=1, keepdims=True), shown


def _align(transcript: str, posteriors: Posteriors) -> tuple[list[str], float]:
    """Kind of the letter that each frame belongs to, and the misfit: nats a frame by which the letters explain the
    speech worse than free classes do."""
    states = _spell(transcript)
    if len(states) == 1:
        raise TranscriptMismatchError("its script does not spell sounds")
    kinds = sorted({kind for kind, _ in states})
    weights = np.array([_weights(kind) for kind in kinds], np.float32)
    kind_of = np.array([kinds.index(kind) for kind, _ in states])
    skip = np.array([cost for _, cost in states], np.float32)
    emissions = np.log(np.maximum(posteriors @ weights.T, FLOOR))
    path = _best_path(emissions, kind_of, skip)
    free = np.log(np.maximum(posteriors.max(axis=1), FLOOR))
    # Silent letters: those between the states of two frames, and before the first and after the last one.
    visited = np.zeros(len(states), bool)
    visited[path] = True
    misfit = float((free - emissions[np.arange(len(path)), kind_of[path]]).mean() + skip[~visited].sum() / len(path))
    return [states[k][0] for k in path], misfit


def _spell(transcript: str) -> list[tuple[str, float]]:
    """Kinds of the states (classes allowed) and the cost of passing each by; a pause before and after each word."""
    states: list[tuple[str, float]] = [("S", 0.0)]
    for word in _romanize(transcript).split():
        before = len(states)
        for sound in _SOUNDS.findall(word):
            kind = sound if sound.isupper() else _DIGRAPHS.get(sound) or _LETTERS[sound]
            # A double consonant is one sound.
            if len(states) == before or states[-1][0] != kind or kind[0] not in "BFDK" + _TONGUE:
                states.append((kind, SILENT_VOWEL if sound in _VOWELS else SILENT_CONSONANT))
        if len(states) > before:
            states.append(("S", 0.0))
    return states


def _romanize(transcript: str) -> str:
    """Lower-case Latin letters and blanks; an upper-case letter is a class. Letters of other scripts are left out."""
    found = []
    composed = unicodedata.normalize("NFKC", transcript.lower())
    # Kana keep their marks, which make p and b of h; letters lose theirs.
    for character in "".join(c if "ぁ" <= c <= "ヿ" else unicodedata.normalize("NFD", c) for c in composed):
        script, _, name = unicodedata.name(character, "").partition(" ")
        last = name.split()[-1].lower() if name else ""
        if character in _LETTERS:
            found.append(character)
        elif character in _SPECIAL:
            found.append(_SPECIAL[character])
        elif script in _SYLLABLES:
            found.append("".join(c for c in last if c in _LETTERS))
        elif script in _SCRIPTS:
            # EM, EN and ES are consonants, ALPHA and AA are vowels.
            at_end = len(last) == 2 and last[0] in _VOWELS and last[1] not in _VOWELS
            found.append(_NAMES.get(last, last[1 if at_end else 0]))
        elif not unicodedata.combining(character) and not character.isalpha() and character not in "'’":
            found.append(" ")
    return "".join(found)


def _weights(kind: str) -> list[float]:
    kind = kind.replace(_TONGUE, "D")
    chosen = {letter: 1.0 if k == 0 else float(np.exp(-SECOND_CHOICE)) for k, letter in enumerate(kind)}
    return [chosen.get(letter, 0.0) for letter in VISEME_LETTERS]


def _best_path(
    emissions: NDArray[np.float32], kind_of: NDArray[np.int64], skip: NDArray[np.float32]
) -> NDArray[np.int64]:
    """State of each frame (Viterbi 1967) from the first to the last; up to `MOST_SILENT` in a row may be passed by."""
    count, states = len(emissions), len(kind_of)
    front = MOST_SILENT + 1
    # passed[k][s]: cost of passing by the k states before s.
    costs = np.concatenate([np.zeros(front, np.float32), skip])
    passed = [np.zeros(states, np.float32)]
    for k in range(1, front):
        passed.append(passed[-1] + costs[front - k : front - k + states])
    # The state before the first one is where every path begins.
    score = np.full(front + states, -np.inf, np.float32)
    score[front - 1] = 0
    moves, lows = np.zeros((count, min(states, BEAM)), np.uint8), np.zeros(count, np.int64)
    low = 0
    for t in range(count):
        high = min(states, low + BEAM)
        choices = [score[front + low : front + high]]
        choices += [score[front - 1 - k + low : front - 1 - k + high] - passed[k][low:high] for k in range(front)]
        stacked = np.stack(choices)
        moves[t, : high - low] = stacked.argmax(axis=0)
        score[:] = -np.inf
        score[front + low : front + high] = stacked.max(axis=0) + emissions[t, kind_of[low:high]]
        lows[t] = low
        best = low + int(score[front + low : front + high].argmax())
        low = int(np.clip(best - BEAM // 2, low, max(0, states - BEAM)))
    # The last letters may be silent too.
    ends = score[front:] - np.concatenate([np.cumsum(skip[:0:-1])[::-1], [0]])
    ends[:-front] = -np.inf
    state = int(ends.argmax())
    if not np.isfinite(ends[state]):
        raise TranscriptMismatchError("it is longer than the speech")
    path = np.empty(count, np.int64)
    for t in range(count - 1, -1, -1):
        path[t] = state
        state -= int(moves[t, state - lows[t]])
    return path
