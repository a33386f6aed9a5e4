"""Pass one of the videoretalking engine: where the face is on each source frame, and its 3DMM coefficients.

Small numbers only (about 3 kB a frame), so that a long clip costs no memory.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core import __version__
from retalking_core.audio.mel import BANDS, WINDOW_FRAMES, librosa_basis, mel_spectrogram, mel_windows
from retalking_core.clip_plan import ClipPlan, track_speakers
from retalking_core.engines.original.stages import first_rectangle
from retalking_core.engines.videoretalking.batching import AdaptiveBatcher, OutputChecks, ValidatingNetworks, in_groups
from retalking_core.engines.videoretalking.face_cache_session import (
    FaceAnalysis,
    FaceCacheSession,
    cache_key,
    open_session,
)
from retalking_core.errors import FaceNotFoundError
from retalking_core.face_cache import FaceCache
from retalking_core.faces.landmarks import bounding_box, iou
from retalking_core.faces.track import FaceTracker, TrackRequest, effect_strength, visible_runs
from retalking_core.imaging import crop_resized
from retalking_core.lines import Speaker
from retalking_core.media.limits import MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.sources import PrefetchingFrameSource
from retalking_core.networks.inference import download, upload
from retalking_core.options import FaceChoice, RenderOptions
from retalking_core.progress import Progress, ProgressHook
from retalking_core.stages.composite import pyramid_levels
from retalking_core.stages.regions import (
    CROP_PX,
    FacePlaces,
    cut_regions,
    detector_boxes,
    follow_face,
    pad_boxes,
    region_side,
)
from retalking_core.stages.stabilize import (
    WINDOW_BEFORE,
    WINDOW_LENGTH,
    expression_of,
    load_template,
    regress_coefficients,
    semantic_windows,
)
from retalking_core.types import ColorTags, FaceTrack, Frame, FrameSource, Timeline
from retalking_core.weights.checkpoint import TEMPLATE_KEYS

# Two neighboring boxes that overlap less belong to different shots.
SAME_SHOT_OVERLAP = 0.3
# Source frames that are decoded ahead of their use: a batch for the networks and one more.
AHEAD = 32
# A face with an expression: what references are drawn of.
Look = tuple[FaceChoice, str]


@dataclass(frozen=True)
class ClipFaces:
    """The face on the first n source frames.

    visible: bool [n]. runs: half-open ranges of them without gap or cut. places: NaN where the face is not visible.
    levels: of the blending pyramids.
    """

    visible: NDArray[np.bool_]
    runs: list[tuple[int, int]]
    places: FacePlaces
    levels: int

    def at(self, frames: NDArray[np.int64]) -> FacePlaces:
        return FacePlaces(self.places.landmarks[frames], self.places.crops[frames], self.places.boxes[frames])


@dataclass(frozen=True)
class SpeakerAnalysis:
    """What drawing needs of one speaker. n analyzed source frames, M output frames.

    look: number of the face cache session that holds its references; speakers of one face and expression share it.
    windows: f32 [n, 73, 26], zero where no face is visible. sound: f32 [M, 80, 16], zero between the lines. strength:
    f32 [M], 0 where a frame passes through .. 1. still: f32 [1, 3, 256, 256] RGB 0..255, the one picture that the
    expression network sees with one_shot, else None. covered: bool [M], where something is in front of the mouth, so
    that the frame passes through. upper_face: as of the options.
    """

    look: int
    faces: ClipFaces
    windows: NDArray[np.float32]
    sound: NDArray[np.float32]
    strength: NDArray[np.float32]
    still: NDArray[np.float32] | None
    covered: NDArray[np.bool_]
    upper_face: str


@dataclass(frozen=True)
class ClipAnalysis:
    """Everything that drawing needs. speakers: in the order in which they are drawn. color, height: of the video."""

    timeline: Timeline
    speakers: tuple[SpeakerAnalysis, ...]
    color: ColorTags
    height: int

    @property
    def looks(self) -> int:
        """How many face cache sessions the speakers need."""
        return 1 + max(speaker.look for speaker in self.speakers)

    @property
    def face_boxes(self) -> list[NDArray[np.float32]]:
        """Of each speaker's landmarks, f32 [M, 4] px of the video, NaN where the face is not visible."""
        order = self.timeline.source_index
        return [bounding_box(speaker.faces.places.landmarks[order]) for speaker in self.speakers]


