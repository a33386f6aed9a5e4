"""From speech to the motion of a mouth: coarticulation by dominance functions, closures on time.

Every viseme pulls jaw, lips and corners of the mouth toward its own targets. Its dominance is greatest while it sounds
and falls exponentially before and after; the mouth follows the weighted mean of the targets (Cohen and Massaro 1993,
"Modeling coarticulation in synthetic visual speech"). A weighted mean never closes the lips for 60 ms, so bilabials and
labiodentals are held: the lips move there ahead of the sound and stay until it ends. Where the visemes are uncertain,
the motion of the sound alone takes over (`acoustic_motion.py`).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from retalking_core.audio.phones import Viseme
from retalking_core.audio.visemes import VISEME_RATE_HZ, VisemeTrack
from retalking_core.engines.preview.acoustic_motion import MEL_RATE_HZ, analyze_sound
from retalking_core.numerics import smoothstep
from retalking_core.types import Timeline, Waveform

# The sound alone is followed 20 ms ahead, as lips are; visemes bring their own anticipation.
ACOUSTIC_LEAD_S = 0.02
# Target and dominance of each viseme for opening (0..1), jaw (0..1) and spread (-1..1). Alveolars and sibilants need a
# high jaw; velars and bilabials leave it to the vowels around them.
TARGETS = {
    Viseme.SILENCE: ((0.0, 0.7), (0.0, 0.6), (0.0, 0.15)),
    Viseme.BILABIAL: ((0.2, 0.1), (0.2, 0.1), (0.0, 0.05)),
    Viseme.LABIODENTAL: ((0.2, 0.2), (0.15, 0.4), (0.1, 0.15)),
    Viseme.DENTAL: ((0.3, 0.5), (0.15, 0.5), (0.1, 0.12)),
    Viseme.VELAR: ((0.4, 0.25), (0.3, 0.2), (0.0, 0.06)),
    Viseme.ROUNDED: ((0.28, 0.8), (0.35, 0.7), (-1.0, 1.0)),
    Viseme.SPREAD: ((0.42, 0.8), (0.3, 0.7), (0.9, 0.8)),
    Viseme.MID: ((0.62, 0.9), (0.6, 0.8), (0.15, 0.4)),
    Viseme.OPEN: ((1.0, 1.4), (1.0, 1.0), (0.15, 0.5)),
}
# Time constants in seconds of the dominance before and after the sound: opening, jaw, spread. Rounding starts 100 to
# 150 ms ahead (Perkell and Matthies 1992): two time constants before its vowel it still outweighs the consonants.
BEFORE_S, AFTER_S = np.array([0.035, 0.05, 0.06]), np.array([0.035, 0.06, 0.045])
# Lips travel to a hold and back in these times, unless `CLOSING_SPEED` and `OPENING_SPEED` make it longer.
CLOSE_S, RELEASE_S = 0.05, 0.045
# They press within this time, half when the sound starts, and half are still pressed a moment after it ends.
PRESS_S, PRESS_LAG_S = 0.02, 0.005
# Posterior and trust from which a hold is believed, and its least length. Lips stay together for 60 to 110 ms (Löfqvist
# and Gracco 1997), also where less of it is heard.
HELD, TRUSTED, LEAST_RUN_S, CONTACT_S = 0.4, 0.25, 0.02, 0.06
# Open vowels that last no longer than this open fully in their middle. Of the time from there to a hold
# the contact takes no more than this share.
SHORT_VOWEL_S, CONTACT_SHARE = 0.08, 0.3
# A lower lip at the upper teeth leaves this gap to the upper lip.
TUCK_OPENING = 0.18
# Effort of the softest and of the loudest syllables, and the loudness below which the mouth goes to rest.
SOFT, LOUD, LEAST_LOUDNESS = 0.35, 1.5, 0.08
# Share of the opening that follows the sound also where the visemes are sure.
ACOUSTIC_SHARE = 0.7
# Share of its way that the jaw rises for a bilabial.
JAW_RISE = 0.35
# Confidence up to which the sound alone drives the mouth, and from which the visemes alone do.
DOUBTFUL, SURE = 0.25, 0.6
# Opening from which a raised tongue is seen, and from which it is seen whole.
TONGUE_HIDDEN, TONGUE_SEEN = 0.08, 0.2
# Openings a second. 1 is about 17 mm, and lips reach 250 to 300 mm/s in fast speech (Löfqvist and Gracco 1997).
CLOSING_SPEED, OPENING_SPEED = 17.0, 14.0

Track = NDArray[np.float64]


@dataclass(frozen=True)
class MouthPose:
    """What the mouth does at one moment; ranges as in `MouthMotion`."""

    opening: float
    jaw: float
    spread: float
    closure: float
    tuck: float
    tongue: float


@dataclass(frozen=True)
class MouthMotion:
    """What the mouth should do, one value per output frame, f32 [M] each.

    opening: between the lips, 0 closed .. 1 as open as loud speech gets.
    jaw: 0 up .. 1 as low as loud speech needs it; lips can be shut over a lowered jaw.
    spread: -1 rounded .. 1 wide.
    closure: 0 .. 1 lips pressed together.
    tuck: 0 .. 1 lower lip at the edge of the upper teeth.
    tongue: 0 .. 1 tip of the tongue at the upper teeth, as for th and l.
    """

    opening: NDArray[np.float32]
    jaw: NDArray[np.float32]
    spread: NDArray[np.float32]
    closure: NDArray[np.float32]
    tuck: NDArray[np.float32]
    tongue: NDArray[np.float32]

    def __post_init__(self) -> None:
        if len({track.shape for track in astuple(self)}) != 1 or self.opening.ndim != 1:
            raise ValueError("the tracks of a motion must be vectors of one length")

    def pose(self, frame: int) -> MouthPose:
        """Of one output frame."""
        return MouthPose(*(float(track[frame]) for track in astuple(self)))


def plan_mouth_motion(speech: Waveform, timeline: Timeline, visemes: VisemeTrack) -> MouthMotion:
    """The motion for every frame of a timeline; closed wherever there is no speech. visemes: of this speech."""
    frame_s = 1 / float(timeline.fps)
    sound, trust = analyze_sound(speech), _trust(visemes)
    tongues, bilabials, labiodentals = (
        _holds(probable, trust)
        for probable in (visemes.tongue, *visemes.posteriors.T[[Viseme.BILABIAL, Viseme.LABIODENTAL]])
    )
    vowels_s = _short_vowels(visemes, trust)
    lips = np.concatenate([labiodentals, bilabials])
    times_s = _shown_moments(len(timeline.source_index), frame_s, tongues, lips, vowels_s)
    opening, spread, closure, loudness = (
        _sample(track, MEL_RATE_HZ, times_s + ACOUSTIC_LEAD_S, frame_s)
        for track in (sound.opening, sound.spread, sound.closure, sound.loudness)
    )
    silence = np.minimum(1.25 * visemes.posteriors[:, Viseme.SILENCE].astype(np.float64), 1)
    weight, silent, spoken_opening, spoken_jaw, spoken_spread = (
        _sample(track, VISEME_RATE_HZ, times_s, frame_s)
        for track in (trust, silence, *_coarticulate(visemes.posteriors))
    )
    # Loud syllables open the mouth further than soft ones, and where nothing sounds nothing is spoken.
    heard = np.clip(loudness / LEAST_LOUDNESS, 0, 1)
    effort = heard * (SOFT + (LOUD - SOFT) * loudness)
    shut, pressed = _hold(bilabials, vowels_s, times_s)
    tuck = _hold(labiodentals, vowels_s, times_s)[0] * (1 - shut)
    # Of the sound's share nothing is left in silence, and less where the lips are pursed.
    open_weight = weight * (1 - ACOUSTIC_SHARE * (1 - silent) * (1 - 0.5 * np.maximum(-spoken_spread, 0)))
    jaw = np.clip(_mix(opening, spoken_jaw * effort, weight), 0, 1) * (1 - JAW_RISE * shut)
    opening = np.clip(_mix(opening, spoken_opening * effort, open_weight), 0, 1)
    opening = _limit_speed(_mix(opening, TUCK_OPENING, tuck) * (1 - shut), frame_s)
    spread = np.clip(_mix(spread, spoken_spread * heard, weight), -1, 1)
    closure = np.clip(np.maximum(closure * (1 - weight), pressed), 0, 1)
    # Lips hide a tongue that they touch, and what is not heard is not spoken.
    room = smoothstep(np.clip((opening - TONGUE_HIDDEN) / (TONGUE_SEEN - TONGUE_HIDDEN), 0, 1))
    tongue = _hold(tongues, vowels_s, times_s)[0] * heard * room * (1 - np.maximum(shut, tuck))
    return MouthMotion(*(track.astype(np.float32) for track in (opening, jaw, spread, closure, tuck, tongue)))


def _coarticulate(posteriors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Posteriors [T, 9] -> opening, jaw, spread, f64 [3, T]."""
    targets, strength = np.array([TARGETS[viseme] for viseme in Viseme]).transpose(2, 0, 1)
    times_s = (np.arange(len(posteriors)) / VISEME_RATE_HZ)[:, None, None]
    # Squared: improbable visemes must not open a mouth at rest.
    sounding = 2 * np.log(np.maximum(_smooth(posteriors.astype(np.float64)), 1e-3))[:, :, None]
    # The strongest of all exponentials that start at earlier and later moments: a running maximum in the logarithm.
    after = np.maximum.accumulate(sounding + times_s / AFTER_S) - times_s / AFTER_S
    before = np.maximum.accumulate((sounding - times_s / BEFORE_S)[::-1])[::-1] + times_s / BEFORE_S
    dominance = strength * np.exp(np.maximum(before, after))
    return _smooth((dominance * targets).sum(axis=1) / dominance.sum(axis=1)).T


