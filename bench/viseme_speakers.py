"""Speech to learn mouth classes from: many voices say pseudo-words whose sounds are evenly spread.

Synthesizers read any letters aloud, so made-up words give every sound in every neighborhood, in any language, without
a text corpus; English voices say real words too, which have the neighborhoods that English has. Festival's and flite's
voices are recordings of people (diphones, units) or statistical models of them; RHVoice's and SVOX Pico's are
statistical, espeak-ng's are formants. `bench.visemes` measures with the people rms and slt: `train --leave-out rms slt`
makes a network that never heard them. Debian packages: `FESTIVAL_PACKAGES`, flite, espeak-ng, `RHVOICE_PACKAGES`; from
PyPI: py-nanotts (SVOX Pico, Apache-2.0).
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.spoken_text import (
    ANALYSIS_RATE_HZ,
    ARPABET,
    Phone,
    SpokenText,
    arpabet_phone,
    at_analysis_rate,
    read_wave,
    speak_espeak,
    speak_flite,
)
from retalking_core.audio.phones import VISEME_LETTERS
from retalking_core.audio.visemes import Viseme
from retalking_core.types import Waveform

FESTIVAL_PACKAGES = (
    "festival festvox-kallpc16k festvox-kdlpc16k festvox-italp16k festvox-itapc16k festvox-suopuhe-lj"
    " festvox-suopuhe-mv festival-czech festvox-czech-dita festvox-czech-krb festvox-czech-machac festvox-czech-ph"
    " festvox-ru festvox-hi-nsk festival-hi festvox-mr-nsk festival-mr festvox-te-nsk festival-te"
    " festvox-ca-ona-hts festvox-us-slt-hts"
)
# Debian 13, section non-free because the trained voices cannot be rebuilt there. The voices used here are under the GPL
# (alan, bdl, clb) and under CMU's permissive license (slt); several others of these packages exclude commercial use.
RHVOICE_PACKAGES = "rhvoice rhvoice-english"
S, B, F, D, K, R, I, E, A = Viseme  # noqa: E741
Classes = dict[str, tuple[Viseme, ...]]
Aligned = Callable[[str, str, float, float], SpokenText | None]


def _classes(**symbols: str) -> Classes:
    """Letters of the classes -> symbols, separated by spaces."""
    letters = dict(zip(VISEME_LETTERS, Viseme, strict=True))
    return {symbol: (letters[letter],) for letter, listed in symbols.items() for symbol in listed.split()}


ITALIAN = _classes(
    S="#",
    B="p b m",
    F="f v nf",
    D="t d s z ts dz n J l L",
    K="k g ng r",
    R="o O u w S Z tS dZ",
    I="i j e",
    E="E",
    A="a",
)
FINNISH = _classes(
    S="# ##",
    B="p b m",
    F="f v",
    D="t d s z T D n l L",
    K="k g h N r",
    R="o u y w S Z 7 8 q",
    I="i j e",
    E="&",
    A="a @",
)
CZECH = _classes(
    S="# _",
    B="b p m",
    F="f v",
    D="c d d~ dz l n n~ s t t~ z",
    K="ch g h k n* r",
    R="c~ dz~ o u r~ r~* s~ z~",
    I="i j",
    E="e",
    A="a",
)
RUSSIAN = _classes(
    S="pau",
    B="p pp b bb m mm",
    F="f ff v vv",
    D="t tt d dd s ss z zz n nn l ll c ch sch",
    K="k kk g gg h hh r rr",
    R="oo u uu ur sh zh",
    I="ii yy i y j e",
    E="a ee ae ay",
    A="aa",
)
INDIC = _classes(
    S="pau",
    B="p ph b bh m",
    F="f v",
    D="T D N th dh n l L R s sri td tth ddh z tdh",
    K="k g kh gh h r x",
    R="uh uw oh oo aw w sh zh ksh ch j chh jh",
    I="ih iy ee eh y",
    E="a ay",
    A="aa @",
)
CATALAN = _classes(
    S="pau",
    B="p b m B",
    F="f v M",
    D="t d s z ts dz n l L J T",
    K="k g r rr N x G",
    R="o O u w uw S Z tS dZ",
    I="e i j y",
    E="E ax",
    A="a",
)


@dataclass(frozen=True)
class Words:
    """Parts of pseudo-words: onsets, nuclei and codas of syllables, as one writes them."""

    onsets: str
    nuclei: str
    codas: str = ""
    common: tuple[str, ...] = ()

    def sentence(self, chance: np.random.Generator) -> str:
        """Pseudo-words, or, where `common` words are given, in half of the sentences these."""
        if self.common and chance.random() < 0.5:
            return real_sentence(self.common, chance)
        onsets, nuclei = self.onsets.split(), self.nuclei.split()
        codas = [*self.codas.split(), *[""] * (3 + len(self.codas.split()) // 2)]
        said = []
        for _ in range(chance.integers(4, 9)):
            syllables = chance.choice([1, 2, 3], p=[0.35, 0.4, 0.25])
            word = "".join(chance.choice(onsets) + chance.choice(nuclei) for _ in range(syllables))
            said.append(word + chance.choice(codas) + ("," if chance.random() < 0.08 else ""))
        return " ".join(said).strip(",") + "."


def real_sentence(common: tuple[str, ...], chance: np.random.Generator) -> str:
    """English words: small ones, common ones, and words of a dictionary in which lips touch each other or the teeth."""
    kinds = (SMALL_WORDS, common, labial_words())
    picked = chance.choice(len(kinds), chance.integers(15, 31), p=[0.3, 0.35, 0.35])
    commas = chance.random(len(picked)) < 0.08
    words = (str(chance.choice(kinds[kind])) + "," * int(comma) for kind, comma in zip(picked, commas, strict=True))
    return " ".join(words).strip(",") + "."


SMALL_WORDS = tuple(Path(__file__).with_name("small_words.txt").read_text().split())


@lru_cache(maxsize=1)
def labial_words() -> NDArray[np.str_]:
    """Words of PocketSphinx's dictionary (CMU's) of 3 to 9 phones with p, b, m, f or v; those with f, v or a cluster
    of one of the five come up three times, because they are mistaken most."""
    import pocketsphinx

    found = []
    for line in Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict")).read_text().splitlines():
        word, *phones = line.split()
        touching = [k for k, phone in enumerate(phones) if phone in ("P", "B", "M", "F", "V")]
        if not word.isalpha() or not 3 <= len(phones) <= 9 or not touching:
            continue
        near = {phones[j] for k in touching for j in (k - 1, k + 1) if 0 <= j < len(phones)}
        hard = {"F", "V"} & set(phones) or any(phone[0] not in "AEIOU" for phone in near)
        found += [word] * (3 if hard else 1)
    return np.array(found)


ENGLISH_WORDS = Words(
    "b p m b p m f v w th sh ch j s z t d k g n l r h y br pl sm sp fl st tr kr sw thr gl mm",
    "a ee oo o i ai ou ay ow ir e u aw oy ea oa or ar",
    "m p b mp n t s v f l k ng th sh ch st nd mb rm lp x",
    tuple(Path(__file__).with_name("english_words.txt").read_text().split()),
)
LATIN_WORDS = Words(
    "b p m b p m f v t d s z c g n l r k br pr tr pl fl sp st gr",
    "a e i o u a e i o u ia ue io au ei",
    "n r s l m",
)
FINNISH_WORDS = Words("p m v t s k n l r h j b d f pp mm", "a e i o u y ä ö aa ee ii uo ie au ei", "n s t l r")
CZECH_WORDS = Words(
    "b p m b p m f v t d s z c g n l r k h j ch č š ž ř br pr vl sm",
    "a e i o u a e i o ou á é í ů",
    "m n l t s k v f p",
)
RUSSIAN_WORDS = Words(
    "б п м б п м ф в т д с з ц г н л р к х ш ж ч щ бр пл см", "а э и о у ы я е ё ю", "м н л т с к в п б ф"
)
INDIC_WORDS = Words("प ब म भ प ब म फ व त द स क ग न ल र ह च ज श ट ड ख य", "ा ि ी ु ू े ो ै ा", "म न ल र त प ब स")
TELUGU_WORDS = Words("ప బ మ భ ప బ మ ఫ వ త ద స క గ న ల ర హ చ జ శ ట డ య", "ా ి ీ ు ూ ె ే ో ా", "")
JAPANESE_WORDS = Words(
    "ぱ ば ま ぴ び み ぷ ぶ む ぺ べ め ぽ ぼ も か き く け こ さ し す せ そ"
    " た ち つ て と な に の は ひ ふ へ ほ ら り ろ わ や ゆ よ",
    "あ い う え お ん ば ま ぱ の た し",
    "ん",
)
PINYIN_WORDS = Words("b p m b p m f d t n l g k h j q x zh ch sh r z c s", "a1 i2 u4 ai4 ei3 ao1 ou2 an4 en1 ang2", "")


@dataclass(frozen=True)
class FestivalVoice:
    name: str
    classes: Classes
    words: Words
    encoding: str = "utf-8"
    has_pitch: bool = True


FESTIVAL_VOICES = (
    FestivalVoice("ked_diphone", ARPABET, ENGLISH_WORDS),
    FestivalVoice("kal_diphone", ARPABET, ENGLISH_WORDS),
    FestivalVoice("lp_diphone", ITALIAN, LATIN_WORDS),
    FestivalVoice("pc_diphone", ITALIAN, LATIN_WORDS),
    FestivalVoice("suo_fi_lj_diphone", FINNISH, FINNISH_WORDS, "latin-1"),
    FestivalVoice("hy_fi_mv_diphone", FINNISH, FINNISH_WORDS, "latin-1"),
    FestivalVoice("czech_dita", CZECH, CZECH_WORDS, "iso-8859-2"),
    FestivalVoice("czech_krb", CZECH, CZECH_WORDS, "iso-8859-2"),
    FestivalVoice("czech_machac", CZECH, CZECH_WORDS, "iso-8859-2"),
    FestivalVoice("czech_ph", CZECH, CZECH_WORDS, "iso-8859-2"),
    FestivalVoice("msu_ru_nsh_clunits", RUSSIAN, RUSSIAN_WORDS, has_pitch=False),
    FestivalVoice("hindi_NSK_diphone", INDIC, INDIC_WORDS),
    FestivalVoice("marathi_NSK_diphone", INDIC, INDIC_WORDS),
    FestivalVoice("telugu_NSK_diphone", INDIC, TELUGU_WORDS),
    FestivalVoice("upc_ca_ona_hts", CATALAN, LATIN_WORDS, has_pitch=False),
    FestivalVoice("cmu_us_slt_arctic_hts", ARPABET, ENGLISH_WORDS, has_pitch=False),
)
FLITE_VOICES = ("awb", "kal16", "kal", "rms", "slt")
PICO_VOICES = ("en-US", "en-GB")
RHVOICE_VOICES = ("alan", "bdl", "clb", "slt")
ESPEAK_LANGUAGES: dict[str, Words] = {
    **dict.fromkeys(["en-us", "en-gb-x-rp", "en-gb-scotland", "nl", "sv", "de"], ENGLISH_WORDS),
    **dict.fromkeys(["es", "es-419", "fr", "it", "pt", "pt-br", "ro", "tr", "id", "sw", "el"], LATIN_WORDS),
    **dict.fromkeys(["cs", "pl", "hu"], CZECH_WORDS),
    "fi": FINNISH_WORDS,
    **dict.fromkeys(["ru", "uk"], RUSSIAN_WORDS),
    "hi": INDIC_WORDS,
    "ja": JAPANESE_WORDS,
    "cmn-latn-pinyin": PINYIN_WORDS,
}
ESPEAK_VARIANTS = ("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "Andrea", "Alex", "Diogo")

_FESTIVAL_SCRIPT = """
(set! pitch 1.0)
(define (scale_pitch utt)
  (mapcar (lambda (t) (item.set_feat t 'f0 (* pitch (item.feat t 'f0)))) (utt.relation.leafs utt 'Target))
  utt)
