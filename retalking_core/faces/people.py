"""Everyone in a video: its shots, the faces in each, and which of them are the same person.

Faces are detected on every tenth frame of a shot, and on its first; in between each is followed by its landmarks, which
costs far less than a detection. A face that was followed through a shot is a `Sighting`. Sightings become people by
dlib's face descriptor, so that a person keeps one id over all cuts. Ids are given in order of first appearance, from
left to right: the same video gives the same ids.

Who speaks shows in how well the motion of each mouth fits the sound. From the sound alone follows how a speaking mouth
would move (`plan_mouth_motion`) and when anybody speaks at all. Five correlations compare that with what a face does:
the height of the mouth with the expected opening, its change with the expected change, its width with the expected
spread, and how much it moves with how much it should, and with the voice being active. Chewing and smiling move a mouth
as well, but not with the sound. Measured in docs/speakers.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retalking_core.audio.phones import Report, Viseme, ignore_share
from retalking_core.audio.visemes import VISEME_RATE_HZ, recognize_visemes
from retalking_core.engines.preview.mouth_motion import plan_mouth_motion
from retalking_core.faces.dlib_models import SAME_PERSON_DISTANCE, Box, DlibModels, Gray, resident_models
from retalking_core.faces.follower import (
    CHECK_EVERY,
    SMALLEST_FACE_PX,
    STEADY,
    CutDetector,
    FaceSearch,
    FoundFace,
    correlation,
    eye_patch,
    implied_box,
    is_near,
)
from retalking_core.faces.landmarks import bounding_box, face_scale, iou, is_plausible
from retalking_core.faces.track import OnFrame
from retalking_core.types import FrameSource, Timeline, Waveform

# Mouth and sound are compared at this rate, whatever the rate of the video.
RATE_HZ = 25
# Slower motion of a mouth is a smile or a turned head.
SLOWEST_S = 1.5
# How far the sound may be ahead of or behind the picture, in frames of `RATE_HZ`.
LAGS = range(-1, 4)
# Standard deviation of a mouth's height, in face scales, up to which it counts as still (the scatter of the landmarks)
# and from which as moving.
STILL, MOVING = 0.008, 0.03
# Standard deviation of the voice's probability from which its pauses count fully.
VARIED = 0.25
# Fewer frames of `RATE_HZ` say nothing.
LEAST_FRAMES = 12
# Share of a range in which a voice must be active for anybody to speak in it, and what counts as active.
LEAST_VOICED, ACTIVE = 0.08, 0.5
# Score from which a face can be chosen as the speaker: somebody is heard, and most often somebody who is seen.
SPEAKS = 0.06
# Probability over time: windows of this length, a quarter of a second apart; the score that is as likely as not, and
# the steepness of the logistic around it.
WINDOW_S, STEP_S, EVEN, STEEPNESS = 2.0, 0.24, 0.17, 25.0

Values = NDArray[np.float64]


@dataclass(frozen=True)
class SpeechCues:
    """What the sound says about a speaking mouth, at `RATE_HZ`; f64 [T] each.

    opening: 0..1; spread: -1 rounded .. 1 wide; voice: probability that somebody speaks, 0..1.
    """

    opening: Values
    spread: Values
    voice: Values


def hear_speech(speech: Waveform, report: Report = ignore_share) -> SpeechCues:
    """speech: the video's own sound. report: as of `recognize_visemes`. No voice activity detector beside the viseme
    network: docs/dependencies.md."""
    count = max(1, int(speech.duration_s * RATE_HZ))
    visemes = recognize_visemes(speech, report=report)
    timeline = Timeline(np.zeros(count, np.int64), Fraction(RATE_HZ))
    motion = plan_mouth_motion(speech, timeline, visemes)
    times_s = (np.arange(count) + 0.5) / RATE_HZ
    voice = _smooth(1 - visemes.posteriors[:, Viseme.SILENCE].astype(np.float64), 7)
    rows = np.arange(len(voice)) + 0.5
    active = np.interp(times_s * VISEME_RATE_HZ, rows, voice)
    return SpeechCues(motion.opening.astype(np.float64), motion.spread.astype(np.float64), active)


@dataclass(frozen=True)
class MouthTrack:
    """One person's mouth on the clock of `SpeechCues`; f64 [T] each, NaN where it is not seen.

    height, width: in face scales.
    """

    height: Values
    width: Values


def sample_mouth(mouth: NDArray[np.float32], times_s: NDArray[np.float64], duration_s: float) -> MouthTrack:
    """mouth: f32 [N, 2], as of `Person.mouth`, on frames at times_s [N]."""
    clock_s = (np.arange(max(1, int(duration_s * RATE_HZ))) + 0.5) / RATE_HZ
    seen = np.isfinite(mouth[:, 0])
    if not seen.any():
        nowhere = np.full(len(clock_s), np.nan)
        return MouthTrack(nowhere, nowhere)
    nearest = np.clip(np.searchsorted(times_s, clock_s, side="right") - 1, 0, len(times_s) - 1)
    tracks = (
        np.where(seen[nearest], np.interp(clock_s, times_s[seen], mouth[seen, k].astype(np.float64)), np.nan)
        for k in range(2)
    )
    return MouthTrack(*tracks)


def speaking_score(mouth: MouthTrack, cues: SpeechCues, start: int, stop: int) -> float:
    """How well a mouth fits the sound between two frames of `RATE_HZ`: -1..1, about 0 for one that does not speak."""
    start, stop = max(0, start), min(stop, len(mouth.height), len(cues.opening))
    if stop - start < LEAST_FRAMES:
        return 0.0
    seen = np.isfinite(mouth.height[start:stop])
    if seen.sum() < LEAST_FRAMES:
        return 0.0
    # Filtered with what lies around the range, so that its ends are no edges.
    around = slice(max(0, start - RATE_HZ), stop + RATE_HZ)
    inside = slice(start - around.start, stop - around.start)
    height, width = (_filled(track[around]) for track in (mouth.height, mouth.width))
    opening, spread, voice = (track[around] for track in (cues.opening, cues.spread, cues.voice))
    moved = _without_drift(height)
    # A voice that never pauses says nothing about when a mouth rests.
    varies = min(1.0, float(voice[inside].std()) / VARIED) ** 2
    travel = _smooth(np.abs(np.gradient(moved)), 9)
    pairs = (
        (1.0, moved, _without_drift(opening)),
        (1.0, np.gradient(_smooth(height, 3)), np.gradient(_smooth(opening, 3))),
        (1.0, _without_drift(width), _without_drift(spread)),
        (1.0, travel, _smooth(np.abs(np.gradient(opening)), 9)),
        (varies, travel, _smooth(voice, 5)),
    )
    total = sum(weight for weight, _, _ in pairs)
    fits = [
        sum(weight * _correlation(one[inside], other[inside], seen, lag) for weight, one, other in pairs) / total
        for lag in LAGS
    ]
    moves = float(np.clip((moved[inside][seen].std() - STILL) / (MOVING - STILL), 0, 1))
    return max(fits) * moves * float(seen.mean())


def voiced_share(cues: SpeechCues, start: int, stop: int) -> float:
    """Share of the frames in which somebody speaks, 0..1."""
    voice = cues.voice[max(0, start) : stop]
    return float((voice > ACTIVE).mean()) if len(voice) else 0.0


def find_speaker(
    mouths: Sequence[MouthTrack], cues: SpeechCues, start_s: float, end_s: float
) -> tuple[int | None, float]:
    """Which mouth speaks in a range of the video's clock, and its score; None where none fits the sound."""
    start, stop = int(start_s * RATE_HZ), int(np.ceil(end_s * RATE_HZ))
    if not mouths or voiced_share(cues, start, stop) < LEAST_VOICED:
        return None, 0.0
    scores = [speaking_score(mouth, cues, start, stop) for mouth in mouths]
    best = int(np.argmax(scores))
    return (best if scores[best] >= SPEAKS else None), scores[best]