def _smooth(values: Track) -> Track:
    """Over 50 ms, binomial, along the first axis; ends held."""
    padded = np.concatenate([values[:1], values[:1], values, values[-1:], values[-1:]])
    count = len(values)
    return sum(share * padded[k : k + count] for k, share in enumerate(np.array([1, 4, 6, 4, 1]) / 16))


def _trust(visemes: VisemeTrack) -> Track:
    """0 follow the sound alone .. 1 follow the visemes, f64 [T], without sudden steps."""
    trust = np.clip((visemes.confidence.astype(np.float64) - DOUBTFUL) / (SURE - DOUBTFUL), 0, 1)
    for _ in range(12):
        trust = _smooth(trust)
    return trust


def _runs(sounding: NDArray[np.bool_]) -> Track:
    """Where a flag at `VISEME_RATE_HZ` is set for `LEAST_RUN_S` or longer: start and end in seconds, f64 [N, 2]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], sounding, [False]]))).reshape(-1, 2) / VISEME_RATE_HZ
    return edges[edges[:, 1] - edges[:, 0] > LEAST_RUN_S - 1e-6]


def _holds(probable: NDArray[np.float32], trust: Track) -> Track:
    """Where a sound with this probability [T] is held: start and end in seconds, f64 [H, 2]."""
    return _runs((probable >= HELD) & (trust >= TRUSTED))


def _short_vowels(visemes: VisemeTrack, trust: Track) -> Track:
    """Middles of open vowels of `SHORT_VOWEL_S` at most, in seconds, f64 [V]. No hold overlaps them."""
    opened = visemes.posteriors[:, Viseme.OPEN]
    runs = _runs((opened > 1 - HELD) & (trust >= TRUSTED))
    return runs[runs[:, 1] - runs[:, 0] < SHORT_VOWEL_S + 1e-6].mean(axis=1)


def _shown_moments(frames: int, frame_s: float, tongues: Track, lips: Track, vowels_s: Track) -> Track:
    """The moment that each output frame shows, in seconds, f64 [M]: the middle of a hold of the lips, of a short vowel,
    or of a hold of the tongue within the frame, in this order, or else the frame's center.

    A viewer sees frames, not curves: at 25 a second, a sound of 20 to 60 ms may fall between two centers. Of two holds
    of the lips in one frame the last of the list is shown, and a frame whose center they hold shows nothing else.
    """
    centers = (np.arange(frames, dtype=np.float64) + 0.5) * frame_s
    begun, ended = np.sort(lips[:, 0]), np.sort(lips[:, 1]) + PRESS_LAG_S
    apart = np.searchsorted(begun, centers, "right") <= np.searchsorted(ended, centers)
    moments = centers.copy()
    anywhere = np.ones(frames, bool)
    for middles_s, free in ((tongues.mean(axis=1), apart), (vowels_s, apart), (lips.mean(axis=1), anywhere)):
        places = (middles_s / frame_s).astype(int)
        shown = np.append(free, False)[np.minimum(places, frames)]
        moments[places[shown]] = middles_s[shown]
    return moments


def _hold(holds: Track, vowels_s: Track, times_s: Track) -> tuple[Track, Track]:
    """How near the lips are to a hold, and how firmly they press, 0..1 each, at each moment.

    holds: of one viseme, in order. vowels_s: where the lips are away from it; a vowel nearby shortens contact and ways.
    """
    bounds = np.concatenate([[-np.inf], vowels_s, [np.inf]])
    room_before = holds[:, 0] - bounds[np.searchsorted(bounds, holds[:, 0]) - 1]
    room_after = bounds[np.searchsorted(bounds, holds[:, 1])] - holds[:, 1]
    # One more hold in the far past and one in the far future, so that each moment has a last and a next one.
    starts, ends = (np.concatenate([[-np.inf], edges, [np.inf]]) for edges in holds.T)
    spare, before, after = (
        np.pad(each, 1, constant_values=1.0)
        for each in (np.maximum(CONTACT_S - (holds[:, 1] - holds[:, 0]), 0) / 2, room_before, room_after)
    )
    following = np.searchsorted(starts, times_s, side="right")
    last = following - 1
    until, since = starts[following] - times_s, times_s - ends[last]
    coming = _nearness(until, spare[following], before[following], CLOSE_S)
    leaving = _nearness(since, spare[last], after[last], RELEASE_S)
    # The contact reaches further than what is heard of it, the pressure does not.
    inside = np.maximum(np.minimum(times_s - starts[last], PRESS_LAG_S - since), -until)
    return smoothstep(np.maximum(coming, leaving)), np.clip(0.5 + inside / PRESS_S, 0, 1)


def _nearness(distance: Track, spare: Track, room: Track, way: float) -> Track:
    """0 away .. 1 in contact, by the distance from a hold, all in seconds. The lips are away before `room` ends."""
    contact = np.minimum(spare, CONTACT_SHARE * room)
    return np.clip(1 - np.maximum(distance - contact, 0) / np.minimum(way, room - contact), 0, 1)


def _limit_speed(opening: Track, frame_s: float) -> Track:
    """The largest motion below a given one that is nowhere faster than lips: closures stay shut, and peaks that no lip
    could reach are lowered."""
    places = np.arange(len(opening)) * frame_s
    opened = np.minimum.accumulate(opening - OPENING_SPEED * places) + OPENING_SPEED * places
    return np.minimum.accumulate((opened + CLOSING_SPEED * places)[::-1])[::-1] - CLOSING_SPEED * places


def _mix(one: Track, other: Track | float, share: Track) -> Track:
    return one + (other - one) * share


def _sample(track: Track, rate_hz: float, times_s: Track, width_s: float) -> Track:
    """Mean of a track over each output frame's own time, so that slow frame rates do not alias; 0 after its end."""
    positions = (times_s[:, None] + np.linspace(-0.5, 0.5, 5) * width_s) * rate_hz
    return np.interp(positions, np.arange(len(track)), track, right=0.0).mean(axis=1)
