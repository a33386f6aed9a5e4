"""The landmark library around resident networks finds exactly what its own constructors would."""

from __future__ import annotations

from pathlib import Path

import face_alignment
import numpy as np
import pytest
import torch
from face_alignment.detection.sfd.sfd_detector import SFDDetector

from retalking_core.networks.landmark_library import ResidentFaceAlignment, ResidentSFDDetector
from retalking_core.networks.third_party import S3FD
from tests.networks.golden import load_synthetic

IMAGE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def s3fd() -> S3FD:
    return load_synthetic("s3fd", 1)


def test_boxes_are_the_librarys(s3fd: S3FD, tmp_path: Path) -> None:
    torch.save(s3fd.state_dict(), tmp_path / "s3fd.pth")
    theirs = SFDDetector("cpu", path_to_detector=str(tmp_path / "s3fd.pth"), filter_threshold=0.3)
    expected = theirs.detect_from_image(IMAGE)
    assert len(expected) > 0, "the comparison needs boxes"
    assert np.array_equal(ResidentSFDDetector(s3fd, threshold=0.3).detect_from_image(IMAGE), expected)


def test_landmarks_are_the_librarys(s3fd: S3FD, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.save(s3fd.state_dict(), tmp_path / "s3fd.pth")
    fan = load_synthetic("fan2d", 1)
    monkeypatch.setattr(face_alignment.FaceAlignment, "_load_native", lambda *_: fan)
    theirs = face_alignment.FaceAlignment(
        face_alignment.LandmarksType.TWO_D,
        device="cpu",
        flip_input=False,
        compile=False,
        face_detector_kwargs={"path_to_detector": str(tmp_path / "s3fd.pth")},
    )
    ours = ResidentFaceAlignment(ResidentSFDDetector(s3fd), fan)
    box = [np.array([20.0, 10.0, 90.0, 85.0, 0.99])]
    (expected,) = theirs.get_landmarks_from_image(IMAGE, detected_faces=box)
    (found,) = ours.get_landmarks_from_image(IMAGE, detected_faces=box)
    assert found.shape == (68, 2)
    assert np.array_equal(found, expected)


def test_a_retinaface_that_moved_still_detects() -> None:
    retinaface = load_synthetic("retinaface", 1)
    with torch.inference_mode():
        rows = retinaface.detect_faces(IMAGE, conf_threshold=0.5)
    assert rows.shape[1] == 15
    assert len(rows) > 0