(define (say text name stretch factor)
  (Parameter.set 'Duration_Stretch stretch)
  (set! pitch factor)
  (set! utt (eval (list 'Utterance 'Text text)))
  (utt.synth utt)
  (utt.save.wave utt name)
  (mapcar (lambda (s) (format t "SEG %s %s %f\\n" name (item.name s) (item.feat s "end")))
    (utt.relation.items utt 'Segment)))
"""


def speak_festival(voice: FestivalVoice, texts: list[str], chance: np.random.Generator) -> Iterator[SpokenText]:
    """One process for all texts. A text with a phone that `voice.classes` lacks is left out, and printed."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [_FESTIVAL_SCRIPT, f"(voice_{voice.name})"]
        if voice.has_pitch:
            lines.append("(set! after_analysis_hooks (append after_analysis_hooks (list scale_pitch)))")
        for k, text in enumerate(texts):
            stretch, pitch = chance.uniform(0.75, 1.2), chance.uniform(0.75, 1.75)
            lines.append(f'(unwind-protect (say "{text}" "{folder}/{k}.wav" {stretch:.2f} {pitch:.2f}) nil)')
        script = Path(folder) / "say.scm"
        script.write_bytes("\n".join(lines).encode(voice.encoding))
        run = subprocess.run(["festival", "-b", str(script)], check=False, capture_output=True)
        found: dict[str, list[tuple[str, float]]] = {}
        for line in run.stdout.decode("latin-1").splitlines():
            match line.split():
                case ["SEG", name, symbol, end]:
                    found.setdefault(name, []).append((symbol, float(end)))
        for name, segments in found.items():
            phones, start_s = [], 0.0
            for symbol, end_s in segments:
                classes = voice.classes.get(symbol) or voice.classes.get(symbol.rstrip("0123456789:"))
                if classes is None:
                    print(f"{voice.name}: unknown phone {symbol}")
                    break
                phones.append(Phone(symbol, start_s, end_s, classes))
                start_s = end_s
            else:
                if Path(name).exists():
                    yield SpokenText(read_wave(Path(name)), tuple(phones))


def speak_pico(text: str, voice: str, speed: float = 1.0, pitch: float = 1.0) -> SpokenText | None:
    """English words by a voice of SVOX Pico, which does not tell the times of its phones: PocketSphinx aligns the text.
    None where it does not get to the end."""
    from py_nanotts import NanoTTS

    raw = NanoTTS().speak(text, voice=voice, speed=speed, pitch=pitch)
    speech = Waveform(np.frombuffer(raw, np.int16).astype(np.float32) / 32768)
    phones = align_english(speech, text.strip(".").replace(",", ""))
    return SpokenText(speech, phones) if phones else None


def speak_rhvoice(text: str, voice: str, speed: float = 1.0, pitch: float = 1.0) -> SpokenText | None:
    """English words by a voice of RHVoice; times as in `speak_pico`."""
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "speech.wav"
        command = [
            "RHVoice-test",
            "-p",
            voice,
            "-r",
            f"{100 * speed:.0f}",
            "-t",
            f"{100 * pitch:.0f}",
            "-o",
            str(sound),
        ]
        subprocess.run(command, input=text, check=True, capture_output=True, text=True)
        speech = read_wave(sound)
    phones = align_english(speech, text.strip(".").replace(",", ""))
    return SpokenText(speech, phones) if phones else None


def align_english(speech: Waveform, text: str) -> tuple[Phone, ...]:
    """Phones of known words of PocketSphinx's dictionary; empty where they do not fit the speech."""
    decoder = _aligner()
    decoder.reinit_feat()
    peak = max(float(np.abs(speech.samples).max()), 1e-9)
    raw = (speech.samples * (20_000 / peak)).astype(np.int16).tobytes()
    decoder.set_align_text(text)
    for pass_ in range(2):  # words, then their phones
        decoder.start_utt()
        decoder.process_raw(raw, full_utt=True)
        decoder.end_utt()
        if decoder.seg() is None:
            return ()
        if pass_ == 0:
            decoder.set_alignment()
    return tuple(
        arpabet_phone(
            phone.name.lower() if phone.name[0].isalpha() and phone.name != "SIL" else "pau",
            phone.start / 100,
            (phone.start + phone.duration) / 100,
        )
        for word in decoder.get_alignment().words()
        for phone in word
    )


@lru_cache(maxsize=1)
def _aligner() -> Any:
    import pocketsphinx

    return pocketsphinx.Decoder(lm=None, bestpath=False, loglevel="FATAL")


def resize(spoken: SpokenText, factor: float) -> SpokenText:
    """Another head, `factor` times smaller, with pitch and speed that go with it."""
    speech = at_analysis_rate(spoken.speech.samples, round(ANALYSIS_RATE_HZ * factor))
    phones = (replace(p, start_s=p.start_s / factor, end_s=p.end_s / factor) for p in spoken.phones)
    return SpokenText(speech, tuple(phones))


def all_speakers(chance: np.random.Generator) -> Iterator[tuple[str, Callable[[int], Iterator[SpokenText]]]]:
    """Name of each voice, and a function that says so many sentences."""
    for each in FESTIVAL_VOICES:

        def festival(count: int, voice: FestivalVoice = each) -> Iterator[SpokenText]:
            return speak_festival(voice, [voice.words.sentence(chance) for _ in range(count)], chance)

        yield f"festival {each.name}", festival
    for name in FLITE_VOICES:

        def flite(count: int, voice: str = name) -> Iterator[SpokenText]:
            for _ in range(count):
                stretch, pitch_hz = chance.uniform(0.8, 1.25), chance.uniform(80, 220)
                settings = ("--setf", f"duration_stretch={stretch:.2f}", "--setf", f"int_f0_target_mean={pitch_hz:.0f}")
                yield speak_flite(ENGLISH_WORDS.sentence(chance), voice, *settings)

        yield f"flite {name}", flite
    aligned = [("pico", name, speak_pico) for name in PICO_VOICES]
    aligned += [("rhvoice", name, speak_rhvoice) for name in RHVOICE_VOICES]
    for program, name, say in aligned:

        def english(count: int, voice: str = name, say: Aligned = say) -> Iterator[SpokenText]:
            for _ in range(count):
                speed, pitch = chance.uniform(0.8, 1.25), chance.uniform(0.75, 1.3)
                spoken = say(real_sentence(ENGLISH_WORDS.common, chance), voice, speed, pitch)
                if spoken is not None:
                    yield spoken

        yield f"{program} {name}", english
    for language, words in ESPEAK_LANGUAGES.items():

        def espeak(count: int, language: str = language, words: Words = words) -> Iterator[SpokenText]:
            for _ in range(count):
                variant = f"{language}+{chance.choice(ESPEAK_VARIANTS)}"
                speed, pitch = int(chance.integers(120, 230)), int(chance.integers(20, 80))
                yield speak_espeak(words.sentence(chance), variant, speed, pitch)

        yield f"espeak-ng {language}", espeak
