"""dlib's detector, 68-point predictor and face descriptor, with their data files found on disk.

The files come from the `face_recognition_models` package. It is not imported: its `__init__` needs `pkg_resources`,
which setuptools no longer carries.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import dlib
import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import EngineUnavailableError

Gray = NDArray[np.uint8]
Box = NDArray[np.float32]
# dlib's HOG detector was trained on faces of 80 px; it finds none below that.
DETECTOR_FACE_PX = 80
# Same person below, another above: the threshold dlib publishes for this network (99.38 % on LFW).
SAME_PERSON_DISTANCE = 0.6
# Score below which the detector is not asked for faces at all.
UNSEEN_SCORE = -2.0


def model_file(name: str) -> Path:
    """Path of a data file of `face_recognition_models`. Raises: EngineUnavailableError."""
    spec = find_spec("face_recognition_models")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        path = Path(folder) / "models" / name
        if path.is_file():
            return path
    raise EngineUnavailableError("The face models are not installed: pip install face_recognition_models==0.3.0.")


class DlibModels:
    """The three models, each loaded when it is first needed."""

    @cached_property
    def detector(self) -> dlib.fhog_object_detector:
        return dlib.get_frontal_face_detector()

    @cached_property
    def predictor(self) -> dlib.shape_predictor:
        return dlib.shape_predictor(str(model_file("shape_predictor_68_face_landmarks.dat")))

    @cached_property
    def recognizer(self) -> dlib.face_recognition_model_v1:
        return dlib.face_recognition_model_v1(str(model_file("dlib_face_recognition_resnet_model_v1.dat")))

    def detect(self, gray: Gray, window: Box, smallest_px: float, threshold: float = 0.0) -> list[Box]:
        """Faces of at least smallest_px inside a window (left, top, right, bottom), best first, in frame pixels."""
        height, width = gray.shape
        left, top = max(0, int(window[0])), max(0, int(window[1]))
        right, bottom = min(width, int(np.ceil(window[2]))), min(height, int(np.ceil(window[3])))
        if right - left < 16 or bottom - top < 16:
            return []
        scale = DETECTOR_FACE_PX / smallest_px
        size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
        area = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        picture = cv2.resize(gray[top:bottom, left:right], size, interpolation=area)
        rects, _, _ = self.detector.run(np.ascontiguousarray(picture), 0, threshold)
        origin = np.array([left, top, left, top], np.float32)
        return [
            np.array([r.left(), r.top(), r.right() + 1, r.bottom() + 1], np.float32) / scale + origin for r in rects
        ]

    def face_score(self, gray: Gray, box: Box) -> float:
        """How sure the detector is of the face in a box: above 0 where it would find it, 0.8 to 3 for most."""
        size = float(box[2] - box[0])
        left, top = (max(0, int(v - 0.4 * size)) for v in box[:2])
        right, bottom = (int(v + 0.4 * size) for v in box[2:])
        scores = [UNSEEN_SCORE]
        for side in (DETECTOR_FACE_PX * 1.1, DETECTOR_FACE_PX * 1.4):
            part = cv2.resize(gray[top:bottom, left:right], None, fx=side / size, fy=side / size)
            scores += self.detector.run(part, 0, UNSEEN_SCORE)[1]
        return max(scores)

    def landmarks(self, gray: Gray, box: Box) -> NDArray[np.float32]:
        """The 68 points of the face in a box, f32 [68, 2] px."""
        points = self.predictor(gray, dlib.rectangle(*(round(float(v)) for v in box))).parts()
        return np.array([(p.x, p.y) for p in points], np.float32)

    def chip(self, gray: Gray, landmarks: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The face cut out upright, u8 [150, 150, 3] (gray in all three channels): what the descriptor reads."""
        box = np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)])
        size = float((box[2:] - box[:2]).max())
        height, width = gray.shape
        left, top = (max(0, int(v - size)) for v in box[:2])
        right, bottom = min(width, int(box[2] + size)), min(height, int(box[3] + size))
        part = cv2.cvtColor(gray[top:bottom, left:right], cv2.COLOR_GRAY2RGB)
        points = [dlib.point(round(float(x - left)), round(float(y - top))) for x, y in landmarks]
        rect = dlib.rectangle(*(round(float(v)) for v in box - np.array([left, top, left, top])))
        return np.asarray(dlib.get_face_chip(part, dlib.full_object_detection(rect, points), size=150))

    def descriptor(self, chip: NDArray[np.uint8]) -> NDArray[np.float32]:
        """f32 [128]; Euclidean distance below `SAME_PERSON_DISTANCE` means the same person."""
        return np.array(self.recognizer.compute_face_descriptor(chip), np.float32)


@lru_cache(maxsize=1)
def resident_models() -> DlibModels:
    """One set for the process: the predictor takes 1.3 s and 100 MB to load."""
    return DlibModels()
