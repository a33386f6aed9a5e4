"""`face=speaking` and `face={"track": ...}`: settled before an engine starts, so that every engine has them.

Both ask for somebody instead of a place, so that everyone in the video is looked for first (`faces.people`), always in
the whole video: the ids are those of `POST /v1/videos/analyze`. The engine is then given the place of that person's
best view, and follows the face from there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retalking_core.clip_plan import ClipPlan
from retalking_core.errors import FaceNotFoundError, InputError
from retalking_core.faces.people import Person, VideoPeople, find_people
from retalking_core.faces.speaking import SpeechCues, find_speaker, hear_speech, sample_mouth
from retalking_core.faces.track import OnFrame
from retalking_core.media.limits import MediaLimits
from retalking_core.media.sources import PrefetchingFrameSource
from retalking_core.media.speech import load_waveform
from retalking_core.notes import Note
from retalking_core.options import FaceChoice, FacePoint, FaceTrackId, RenderOptions
from retalking_core.progress import Progress, ProgressHook
from retalking_core.types import FrameSource, VideoInfo

# Share of the whole render that looking for everyone takes.
PEOPLE_SHARE = 0.25
REPORT_EVERY = 4


@dataclass(frozen=True)
class SettledRender:
    """What an engine is given: a clip with the notes of the choice, options that name a place, and a hook that reports
    the engine's progress as the rest of the render."""

    clip: ClipPlan
    options: RenderOptions
    progress: ProgressHook


def settle_faces(clip: ClipPlan, options: RenderOptions, limits: MediaLimits, progress: ProgressHook) -> SettledRender:
    """Turn a choice of somebody into a place; any other choice stays as it is, and costs nothing.

    Raises: FaceNotFoundError for a track that the video, or the part of it that is shown, does not have; what
    `progress` raises.
    """
    if options.face != "speaking" and not isinstance(options.face, FaceTrackId):
        return SettledRender(clip, options, progress)

    def on_frame(done: int, total: int) -> None:
        if done % REPORT_EVERY == 0 or done == total:
            progress(Progress("analyze", PEOPLE_SHARE * done / total, done, total))

    def report_rest(rest: Progress) -> None:
        progress(replace(rest, fraction=PEOPLE_SHARE + (1 - PEOPLE_SHARE) * rest.fraction))

    shown = np.unique(clip.timeline.source_index)
    face, note = locate_choice(options.face, clip.video, clip.source, shown, options.crop, limits, on_frame)
    notes = clip.notes if note is None else (*clip.notes, note)
    return SettledRender(replace(clip, notes=notes), replace(options, face=face), report_rest)


def locate_choice(
    choice: FaceChoice,
    video: Path,
    source: FrameSource,
    shown: NDArray[np.int64],
    crop: tuple[float, float, float, float],
    limits: MediaLimits,
    on_frame: OnFrame,
) -> tuple[FaceChoice, Note | None]:
    """A choice that a tracker takes, and what was guessed.

    source: frames of the file `video`. shown: numbers of the frames that count, ascending. crop, on_frame: as of
    `find_people`. Raises: FaceNotFoundError.
    """
    if choice != "speaking" and not isinstance(choice, FaceTrackId):
        return choice, None
    cast = Cast(find_people(PrefetchingFrameSource(source), on_frame), source.info, crop)
    if isinstance(choice, FaceTrackId):
        return cast.place_of(choice.track, shown), None
    return cast.speaker(shown, hear_own_sound(video, source.info, limits))


def hear_own_sound(video: Path, info: VideoInfo, limits: MediaLimits) -> SpeechCues | InputError:
    """What the sound of a video says; the reason, where there is nothing to hear."""
    if info.is_still:
        return InputError("It is a picture.")
    try:
        return hear_speech(load_waveform(video, limits))
    except InputError as error:
        return error


@dataclass(frozen=True)
class Cast:
    """The people of one video to choose from. crop: margins in which faces do not count, as of `TrackRequest`."""

    people: VideoPeople
    info: VideoInfo
    crop: tuple[float, float, float, float]

    def place_of(self, person_id: str, shown: NDArray[np.int64]) -> FacePoint:
        """Where a person is seen best on the frames of these numbers. Raises: FaceNotFoundError."""
        person = self.people.find(person_id)
        if person is None:
            known = ", ".join(each.id for each in self.people.people) or "nobody"
            raise FaceNotFoundError(
                f"The video has no face `{person_id}`; it shows {known}. Ids come from an analysis of this very file."
            )
        point = self._best_place(person, shown)
        if point is None:
            raise FaceNotFoundError(f"`{person_id}` is not seen in the part of the video that would be shown.")
        return point

    def speaker(self, shown: NDArray[np.int64], cues: SpeechCues | InputError) -> tuple[FaceChoice, Note]:
        """The place of the person who speaks on the frames of these numbers, else the largest face; and what to say."""
        if isinstance(cues, InputError):
            return "largest", _unknown(f"the video has no usable sound of its own: {cues.message}")
        times_s, end_s = self.info.frame_times_s, self.info.duration_s
        start_s = float(times_s[shown[0]])
        stop_s = float(times_s[shown[-1] + 1]) if shown[-1] + 1 < len(times_s) else end_s
        seen = [(person, self._best_place(person, shown)) for person in self.people.people]
        candidates = [(person, place) for person, place in seen if place is not None]
        mouths = [sample_mouth(person.mouth(len(times_s)), times_s, end_s) for person, _ in candidates]
        best, score = find_speaker(mouths, cues, start_s, stop_s)
        if best is None:
            return "largest", _unknown("no mouth moves with the video's own sound")
        person, place = candidates[best]
        sentence = f"`{person.id}` of {len(candidates)} people speaks (score {score:.2f}) and was chosen."
        return place, Note("speaker_chosen", sentence)

    def _best_place(self, person: Person, shown: NDArray[np.int64]) -> FacePoint | None:
        count = self.info.frame_count
        boxes, quality = person.boxes(count)[shown], person.quality(count)[shown]
        left, top, right, bottom = self.crop
        x, y = boxes[:, [0, 2]].mean(axis=1), boxes[:, [1, 3]].mean(axis=1)
        inside = (x >= left * self.info.width) & (x <= (1 - right) * self.info.width)
        inside &= (y >= top * self.info.height) & (y <= (1 - bottom) * self.info.height)
        quality = np.where(inside, quality, 0)
        best = int(quality.argmax())
        if quality[best] <= 0:
            return None
        return FacePoint(float(x[best]), float(y[best]), float(self.info.frame_times_s[shown[best]]))


def _unknown(reason: str) -> Note:
    return Note("speaker_unknown", f"Nobody was found to speak, so the largest face was chosen: {reason}.")
