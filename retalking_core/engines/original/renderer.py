"""Frames drawn with the original's arithmetic from end to end (`compat=original`), its defects included.

Whole frames, one at a time, on the CPU except for the networks. Where the original runs a detector again, the tracked
face stands in for what it would find; its noise, drawn anew for every frame there, is fixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.engines.original.restoration import DetectedFaces, composite_original, enhance_original
from retalking_core.engines.original.stages import (
    compose_halves_original,
    edit_emotion_original,
    face_boxes_original,
    first_rectangle,
    full_references_original,
    lip_batches_original,
    resize_256_original,
    stabilized_u8_original,
)
from retalking_core.engines.videoretalking.analysis import ClipAnalysis, ClipFaces, DrawnFrame, SpeakerAnalysis
from retalking_core.engines.videoretalking.batching import ValidatingNetworks
from retalking_core.faces.landmarks import five_points
from retalking_core.media.planes import blend_bgr_into, region_to_bgr
from retalking_core.networks.enet import ENet
from retalking_core.notes import Note
from retalking_core.options import RenderOptions
from retalking_core.progress import StageClock
from retalking_core.stages.lips import fixed_noise
from retalking_core.stages.regions import CROP_PX, detector_boxes
from retalking_core.stages.stabilize import to_signed
from retalking_core.types import Frame, VideoInfo

Picture = NDArray[np.uint8]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class OriginalPlace:
    """Where the face is. landmarks: [68, 2] px of the frame. patch: Y1, Y2, X1, X2, the rectangle of the first frame,
    which the networks of 256 see. box: y1, y2, x1, x2 of the lip network."""

    landmarks: NDArray[np.float64]
    patch: Box
    box: Box

    def in_patch(self) -> NDArray[np.float64]:
        """Landmarks in the 256 patch: whole pixels, as the original finds them."""
        y1, y2, x1, x2 = self.patch
        scale = CROP_PX / np.array([x2 - x1, y2 - y1])
        return np.rint((self.landmarks + 0.5 - (x1, y1)) * scale - 0.5)


@dataclass(frozen=True)
class OriginalNetworks:
    """get: a network by name, its inputs and results on `device`. Called here with and for CPU tensors."""

    get: Callable[[str], Callable[..., Any]]
    device: torch.device

    def picture(self, name: str, *inputs: Tensor, **options: Any) -> Tensor:
        """The picture that a network draws, of its first result where there are several."""
        result = self.get(name)(*(one.to(self.device) for one in inputs), **options)
        for field in ("fake_image", "composed"):
            if hasattr(result, field):
                return getattr(result, field).float().cpu()
        return (result[0] if isinstance(result, tuple | list) else result).float().cpu()


def draw_frame_original(
    frame: Picture,
    place: OriginalPlace,
    networks: OriginalNetworks,
    window: NDArray[np.float32],
    sound: NDArray[np.float32],
    noises: Sequence[Tensor],
    upper_face: str,
) -> Picture:
    """frame: u8 [H, W, 3] BGR. window: f32 [73, 26]; sound: f32 [80, 16]. Returns u8 [H, W, 3] BGR."""
    y1, y2, x1, x2 = place.patch
    face = resize_256_original(frame[y1:y2, x1:x2])
    rgb = torch.from_numpy(face[..., ::-1].copy()).permute(2, 0, 1)[None].float()
    steady = stabilized_u8_original(networks.picture("dnet", to_signed(rgb), torch.from_numpy(window)[None]))[0]

    def restore(name: str) -> Callable[[Tensor], Tensor]:
        return lambda picture: networks.picture(name, picture)

    marks = place.in_patch()
    steady = enhance_original(steady, as_detected(marks), restore("gpen512"), restore("parsenet"))
    reference = full_references_original(frame[None], steady[None], marks[None], place.patch)
    batch = next(lip_batches_original(frame[None], reference, np.array([place.box]), sound[None]))
    six = torch.from_numpy(batch.six)
    spoken = networks.picture("enet", torch.from_numpy(batch.sound), six, six[:, 3:], noises=list(noises)).clamp(0, 1)
    if upper_face != "original":
        whole = torch.from_numpy(batch.faces).to(networks.device)
        edited = edit_emotion_original(networks.get("ganimation"), whole, upper_face).float().cpu()
        spoken = compose_halves_original(spoken, six[:, :3], edited)
    found = as_detected(place.landmarks)
    rows = np.concatenate([found.boxes[:, :5], five_points(place.landmarks).reshape(1, 10)], axis=1)
    prediction = spoken[0].permute(1, 2, 0).numpy()
    return composite_original(
        frame, prediction, place.box, rows.astype(np.float32), found, restore("gfpgan"), restore("parsenet")
    )[1]


def as_detected(landmarks: NDArray[Any]) -> DetectedFaces:
    """The tracked face as RetinaFace would give it, beyond doubt."""
    box = np.append(detector_boxes(landmarks), 1.0)[None]
    return DetectedFaces(box.astype(np.float32), five_points(landmarks).T.reshape(1, 10).astype(np.float32))


NOTE = Note("compat_original", "compat=original: drawn with the arithmetic of the original, its defects included.")


class OriginalRenderer:
    """Pass two with the original's arithmetic, frame by frame, for one speaker. info: of the video."""

    def __init__(
        self,
        networks: ValidatingNetworks,
        scene: ClipAnalysis,
        speaker: SpeakerAnalysis,
        options: RenderOptions,
        info: VideoInfo,
    ) -> None:
        self._networks, self._scene, self._speaker = networks, scene, speaker
        self._options, self._info = options, info
        self._noises = fixed_noise(ENet.noise_sizes, options.seed, networks.device)
        self._clock = StageClock()
        self.notes = [NOTE]

    @property
    def times_s(self) -> dict[str, float]:
        return dict(self._clock.times_s)

    def frames(self, items: Iterator[DrawnFrame]) -> Iterator[DrawnFrame]:
        """The frames in order, with this speaker drawn on them. The original fades nothing."""
        info, faces = self._info, self._speaker.faces
        rectangle = first_rectangle(faces.places.landmarks, faces.visible, info.width, info.height)
        boxes = clip_boxes_original(faces, info, self._options.pads)
        for item in items:
            k, frame = item.number, item.drawn
            if self._speaker.strength[k] <= 0:
                yield item
                continue
            place = OriginalPlace(faces.places.landmarks[frame.index], rectangle, tuple(boxes[frame.index].tolist()))
            with self._clock.stage("draw"):
                drawn = self._draw(k, frame, place)
            self._networks.findings().check()
            yield replace(item, drawn=drawn)

    def _draw(self, k: int, frame: Frame, place: OriginalPlace) -> Frame:
        scene, speaker, whole = self._scene, self._speaker, (0, 0, frame.y.shape[1], frame.y.shape[0])
        picture = draw_frame_original(
            region_to_bgr(frame, whole, scene.color),
            place,
            OriginalNetworks(self._networks.get, self._networks.device),
            speaker.windows[frame.index],
            speaker.sound[k],
            self._noises,
            speaker.upper_face,
        )
        result = frame.copy()
        blend_bgr_into(result, whole, picture, None, scene.color)
        return result


def clip_boxes_original(faces: ClipFaces, info: VideoInfo, pads: tuple[int, int, int, int]) -> NDArray[np.int64]:
    """y1, y2, x1, x2 of every frame with a face, i64 [n, 4] (else 0): whole pixels, smoothed the original's way."""
    shown = np.flatnonzero(faces.visible)
    detected = np.maximum(detector_boxes(faces.places.landmarks[shown]), 0).astype(np.int64)
    boxes = np.zeros((len(faces.visible), 4), np.int64)
    boxes[shown] = face_boxes_original(detected, info.width, info.height, pads)
    return boxes
