"""Frames drawn with the original's arithmetic from end to end (`compat=original`), its defects included.

Whole frames, one at a time, on the CPU except for the networks. Where the original runs a detector again, the tracked
face stands in for what it would find; its noise, drawn anew for every frame there, is fixed.

Restoration, enhancement and final composite: mode A (`enhance_original`) restores the stabilized face; mode B
(`finish_original`) lays the finished face over the original frame. The engine's own version is `stages/composite.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.engines.original.stages import (
    absolute_u8,
    blend_laplacian_original,
    blur_gaussian,
    compose_halves_original,
    edit_emotion_original,
    erode_block,
    face_boxes_original,
    first_rectangle,
    full_references_original,
    lip_batches_original,
    resize_256_original,
    resize_bilinear,
    smooth_3x3,
    stabilized_u8_original,
    truncate_u8,
    warp_affine,
)
from retalking_core.engines.videoretalking.analysis import ClipAnalysis, ClipFaces, DrawnFrame, SpeakerAnalysis
from retalking_core.engines.videoretalking.batching import ValidatingNetworks
from retalking_core.errors import FaceNotFoundError
from retalking_core.faces.landmarks import GFPGAN_TEMPLATE, GPEN_TEMPLATE, fit_similarity, five_points
from retalking_core.imaging import invert_affine
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
Restorer = Callable[[Tensor], Tensor]
Parser = Callable[[Tensor], Tensor]
FACE_PX = 512
BORDER_BGR = (135, 133, 132)
RESTORE_MIN_SCORE, MIN_EYE_PX = 0.97, 5.0
MOUTH_CLASSES = (10, 11, 12)


@dataclass(frozen=True)
class AlignedFace:
    """picture: u8 [512, 512, 3] BGR. frame_to_face, face_to_frame: f64 [2, 3]."""

    picture: Picture
    frame_to_face: NDArray[np.float64]
    face_to_frame: NDArray[np.float64]


def usable_faces(detections: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows (box 4, score, five points x, y) with a score above 0.97 and eyes far enough apart.

    The eye distance is measured from the wrong columns, as facexlib 0.2.5 does.
    """
    score = detections[:, 4] > RESTORE_MIN_SCORE
    points = detections[:, 5:].reshape(-1, 5, 2)
    apart = np.hypot(points[:, 0, 1] - points[:, 1, 1], points[:, 1, 0] - points[:, 2, 0]) >= MIN_EYE_PX
    return detections[score & apart]


