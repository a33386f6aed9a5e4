"""Speech whose mouth classes are known: text spoken by flite or espeak-ng, with the time of every phone.

flite prints the end of each phone (`-psdur`, Debian's `flite`); espeak-ng reports the start of each phoneme as an event
(libespeak-ng, Debian's `espeak-ng`). `python -m bench.visemes` measures with it, `bench.viseme_training` learns
from it.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import shutil
import subprocess
import tempfile
import unicodedata
import wave
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from retalking_core.audio.phones import ARPABET_VISEMES
from retalking_core.audio.visemes import VISEME_RATE_HZ, Viseme
from retalking_core.types import Waveform

ANALYSIS_RATE_HZ = 16_000
S, B, F, D, K, R, I, E, A = Viseme  # noqa: E741

# ARPAbet, as flite and Festival's English voices write it. Diphthongs pass through two classes.
ARPABET: dict[str, tuple[Viseme, ...]] = {
    **ARPABET_VISEMES,
    **dict.fromkeys(["pau", "sil", "ssil", "h#", "brth"], (S,)),
    "em": (B,),
    **dict.fromkeys(["dx", "nx", "en", "el"], (D,)),
    "hv": (K,),
    "ix": (I,),
    **dict.fromkeys(["ax", "axr"], (E,)),
}
ROUNDED_VOWELS, SPREAD_VOWELS = frozenset(["uw", "uh", "ow", "ao"]), frozenset(["iy", "ih", "ey"])

_IPA: dict[str, Viseme] = {
    **dict.fromkeys("pbmβɓʙ", B),
    **dict.fromkeys("fvʋɱɸ", F),
    **dict.fromkeys("θðtdnlszɾɲʎɕʑɬɮɫʈɖɳɭɗɽ", D),
    **dict.fromkeys("kgɡŋxhɣχʁrɹɻʀqɢʔħʕɦɴɰçcɟɧɠʝ", K),
    **dict.fromkeys("uʊoɔwʍyʏøœɥɒʃʒʂʐɞ", R),
    **dict.fromkeys("iɪejɨᵻ", I),
    **dict.fromkeys("ɛəʌɜɚɝɘɵɐɤɯ", E),
    **dict.fromkeys("aɑæɶ", A),
}
# Dentals that show the tongue, where ARPAbet and IPA agree or one has no such letter: th, dh, l; θ, ð and laterals.
_TONGUE_ARPABET, _TONGUE_IPA = frozenset(["th", "dh", "l", "el"]), frozenset("θðlɫɭɬɮ")
_IPA_VOWELS = frozenset("uʊoɔyʏøœɒɞiɪeɨᵻɛəʌɜɚɝɘɵɐɤɯaɑæɶ")
_IPA_STOPS = frozenset("pbtdkgɡqɢcɟʈɖɓɗɠʔ")
_GLIDES = frozenset("jwɥɰ")
_POSTALVEOLAR = frozenset("ʃʒʂʐ")


@dataclass(frozen=True)
class Phone:
    """One sound. symbol: as the synthesizer writes it. visemes: classes that it passes through in equal times."""

    symbol: str
    start_s: float
    end_s: float
    visemes: tuple[Viseme, ...]
    is_vowel: bool = False

    def is_all(self, viseme: Viseme) -> bool:
        return self.visemes == (viseme,)

    @property
    def shows_tongue(self) -> bool:
        """Of flite's and espeak-ng's phones alone: Festival's other languages write other sounds in these letters."""
        symbol = self.symbol.strip("ˈˌ")
        return self.is_all(Viseme.DENTAL) and (symbol in _TONGUE_ARPABET or symbol[:1] in _TONGUE_IPA)


