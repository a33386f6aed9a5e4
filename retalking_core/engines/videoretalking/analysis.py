"""What the first pass learns about a clip: where the face is on each source frame, and its 3DMM coefficients.

Small numbers only (about 3 kB a frame), so that a long clip costs no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.device import download, upload
from retalking_core.engines.videoretalking.batching import AdaptiveBatcher, ValidatingNetworks, in_groups
from retalking_core.engines.videoretalking.face_cache_session import FaceAnalysis
from retalking_core.faces.landmarks import iou
from retalking_core.faces.smoothing import visible_runs
from retalking_core.imaging.resample import crop_resized
from retalking_core.media.sources import PrefetchingFrameSource
from retalking_core.stages.coefficients import regress_coefficients, semantic_windows
from retalking_core.stages.composite import pyramid_levels
from retalking_core.stages.face_crop import CROP_PX, detector_boxes, follow_face, pad_boxes
from retalking_core.stages.region import FacePlaces, cut_regions, region_side
from retalking_core.types import ColorTags, FaceTrack, Frame, FrameSource, Timeline

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
    one_shot, else None. color, height: of the video.
    """

    timeline: Timeline
    faces: ClipFaces
    windows: NDArray[np.float32]
    sound: NDArray[np.float32]
    strength: NDArray[np.float32]
    still: NDArray[np.float32] | None
    color: ColorTags
    height: int


def locate_faces(track: FaceTrack, count: int, source: FrameSource, pads: tuple[int, int, int, int]) -> ClipFaces:
    """One track -> the crop of the networks of 256 and the box of the lip network, on the first `count` frames."""
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

    def regress(items: list[tuple[int, Frame]]) -> tuple[NDArray[np.int64], Tensor]:
        at = np.array([number for number, _ in items])
        places = faces.at(at)
        pictures = crop_256([frame for _, frame in items], places, source.info.color, networks.device)
        return at, regress_coefficients(regressor, pictures, places.scaled())

    frames = PrefetchingFrameSource(source, AHEAD).frames_at(numbers.tolist())
    found, done = [], 0
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
