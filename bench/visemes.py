"""Do the lips say the sounds? `python -m bench.visemes`.

Speaks sentences with synthesizers that print the time of every phone (`bench.spoken_text`), and prints two tables: how
well the mouth classes are heard (`recognize_visemes`), and what the preview's mouth would do (`plan_mouth_motion` at
25 fps). No sentence of these may be used to train a recognizer. The shipped network was trained on other sentences of
flite's voices rms and slt; `--network` measures one that was trained without them, which tells what an unknown voice
gets (docs/visemes.md).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.spoken_text import (
    ROUNDED_VOWELS,
    SPREAD_VOWELS,
    Phone,
    SpokenText,
    missing_tools,
    speak_espeak,
    speak_flite,
)
from retalking_core.audio import visemes
from retalking_core.audio.phones import phone_visemes
from retalking_core.audio.visemes import (
    VISEME_RATE_HZ,
    Viseme,
    VisemeTrack,
    band_levels,
    recognize_visemes,
    run_network,
)
from retalking_core.engines.preview.mouth_motion import plan_mouth_motion
from retalking_core.types import Timeline, Waveform

FPS = 25
MEASURED_VOICES = ("rms", "slt")
REACH_S = 0.02

ENGLISH = (
    "My mother bought five purple pumpkins before the market shut.",
    "Bob and Pam jumped from the top of a big boat.",
    "Please move the broken table up the ramp by half past four.",
    "A brave fox found seven fat frogs living under the leaves.",
    "We knew the moon would soon be full above the blue pool.",
    "She keeps these cheap green beans in three deep tins.",
    "The black cat sat back, and the calm father laughed at that.",
    "Maybe somebody should remember a bumpy map of Africa.",
    "Who chose those old wooden shoes for the show at the zoo?",
    "Peter's happy puppy often barks at a lamb in the park.",
    "Fresh coffee never hurts if you have a very long drive ahead.",
    "I hope you both come home tomorrow, but bring warm gloves.",
    "Simple people make simple problems; complex people make maps.",
    "Can the captain's camera catch a cab going past the castle?",
    "Victor's wife gave a few vivid views of the valley far off.",
    "It is easy to see the sea if the trees keep their leaves thin.",
    "Thank you for nothing, said the tired dentist with a thick thumb.",
    "Our job is to measure the pleasure of a joyful journey at a beach.",
)
# Voice of espeak-ng -> sentences.
LANGUAGES: dict[str, tuple[str, ...]] = {
    "es": (
        "Mi primo Pablo compró un piano bonito para su mamá.",
        "También puedo pasar por la plaza a buscar pan blanco.",
        "El hombre amable me mostró mapas de un pueblo pequeño.",
        "Por favor, prepara un poco de sopa antes de la boda.",
    ),
    "de": (
        "Meine Mutter backt am Abend einen Apfelkuchen mit Pflaumen.",
        "Bitte bringen Sie mir zwei Becher Milch und ein Brötchen.",
        "Der Baum im Park bekommt bald bunte Blätter.",
        "Papa kommt um halb sieben mit dem Bus aus Bamberg.",
    ),
    "fr": (
        "Ma mère prépare une bonne soupe pour le petit Pierre.",
        "Je peux appeler Paul pendant ma pause de midi.",
        "Le bateau blanc part demain matin vers Bordeaux.",
        "Un peu plus de beurre et de pommes, mon ami.",
    ),
    "it": (
        "Mio papà compra il pane e prepara una buona pasta.",
        "Il bambino piccolo beve un bicchiere di acqua limpida.",
        "Domani mattina possiamo partire per Bologna col mio amico.",
        "Prima di dormire mamma apre un libro bellissimo.",
    ),
    "ru": (
        "Моя бабушка купила большую банку мёда на базаре.",
        "Папа пошёл в парк с маленьким мальчиком.",
        "Мы будем пить компот и обедать после работы.",
        "Пожалуйста, поставьте бумагу обратно на полку.",
    ),
    "hi": (
        "मेरी माँ बाज़ार से फल और सब्ज़ी लेकर आई।",
        "पिताजी बहुत बड़ी किताब पढ़ रहे हैं।",
        "आप मुझे अपना नाम और पता बताइए।",
        "हम सब मिलकर पानी में खेलेंगे।",
    ),
    "pl": (
        "Moja mama kupiła dobre pomidory i biały chleb.",
        "Pan Piotr mieszka blisko parku w małym mieście.",
        "Proszę bardzo, podaj mi tę białą butelkę mleka.",
        "Babcia pamięta piękną zimę nad Bałtykiem.",
    ),
    "pt": (
        "Minha mãe comprou um pão bom na padaria pequena.",
        "O Pedro pode abrir a porta do banco amanhã.",
        "Meu primo bebe um copo de água bem limpa.",
        "Por favor, passa a batata e a pimenta para mim.",
    ),
    "ja": (
        "まいあさ ぼくは パンを たべます。",
        "ママは ぶたにくと ビールを かいました。",
        "ピアノの もんだいは まだ むずかしいです。",
        "びょういんの まえに バスが とまります。",
    ),
    "cmn-latn-pinyin": (
        "wo3 de5 ma1ma5 mai3 le5 ba1 ge4 mian4bao1",
        "ba4ba5 ming2tian1 pei2 wo3 qu4 bei3jing1",
        "peng2you5 men5 dou1 bu4 ming2bai5 zhe4 ge5 wen4ti2",
        "qing3 bang1 wo3 ba3 men2 da3kai1",
    ),
}


Recognizer = Callable[[SpokenText], VisemeTrack]


@dataclass
class Heard:
    """Counts on posteriors. Pairs are found and total."""

    bilabial: list[bool] = field(default_factory=list)
    other: list[bool] = field(default_factory=list)
    labiodental: list[bool] = field(default_factory=list)
    right: list[NDArray[np.bool_]] = field(default_factory=list)
    rounded: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)


@dataclass
class Planned:
    """What the planned mouth does in each sound; openings 0..1, closure, tuck and tongue at their largest."""

    bilabial: list[float] = field(default_factory=list)
    closure: list[float] = field(default_factory=list)
    other_closure: list[float] = field(default_factory=list)
    labiodental: list[float] = field(default_factory=list)
    tuck: list[float] = field(default_factory=list)
    tongue: list[float] = field(default_factory=list)
    other_tongue: list[float] = field(default_factory=list)
    open_vowel: list[float] = field(default_factory=list)
    rounded: list[float] = field(default_factory=list)
    spread: list[float] = field(default_factory=list)


def add_heard(heard: Heard, spoken: SpokenText, track: VisemeTrack) -> None:
    """Compare the classes heard with those spoken."""
    labels = spoken.labels()
    count = min(len(labels), len(track.posteriors))
    posteriors = track.posteriors[:count]
    heard.right.append(posteriors.argmax(axis=1) == labels[:count])
    for phone in spoken.phones:
        hold = _frames(phone, count, VISEME_RATE_HZ)
        if phone.is_all(Viseme.BILABIAL):
            heard.bilabial.append(bool((posteriors[hold, Viseme.BILABIAL] > 0.5).any()))
        elif _is_consonant(phone):
            heard.other.append(bool((posteriors[hold, Viseme.BILABIAL] > 0.5).any()))
        if phone.is_all(Viseme.LABIODENTAL):
            heard.labiodental.append(bool((posteriors[hold, Viseme.LABIODENTAL] > 0.5).any()))
        shape = float((posteriors[hold, Viseme.SPREAD] - posteriors[hold, Viseme.ROUNDED]).mean())
        _add_vowel(phone, shape, heard.rounded, heard.spread)


def add_planned(planned: Planned, spoken: SpokenText, track: VisemeTrack) -> None:
    """Measure the motion that the preview plans for this speech at 25 fps."""
    count = max(1, round(spoken.speech.duration_s * FPS))
    timeline = Timeline(np.arange(count), Fraction(FPS))
    motion = plan_mouth_motion(spoken.speech, timeline, track)
    for phone in spoken.phones:
        hold, inside = _frames(phone, count, FPS, REACH_S), _frames(phone, count, FPS)
        if phone.is_all(Viseme.BILABIAL):
            planned.bilabial.append(float(motion.opening[hold].min()))
            planned.closure.append(float(motion.closure[inside].max()))
        elif _is_consonant(phone):
            planned.other_closure.append(float(motion.closure[inside].max()))
        if phone.is_all(Viseme.LABIODENTAL):
            planned.labiodental.append(float(motion.opening[hold].min()))
            planned.tuck.append(float(motion.tuck[inside].max()))
        elif phone.is_vowel and phone.visemes[0] == Viseme.OPEN:
            planned.open_vowel.append(float(motion.opening[hold].max()))
        if phone.shows_tongue:
            planned.tongue.append(float(motion.tongue[inside].max()))
        elif _is_consonant(phone):
            planned.other_tongue.append(float(motion.tongue[inside].max()))
        _add_vowel(phone, float(motion.spread[inside].mean()), planned.rounded, planned.spread)


def _frames(phone: Phone, count: int, rate_hz: float, reach_s: float = 0.0) -> NDArray[np.int64]:
    """Frames whose centers lie in the phone (grown by `reach_s`); at least the nearest one."""
    centers_s = (np.arange(count) + 0.5) / rate_hz
    inside = np.flatnonzero((centers_s >= phone.start_s - reach_s) & (centers_s <= phone.end_s + reach_s))
    nearest = min(count - 1, int((phone.start_s + phone.end_s) / 2 * rate_hz))
    return inside if len(inside) else np.array([nearest])


def _is_consonant(phone: Phone) -> bool:
    return not phone.is_vowel and not phone.is_all(Viseme.SILENCE)


def _add_vowel(phone: Phone, shape: float, rounded: list[float], spread: list[float]) -> None:
    if not phone.is_vowel or len(phone.visemes) != 1:
        return
    if phone.symbol in ROUNDED_VOWELS or (phone.symbol not in SPREAD_VOWELS and phone.is_all(Viseme.ROUNDED)):
        rounded.append(shape)
    elif phone.is_all(Viseme.SPREAD):
        spread.append(shape)


def area_under_curve(low: Sequence[float], high: Sequence[float]) -> float:
    """Probability that one of `high` exceeds one of `low` (Mann and Whitney 1947); 0.5 where one is empty."""
    if not len(low) or not len(high):
        return float("nan")
    a, b = np.asarray(low)[:, None], np.asarray(high)[None, :]
    return float(((b > a) + 0.5 * (b == a)).mean())


def _share(values: Sequence[bool] | NDArray[np.bool_]) -> str:
    return f"{100 * np.mean(values):.0f} % of {len(values)}" if len(values) else "none"


def speak_all(voices: Sequence[str], languages: Sequence[str]) -> dict[str, list[SpokenText]]:
    """Row of the tables -> its sentences."""
    rows = {f"flite {voice}": [speak_flite(text, voice) for text in ENGLISH] for voice in voices}
    for language in languages:
        rows[f"espeak-ng {language}"] = [speak_espeak(text, language) for text in LANGUAGES[language]]
    return rows


def print_heard(rows: dict[str, list[SpokenText]], recognize: Recognizer) -> None:
    print("\nHeard: share of sounds (of their number); closure is a posterior of BILABIAL above 0.5 in the hold")
    print("| voice | closure in bilabials | in other consonants | labiodentals | frames right | AUC | x real time |")
    print("|---|---|---|---|---|---|---|")
    for name, texts in rows.items():
        heard, began = Heard(), time.process_time()
        for spoken in texts:
            add_heard(heard, spoken, recognize(spoken))
        cost = (time.process_time() - began) / sum(spoken.speech.duration_s for spoken in texts)
        right = f"{100 * np.concatenate(heard.right).mean():.0f} %"
        auc = area_under_curve(heard.rounded, heard.spread)
        shares = " | ".join(_share(values) for values in (heard.bilabial, heard.other, heard.labiodental))
        print(f"| {name} | {shares} | {right} | {auc:.3f} | {cost:.3f} |")


def print_planned(rows: dict[str, list[SpokenText]], recognize: Recognizer) -> None:
    print(
        "\nPlanned mouth at 25 fps: openings in the hold or within 20 ms of it; closure, tuck, tongue above 0.5 in it"
    )
    print(
        "| voice | bilabials at most 0.08 | closure in bilabials | in other consonants "
        "| f, v at most 0.4 of an open vowel | tuck in f, v | open vowels at least half | AUC "
        "| tongue in th, l | in other consonants |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, texts in rows.items():
        planned = Planned()
        for spoken in texts:
            add_planned(planned, spoken, recognize(spoken))
        wide = float(np.median(planned.open_vowel)) if planned.open_vowel else 1.0
        shut = _share([opening <= 0.08 for opening in planned.bilabial])
        toothed = _share([opening <= 0.4 * wide for opening in planned.labiodental])
        opened = _share([opening >= 0.5 * wide for opening in planned.open_vowel])
        auc = area_under_curve(planned.rounded, planned.spread)
        pressed, other, tucked, raised, wrongly = (
            _share([value > 0.5 for value in values])
            for values in (
                planned.closure,
                planned.other_closure,
                planned.tuck,
                planned.tongue,
                planned.other_tongue,
            )
        )
        shares = " | ".join([shut, pressed, other, toothed, tucked, opened, f"{auc:.3f}", raised, wrongly])
        print(f"| {name} | {shares} |")


def recognize_network(speech: Waveform) -> VisemeTrack:
    posteriors, shown = run_network(band_levels(speech))
    return VisemeTrack(posteriors, posteriors.max(axis=1), posteriors[:, Viseme.DENTAL] * shown)


def recognize_pocketsphinx(speech: Waveform) -> VisemeTrack:
    posteriors = phone_visemes(speech)
    if posteriors is None:
        raise SystemExit("PocketSphinx is not installed: pip install pocketsphinx")
    return VisemeTrack(posteriors, posteriors.max(axis=1), np.zeros(len(posteriors), np.float32))


def spoken_visemes(spoken: SpokenText) -> VisemeTrack:
    """The classes that were spoken, as a perfect recognizer would hear them."""
    labels = spoken.labels()
    posteriors = np.zeros((len(labels), len(Viseme)), np.float32)
    posteriors[np.arange(len(labels)), labels] = 1
    return VisemeTrack(posteriors, np.ones(len(labels), np.float32), spoken.tongue().astype(np.float32))


RECOGNIZERS: dict[str, Recognizer] = {
    "both": lambda spoken: recognize_visemes(spoken.speech),
    "network": lambda spoken: recognize_network(spoken.speech),
    "pocketsphinx": lambda spoken: recognize_pocketsphinx(spoken.speech),
    "perfect": spoken_visemes,
}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flite", nargs="*", default=list(MEASURED_VOICES), metavar="VOICE")
    parser.add_argument("--languages", nargs="*", default=list(LANGUAGES), choices=list(LANGUAGES))
    parser.add_argument(
        "--recognizer",
        choices=list(RECOGNIZERS),
        default="both",
        help="both: what is used; perfect: the classes that were spoken",
    )
    parser.add_argument("--network", type=Path, metavar="NPZ", help="a result of `viseme_training train`")
    arguments = parser.parse_args()
    if arguments.network:
        visemes.NETWORK_FILE = arguments.network
        print(f"network: {arguments.network}")
    else:
        print("network: as shipped, trained on other sentences of rms and slt: not a measure of unknown voices")
    missing = missing_tools()
    for tool in missing:
        print(f"not installed, its rows are left out: {tool}")
    voices = [] if any(tool.startswith("flite") for tool in missing) else arguments.flite
    languages = [] if any(tool.startswith("libespeak") for tool in missing) else arguments.languages
    rows = speak_all(voices, languages)
    print_heard(rows, RECOGNIZERS[arguments.recognizer])
    print_planned(rows, RECOGNIZERS[arguments.recognizer])


if __name__ == "__main__":
    main()
