"""The first-frame crop against `02_crop`, and the crop that follows the face."""

import numpy as np
import pytest

from retalking_core.engines.original import stages as original_stages
from retalking_core.stages import regions
from retalking_core.types import FaceTrack
from tests.stages.golden_set import GoldenSet

file = pytest.mark.golden_file("02_crop")


def _cut(frame: np.ndarray, crop: regions.FirstFrameCrop) -> np.ndarray:
    """The region that the original's slices give: they clamp silently."""
    left, top, right, bottom = crop.crop
    x1, y1, x2, y2 = (int(v) for v in crop.quad)
    return frame[top:bottom, left:right][y1:y2, x1:x2]


@pytest.mark.golden
@file
def test_crop_of_every_case(golden: GoldenSet) -> None:
    for case in golden["cases"].tolist():
        width, height = golden[f"{case}_WH"].tolist()
        crop = original_stages.crop_first_frame_original(golden[f"{case}_lm"], width, height)
        golden.check(f"{case}_crop", crop.crop, 0)
        golden.check(f"{case}_quad", crop.quad, 1e-6)
        golden.check(f"{case}_obox", crop.box, 0)
        region = _cut(np.broadcast_to(np.uint8(0), (height, width)), crop)
        golden.check(f"{case}_slice_hw", region.shape, 0)


@pytest.mark.golden
@file
def test_picture_of_the_crop(golden: GoldenSet) -> None:
    golden.require("img_frame")
    frame = golden["img_frame"]
    crop = original_stages.crop_first_frame_original(golden["img_lm"], frame.shape[1], frame.shape[0])
    golden.check("img_crop", crop.crop, 0)
    golden.check("img_quad", crop.quad, 1e-6)
    region = _cut(frame, crop)
    golden.check("img_cropped", region, 0)
    golden.check("img_256", original_stages.resize_256_original(region), 0)


def _moving_face(count: int, step_px: float) -> tuple[FaceTrack, np.ndarray]:
    """A face of about 200 px that moves to the right by `step_px` a frame, at 25 frames a second."""
    rng = np.random.default_rng(1)
    face = rng.uniform(0, 200, (68, 2))
    face[36:42], face[42:48], face[48], face[54] = (60, 70), (140, 70), (70, 150), (130, 150)
    marks = face + np.arange(count)[:, None, None] * (step_px, 0) + (300, 300)
    boxes = np.concatenate([marks.min(axis=1), marks.max(axis=1)], axis=1)
    track = FaceTrack(boxes.astype(np.float32), marks.astype(np.float32), np.ones(count, bool))
    return track, np.arange(count) / 25


def test_crop_rests_on_a_trembling_face() -> None:
    track, times_s = _moving_face(60, 0.0)
    tremble = np.random.default_rng(2).normal(0, 1.5, (60, 1, 2)).astype(np.float32)
    boxes = regions.follow_face(FaceTrack(track.boxes, track.landmarks + tremble, track.visible), times_s)
    assert np.abs(np.diff(boxes[15:-15], axis=0)).max() < 0.25


def test_crop_never_loses_a_fast_face() -> None:
    track, times_s = _moving_face(60, 25.0)
    boxes = regions.follow_face(track, times_s)
    inside = (track.landmarks >= boxes[:, None, :2]) & (track.landmarks <= boxes[:, None, 2:])
    assert inside[:, 36:55].all()


def test_crop_is_unknown_where_the_face_is() -> None:
    track, times_s = _moving_face(10, 1.0)
    visible = track.visible.copy()
    visible[4:6] = False
    boxes = regions.follow_face(FaceTrack(track.boxes, track.landmarks, visible), times_s)
    assert np.isnan(boxes[4:6]).all()
    assert np.isfinite(boxes[~np.isin(np.arange(10), (4, 5))]).all()
