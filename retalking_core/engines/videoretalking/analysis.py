"""Pass one of the videoretalking engine: where the face is on each source frame, and its 3DMM coefficients.

Small numbers only (about 3 kB a frame), so that a long clip costs no memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core import __version__
from retalking_core.audio.mel import BANDS, WINDOW_FRAMES, mel_spectrogram_librosa, mel_windows
from retalking_core.clip_plan import ClipPlan
from retalking_core.device import download, upload
from retalking_core.engines.original.stages import first_rectangle
from retalking_core.engines.videoretalking.batching import AdaptiveBatcher, ValidatingNetworks, in_groups
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
from retalking_core.line_reports import track_speakers
from retalking_core.lines import Speaker
from retalking_core.media.limits import MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.sources import PrefetchingFrameSource
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
    expression_of,
    load_template,
    regress_coefficients,
    semantic_windows,
)
from retalking_core.types import ColorTags, FaceTrack, Frame, FrameSource, Timeline
from retalking_core.weights.templates import TEMPLATE_KEYS

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


def read_coefficients(
    source: FrameSource,
    faces: ClipFaces,
    networks: ValidatingNetworks,
    batches: AdaptiveBatcher,
    on_frame: Callable[[int, int], None],
) -> NDArray[np.float32]:
    """f32 [n, 262], zero where no face is visible."""
    regressor = networks.get("deep3d")
    numbers = np.flatnonzero(faces.visible)

    def regress(items: Sequence[tuple[int, Frame]]) -> tuple[NDArray[np.int64], Tensor]:
        at = np.array([number for number, _ in items])
        places = faces.at(at)
        pictures = crop_256([frame for _, frame in items], places, source.info.color, networks.device)
        return at, regress_coefficients(regressor, pictures, places.scaled())

    frames = PrefetchingFrameSource(source, AHEAD).frames_at(numbers.tolist())
    found: list[tuple[NDArray[np.int64], Tensor]] = []
    done = 0
    for group in in_groups(zip(numbers.tolist(), frames, strict=True), batches.size):
        found += batches.run(group, regress)
        done += len(group)
        on_frame(done, len(numbers))
    return _gathered(found, len(faces.visible), networks)


def _gathered(
    found: list[tuple[NDArray[np.int64], Tensor]], count: int, networks: ValidatingNetworks
) -> NDArray[np.float32]:
    """Rows from the device into their places, once all work on them is done."""
    result = np.zeros((count, 262), np.float32)
    rows, findings = download(torch.cat([row for _, row in found])), networks.findings()
    if networks.device.type == "cuda":
        torch.cuda.current_stream(networks.device).synchronize()
    findings.check()
    result[np.concatenate([at for at, _ in found])] = rows.numpy()
    return result


def plan_windows(analysis: FaceAnalysis, faces: ClipFaces, template: NDArray[np.float32]) -> NDArray[np.float32]:
    """f32 [n, 73, 26]: each frame among its neighbors of the same run, with the template's expression."""
    coefficients = analysis.coefficients
    windows = np.zeros((len(coefficients), 73, 26), np.float32)
    for start, stop in faces.runs:
        windows[start:stop] = semantic_windows(coefficients[start:stop], np.arange(stop - start), template=template)
    return windows


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
        spoken = mel_windows(mel_spectrogram_librosa(line.speech), line.timeline.fps, len(line.frames))
        windows[line.frames.start : line.frames.stop] = spoken
    return windows


# Those that the face memory hangs on.
REFERENCE_NETWORKS = ("deep3d", "dnet", "gpen512", "parsenet")
# Share of the whole render that the first pass takes: half for the track, half for the coefficients.
ANALYZE_SHARE = 0.2


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
    ) -> ClipAnalysis:
        """Pass one: a track for each face, coefficients, and what follows from both."""
        steps, done = len({speaker.face for speaker in clip.speakers}) + len(sessions), 0

        def tell(part: int, total: int) -> None:
            progress(Progress("analyze", ANALYZE_SHARE * (done + part / total) / steps, part, total))

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
        for look, session in sessions.items():
            if session.analysis is None:
                batches = AdaptiveBatcher(self._batch_size)
                rows = read_coefficients(source, faces[look[0]], self._networks, batches, tell)
                session.remember(FaceAnalysis(tracks[look[0]], rows))
            done += 1

        def learn(speaker: Speaker) -> SpeakerAnalysis:
            look, found = (speaker.face, speaker.expression), faces[speaker.face]
            analysis, order = sessions[look].analysis, clip.timeline.source_index
            assert analysis is not None  # remembered above
            seen, speaks = analysis.track.uncovered().visible[order], speaker.speaks(clip.frames)
            covered = np.zeros_like(seen) if analysis.track.covered is None else analysis.track.covered[order]
            return SpeakerAnalysis(
                look=looks.index(look),
                faces=found,
                windows=plan_windows(analysis, found, self._expression(speaker.expression)),
                sound=speech_windows(speaker, clip.frames),
                strength=effect_strength(seen, speaks, clip.timeline.fps),
                still=self._still(source, found) if options.one_shot else None,
                covered=covered & speaks,
                upper_face=speaker.upper_face,
            )

        speakers = tuple(map(learn, clip.speakers))
        return ClipAnalysis(clip.timeline, speakers, source.info.color, source.info.height)

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