@dataclass(frozen=True)
class SpokenText:
    """speech: at 16 kHz. phones: in order, without overlap, pauses among them."""

    speech: Waveform
    phones: tuple[Phone, ...]

    def labels(self) -> NDArray[np.int64]:
        """Viseme of each frame of `VISEME_RATE_HZ`, i64 [T]; what no phone covers is silence."""
        centers_s = self._centers_s()
        labels = np.zeros(len(centers_s), np.int64)
        for phone in self.phones:
            edges = np.linspace(phone.start_s, phone.end_s, len(phone.visemes) + 1)
            for viseme, start_s, end_s in zip(phone.visemes, edges[:-1], edges[1:], strict=True):
                labels[(centers_s >= start_s) & (centers_s < end_s)] = viseme
        return labels

    def tongue(self) -> NDArray[np.bool_]:
        """Whether a phone that shows the tongue sounds, of each frame of `VISEME_RATE_HZ`, bool [T]."""
        centers_s = self._centers_s()
        shown = np.zeros(len(centers_s), bool)
        for phone in self.phones:
            shown |= phone.shows_tongue & (centers_s >= phone.start_s) & (centers_s < phone.end_s)
        return shown

    def _centers_s(self) -> NDArray[np.float64]:
        count = int(np.ceil(self.speech.duration_s * VISEME_RATE_HZ))
        return (np.arange(count) + 0.5) / VISEME_RATE_HZ


def missing_tools() -> list[str]:
    """What this machine lacks, each with the command that installs it."""
    missing = []
    if shutil.which("flite") is None:
        missing.append("flite (apt-get install flite)")
    if _espeak_library() is None:
        missing.append("libespeak-ng (apt-get install espeak-ng)")
    return missing


def speak_flite(text: str, voice: str, *settings: str) -> SpokenText:
    """English, by a voice of `flite -lv`. settings: further arguments, as `--setf`, `duration_stretch=1.2`."""
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "speech.wav"
        command = ["flite", "-voice", voice, "-psdur", "-t", text, "-o", str(sound), *settings]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        speech = read_wave(sound)
    phones, start_s = [], 0.0
    for item in printed.split():
        symbol, _, end = item.rpartition(":")
        phones.append(arpabet_phone(symbol, start_s, float(end)))
        start_s = float(end)
    return SpokenText(speech, tuple(phones))


def arpabet_phone(symbol: str, start_s: float, end_s: float) -> Phone:
    return Phone(symbol, start_s, end_s, ARPABET[symbol], symbol[0] in "aeiou" and symbol not in ("em", "en", "el"))


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
_AUDIO_OUTPUT_SYNCHRONOUS, _PHONEME_EVENTS_IPA, _UTF8, _PHONEME_EVENT = 2, 3, 1, 7
_RATE_PARAMETER, _PITCH_PARAMETER = 1, 3


@lru_cache(maxsize=1)
def _espeak_library() -> tuple[Any, int] | None:
    """The library and its sample rate; None where it is not installed."""
    name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return None
    return library, int(library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, None, _PHONEME_EVENTS_IPA))


def speak_espeak(text: str, voice: str, words_per_minute: int = 175, pitch: int = 50) -> SpokenText:
    """Any language, by a voice of `espeak-ng --voices`; a variant follows a plus sign: `de+f2`."""
    found = _espeak_library()
    if found is None:
        raise FileNotFoundError("libespeak-ng is not installed: apt-get install espeak-ng")
    library, rate_hz = found
    blocks: list[NDArray[np.int16]] = []
    events: list[tuple[int, str]] = []

    def receive(samples: Any, count: int, event: Any) -> int:
        if samples and count > 0:
            blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        k = 0
        while event[k].type != 0:
            if event[k].type == _PHONEME_EVENT:
                raw = ctypes.string_at(ctypes.addressof(event[k].id), 8).split(b"\0")[0]
                events.append((event[k].sample, raw.decode("utf-8", "ignore")))
            k += 1
        return 0

    callback = _CALLBACK(receive)
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"espeak-ng has no voice {voice}")
    library.espeak_SetParameter(_RATE_PARAMETER, words_per_minute, 0)
    library.espeak_SetParameter(_PITCH_PARAMETER, pitch, 0)
    encoded = text.encode()
    library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
    if not blocks:
        raise ValueError(f"espeak-ng voice {voice} says nothing for {text!r}")
    samples = np.concatenate(blocks).astype(np.float32) / 32768
    starts_s = [start / rate_hz for start, _ in events]
    ends_s = [*starts_s[1:], len(samples) / rate_hz]
    phones = [ipa_phone(s, a, b) for (_, s), a, b in zip(events, starts_s, ends_s, strict=True) if b > a]
    return SpokenText(at_analysis_rate(samples, rate_hz), tuple(_include_closures(phones, samples, rate_hz)))


