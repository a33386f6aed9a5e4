"""The analysis of a video: everyone in it, with thumbnails (`retalking analyze`, `POST /v1/videos/analyze`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retalking_core.errors import InputError
from retalking_core.face_choice import hear_own_sound
from retalking_core.faces.people import (
    ACTIVE,
    MOST_FACES,
    RATE_HZ,
    Person,
    SpeechCues,
    find_people,
    sample_mouth,
    speaking_probability,
)
from retalking_core.faces.track import visible_runs
from retalking_core.media.limits import MediaLimits
from retalking_core.media.planes import even_box, region_to_bgr
from retalking_core.media.reader import open_video
from retalking_core.media.sources import PrefetchingFrameSource
from retalking_core.progress import Progress, ProgressHook
from retalking_core.types import FrameSource, VideoInfo
from retalking_core.vocabulary.video_analysis import MOST_PEOPLE, AnalyzedPerson, Box, TimeRange, VideoAnalysis

# Between two samples, unless there would be more than this many.
STEP_S, MOST_SAMPLES = 0.2, 3000
THUMBNAIL_PX = 160
# Room around the face on a thumbnail, in sizes of its box.
ROOM = 0.45
REPORT_EVERY = 4
PEOPLE_SHARE = 0.9


def analyze_video(video: Path, thumbnails: Path, limits: MediaLimits, progress: ProgressHook) -> VideoAnalysis:
    """Analyze a file, and write a JPEG for each person into the folder `thumbnails`: `person_1.jpg` and so on.

    Raises the errors of `open_video`, and what `progress` raises.
    """

    def on_frame(done: int, total: int) -> None:
        if done % REPORT_EVERY == 0 or done == total:
            progress(Progress("analyze", PEOPLE_SHARE * done / total, done, total))

    source = open_video(video, limits)
    found = find_people(PrefetchingFrameSource(source), on_frame)
    # How long it really is, is known when it was read.
    info = source.info

    def on_share(share: float) -> None:
        progress(Progress("analyze", PEOPLE_SHARE + (1 - PEOPLE_SHARE) / 2 * share))

    cues = hear_own_sound(video, info, limits, on_share)
    on_share(1.0)
    notes = []
    if isinstance(cues, InputError) and not info.is_still:
        notes.append(f"Nobody can be heard: {cues.message}")
    if found.is_crowded:
        notes.append(f"More than {MOST_FACES} faces are seen at a time; the smallest of them were left out.")
    kept = sorted(found.people, key=lambda person: -_frames_of(person))[:MOST_PEOPLE]
    if len(kept) < len(found.people):
        notes.append(f"{len(found.people)} people are seen; those {MOST_PEOPLE} who are seen longest are listed.")
    people = [person for person in found.people if person in kept]
    step_s = max(STEP_S, info.duration_s / MOST_SAMPLES)
    samples = _Samples(info, step_s)
    described = [_describe(person, samples, None if isinstance(cues, InputError) else cues) for person in people]
    _write_thumbnails(people, source, thumbnails)
    progress(Progress("analyze", 1.0, info.frame_count, info.frame_count))
    return VideoAnalysis(
        duration_s=0.0 if info.is_still else info.duration_s,
        width=info.width,
        height=info.height,
        fps=float(info.fps),
        frames=info.frame_count,
        step_s=step_s,
        shots=[samples.time_range(start, stop) for start, stop in found.shots],
        people=described,
        voice=None if isinstance(cues, InputError) else [round(float(v), 3) for v in samples.on_clock(cues.voice)],
        notes=notes,
    )


def _frames_of(person: Person) -> int:
    return sum(len(sighting.boxes) for sighting in person.sightings)


class _Samples:
    """Values over time, a step apart."""

    def __init__(self, info: VideoInfo, step_s: float) -> None:
        self.info = info
        self.times_s = np.arange(0, max(info.duration_s, 1e-9), step_s)
        self.frames = np.clip(np.searchsorted(info.frame_times_s, self.times_s, side="right") - 1, 0, None)

    def on_clock(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of values at the rate of `SpeechCues`."""
        return values[np.minimum((self.times_s * RATE_HZ).astype(int), len(values) - 1)]

    def time_range(self, start: int, stop: int) -> TimeRange:
        """Of frames start to stop."""
        times_s = self.info.frame_times_s
        end_s = float(times_s[stop]) if stop < len(times_s) else self.info.duration_s
        return TimeRange(start_s=round(float(times_s[start]), 3), end_s=round(end_s, 3))


def _describe(person: Person, samples: _Samples, cues: SpeechCues | None) -> AnalyzedPerson:
    info = samples.info
    boxes, quality = person.boxes(info.frame_count), person.quality(info.frame_count)
    seen = np.isfinite(boxes[:, 0])
    speaking: list[float | None] = [None] * len(samples.times_s)
    speaking_s = 0.0
    if cues is not None:
        mouth = sample_mouth(person.mouth(info.frame_count), info.frame_times_s, info.duration_s)
        likely = speaking_probability(mouth, cues)
        speaking_s = float((np.nan_to_num(likely) > ACTIVE).sum() / RATE_HZ)
        speaking = [None if np.isnan(v) else round(float(v), 3) for v in samples.on_clock(likely)]
    return AnalyzedPerson(
        track=person.id,
        seen=[samples.time_range(start, stop) for start, stop in visible_runs(seen)],
        visibility=round(float(seen.mean()), 4),
        speaking_s=round(speaking_s, 2),
        face_px=round(float(np.nanmedian(boxes[:, 3] - boxes[:, 1])), 1),
        best_s=round(float(info.frame_times_s[int(quality.argmax())]), 3),
        boxes=[_rounded(boxes[frame]) for frame in samples.frames],
        speaking=speaking,
    )


def _rounded(box: NDArray[np.float32]) -> Box | None:
    if not np.isfinite(box[0]):
        return None
    left, top, right, bottom = (round(float(side), 1) for side in box)
    return left, top, right, bottom


def _write_thumbnails(people: list[Person], source: FrameSource, folder: Path) -> None:
    best = [int(person.quality(source.info.frame_count).argmax()) for person in people]
    order = sorted(range(len(people)), key=lambda k: best[k])
    for k, frame in zip(order, source.frames_at([best[k] for k in order]), strict=True):
        left, top, right, bottom = people[k].boxes(source.info.frame_count)[best[k]]
        half = (0.5 + ROOM) * max(right - left, bottom - top)
        x, y = (left + right) / 2, (top + bottom) / 2
        height, width = frame.y.shape
        area = even_box((x - half, y - half, x + half, y + half), width, height)
        picture = Image.fromarray(region_to_bgr(frame, area, source.info.color)[:, :, ::-1])
        picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        picture.save(folder / f"{people[k].id}.jpg", "JPEG", quality=85)
