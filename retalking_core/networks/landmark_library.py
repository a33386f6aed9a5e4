"""face-alignment's detector and landmark finder around networks that are already loaded.

Its own constructors load files by themselves, and download them where they are missing; these never do.
"""

from __future__ import annotations

import torch
from face_alignment import FaceAlignment, LandmarksType
from face_alignment.detection.sfd.sfd_detector import SFDDetector
from torch import nn

SFD_THRESHOLD = 0.5


class ResidentSFDDetector(SFDDetector):
    """S3FD boxes. `detect_from_image` takes u8 `[H, W, 3]`, RGB for the network as trained; it flips to BGR inside."""

    def __init__(self, network: nn.Module, threshold: float = SFD_THRESHOLD) -> None:
        self.device = str(next(network.parameters()).device)
        self.verbose = False
        self.filter_threshold = threshold
        self.face_detector = network


class ResidentFaceAlignment(FaceAlignment):
    """68 landmarks, as face-alignment 1.3.4 found them: its later default of averaging with the mirrored picture is
    off. `get_landmarks_from_image` takes u8 `[H, W, 3]`, RGB, and returns None where it sees no face.
    """

    def __init__(self, detector: ResidentSFDDetector, network: nn.Module) -> None:
        self.device = str(next(network.parameters()).device)
        self.dtype = torch.float32
        self.landmarks_type = LandmarksType.TWO_D
        self.flip_input = False
        self.verbose = False
        self.max_batch_size = 1
        self.face_detector = detector
        self.face_alignment_net = network