def speaking_probability(mouth: MouthTrack, cues: SpeechCues) -> Values:
    """f64 [T], 0..1 at `RATE_HZ`; 0 where nobody is heard, NaN where the mouth is not seen."""
    count = len(mouth.height)
    half = int(WINDOW_S * RATE_HZ / 2)
    centers = np.arange(0, count, round(STEP_S * RATE_HZ))
    scores = np.array([speaking_score(mouth, cues, int(c) - half, int(c) + half) for c in centers])
    likely = 1 / (1 + np.exp(-STEEPNESS * (np.interp(np.arange(count), centers, scores) - EVEN)))
    voice = np.interp(np.arange(count), np.arange(len(cues.voice)), cues.voice, right=0.0)
    return np.where(np.isfinite(mouth.height), likely * voice, np.nan)


def _filled(values: Values) -> Values:
    known = np.flatnonzero(np.isfinite(values))
    return np.interp(np.arange(len(values)), known, values[known])


def _smooth(values: NDArray[Any], width: int) -> Values:
    """Moving mean, ends held; width: odd."""
    padded = np.pad(values, width // 2, mode="edge")
    smooth: Values = np.convolve(padded, np.full(width, 1 / width), mode="valid")
    return smooth


def _without_drift(values: Values) -> Values:
    return values - _smooth(values, int(SLOWEST_S * RATE_HZ) | 1)


def _correlation(one: Values, other: Values, seen: NDArray[np.bool_], lag: int) -> float:
    """Pearson r of one[t + lag] with other[t] where one is seen; 0 where either does not move."""
    late, early = one[max(0, lag) : len(one) + min(0, lag)], other[max(0, -lag) : len(other) + min(0, -lag)]
    both = seen[max(0, lag) : len(one) + min(0, lag)]
    late, early = late[both], early[both]
    if len(late) < LEAST_FRAMES or late.std() < 1e-6 or early.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(late, early)[0, 1])


