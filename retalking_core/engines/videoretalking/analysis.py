"""Pass one of the videoretalking engine: where the face is on each source frame, and its 3DMM coefficients.

Small numbers only (about 3 kB a frame), so that a long clip costs no memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core import __version__
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
from retalking_core.faces.track import FADE_S, FaceTracker, TrackRequest, fade_strength, refuse_faceless, visible_runs
from retalking_core.imaging import crop_resized
from retalking_core.media.limits import MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.sources import PrefetchingFrameSource
from retalking_core.options import RenderOptions
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
class ClipAnalysis:
    """Everything that drawing needs. n analyzed source frames, M output frames.

    windows: f32 [n, 73, 26], zero where no face is visible. sound: f32 [M, 80, 16]. strength: f32 [M], 0 where a frame
    passes through .. 1. still: f32 [1, 3, 256, 256] RGB 0..255, the one picture that the expression network sees with
    one_shot, else None. color, height: of the video. covered: bool [M], where something is in front of the mouth, so
    that the frame passes through.
    """

    timeline: Timeline
    faces: ClipFaces
    windows: NDArray[np.float32]
    sound: NDArray[np.float32]
    strength: NDArray[np.float32]
    still: NDArray[np.float32] | None
    color: ColorTags
    height: int
    covered: NDArray[np.bool_]

    @property
    def face_boxes(self) -> NDArray[np.float32]:
        """Of the landmarks, f32 [M, 4] px of the video, NaN where the face is not visible."""
        return bounding_box(self.faces.places.landmarks[self.timeline.source_index])


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


def shown_frames(scene: ClipAnalysis, source: FrameSource, segment: range | None = None) -> Iterator[tuple[int, Frame]]:
    """(output number, source frame) of the result, or of a segment of it, in order."""
    shown = segment or range(len(scene.timeline.source_index))
    wanted = scene.timeline.source_index[shown.start : shown.stop].tolist()
    yield from zip(shown, PrefetchingFrameSource(source, AHEAD).frames_at(wanted), strict=True)


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

    def scene(
        self,
        source: FrameSource,
        timeline: Timeline,
        sound: NDArray[np.float32],
        options: RenderOptions,
        memory: FaceCacheSession,
        count: int,
        progress: ProgressHook,
    ) -> ClipAnalysis:
        """Pass one: one track for everything, coefficients, and what follows from both."""
        analysis, faces = self._find_faces(source, options, memory, count, progress)
        track = analysis.track
        shown = track.uncovered().visible[timeline.source_index]
        if not shown.any():
            raise FaceNotFoundError("No usable face in the part of the video that would be shown.")
        if options.missing_face == "fail":
            refuse_faceless(track, np.unique(timeline.source_index), source)
        return ClipAnalysis(
            timeline=timeline,
            faces=faces,
            windows=plan_windows(analysis, faces, self._expression(options.expression)),
            sound=sound,
            strength=fade_strength(shown, round(FADE_S * float(timeline.fps))),
            still=self._still(source, faces) if options.one_shot else None,
            color=source.info.color,
            height=source.info.height,
            covered=(np.zeros_like(shown) if track.covered is None else track.covered[timeline.source_index]),
        )

    def _find_faces(
        self, source: FrameSource, options: RenderOptions, memory: FaceCacheSession, count: int, progress: ProgressHook
    ) -> tuple[FaceAnalysis, ClipFaces]:
        def tell(part: int) -> Callable[[int, int], None]:
            share = ANALYZE_SHARE / 2
            return lambda done, total: progress(Progress("analyze", share * (part + done / total), done, total))

        def locate(track: FaceTrack) -> ClipFaces:
            faces = locate_faces(track, count, source, options.pads)
            if options.compat != "original":
                return faces
            # The original cuts one rectangle from all frames.
            info = source.info
            y1, y2, x1, x2 = first_rectangle(faces.places.landmarks, faces.visible, info.width, info.height)
            crops = np.where(faces.visible[:, None], np.array([x1, y1, x2, y2], np.float64), np.nan)
            return replace(faces, places=replace(faces.places, crops=crops))

        if memory.analysis is not None:
            return memory.analysis, locate(memory.analysis.track)
        request = TrackRequest(range(count), options.face, options.crop)
        track = self._tracker.track(PrefetchingFrameSource(source, AHEAD), request, tell(0))
        faces = locate(track)
        batches = AdaptiveBatcher(self._batch_size)
        memory.remember(
            analysis := FaceAnalysis(track, read_coefficients(source, faces, self._networks, batches, tell(1)))
        )
        return analysis, faces

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
