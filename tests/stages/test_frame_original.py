"""A frame drawn with the original's arithmetic from end to end meets the golden frame of `07d`."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from retalking_core.engines.original import renderer as stage
from retalking_core.engines.original.renderer import DetectedFaces
from retalking_core.faces.landmarks import five_points
from tests.faces.shapes import frontal_face
from tests.stages.golden_set import GoldenSet, triangle_pattern
from tests.stages.stubs import ClassMap, Pattern

pytestmark = [pytest.mark.golden, pytest.mark.golden_file("07d_frame_composite")]
PATCH = (20, 220, 40, 240)


class GoldenNetworks:
    """The golden recipe's answers; what stands before the lip network only has to fit."""

    def __init__(self, golden: GoldenSet) -> None:
        restorer, parser = Pattern(golden["restored_face_tri"]), ClassMap(golden["class_map"])
        predicted = triangle_pattern(384, 384, golden["pred_tri"]).astype(np.float32) / 255
        self.prediction = torch.from_numpy(predicted).permute(2, 0, 1)[None]
        self.six: Tensor | None = None
        self._answers = {
            "dnet": lambda image, window: SimpleNamespace(fake_image=image),
            "gpen512": lambda face: face,
            "parsenet": lambda face: (parser(face), face),
            "gfpgan": restorer,
            "enet": self._enet,
            "ganimation": lambda image, units: SimpleNamespace(composed=image * 0 + 0.5),
        }

    def get(self, name: str):
        return self._answers[name]

    def _enet(self, sound: Tensor, six: Tensor, reference: Tensor, noises=None) -> tuple[Tensor, Tensor]:
        assert torch.equal(reference, six[:, 3:])
        self.six = six
        return self.prediction, reference


def landmarks_with(points: np.ndarray) -> np.ndarray:
    """68 landmarks whose five points are the given ones."""
    marks = frontal_face().astype(np.float64)
    marks[36:42], marks[42:48] = points[0], points[1]
    marks[30], marks[48], marks[54] = points[2], points[3], points[4]
    return marks


def draw(golden: GoldenSet, networks: GoldenNetworks, upper_face: str = "original") -> np.ndarray:
    y1, y2, x1, x2 = golden["coords"].tolist()
    marks = landmarks_with(golden["gfpgan_det"][0, 5:].reshape(5, 2))
    place = stage.OriginalPlace(marks, PATCH, (y1, y2, x1, x2))
    window, sound = np.zeros((73, 26), np.float32), np.zeros((80, 16), np.float32)
    seat = stage.OriginalNetworks(networks.get, torch.device("cpu"))
    return stage.draw_frame_original(golden["orig_frame"], place, seat, window, sound, [], upper_face)


def test_the_golden_frame_is_met(golden: GoldenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's two detectors disagree by 4 px; a track has one opinion, so here the second one is given."""
    second = DetectedFaces(golden["gpen_faces"], golden["gpen_landms"])
    monkeypatch.setattr(stage, "as_detected", lambda landmarks: second)
    golden.check("final", draw(golden, GoldenNetworks(golden)), 4, 0.3)


def test_the_lip_network_sees_the_face_twice(golden: GoldenSet) -> None:
    networks = GoldenNetworks(golden)
    draw(golden, networks)
    masked, reference = networks.six[0, :3], networks.six[0, 3:]
    assert (masked[:, 192:] == 0).all()
    assert (masked[:, :192] - reference[:, :192]).abs().mean() < 0.05


def test_an_emotion_takes_the_upper_half(golden: GoldenSet) -> None:
    plain, sad = (draw(golden, GoldenNetworks(golden), word) for word in ("original", "sad"))
    y1, y2, x1, x2 = golden["coords"].tolist()
    change = np.abs(plain.astype(int) - sad).mean(axis=2)
    middle = (y1 + y2) // 2
    assert change[y1 + 20 : middle - 20, x1 + 20 : x2 - 20].mean() > 5
    assert change[middle + 25 : y2 - 10, x1 + 20 : x2 - 20].mean() < 4


def test_the_tracked_face_stands_in_for_the_detector() -> None:
    marks = frontal_face()
    found = stage.as_detected(marks)
    (box, points), *rest = found.accepted()
    assert not rest
    assert np.allclose(points, five_points(marks), atol=1e-4)
    assert box[0] < points[:, 0].min()
    assert box[3] > points[:, 1].max()
    place = stage.OriginalPlace(marks.astype(np.float64), (0, 512, 0, 512), (0, 1, 0, 1))
    assert np.abs(place.in_patch() - (marks + 0.5) / 2 + 0.5).max() <= 0.5