# Every so many detections the whole frame is searched for small faces as well, and after a face was lost: there may
# have been a cut between pictures that are alike.
FINE_EVERY = 5
# Detections in a row that miss a face before it counts as gone since the last one that saw it.
MISSES_TO_END = 2
# Overlap (intersection over union) of a detection and a followed face from which they are the same.
SAME_PLACE = 0.3
# Faces followed at a time: the largest ones.
MOST_FACES = 12
# A shorter sighting, which no second detection confirmed, is more often a mistake of the detector than a person, unless
# its shot is as short.
SHORTEST_SIGHTING = CHECK_EVERY + 1
# Pictures of a sighting whose descriptors are averaged.
PORTRAITS = 3
# The mean of several descriptors varies less than one of them, for which dlib publishes its threshold.
SAME_PERSON = SAME_PERSON_DISTANCE - 0.08
UPPER_LIP, LOWER_LIP, LEFT_CORNER, RIGHT_CORNER = 51, 57, 48, 54
LEFT_JAW, RIGHT_JAW, NOSE_TIP = 2, 14, 30


@dataclass(frozen=True, eq=False)
class Sighting:
    """One face followed through a shot without a break, over n frames.

    first: number of its first frame.
    boxes: f32 [n, 4] left, top, right, bottom px around the landmarks.
    mouth: f32 [n, 2], height and width of the mouth in units of `face_scale`.
    quality: f32 [n], px: how large and frontal the face is where a detector saw it, 0 on the other frames.
    descriptor: f32 [128].
    """

    first: int
    boxes: NDArray[np.float32]
    mouth: NDArray[np.float32]
    quality: NDArray[np.float32]
    descriptor: NDArray[np.float32]

    @property
    def stop(self) -> int:
        return self.first + len(self.boxes)


