"""Smoothing without lag and without jitter, short gaps, cuts."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from retalking_core.faces.dlib_tracker import refine_lips
from retalking_core.faces.landmarks import face_scale, iou, is_plausible
from retalking_core.faces.track import choose_face, smooth_track, visible_runs
from retalking_core.options import FaceBox, FacePoint
from tests.faces.clips import to_frame
from tests.faces.shapes import frontal_face

TIMES_S = np.arange(60) / 25
NO_CUTS = np.zeros(60, bool)


def moved(offsets: np.ndarray) -> np.ndarray:
    """A face shifted sideways by px per frame, f32 [N, 68, 2]."""
    return (frontal_face() + np.stack([offsets, np.zeros_like(offsets)], axis=1)[:, None]).astype(np.float32)


def test_noise_at_rest_is_taken_away() -> None:
    rng = np.random.default_rng(1)
    still = moved(np.zeros(60))
    noisy = (still + rng.normal(0, 0.8, still.shape)).astype(np.float32)
    smooth = smooth_track(TIMES_S, noisy, NO_CUTS).landmarks
    rigid = slice(27, 48)
    assert np.diff(smooth[:, rigid], axis=0).std() < 0.25 * np.diff(noisy[:, rigid], axis=0).std()
    assert np.diff(smooth[:, 48:], axis=0).std() < 0.75 * np.diff(noisy[:, 48:], axis=0).std()


def test_fast_motion_keeps_up() -> None:
    rng = np.random.default_rng(2)
    path = 60 * np.sin(2 * np.pi * 1.5 * TIMES_S)
    exact = moved(path)
    noisy = (exact + rng.normal(0, 0.6, exact.shape)).astype(np.float32)
    smooth = smooth_track(TIMES_S, noisy, NO_CUTS).landmarks
    error = (smooth - exact)[5:-5, 30, 0]
    assert np.abs(error).max() < 2.5
    speed = np.gradient(path)[5:-5]
    lag_frames = float((error * speed).sum() / (speed**2).sum())
    assert abs(lag_frames) < 0.05


def test_nothing_is_smoothed_across_a_cut() -> None:
    cuts = NO_CUTS.copy()
    cuts[30] = True
    smooth = smooth_track(TIMES_S, moved(np.where(np.arange(60) < 30, 0, 40)), cuts).landmarks
    assert np.allclose(smooth[:30, 30, 0], smooth[0, 30, 0], atol=1e-2)
    assert np.allclose(smooth[30:, 30, 0], smooth[0, 30, 0] + 40, atol=1e-2)


@pytest.mark.parametrize(("gap", "is_filled"), [(1, True), (3, True), (4, False)])
def test_short_gaps_are_filled(gap: int, is_filled: bool) -> None:
    marks = moved(np.arange(60) * 0.5)
    marks[20 : 20 + gap] = np.nan
    track = smooth_track(TIMES_S, marks, NO_CUTS)
    assert track.visible[20 : 20 + gap].all() == is_filled
    if is_filled:
        assert np.allclose(
            track.landmarks[20 : 20 + gap, 30, 0], moved(np.arange(60) * 0.5)[20 : 20 + gap, 30, 0], atol=0.1
        )


def test_a_gap_is_not_filled_across_a_cut_or_a_leap() -> None:
    cuts = NO_CUTS.copy()
    cuts[21] = True
    marks = moved(np.zeros(60))
    marks[20:22] = np.nan
    assert not smooth_track(TIMES_S, marks, cuts).visible[20:22].any()
    far = moved(np.where(np.arange(60) < 22, 0, 200))
    far[20:22] = np.nan
    assert not smooth_track(TIMES_S, far, NO_CUTS).visible[20:22].any()


def test_runs_split_at_gaps_and_cuts() -> None:
    visible = np.array([1, 1, 0, 1, 1, 1], bool)
    assert visible_runs(visible) == [(0, 2), (3, 6)]
    assert visible_runs(visible, np.array([0, 0, 0, 0, 1, 1])) == [(0, 2), (3, 4), (4, 6)]


def test_plausibility() -> None:
    face = frontal_face()
    assert is_plausible(face, 400, 400)
    assert not is_plausible(face[:, ::-1], 400, 400)
    assert not is_plausible(face - [0, 290], 400, 400)
    assert not is_plausible(face * 0.05, 400, 400)
    assert float(face_scale(face)) == pytest.approx(100, rel=0.1)


def test_choice_of_boxes() -> None:
    boxes = [np.array(b, np.float32) for b in ([0, 0, 10, 10], [50, 5, 80, 35], [90, 60, 100, 70])]
    wanted = {"largest": 1, "left_most": 0, "right_most": 2, "top_most": 0, "bottom_most": 2, "center": 1}
    assert {name: choose_face(boxes, name, 100, 70) for name in wanted} == wanted
    assert choose_face(boxes, FacePoint(96, 64), 100, 70) == 2
    assert choose_face(boxes, FacePoint(30, 65), 100, 70) is None
    assert choose_face(boxes, FaceBox(0, 0, 100, 70), 100, 70) == 1
    assert choose_face(boxes, FaceBox(11, 40, 60, 70), 100, 70) is None
    assert choose_face([], "largest", 100, 70) is None
    assert iou(boxes[0], boxes[0]) == 1.0
    assert iou(boxes[0], boxes[1]) == 0.0


def test_lower_teeth_are_told_from_the_lip() -> None:
    """Landmarks on the rim of the lower teeth move down onto the lip; a mouth without teeth is left as it is."""
    face = frontal_face(mouth_gap=24)
    picture = np.full((400, 400, 3), (120, 150, 190), np.uint8)
    lips = face[48:60].round().astype(np.int32)
    inner = face[60:68].round().astype(np.int32)
    cv2.fillPoly(picture, [lips], (90, 80, 190))
    cv2.fillPoly(picture, [inner], (20, 15, 30))
    plain = refine_lips(to_frame(0, picture), face)
    assert np.abs(plain - face).max() < 1.6
    teeth_px = 6
    low = inner[[5, 6, 7]].mean(axis=0).round().astype(int)
    cv2.rectangle(picture, (low[0] - 25, low[1] - 1), (low[0] + 25, low[1] + teeth_px - 1), (215, 225, 228), -1)
    found = refine_lips(to_frame(0, picture), face)
    moved_px = (found - face)[[65, 66, 67], 1]
    assert (np.abs(moved_px - teeth_px) < 2.5).all()
    assert np.abs((found - face)[:60]).max() == 0
