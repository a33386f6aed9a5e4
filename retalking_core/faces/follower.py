"""One face, frame by frame: predict, verify, lose, find again."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.faces.dlib_models import SAME_PERSON_DISTANCE, Box, DlibModels, Gray
from retalking_core.faces.landmarks import NASION, NOSE_BASE, bounding_box, face_scale, iou, is_plausible

# Longest side of the picture in which the whole frame is searched, coarse and fine. 480 finds faces from a sixth of the
# frame in about 30 ms; the fine one finds 48 px faces up to frames of 1150 px, larger ones in larger frames.
COARSE_PX, FINE_PX, SMALLEST_FACE_PX = 480, 1920, 48
CHECK_EVERY = 10
MISSES_TO_LOSE = 3
LOST_STRIDE, LOST_SOON = 3, 12
# Gray levels between the thumbnails of two frames (mean), above which a new shot has begun.
CUT_LEVELS = 22.0
# Room around a face, in its sizes, in which it is looked for first; overlap with the detector's box (intersection over
# union) that confirms it.
NEAR, SAME_PLACE = 0.3, 0.6
# Correlation of the face with itself one frame ago, below which it must be detected again.
STEADY = 0.7


@dataclass(frozen=True)
class FoundFace:
    box: Box
    landmarks: NDArray[np.float32]


@dataclass(frozen=True)
class LandmarkProposal:
    """Landmarks proposed for a frame, f32 [68, 2] px. confirmed: a detector saw the face on this very frame."""

    landmarks: NDArray[np.float32]
    confirmed: bool


@dataclass(frozen=True)
class FaceSearch:
    """Looks for faces in whole pictures. area: left, top, right, bottom px that the crop leaves."""

    models: DlibModels
    width: int
    height: int
    area: Box

    @classmethod
    def over(cls, models: DlibModels, width: int, height: int, crop: tuple[float, float, float, float]) -> FaceSearch:
        left, top, right, bottom = crop
        area = np.array([left * width, top * height, (1 - right) * width, (1 - bottom) * height], np.float32)
        return cls(models, width, height, area)

    def everywhere(self, gray: Gray, fine: bool, every_size: bool = False) -> list[FoundFace]:
        """Plausible faces in the area. fine: look for small ones where no large one is (or anyway with every_size)."""
        longest = float(max(self.area[2] - self.area[0], self.area[3] - self.area[1]))
        faces = [] if every_size and fine else self.within(gray, self.area, 80 * max(1.0, longest / COARSE_PX))
        if not faces and fine:
            faces = self.within(gray, self.area, max(SMALLEST_FACE_PX, 80 * longest / FINE_PX))
        return faces

    def boxes(self, gray: Gray, window: Box, smallest_px: float, threshold: float = 0.0) -> list[Box]:
        """What the detector takes for a face in a window, clipped to the area."""
        window = np.concatenate([np.maximum(window[:2], self.area[:2]), np.minimum(window[2:], self.area[2:])])
        return self.models.detect(gray, window, smallest_px, threshold)

    def within(self, gray: Gray, window: Box, smallest_px: float, threshold: float = 0.0) -> list[FoundFace]:
        """Plausible faces in a window, clipped to the area."""
        found = []
        for box in self.boxes(gray, window, smallest_px, threshold):
            # The predictor depends a little on where the detector's coarse grid put the box: a second run starts from
            # the box that the landmarks themselves imply, as on every later frame.
            landmarks = self.models.landmarks(gray, implied_box(self.models.landmarks(gray, box)))
            if is_plausible(landmarks, self.height, self.width) and iou(box, implied_box(landmarks)) > 0.3:
                found.append(FoundFace(box, landmarks))
        return found


def implied_box(landmarks: NDArray[np.float32]) -> Box:
    """The detector's box for these landmarks: side 1.8 scales, 0.11 below mid-nose (about the mean of four faces)."""
    scale = float(face_scale(landmarks))
    x, y = (landmarks[NASION] + landmarks[NOSE_BASE]) / 2
    y, half = y + 0.11 * scale, 0.9 * scale
    return np.array([x - half, y - half, x + half, y + half], np.float32)


