"""Which arithmetic a render is drawn with: the only place that chooses between ours and the original's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from retalking_core.engines.original.frame import OriginalNetworks, OriginalPlace, draw_frame_original
from retalking_core.engines.videoretalking.analysis import ClipFaces, LipScene, shown_frames
from retalking_core.engines.videoretalking.batching import GuardedNetworks
from retalking_core.engines.videoretalking.face_cache_session import FaceMemory
from retalking_core.engines.videoretalking.renderer import Drawing
from retalking_core.errors import FaceNotFoundError
from retalking_core.media.color import blend_bgr_into, region_to_bgr
from retalking_core.media.sources import StageClock
from retalking_core.networks.enet import ENet
from retalking_core.options import RenderOptions
from retalking_core.stages.face_crop import crop_first_frame_original
from retalking_core.stages.lip_boxes import detector_boxes, face_boxes_original
from retalking_core.stages.lip_windows import hold_noises
from retalking_core.types import Frame, FrameSource, VideoInfo

NOTE = "compat=original: drawn with the original's arithmetic, its defects included."


def open_drawing(
    networks: GuardedNetworks, batch_size: int, scene: LipScene, options: RenderOptions, memory: FaceMemory
) -> Drawing | OriginalDrawing:
    """Pass two, as the options ask for it."""
    if options.compat == "original":
        return OriginalDrawing(networks, scene, options)
    return Drawing(networks, batch_size, scene, options, memory)


def cropped_as_asked(faces: ClipFaces, info: VideoInfo, options: RenderOptions) -> ClipFaces:
    """compat=original: one rectangle for all frames, from the first one with a face."""
    if options.compat != "original":
        return faces
    y1, y2, x1, x2 = first_rectangle(faces, info.width, info.height)
    crops = np.where(faces.visible[:, None], np.array([x1, y1, x2, y2], np.float64), np.nan)
    return replace(faces, places=replace(faces.places, crops=crops))


def first_rectangle(faces: ClipFaces, width: int, height: int) -> tuple[int, int, int, int]:
    """Y1, Y2, X1, X2. Raises: FaceNotFoundError where no frame shows a face."""
    shown = np.flatnonzero(faces.visible)
    if len(shown) == 0:
        raise FaceNotFoundError("No face was found in the video.")
    return crop_first_frame_original(faces.places.landmarks[shown[0]], width, height).box


class OriginalDrawing:
    """Pass two with the original's arithmetic, frame by frame."""

    def __init__(self, networks: GuardedNetworks, scene: LipScene, options: RenderOptions) -> None:
        self._networks, self._scene, self._options = networks, scene, options
        self._noises = hold_noises(ENet.noise_sizes, options.seed, networks.device)
        self._clock = StageClock()
        self.notes = [NOTE]

    @property
    def times_s(self) -> dict[str, float]:
        return dict(self._clock.times_s)

    def frames(self, source: FrameSource, segment: range | None = None) -> Iterator[Frame]:
        """Every output frame (of the segment) in order; those without a face as decoded. The original fades nothing."""
        info, faces = source.info, self._scene.faces
        rectangle = first_rectangle(faces, info.width, info.height)
        boxes = clip_boxes_original(faces, info, self._options.pads)
        for k, frame in shown_frames(self._scene, source, segment):
            if self._scene.strength[k] <= 0:
                yield frame
                continue
            place = OriginalPlace(faces.places.landmarks[frame.index], rectangle, tuple(boxes[frame.index].tolist()))
            with self._clock.stage("draw"):
                drawn = self._draw(k, frame, place)
            self._networks.findings().check()
            yield drawn

    def _draw(self, k: int, frame: Frame, place: OriginalPlace) -> Frame:
        scene, whole = self._scene, (0, 0, frame.y.shape[1], frame.y.shape[0])
        picture = draw_frame_original(
            region_to_bgr(frame, whole, scene.colour),
            place,
            OriginalNetworks(self._networks.get, self._networks.device),
            scene.windows[frame.index],
            scene.sound[k],
            self._noises,
            self._options.upper_face,
        )
        result = frame.copy()
        blend_bgr_into(result, whole, picture, None, scene.colour)
        return result


def clip_boxes_original(faces: ClipFaces, info: VideoInfo, pads: tuple[int, int, int, int]) -> NDArray[np.int64]:
    """y1, y2, x1, x2 of every frame with a face, i64 [n, 4] (else 0): whole pixels, smoothed the original's way."""
    shown = np.flatnonzero(faces.visible)
    detected = np.maximum(detector_boxes(faces.places.landmarks[shown]), 0).astype(np.int64)
    boxes = np.zeros((len(faces.visible), 4), np.int64)
    boxes[shown] = face_boxes_original(detected, info.width, info.height, pads)
    return boxes