def locate_faces(track: FaceTrack, count: int, source: FrameSource, pads: tuple[int, int, int, int]) -> ClipFaces:
    """One track -> the crop of the networks of 256 and the box of the lip network, on the first `count` frames.

    Frames whose mouth is covered count as faceless."""
    track = track.uncovered()
    used = FaceTrack(track.boxes[:count], track.landmarks[:count], track.visible[:count])
    shots = np.zeros(count, int)
    for k in range(1, count):
        both = used.visible[k - 1] and used.visible[k]
        shots[k] = shots[k - 1] + bool(both and iou(used.boxes[k - 1], used.boxes[k]) < SAME_SHOT_OVERLAP)
    runs = visible_runs(used.visible, shots)
    crops = follow_face(used, source.info.frame_times_s[:count], runs)
    boxes = detector_boxes(used.landmarks) + np.array([-pads[2], -pads[0], pads[3], pads[1]])
    boxes = pad_boxes(boxes, (0, 0, 0, 0), source.info.width, source.info.height)
    size_px = float(np.nanmedian(boxes[:, 2] - boxes[:, 0]))
    places = FacePlaces(used.landmarks.astype(np.float64), crops, boxes)
    return ClipFaces(used.visible, runs, places, pyramid_levels(size_px))


def crop_256(frames: list[Frame], places: FacePlaces, color: ColorTags, device: torch.device) -> Tensor:
    """What the networks of 256 see, f32 [B, 3, 256, 256], RGB 0..255."""
    regions = cut_regions(frames, places, region_side(places), color, device)
    crops = upload(places.shifted(regions.origins).crops, device)
    return crop_resized(regions.pictures, crops, CROP_PX).flip(1)


@dataclass(frozen=True)
class _Regressed:
    """Rows f32 [b, 262] of the frames `at`, on their way from the device: complete once `done` is."""

    at: NDArray[np.int64]
    rows: Tensor
    findings: OutputChecks
    done: torch.cuda.Event | None


