"""`face=speaking` and `face={"track": ...}`: settled before an engine starts, so that every engine has them.

Both ask for a person instead of a place, so that everyone in the video is looked for first (`faces.people`), always in
the whole video: the ids are those of `POST /v1/videos/analyze`. The engine is then given the place of that person's
best view, and follows the face from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retalking_core.audio.phones import Report
from retalking_core.clip_plan import ClipPlan
from retalking_core.errors import FaceNotFoundError, InputError
from retalking_core.faces.people import (
    MouthTrack,
    Person,
    SpeechCues,
    VideoPeople,
    find_people,
    find_speaker,
    hear_speech,
    sample_mouth,
)
from retalking_core.faces.track import OnFrame
from retalking_core.lines import Line, Speaker, gather_speakers
from retalking_core.media.limits import MediaLimits
from retalking_core.media.sources import PrefetchingFrameSource
from retalking_core.media.speech import load_waveform
from retalking_core.notes import Note
from retalking_core.options import FaceChoice, FacePoint, FaceTrackId, RenderOptions
from retalking_core.progress import Progress, ProgressHook
from retalking_core.types import FrameSource, VideoInfo
from retalking_core.vocabulary.options import SPEAKING, is_person

# Share of the whole render that looking for everyone takes.
PEOPLE_SHARE = 0.25
REPORT_EVERY = 4

Crop = tuple[float, float, float, float]


@dataclass(frozen=True)
class SettledRender:
    """What an engine is given: a clip whose speakers have places, with notes of what was guessed; options whose `face`
    is a place; and a hook that reports the engine's progress as the rest of the render."""

    clip: ClipPlan
    options: RenderOptions
    progress: ProgressHook


def settle_faces(clip: ClipPlan, options: RenderOptions, limits: MediaLimits, progress: ProgressHook) -> SettledRender:
    """Turn each line's choice of a person into a place; other choices stay as they are, and cost nothing.

    Who speaks is found line by line. All lines of one person get the same place, so that one track serves them.

    Raises: FaceNotFoundError, with the numbers of the lines, for a track that the video or their part of it does not
    have; the errors of `gather_speakers`, since two lines may turn out to be of one person; what `progress` raises.
    """
    if not any(is_person(speaker.face) for speaker in clip.speakers):
        return SettledRender(clip, options, progress)

    def on_frame(done: int, total: int) -> None:
        if done % REPORT_EVERY == 0 or done == total:
            progress(Progress("analyze", PEOPLE_SHARE * done / total, done, total))

    def report_rest(rest: Progress) -> None:
        progress(replace(rest, fraction=PEOPLE_SHARE + (1 - PEOPLE_SHARE) * rest.fraction))

    cast = Cast.of_video(clip.video, clip.source, options.crop, limits, on_frame)
    identified, notes = _identify_lines(clip, cast)
    speakers = _place_people(gather_speakers(identified), cast, clip.has_lines)
    settled = replace(clip, speakers=speakers, notes=(*clip.notes, *notes))
    face = speakers[0].face if is_person(options.face) else options.face
    return SettledRender(settled, replace(options, face=face), report_rest)


def _identify_lines(clip: ClipPlan, cast: Cast) -> tuple[list[Speaker], list[Note]]:
    """A speaker for each line, whose face is a place or the track of a person; and what was guessed."""
    identified, notes = [], []
    for speaker in clip.speakers:
        for line in speaker.lines:
            face, note = cast.identify(speaker.face, _frames_of([line]))
            identified.append(replace(speaker, face=face, lines=(line,)))
            if note is not None:
                ranges_s = ((round(line.start_s, 3), round(line.end_s, 3)),) if clip.has_lines else ()
                notes.append(replace(note, ranges_s=ranges_s))
    return identified, notes


def _place_people(speakers: Sequence[Speaker], cast: Cast, has_lines: bool) -> tuple[Speaker, ...]:
    """The speakers with places instead of tracks."""
    placed = []
    for speaker in speakers:
        face = speaker.face
        if isinstance(face, FaceTrackId):
            lines = (line for other in speakers if other.face == face for line in other.lines)
            with speaker.named_in_errors(has_lines):
                face = cast.place_of(face, _frames_of(lines))
        placed.append(replace(speaker, face=face))
    return tuple(placed)


def _frames_of(lines: Iterable[Line]) -> NDArray[np.int64]:
    """Numbers of the source frames on which lines are spoken, ascending, each once."""
    return np.unique(np.concatenate([line.timeline.source_index for line in lines]))


def locate_choice(
    choice: FaceChoice, video: Path, source: FrameSource, limits: MediaLimits, on_frame: OnFrame
) -> tuple[FaceChoice, Note | None]:
    """A choice that a tracker takes, for all frames of `source`, which are those of the file `video`; and what was
    guessed. Raises: FaceNotFoundError."""
    if not is_person(choice):
        return choice, None
    cast = Cast.of_video(video, source, (0.0, 0.0, 0.0, 0.0), limits, on_frame)
    shown = np.arange(source.info.frame_count)
    face, note = cast.identify(choice, shown)
    return (cast.place_of(face, shown) if isinstance(face, FaceTrackId) else face), note