@dataclass(frozen=True, eq=False)
class Person:
    """id: `person_1`, `person_2`, ... sightings: in order of time; never two at a time."""

    id: str
    sightings: tuple[Sighting, ...]

    def boxes(self, count: int) -> NDArray[np.float32]:
        """On `count` frames, f32 [count, 4] px, NaN where the person is not seen."""
        return self._spread(count, [each.boxes for each in self.sightings])

    def mouth(self, count: int) -> NDArray[np.float32]:
        """On `count` frames, f32 [count, 2], NaN where the person is not seen; see `Sighting`."""
        return self._spread(count, [each.mouth for each in self.sightings])

    def quality(self, count: int) -> NDArray[np.float32]:
        """On `count` frames, f32 [count], 0 where no detector saw the person; see `Sighting`."""
        return np.nan_to_num(self._spread(count, [each.quality[:, None] for each in self.sightings])[:, 0])

    def _spread(self, count: int, values: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        spread = np.full((count, values[0].shape[1]), np.nan, np.float32)
        for sighting, part in zip(self.sightings, values, strict=True):
            spread[sighting.first : sighting.stop] = part
        return spread


@dataclass(frozen=True)
class VideoPeople:
    """shots: first frame and the one after the last, of each. is_crowded: there were more than `MOST_FACES` faces at a
    time; the smallest were left out."""

    shots: tuple[tuple[int, int], ...]
    people: tuple[Person, ...]
    is_crowded: bool = False

    def find(self, person_id: str) -> Person | None:
        return next((person for person in self.people if person.id == person_id), None)


def find_people(source: FrameSource, on_frame: OnFrame, models: DlibModels | None = None) -> VideoPeople:
    """Everyone whose face is seen in a video. Reads every frame once, in order.

    on_frame: called with (frames seen, frames in all); what it raises ends the search.
    """
    models = models or resident_models()
    count = source.info.frame_count
    watcher = _ShotWatcher(models, FaceSearch.over(models, source.info.width, source.info.height, (0.0, 0.0, 0.0, 0.0)))
    shots: list[list[Sighting]] = []
    starts: list[int] = []
    cuts = CutDetector()
    number = -1
    for number, frame in enumerate(source.frames()):
        if cuts.step(frame.y) or number == 0:
            shots.append(watcher.end_shot())
            starts.append(number)
        watcher.step(number, frame.y)
        on_frame(number + 1, count)
    shots.append(watcher.end_shot())
    ends = [*starts[1:], number + 1]
    return VideoPeople(tuple(zip(starts, ends, strict=True)), _identify(shots), watcher.is_crowded)


@dataclass(eq=False)
class _FollowedFace:
    """A face while it is followed. confirmed: how many of the frames lie before or at the last detection."""

    first: int
    last: NDArray[np.float32]
    patch: NDArray[np.float32]
    speed: NDArray[np.float32] = field(default_factory=lambda: np.zeros(2, np.float32))
    misses: int = 0
    confirmed: int = 0
    boxes: list[NDArray[np.float32]] = field(default_factory=list)
    mouth: list[tuple[float, float]] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    portraits: list[tuple[float, NDArray[np.uint8]]] = field(default_factory=list)

    @property
    def place(self) -> Box:
        """Where the face is expected next."""
        return implied_box(self.last + self.speed)

    def add(self, landmarks: NDArray[np.float32], patch: NDArray[np.float32]) -> None:
        scale = max(float(face_scale(landmarks)), 1e-6)
        if self.boxes:
            self.speed = 0.5 * self.speed + 0.4 * (landmarks - self.last).mean(axis=0)
        self.last, self.patch = landmarks, patch
        self.boxes.append(bounding_box(landmarks))
        height = float(np.linalg.norm(landmarks[LOWER_LIP] - landmarks[UPPER_LIP]))
        width = float(np.linalg.norm(landmarks[RIGHT_CORNER] - landmarks[LEFT_CORNER]))
        self.mouth.append((height / scale, width / scale))
        self.quality.append(0.0)


class _ShotWatcher:
    """Follows all faces of one shot at a time."""

    def __init__(self, models: DlibModels, search: FaceSearch) -> None:
        self._models, self._search = models, search
        self._live: list[_FollowedFace] = []
        self._ended: list[Sighting] = []
        self._steps = 0
        self._has_lost = False
        self.is_crowded = False

    def end_shot(self) -> list[Sighting]:
        """The faces of the shot that is over, from left to right."""
        for face in self._live:
            self._end(face, len(face.boxes))
        found, self._live, self._ended, self._steps = self._ended, [], [], 0
        return sorted(found, key=lambda sighting: (sighting.first, float(sighting.boxes[0, 0])))

    def step(self, number: int, gray: Gray) -> None:
        for face in list(self._live):
            self._follow(face, gray)
        if self._steps % CHECK_EVERY == 0:
            fine = self._has_lost or self._steps % (CHECK_EVERY * FINE_EVERY) == 0
            self._has_lost = False
            self._detect(number, gray, fine)
        self._steps += 1

    def _follow(self, face: _FollowedFace, gray: Gray) -> None:
        landmarks = self._models.landmarks(gray, face.place)
        if is_plausible(landmarks, self._search.height, self._search.width) and is_near(landmarks, face.last):
            patch = eye_patch(gray, landmarks)
            if correlation(patch, face.patch) > STEADY:
                face.add(landmarks, patch)
                return
        size = float(face.place[2] - face.place[0])
        window = face.place + np.array([-0.6, -0.6, 0.6, 0.6], np.float32) * size
        found = self._search.within(gray, window, max(SMALLEST_FACE_PX * 0.9, 0.72 * size), threshold=-0.3)
        near = [each.landmarks for each in found if is_near(each.landmarks, face.last)]
        if not near:
            self._has_lost = True
            self._live.remove(face)
            self._end(face, len(face.boxes))
            return
        best = max(near, key=lambda each: iou(implied_box(each), face.place))
        face.add(best, eye_patch(gray, best))

    def _detect(self, number: int, gray: Gray, fine: bool) -> None:
        """Confirm the faces that are followed, drop those that are not seen any more, and begin with new ones."""
        found = self._search.everywhere(gray, fine, every_size=True)
        for face in list(self._live):
            box = implied_box(face.last)
            if any(iou(implied_box(each.landmarks), box) > SAME_PLACE for each in found) or self._is_seen(gray, box):
                self._confirm(face, gray)
                continue
            face.misses += 1
            if face.misses == MISSES_TO_END:
                self._live.remove(face)
                self._end(face, face.confirmed)
        for each in found:
            self._begin(each, number, gray)
        self._merge_doubles()
        if len(self._live) > MOST_FACES:
            self.is_crowded = True
            self._live.sort(key=lambda face: -float(face_scale(face.last)))
            for face in self._live[MOST_FACES:]:
                self._end(face, len(face.boxes))
            del self._live[MOST_FACES:]

    def _is_seen(self, gray: Gray, box: Box) -> bool:
        """Whether the detector sees a face in this place: the search of the whole frame may look for larger ones."""
        size = float(box[2] - box[0])
        window = box + np.array([-0.3, -0.3, 0.3, 0.3], np.float32) * size
        boxes = self._search.boxes(gray, window, max(SMALLEST_FACE_PX * 0.9, 0.8 * size), threshold=-0.3)
        return any(iou(box, seen) > 2 * SAME_PLACE for seen in boxes)

    def _begin(self, found: FoundFace, number: int, gray: Gray) -> None:
        box = implied_box(found.landmarks)
        if any(iou(implied_box(face.last), box) > SAME_PLACE for face in self._live):
            return
        patch = eye_patch(gray, found.landmarks)
        face = _FollowedFace(number, found.landmarks, patch)
        face.add(found.landmarks, patch)
        self._live.append(face)
        self._confirm(face, gray)

    def _confirm(self, face: _FollowedFace, gray: Gray) -> None:
        face.misses, face.confirmed = 0, len(face.boxes)
        face.quality[-1] = portrait_quality(face.last)
        if len(face.portraits) < PORTRAITS or face.quality[-1] > face.portraits[-1][0]:
            face.portraits.append((face.quality[-1], self._models.chip(gray, face.last)))
            face.portraits.sort(key=lambda portrait: -portrait[0])
            del face.portraits[PORTRAITS:]

    def _merge_doubles(self) -> None:
        """Of two followed faces that slid onto one, the older stays."""
        for k, face in enumerate(list(self._live)):
            older = self._live[:k] if k < len(self._live) else self._live
            if any(o is not face and iou(implied_box(o.last), implied_box(face.last)) > 0.5 for o in older):
                self._live.remove(face)
                self._end(face, face.confirmed - 1)

    def _end(self, face: _FollowedFace, length: int) -> None:
        if length < min(SHORTEST_SIGHTING, self._steps):
            return
        descriptors = [self._models.descriptor(chip) for _, chip in face.portraits]
        self._ended.append(
            Sighting(
                face.first,
                np.stack(face.boxes[:length]),
                np.array(face.mouth[:length], np.float32),
                np.array(face.quality[:length], np.float32),
                np.mean(descriptors, axis=0),
            )
        )


def portrait_quality(landmarks: NDArray[np.float32]) -> float:
    """Size of a face in px, less where it is turned: 0 in profile."""
    nose = landmarks[NOSE_TIP]
    left, right = (float(np.linalg.norm(landmarks[side] - nose)) for side in (LEFT_JAW, RIGHT_JAW))
    return float(face_scale(landmarks)) * min(left, right) / max(left, right, 1e-6)


@dataclass(eq=False)
class _KnownPerson:
    """descriptor: mean of the sightings'."""

    sightings: list[Sighting]

    def __post_init__(self) -> None:
        self.descriptor = self.sightings[0].descriptor.copy()

    def add(self, sighting: Sighting) -> None:
        self.sightings.append(sighting)
        self.descriptor += (sighting.descriptor - self.descriptor) / np.float32(len(self.sightings))

    def may_be(self, sighting: Sighting) -> bool:
        """Nobody is in two places at a time."""
        return not any(each.first < sighting.stop and sighting.first < each.stop for each in self.sightings)


def _identify(shots: Sequence[Sequence[Sighting]]) -> tuple[Person, ...]:
    """Shot by shot, the sighting that is most like somebody becomes that person; one that is like nobody is a new
    one."""
    people: list[_KnownPerson] = []
    for sightings in shots:
        left = list(sightings)
        while left:
            alike = [
                (float(np.linalg.norm(person.descriptor - sighting.descriptor)), k, person)
                for k, sighting in enumerate(left)
                for person in people
                if person.may_be(sighting)
            ]
            distance, k, person = min(alike, key=lambda pair: pair[:2], default=(np.inf, 0, None))
            if person is not None and distance < SAME_PERSON:
                person.add(left.pop(k))
            else:
                people.append(_KnownPerson([left.pop(0)]))
    return tuple(
        Person(f"person_{k}", tuple(sorted(person.sightings, key=lambda each: each.first)))
        for k, person in enumerate(people, 1)
    )