class CoefficientReader:
    """Reads the coefficients of one face as far as drawing needs them, and no farther ahead than that takes no wait.

    Drawing a frame needs those of its neighbors in the same run (`WINDOW_BEFORE`, `WINDOW_LENGTH`). `reach` starts two
    batches beyond them, so that the device has done what it waits for before the drawing that was started meanwhile.
    Batches are the same ones whoever calls what when: so are the numbers.
    """

    def __init__(
        self, source: FrameSource, faces: ClipFaces, networks: ValidatingNetworks, batches: AdaptiveBatcher
    ) -> None:
        self._faces, self._networks, self._batches, self._color = faces, networks, batches, source.info.color
        self._count = len(faces.visible)
        self._numbers = np.flatnonzero(faces.visible)
        frames = PrefetchingFrameSource(source, AHEAD).frames_at(self._numbers.tolist())
        self._groups = in_groups(zip(self._numbers.tolist(), frames, strict=True), batches.size)
        self._frames = frames
        self._running: deque[_Regressed] = deque()
        self._windows: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        self.rows = np.zeros((self._count, 262), np.float32)
        """f32 [n, 262], zero where no face is visible; complete after `finish`."""
        # Frames before which batches were started, rows are there, and windows are filled.
        self._started = self._known = self._filled = 0

    def windows(self, template: NDArray[np.float32]) -> NDArray[np.float32]:
        """f32 [n, 73, 26]: each frame among its neighbors of the same run, with the template's expression; zero where
        no face is visible. Filled as the reading goes on."""
        windows = np.zeros((self._count, 73, 26), np.float32)
        self._windows.append((windows, template))
        return windows

    def reach(self, frame: int) -> None:
        """The windows of all frames up to this one are filled on return. Raises: EngineFaultError."""
        if frame < self._filled:
            return
        needed = min(frame + WINDOW_LENGTH - WINDOW_BEFORE, self._count)
        while self._started < min(needed + 2 * self._batches.size, self._count):
            self._start()
        while self._known < needed:
            self._settle()
        self._fill()

    @property
    def frames(self) -> int:
        """How many show the face."""
        return len(self._numbers)

    def finish(self, on_frame: Callable[[int], None]) -> None:
        """Read the rest."""
        while self._started < self._count:
            self._start()
            on_frame(int(np.searchsorted(self._numbers, self._started)))
        while self._known < self._count:
            self._settle()
        self._fill()

    def close(self) -> None:
        """Stop decoding ahead."""
        if isinstance(self._frames, Generator):
            self._frames.close()

    def _start(self) -> None:
        group = next(self._groups, None)
        if group is None:
            self._started = self._count
            return
        for at, rows in self._batches.run(group, self._regress):
            host, done = download(rows), None
            if self._networks.device.type == "cuda":
                done = torch.cuda.Event()
                done.record()
            self._running.append(_Regressed(at, host, self._networks.findings(), done))
        self._started = group[-1][0] + 1

    def _regress(self, items: Sequence[tuple[int, Frame]]) -> tuple[NDArray[np.int64], Tensor]:
        at = np.array([number for number, _ in items])
        places = self._faces.at(at)
        pictures = crop_256([frame for _, frame in items], places, self._color, self._networks.device)
        return at, regress_coefficients(self._networks.get("deep3d"), pictures, places.scaled())

    def _settle(self) -> None:
        """Take in the oldest batch; without one, only frames without a face are left."""
        if not self._running:
            self._known = self._started
            return
        batch = self._running.popleft()
        if batch.done is not None:
            batch.done.synchronize()
        batch.findings.check()
        self.rows[batch.at] = batch.rows.numpy()
        self._known = int(batch.at[-1]) + 1

    def _fill(self) -> None:
        filled = self._count if self._known >= self._count else self._filled
        for start, stop in self._faces.runs:
            ready = stop if self._known >= stop else self._known - (WINDOW_LENGTH - WINDOW_BEFORE - 1)
            frames = np.arange(max(start, self._filled), ready)
            for windows, template in self._windows if len(frames) else ():
                windows[frames] = semantic_windows(self.rows[start:stop], frames - start, template=template)
            if ready < stop:
                filled = max(filled, ready)
                break
            filled = max(filled, stop)
        self._filled = filled


def plan_windows(
    coefficients: NDArray[np.float32], faces: ClipFaces, template: NDArray[np.float32]
) -> NDArray[np.float32]:
    """f32 [n, 73, 26], as of `CoefficientReader.windows`, of coefficients that are known."""
    windows = np.zeros((len(coefficients), 73, 26), np.float32)
    for start, stop in faces.runs:
        windows[start:stop] = semantic_windows(coefficients[start:stop], np.arange(stop - start), template=template)
    return windows


@dataclass(frozen=True)
class PendingAnalysis:
    """A clip's analysis, whose windows are filled while it is used.

    readers: of the faces that no cache knew, each with the session that remembers what it reads, and the face's track.
    """

    analysis: ClipAnalysis
    readers: tuple[tuple[CoefficientReader, FaceCacheSession, FaceTrack], ...]

    def reach(self, frame: int) -> None:
        """See `CoefficientReader.reach`."""
        for reader, _, _ in self.readers:
            reader.reach(frame)

    def finish(self, on_frame: Callable[[int, int], None]) -> ClipAnalysis:
        """Read the rest, and remember it. on_frame: frames with a face that were read, of all."""
        before, total = 0, sum(reader.frames for reader, _, _ in self.readers)
        for reader, session, track in self.readers:
            offset = before
            reader.finish(lambda done, offset=offset: on_frame(offset + done, total))  # type: ignore[misc]
            session.remember(FaceAnalysis(track, reader.rows))
            before += reader.frames
        return self.analysis

    def close(self) -> None:
        for reader, _, _ in self.readers:
            reader.close()