def hear_own_sound(video: Path, info: VideoInfo, limits: MediaLimits, report: Report) -> SpeechCues | InputError:
    """What the sound of a video says; the reason, where there is nothing to hear. report: as of `recognize_visemes`."""
    if info.is_still:
        return InputError("It is a picture.")
    try:
        speech = load_waveform(video, limits)
    except InputError as error:
        return error
    return hear_speech(speech, report)


@dataclass(frozen=True)
class Cast:
    """The people of one video to choose from.

    video: the file, whose own sound is heard when first needed. crop: margins in which faces do not count, as of
    `TrackRequest`. Frames are given as numbers of source frames, ascending, each once.
    """

    video: Path
    people: VideoPeople
    info: VideoInfo
    crop: Crop
    limits: MediaLimits
    on_frame: OnFrame

    @classmethod
    def of_video(cls, video: Path, source: FrameSource, crop: Crop, limits: MediaLimits, on_frame: OnFrame) -> Cast:
        """on_frame: as of `find_people`; called again while the sound is heard, with all frames done."""
        people = find_people(PrefetchingFrameSource(source), on_frame)
        # How long the video really is, is known when it was read.
        return cls(video, people, source.info, crop, limits, on_frame)

    @cached_property
    def cues(self) -> SpeechCues | InputError:
        frames = self.info.frame_count
        return hear_own_sound(self.video, self.info, self.limits, lambda _share: self.on_frame(frames, frames))

    def identify(self, choice: FaceChoice, shown: NDArray[np.int64]) -> tuple[FaceChoice, Note | None]:
        """The track of the person whom a choice means on some frames; a choice of a place as it is; and what was
        guessed."""
        if choice != SPEAKING:
            return choice, None
        candidates = [person for person in self.people.people if self._counts(person, shown).any()]
        if isinstance(self.cues, InputError):
            reason = f"the video has no usable sound of its own: {self.cues.message}"
            return self._largest(candidates, shown), _speaker_unknown(reason)
        times_s, end_s = self.info.frame_times_s, self.info.duration_s
        start_s = float(times_s[shown[0]])
        stop_s = float(times_s[shown[-1] + 1]) if shown[-1] + 1 < len(times_s) else end_s
        mouths = [self._mouths[person.id] for person in candidates]
        best, score = find_speaker(mouths, self.cues, start_s, stop_s)
        if best is None:
            return self._largest(candidates, shown), _speaker_unknown("no mouth moves with the video's own sound")
        person = candidates[best]
        sentence = f"`{person.id}` of {len(candidates)} people speaks (score {score:.2f}) and was chosen."
        return FaceTrackId(person.id), Note("speaker_chosen", sentence)

    def place_of(self, face: FaceTrackId, shown: NDArray[np.int64]) -> FacePoint:
        """Where a person is seen best on some frames. Raises: FaceNotFoundError."""
        person = self.people.find(face.track)
        if person is None:
            known = ", ".join(each.id for each in self.people.people) or "nobody"
            raise FaceNotFoundError(
                f"The video has no face `{face.track}`; it shows {known}. Ids come from an analysis of this very file."
            )
        counts = self._counts(person, shown)
        if not counts.any():
            raise FaceNotFoundError(f"`{face.track}` is not seen in the part of the video that would be shown.")
        best = shown[int(np.where(counts, person.quality(self.info.frame_count)[shown], -1).argmax())]
        x, y = self._boxes[person.id][best].reshape(2, 2).mean(axis=0)
        return FacePoint(float(x), float(y), float(self.info.frame_times_s[best]))

    @cached_property
    def _boxes(self) -> dict[str, NDArray[np.float32]]:
        return {person.id: person.boxes(self.info.frame_count) for person in self.people.people}

    @cached_property
    def _mouths(self) -> dict[str, MouthTrack]:
        times_s, end_s = self.info.frame_times_s, self.info.duration_s
        return {person.id: sample_mouth(person.mouth(len(times_s)), times_s, end_s) for person in self.people.people}

    def _largest(self, candidates: Sequence[Person], shown: NDArray[np.int64]) -> FaceChoice:
        """By the mean height on some frames, 0 where the face does not count."""
        if not candidates:
            return "largest"

        def height(person: Person) -> float:
            _, top, _, bottom = self._boxes[person.id][shown].T
            return float(np.where(self._counts(person, shown), bottom - top, 0).mean())

        return FaceTrackId(max(candidates, key=height).id)

    def _counts(self, person: Person, shown: NDArray[np.int64]) -> NDArray[np.bool_]:
        """On which of some frames a person is seen within the crop."""
        x, y = self._boxes[person.id][shown].reshape(-1, 2, 2).mean(axis=1).T
        left, top, right, bottom = self.crop
        inside = (x >= left * self.info.width) & (x <= (1 - right) * self.info.width)
        inside &= (y >= top * self.info.height) & (y <= (1 - bottom) * self.info.height)
        return np.asarray(inside)


def _speaker_unknown(reason: str) -> Note:
    return Note("speaker_unknown", f"Nobody was found to speak, so the largest face was chosen: {reason}.")