def ipa_phone(symbol: str, start_s: float, end_s: float) -> Phone:
    """symbol: one phoneme of espeak-ng, with length, stress and other marks, or none for a pause."""
    letters = ["j" if c == "ʲ" else c for c in unicodedata.normalize("NFD", symbol) if c in _IPA or symbol == "ʲ"]
    if not letters:
        return Phone(symbol, start_s, end_s, (Viseme.SILENCE,))
    if letters[0] in _IPA_VOWELS or letters[0] in _GLIDES:
        classes = [_IPA[c] for c in letters]
        if letters[0] == "ɯ" and "ᵝ" in symbol:
            classes[0] = Viseme.ROUNDED
        distinct = [c for k, c in enumerate(classes) if k == 0 or c != classes[k - 1]]
        return Phone(symbol, start_s, end_s, tuple(distinct), is_vowel=letters[-1] in _IPA_VOWELS)
    pursed = letters[0] in "td" and len(letters) > 1 and letters[1] in _POSTALVEOLAR
    return Phone(symbol, start_s, end_s, (Viseme.ROUNDED if pursed else _IPA[letters[0]],))


def _include_closures(phones: list[Phone], samples: NDArray[np.float32], rate_hz: int) -> list[Phone]:
    """espeak-ng reports a stop at its burst; the silence before it, up to 120 ms, is the closure of that stop."""
    step = rate_hz // 200
    blocks = samples[: len(samples) // step * step].reshape(-1, step)
    quiet = np.abs(blocks).max(axis=1) < 0.01 * np.abs(samples).max()
    result: list[Phone] = []
    for phone in phones:
        start_s = phone.start_s
        if phone.symbol.strip("ˈˌ")[:1] in _IPA_STOPS:
            earliest_s = max(start_s - 0.12, (result[-1].start_s + start_s) / 2 if result else 0.0)
            k = int(start_s * rate_hz / step) - 1
            while k >= 0 and k < len(quiet) and quiet[k] and k * step / rate_hz >= earliest_s:
                start_s = k * step / rate_hz
                k -= 1
        if result and start_s < result[-1].end_s:
            last = result[-1]
            result[-1] = Phone(last.symbol, last.start_s, start_s, last.visemes, last.is_vowel)
        result.append(Phone(phone.symbol, start_s, phone.end_s, phone.visemes, phone.is_vowel))
    return result


def read_wave(path: Path) -> Waveform:
    """The first channel of a 16-bit WAV file at 16 kHz."""
    with wave.open(str(path)) as sound:
        channels, rate_hz = sound.getnchannels(), sound.getframerate()
        raw = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
    return at_analysis_rate(raw[::channels].astype(np.float32) / 32768, rate_hz)


def at_analysis_rate(samples: NDArray[np.float32], rate_hz: int) -> Waveform:
    if rate_hz == ANALYSIS_RATE_HZ:
        return Waveform(samples)
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
    frame.sample_rate = rate_hz
    resampler = AudioResampler(format="fltp", layout="mono", rate=ANALYSIS_RATE_HZ)
    parts = [part.to_ndarray()[0] for each in (frame, None) for part in resampler.resample(each)]
    return Waveform(np.concatenate(parts))