def central_face(faces: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """The row whose box center is nearest to the middle of the picture."""
    centers = (faces[:, :2] + faces[:, 2:4]) / 2
    return faces[np.linalg.norm(centers - (width / 2, height / 2), axis=1).argmin()]


def align_original(frame: Picture, points: NDArray[Any]) -> AlignedFace:
    """Five points to the template by least median of squares, which drops a point in one face of seven."""
    source, target = np.asarray(points, np.float64), GFPGAN_TEMPLATE
    matrix = cv2.estimateAffinePartial2D(source, target, method=cv2.LMEDS)[0]
    picture = warp_affine(frame, matrix, FACE_PX, FACE_PX, BORDER_BGR)
    return AlignedFace(picture, matrix, invert_affine(matrix))


def to_network(face: Picture) -> Tensor:
    """u8 BGR to f32 [1, 3, 512, 512], RGB -1..1."""
    rgb = np.ascontiguousarray(face[..., ::-1]).astype(np.float32)
    return (torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5


def rounded_u8(output: Tensor) -> Picture:
    """-1..1 to u8 of the same layout, rounded: how the restoration pass (alone) stores its picture."""
    return np.rint((output.clamp(-1, 1).numpy() + 1) / 2 * 255).astype(np.uint8)


def paste_face_original(frame: Picture, face: Picture, face_to_frame: NDArray[np.float64]) -> Picture:
    """The restored face over the frame with a soft edge of a twentieth of its size; truncated."""
    height, width = frame.shape[:2]
    moved = warp_affine(face, face_to_frame, width, height)
    cover = warp_affine(np.ones((FACE_PX, FACE_PX), np.float32), face_to_frame, width, height)
    cover = erode_block(cover, 2)
    edge = int(np.floor(np.sqrt(cover.sum()))) // 20
    soft = blur_gaussian(erode_block(cover, 2 * edge), 2 * edge + 1, 0)[..., None]
    return truncate_u8(soft * (cover[..., None] * moved) + (1 - soft) * frame)


def restore_frame_original(frame: Picture, detections: NDArray[np.float32], restorer: Restorer) -> Picture:
    """The frame with its most central face restored; unchanged without a usable face."""
    faces = usable_faces(detections)
    if len(faces) == 0:
        return frame
    row = central_face(faces, frame.shape[1], frame.shape[0])
    aligned = align_original(frame, row[5:].reshape(5, 2))
    restored = rounded_u8(restorer(to_network(aligned.picture))[0]).transpose(1, 2, 0)[..., ::-1]
    return paste_face_original(frame, np.ascontiguousarray(restored), aligned.face_to_frame)


def parse_original(parser: Parser, picture: Picture) -> NDArray[np.uint8]:
    """Class of each pixel, u8 [512, 512], of a BGR picture of any size. parser: [1, 3, 512, 512] -> logits."""
    small = resize_bilinear(picture, FACE_PX, FACE_PX)[..., ::-1]
    scaled = (small / 255.0 * 2 - 1).astype(np.float32).transpose(2, 0, 1)
    return parser(torch.from_numpy(scaled)[None])[0].argmax(dim=0).numpy().astype(np.uint8)


def mouth_mask_original(parser: Parser, frame: Picture, box: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """1 on the mouth inside a box (y1, y2, x1, x2), else 0, f32 [H, W].

    The soft mask goes through whole numbers on its way, so that only what is wholly mouth stays.
    """
    y1, y2, x1, x2 = box
    classes = parse_original(parser, frame[y1:y2, x1:x2])
    mouth = np.where(np.isin(classes, MOUTH_CLASSES), 255, 0).astype(np.uint8)
    mask = np.zeros(frame.shape[:2], np.float32)
    mask[y1:y2, x1:x2] = resize_bilinear(mouth, x2 - x1, y2 - y1) == 255
    return mask


MIN_SCORE, SMALL_FACE_PX = 0.9, 100
FACE_CLASSES = (1, 2, 3, 4, 5, 6, 7, 10, 11, 12)
MASK_BORDER_PX, SOFT_SIZE, SOFT_SIGMA, SHARP_SIZE = 20, 101, 11, 9
MOUTH_LEVELS, FACE_LEVELS, BOTTOM_ROWS = 10, 6, 5
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class DetectedFaces:
    """boxes: [n, 5] x1, y1, x2, y2, score, best first; landmarks: [n, 10] x of the five points, then y."""

    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]

    def accepted(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """(box, points [5, 2]) of the faces of at least 0.9."""
        for box, row in zip(self.boxes, self.landmarks, strict=True):
            if box[4] >= MIN_SCORE:
                yield box, row.reshape(2, 5).T


@dataclass(frozen=True)
class MergedFaces:
    """faces: f32 [H, W, 3], black elsewhere. soft, sharp: f32 [H, W]; sharp is the last face's."""

    faces: NDArray[np.float32]
    soft: NDArray[np.float32]
    sharp: NDArray[np.float32]


def align_gpen(picture: Picture, points: NDArray[Any]) -> AlignedFace:
    """Five points to GPEN's template by least squares, black outside."""
    matrix = fit_similarity(points, GPEN_TEMPLATE)
    return AlignedFace(warp_affine(picture, matrix, FACE_PX, FACE_PX), matrix, invert_affine(matrix))


def truncated_gpen_u8(output: Tensor) -> Picture:
    """GPEN's RGB -1..1 [1, 3, 512, 512] to u8 BGR [512, 512, 3], truncated."""
    unit = ((output[0].numpy() + 1) / 2).clip(0, 1)
    return np.ascontiguousarray((unit * 255).astype(np.uint8).transpose(1, 2, 0)[..., ::-1])


def face_masks(parser: Parser, face: Picture) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(soft, sharp) f32 [512, 512] of an aligned face: its inner parts, without a border of 20 px."""
    sharp = np.isin(parse_original(parser, face), FACE_CLASSES).astype(np.float32)
    inner = np.zeros_like(sharp)
    keep = slice(MASK_BORDER_PX, -MASK_BORDER_PX)
    inner[keep, keep] = sharp[keep, keep]
    soft = blur_gaussian(blur_gaussian(inner, SOFT_SIZE, SOFT_SIGMA), SOFT_SIZE, SOFT_SIGMA)
    return soft, inner


def merge_faces(picture: Picture, detected: DetectedFaces, parser: Parser, restorer: Restorer | None) -> MergedFaces:
    """All accepted faces, restored if there is a restorer, laid back over a black picture.

    Raises: FaceNotFoundError where the original dies of an UnboundLocalError.
    """
    height, width = picture.shape[:2]
    faces = np.zeros((height, width, 3), np.float32)
    most = np.zeros((height, width), np.float32)
    sharp: NDArray[np.float32] | None = None
    for box, points in detected.accepted():
        aligned = align_gpen(picture, points)
        face = aligned.picture if restorer is None else truncated_gpen_u8(restorer(to_network(aligned.picture)))
        soft, inner = face_masks(parser, face)
        if restorer is not None and min(box[2] - box[0], box[3] - box[1]) < SMALL_FACE_PX:
            face = smooth_3x3(face)
        moved, soft, sharp = (warp_affine(p, aligned.face_to_frame, width, height) for p in (face, soft, inner))
        wins = soft > most
        most[wins] = soft[wins]
        faces[wins] = moved[wins]
    if sharp is None:
        raise FaceNotFoundError("No face was found in a picture that has to hold one.")
    return MergedFaces(faces, most, blur_gaussian(sharp, SHARP_SIZE, 1))


def enhance_original(face: Picture, detected: DetectedFaces, restorer: Restorer, parser: Parser) -> Picture:
    """Mode A: a 256 picture with its faces restored, u8."""
    merged = merge_faces(face, detected, parser, restorer)
    soft, sharp = merged.soft[..., None], merged.sharp[..., None]
    blended = absolute_u8(face * (1 - soft) + merged.faces * soft)
    return absolute_u8(face * (1 - sharp) + blended * sharp)


def finish_original(
    picture: Picture, original: Picture, detected: DetectedFaces, parser: Parser, box: Box | None
) -> Picture:
    """Mode B: the faces of a picture over the original frame, inside the box (y1, y2, x1, x2) less its last rows."""
    merged = merge_faces(picture, detected, parser, restorer=None)
    mask = merged.soft
    if box is not None:
        y1, y2, x1, x2 = box
        inside = np.zeros_like(merged.sharp)
        inside[y1 : y2 - BOTTOM_ROWS, x1:x2] = 1
        mask = merged.sharp * inside
    return blend_at_512_original(truncate_u8(merged.faces), original, mask, FACE_LEVELS)


def blend_at_512_original(inside: Picture, outside: Picture, mask: NDArray[np.float32], levels: int) -> Picture:
    """Laplacian blend of whole frames squeezed to 512 x 512: what costs the original its sharpness."""
    height, width = outside.shape[:2]
    inner, outer, small_mask = (resize_bilinear(picture, FACE_PX, FACE_PX) for picture in (inside, outside, mask))
    blended = np.clip(blend_laplacian_original(inner, outer, small_mask, levels), 0, 255)
    return truncate_u8(resize_bilinear(blended, width, height))


def composite_original(
    frame: Picture,
    prediction: NDArray[np.float32],
    box: Box,
    restore_faces: NDArray[np.float32],
    finish_faces: DetectedFaces,
    restorer: Restorer,
    parser: Parser,
) -> tuple[Picture, Picture]:
    """One output frame: (after the mouth blend, final), u8 [H, W, 3] BGR.

    prediction: f32 [384, 384, 3] BGR 0..1. restore_faces, finish_faces: what the two detectors find in the pasted frame
    and in the blended one.
    """
    y1, y2, x1, x2 = box
    pasted = frame.copy()
    pasted[y1:y2, x1:x2] = resize_bilinear(truncate_u8(prediction * np.float32(255)), x2 - x1, y2 - y1)
    restored = restore_frame_original(pasted, restore_faces, restorer)
    mouth = mouth_mask_original(parser, restored, box)
    blended = blend_at_512_original(restored, pasted, mouth, MOUTH_LEVELS)
    return blended, finish_original(blended, frame, finish_faces, parser, box)


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