class CutDetector:
    """Whether a new shot begins, frame by frame."""

    def __init__(self) -> None:
        self._first: NDArray[np.uint8] | None = None
        self._last: NDArray[np.uint8] | None = None

    def rewound(self) -> CutDetector:
        """For the way back from the first frame."""
        back = CutDetector()
        back._last = self._first
        return back

    def step(self, gray: Gray) -> bool:
        # Four pixels for each of the thumbnail's, for any size of the frame.
        picked = cv2.resize(gray, (96, 96), interpolation=cv2.INTER_NEAREST)
        thumbnail = cv2.resize(picked, (48, 48), interpolation=cv2.INTER_AREA)
        last, self._last = self._last, thumbnail
        if self._first is None:
            self._first = thumbnail
        return last is not None and float(cv2.absdiff(thumbnail, last).mean()) > CUT_LEVELS


class FaceFollower:
    """Follows the face it is given. After each `step`, `cut` says whether a new shot began there.

    doubtful: positions (in steps) whose landmarks later turned out to belong to a face that was already lost.
    """

    def __init__(self, models: DlibModels, search: FaceSearch, first: NDArray[np.float32]) -> None:
        self._models, self._search, self._first = models, search, first
        self._last: NDArray[np.float32] | None = first
        self._speed = np.zeros(2, np.float32)
        self._patch: NDArray[np.float32] | None = None
        self._seen: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None  # landmarks, and the patch there
        self._cuts = CutDetector()
        self._identity: NDArray[np.float32] | None = None
        self._chip: NDArray[np.uint8] | None = None
        self._unchecked = self._misses = self._lost_for = 0
        self._steps = 0
        self._last_box = implied_box(first)
        self._cut_since_lost = False
        self.cut = False
        self.doubtful: list[int] = []

    def rewound(self) -> FaceFollower:
        """A follower that starts from the same first face, for the way back; it knows the same person."""
        back = FaceFollower(self._models, self._search, self._first)
        back._chip, back._identity, back._cuts = self._chip, self._identity, self._cuts.rewound()
        return back

    @property
    def place(self) -> Box | None:
        """Where the face is expected next; None while it is lost."""
        return None if self._last is None else implied_box(self._last + self._speed)

    def step(self, gray: Gray, proposal: LandmarkProposal | None = None) -> NDArray[np.float32] | None:
        """Landmarks on the next frame, f32 [68, 2] px, None where the face is not there.

        proposal: landmarks found ahead of time, verified like the follower's own.
        """
        self.cut = self._cuts.step(gray)
        if self._last is not None:
            found = self._follow(gray, self._last, proposal)
            self._cut_since_lost = self.cut
        else:
            self._cut_since_lost |= self.cut
            found = self._find_again(gray)
        self._settle(gray, found)
        self._steps += 1
        return found

    def _follow(
        self, gray: Gray, last: NDArray[np.float32], proposal: LandmarkProposal | None
    ) -> NDArray[np.float32] | None:
        if self.cut:
            return self._find_again(gray)
        if proposal is not None and not is_near(proposal.landmarks, last):
            proposal = None
        expected = implied_box(last + self._speed)
        landmarks = self._models.landmarks(gray, expected) if proposal is None else proposal.landmarks
        plausible = is_plausible(landmarks, self._search.height, self._search.width) and is_near(landmarks, last)
        patch = eye_patch(gray, landmarks) if plausible else None
        self._seen = None if patch is None else (landmarks, patch)
        steady = patch is not None and (self._patch is None or correlation(patch, self._patch) > STEADY)
        self._unchecked += 1
        if steady and proposal is not None and proposal.confirmed:
            self._unchecked = self._misses = 0
            return landmarks
        if steady and self._misses == 0 and self._unchecked < CHECK_EVERY:
            return landmarks
        return self._verify(gray, last, landmarks if steady else None)

    def _verify(
        self, gray: Gray, last: NDArray[np.float32], landmarks: NDArray[np.float32] | None
    ) -> NDArray[np.float32] | None:
        """Detect around the face. Still seen: go on from there. Not seen: believe steady landmarks for two frames."""
        if landmarks is not None and self._is_seen(gray, implied_box(landmarks)):
            self._unchecked = self._misses = 0
            return landmarks
        box = implied_box(last + self._speed)
        size = float(box[2] - box[0])
        window = box + np.array([-0.6, -0.6, 0.6, 0.6], np.float32) * size
        faces = self._search.within(gray, window, max(SMALLEST_FACE_PX * 0.9, 0.72 * size), threshold=-0.3)
        faces = [face for face in faces if is_near(face.landmarks, last)]
        self._unchecked = 0
        if faces:
            self._misses = 0
            best = max(faces, key=lambda face: iou(implied_box(face.landmarks), box))
            same = landmarks is not None and iou(implied_box(best.landmarks), implied_box(landmarks)) > 0.7
            return landmarks if same else best.landmarks
        if landmarks is None:
            return None
        self._misses += 1
        if self._misses < MISSES_TO_LOSE:
            return landmarks
        self.doubtful.extend(range(self._steps - self._misses + 1, self._steps + 1))
        return None

    def _is_seen(self, gray: Gray, box: Box) -> bool:
        """Whether the detector has a face in this very place: the quick answer, without landmarks of its own."""
        size = float(box[2] - box[0])
        window = box + np.array([-NEAR, -NEAR, NEAR, NEAR], np.float32) * size
        boxes = self._search.boxes(gray, window, max(SMALLEST_FACE_PX * 0.9, 0.8 * size), threshold=-0.3)
        return any(iou(box, seen) > SAME_PLACE for seen in boxes)

    def _find_again(self, gray: Gray) -> NDArray[np.float32] | None:
        """Search the picture for the same person: at once, then every few frames, finely every now and then, also where
        larger faces are: those of others."""
        self._lost_for += 1
        if self._lost_for > LOST_SOON and self._lost_for % LOST_STRIDE and not self.cut:
            return None
        found = self._known_among(gray, self._search.everywhere(gray, fine=False))
        if found is None and (self.cut or self._lost_for % 10 == 1):
            found = self._known_among(gray, self._search.everywhere(gray, fine=True, every_size=True))
        return found

    def _known_among(self, gray: Gray, faces: list[FoundFace]) -> NDArray[np.float32] | None:
        if not self._cut_since_lost and not self.cut and self._lost_for <= LOST_SOON:
            for face in faces:
                if iou(implied_box(face.landmarks), self._last_box) > 0.4:
                    return face.landmarks
        return self._same_person(gray, faces)

    def _same_person(self, gray: Gray, faces: list[FoundFace]) -> NDArray[np.float32] | None:
        if not faces or self._chip is None:
            return None
        if self._identity is None:
            self._identity = self._models.descriptor(self._chip)
        seen = [self._models.descriptor(self._models.chip(gray, face.landmarks)) for face in faces]
        distances = [float(np.linalg.norm(one - self._identity)) for one in seen]
        nearest = int(np.argmin(distances))
        return faces[nearest].landmarks if distances[nearest] < SAME_PERSON_DISTANCE else None

    def _settle(self, gray: Gray, found: NDArray[np.float32] | None) -> None:
        """Remember what the next frame needs."""
        if found is None:
            self._last, self._patch, self._speed, self._misses = None, None, np.zeros(2, np.float32), 0
            return
        if self._chip is None:
            self._chip = self._models.chip(gray, found)
        if self._last is not None and not self.cut:
            step = (found - self._last).mean(axis=0)
            self._speed = 0.5 * self._speed + 0.4 * step
        else:
            self._speed = np.zeros(2, np.float32)
        self._last, self._last_box, self._lost_for = found, implied_box(found), 0
        if self._seen is not None and self._seen[0] is found:
            self._patch = self._seen[1]
        else:
            self._patch = eye_patch(gray, found)


def is_near(landmarks: NDArray[np.float32], last: NDArray[np.float32]) -> bool:
    """Neither far from the last frame's face nor of another size."""
    ratio = float(face_scale(landmarks)) / float(face_scale(last))
    return iou(bounding_box(landmarks), bounding_box(last)) > 0.35 and 0.75 < ratio < 1.33


def eye_patch(gray: Gray, landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Eyes and nose (what speech does not move) as a small picture, f32 [24, 32]."""
    left, top, right, bottom = bounding_box(landmarks[17:48])
    height, width = gray.shape
    left, top = int(max(0, left)), int(max(0, top))
    right, bottom = int(min(width, right + 1)), int(min(height, bottom + 1))
    if right - left < 4 or bottom - top < 4:
        return np.zeros((24, 32), np.float32)
    return cv2.resize(gray[top:bottom, left:right], (32, 24), interpolation=cv2.INTER_AREA).astype(np.float32)


def correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    a, b = one - one.mean(), other - other.mean()
    return float((a * b).sum() / max(float(np.sqrt((a * a).sum() * (b * b).sum())), 1e-6))