@dataclass(frozen=True)
class DrawnFrame:
    """An output frame under way. source: as decoded. drawn: with the speakers so far; the same object where none
    speaks."""

    number: int
    source: Frame
    drawn: Frame


def shown_frames(scene: ClipAnalysis, source: FrameSource, segment: range) -> Iterator[DrawnFrame]:
    """The frames of a segment of the result in order, nothing drawn on them yet."""
    wanted = scene.timeline.source_index[segment.start : segment.stop].tolist()
    for number, frame in zip(segment, PrefetchingFrameSource(source, AHEAD).frames_at(wanted), strict=True):
        yield DrawnFrame(number, frame, frame)


def speech_windows(speaker: Speaker, frames: int) -> NDArray[np.float32]:
    """The sound of each output frame, f32 [frames, 80, 16], zero between the lines."""
    windows = np.zeros((frames, BANDS, WINDOW_FRAMES), np.float32)
    for line in speaker.lines:
        spoken = mel_windows(mel_spectrogram(line.speech, librosa_basis()), line.timeline.fps, len(line.frames))
        windows[line.frames.start : line.frames.stop] = spoken
    return windows


# Those that the face memory hangs on.
REFERENCE_NETWORKS = ("deep3d", "dnet", "gpen512", "parsenet")
# Share of the whole render that the first pass takes, and of it the track, before the coefficients.
ANALYZE_SHARE, TRACK_SHARE = 0.2, 0.1


