"""Follows one face with S3FD and 2DFAN4, by the same rules as the dlib tracker."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.neural_models import FaceNetworks, NeuralFaceModels
from retalking_core.types import Frame


class NeuralFaceTracker(DlibFaceTracker):
    """A `FaceTracker` on the networks `s3fd` and `fan2d`."""

    def __init__(self, networks: FaceNetworks) -> None:
        super().__init__(NeuralFaceModels(networks))

    def refine(self, frame: Frame, landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
        """2DFAN4's lips need no help from the picture's edges."""
        return landmarks