class ClipAnalyzer:
    """Looks at clips with one tracker and one set of networks. templates: the original's expression file."""

    def __init__(
        self,
        networks: ValidatingNetworks,
        tracker: FaceTracker,
        limits: MediaLimits,
        templates: Path | None,
        batch_size: int,
    ) -> None:
        self._networks, self._tracker, self._limits = networks, tracker, limits
        self._templates, self._batch_size = templates, batch_size

    @contextmanager
    def memory(
        self,
        cache: FaceCache | None,
        video: Path,
        count: int,
        options: RenderOptions,
        scratch: Path,
        progress: ProgressHook,
    ) -> Iterator[FaceCacheSession]:
        """What is known about this video's face."""

        def key() -> str:
            networks = [self._networks.digest(name) for name in REFERENCE_NETWORKS]
            template = (
                None if self._templates is None or not self._templates.is_file() else self._templates.read_bytes()
            )
            expression: str | bytes = options.expression
            if expression not in TEMPLATE_KEYS:
                expression = Path(options.expression).read_bytes()
            place = (options.face, options.crop, options.pads, options.compat)
            look = (options.one_shot, options.fps, expression, template)
            parts = [__version__, count, type(self._tracker).__name__, *networks, *place, *look]
            return options.face_cache_scope + cache_key(video, parts)

        turns = itertools.count(1)
        # A growing count: waiting for another render counts as progress.
        with open_session(cache, key, lambda: progress(Progress("analyze", 0.0, next(turns))), scratch) as memory:
            yield memory

    @contextmanager
    def sessions(
        self,
        cache: FaceCache | None,
        clip: ClipPlan,
        count: int,
        options: RenderOptions,
        scratch: Path,
        progress: ProgressHook,
    ) -> Iterator[dict[Look, FaceCacheSession]]:
        """What is known about each face and expression. Opened in one order by all renders, which wait for each
        other's."""
        looks = {(speaker.face, speaker.expression) for speaker in clip.speakers}
        with ExitStack() as opened:
            found: dict[Look, FaceCacheSession] = {}
            for face, expression in sorted(looks, key=repr):
                asked = replace(options, face=face, expression=expression)
                session = self.memory(cache, clip.video, count, asked, scratch, progress)
                found[face, expression] = opened.enter_context(session)
            yield found

    def scene(
        self,
        clip: ClipPlan,
        source: FrameSource,
        options: RenderOptions,
        sessions: dict[Look, FaceCacheSession],
        count: int,
        progress: ProgressHook,
    ) -> PendingAnalysis:
        """Pass one: a track for each face, what follows from it, and readers of the coefficients."""
        steps, done = len({speaker.face for speaker in clip.speakers}), 0

        def tell(part: int, total: int) -> None:
            progress(Progress("analyze", TRACK_SHARE * (done + part / total) / steps, part, total))

        def track(_number: int, choice: FaceChoice) -> FaceTrack:
            nonlocal done
            known = (session.analysis for look, session in sessions.items() if look[0] == choice)
            analysis = next((each for each in known if each is not None), None)
            done += 1
            if analysis is not None:
                return analysis.track
            done -= 1
            request = TrackRequest(range(count), choice, options.crop)
            found = self._tracker.track(PrefetchingFrameSource(source, AHEAD), request, tell)
            done += 1
            return found

        tracks = track_speakers(clip, options, track)
        looks = list(sessions)
        faces = {face: self._locate(found, count, source, options) for face, found in tracks.items()}
        readers = {
            look: CoefficientReader(source, faces[look[0]], self._networks, AdaptiveBatcher(self._batch_size))
            for look, session in sessions.items()
            if session.analysis is None
        }

        def learn(speaker: Speaker) -> SpeakerAnalysis:
            look, found = (speaker.face, speaker.expression), faces[speaker.face]
            known, track, order = sessions[look].analysis, tracks[speaker.face], clip.timeline.source_index
            seen, speaks = track.uncovered().visible[order], speaker.speaks(clip.frames)
            covered = np.zeros_like(seen) if track.covered is None else track.covered[order]
            template = self._expression(speaker.expression)
            return SpeakerAnalysis(
                look=looks.index(look),
                faces=found,
                windows=(
                    readers[look].windows(template)
                    if known is None
                    else plan_windows(known.coefficients, found, template)
                ),
                sound=speech_windows(speaker, clip.frames),
                strength=effect_strength(seen, speaks, clip.timeline.fps),
                still=self._still(source, found) if options.one_shot else None,
                covered=covered & speaks,
                upper_face=speaker.upper_face,
            )

        speakers = tuple(map(learn, clip.speakers))
        analysis = ClipAnalysis(clip.timeline, speakers, source.info.color, source.info.height)
        return PendingAnalysis(
            analysis, tuple((reader, sessions[look], tracks[look[0]]) for look, reader in readers.items())
        )

    def _locate(self, track: FaceTrack, count: int, source: FrameSource, options: RenderOptions) -> ClipFaces:
        faces = locate_faces(track, count, source, options.pads)
        if options.compat != "original":
            return faces
        # The original cuts one rectangle from all frames.
        info = source.info
        y1, y2, x1, x2 = first_rectangle(faces.places.landmarks, faces.visible, info.width, info.height)
        crops = np.where(faces.visible[:, None], np.array([x1, y1, x2, y2], np.float64), np.nan)
        return replace(faces, places=replace(faces.places, crops=crops))

    def _still(self, source: FrameSource, faces: ClipFaces) -> NDArray[np.float32]:
        """The first picture with a face: all that the expression network sees with one_shot."""
        first = np.flatnonzero(faces.visible)[:1]
        frames = list(source.frames_at(first.tolist()))
        return crop_256(frames, faces.at(first), source.info.color, self._networks.device).cpu().numpy()

    def _expression(self, asked: str) -> NDArray[np.float32]:
        """The template's 64 numbers: of a word, or of the face in a picture. Raises: FaceNotFoundError."""
        if asked in TEMPLATE_KEYS:
            return load_template(asked, self._templates)
        source = open_video(Path(asked), self._limits)
        try:
            track = self._tracker.track(source, TrackRequest([0]), lambda _done, _total: None)
        except FaceNotFoundError as error:
            raise FaceNotFoundError("The picture given as `expression` shows no usable face; send another.") from error
        faces = locate_faces(track, 1, source, (0, 0, 0, 0))
        places = faces.at(np.zeros(1, np.int64))
        picture = crop_256(list(source.frames_at([0])), places, source.info.color, self._networks.device)
        row = regress_coefficients(self._networks.get("deep3d"), picture, places.scaled())[0]
        return expression_of(row.cpu().numpy())
