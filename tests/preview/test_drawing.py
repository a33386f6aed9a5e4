"""The plan, the field, and one drawn frame, on the portrait."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from retalking_core.engines.preview.mouth_motion import MouthPose
from retalking_core.engines.preview.mouth_render import (
    MouthInterior,
    draw_mouth,
    edge_px,
    paint_interior,
    rank_open_frames,
    sharpest,
    skin_light,
    take_interior,
)
from retalking_core.engines.preview.mouth_shape import MouthRest, MouthShape, face_axes, learn_rest, plan_shape
from retalking_core.engines.preview.mouth_warp import (
    mouth_curves,
    reach_of,
    region_box,
    smooth_curve,
    solve_field,
)
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.landmarks import inner_gap
from retalking_core.faces.track import TrackRequest
from retalking_core.types import FaceTrack, Frame
from tests.faces.clips import PictureSource, portrait, to_frame
from tests.faces.shapes import frontal_face

REST = MouthRest(0.01, 0.18, np.array([0.68], np.float32))
PADS = (0, 20, 0, 0)


@pytest.fixture(scope="module")
def subject() -> tuple[Frame, FaceTrack, DlibFaceTracker]:
    tracker = DlibFaceTracker()
    source = PictureSource([portrait(200, 480, 420, 240, 200)])
    track = tracker.track(source, TrackRequest([0]), lambda done, total: None)
    return next(source.frames()), track, tracker


def plan(
    marks: np.ndarray,
    opening: float,
    spread: float = 0.0,
    closure: float = 0.0,
    strength: float = 1.0,
    jaw: float | None = None,
    tuck: float = 0.0,
    tongue: float = 0.0,
) -> MouthShape:
    pose = MouthPose(opening, opening if jaw is None else jaw, spread, closure, tuck, tongue)
    return plan_shape(marks, REST, 0.7, pose, strength)


def draw(frame: Frame, shape: MouthShape, interior: MouthInterior, strength: float = 1.0) -> tuple[Frame, tuple]:
    box = region_box(shape, PADS, *frame.y.shape)
    field = solve_field(shape, box)
    return draw_mouth(frame, shape, field, interior, skin_light(frame, shape.before, 16), 16.0, strength), box


@pytest.mark.parametrize("gap", [0.0, 6.0, 20.0])
@pytest.mark.parametrize("opening", [0.0, 0.4, 1.0])
def test_plan_reaches_its_opening_from_any_mouth(gap: float, opening: float) -> None:
    """Whatever the source mouth does, the planned gap is the asked one."""
    shape = plan(frontal_face(gap), opening)
    wanted = opening * REST.open_gap * shape.scale
    planned = float((shape.after[66] - shape.after[62]) @ shape.down)
    assert abs(planned - wanted) < 0.035 * shape.scale
    assert abs(float(shape.gaps[1]) - wanted) < 0.035 * shape.scale
    chin = float((shape.after[8] - shape.before[8]) @ shape.down)
    assert np.sign(round(chin, 1)) == np.sign(round(wanted - gap)) or abs(wanted - gap) < 2
    still = np.array([*range(3), *range(14, 17), *range(17, 48)])
    assert (shape.after[still] == shape.before[still]).all()


def test_plan_rounds_and_spreads() -> None:
    face = frontal_face()
    width = [float(np.linalg.norm((s := plan(face, 0.3, spread)).after[54] - s.after[48])) for spread in (-1, 0, 1)]
    assert width[0] < 0.92 * width[1] < 0.95 * width[2]


def test_pursed_lips_are_narrower_and_show_more_of_themselves() -> None:
    face = frontal_face()
    neutral, pursed = (plan(face, 0.3, spread).after for spread in (0.0, -1.0))
    assert pursed[54, 0] - pursed[48, 0] < 0.82 * (neutral[54, 0] - neutral[48, 0])
    for outer, inner in ((51, 62), (57, 66)):
        thick, thin = (abs(float(marks[outer, 1] - marks[inner, 1])) for marks in (pursed, neutral))
        assert thick > thin + 0.015 * plan(face, 0.3).scale


def test_a_wide_open_mouth_is_not_crumpled_into_a_pursed_one() -> None:
    wide, shut = (plan(frontal_face(gap), 0.3, -1.0).after for gap in (40.0, 0.0))
    assert wide[54, 0] - wide[48, 0] > shut[54, 0] - shut[48, 0] + 4


def test_pressed_lips_pass_each_other_over_a_lowered_jaw() -> None:
    for gap in (0.0, 10.0, 30.0):
        shape = plan(frontal_face(gap), 0.0, closure=1.0, jaw=0.4)
        assert shape.meeting.max() < -0.02 * shape.scale
        up = plan(frontal_face(gap), 0.0, closure=1.0, jaw=0.0)
        assert float((shape.after[8] - up.after[8]) @ shape.down) > 0.03 * shape.scale
        assert np.allclose(shape.after[48:68], up.after[48:68])


def test_field_carries_the_landmarks_and_rests_at_its_border() -> None:
    shape = plan(frontal_face(4), 0.8, -0.3)
    box = region_box(shape, PADS, 420, 480)
    field = solve_field(shape, box)
    x0, y0, x1, y1 = box
    for grid, points in ((field.upper, (50, 51, 52, 62, 48)), (field.lower, (8, 57, 66, 54, 6))):
        full = cv2.resize(grid, (x1 - x0, y1 - y0), interpolation=cv2.INTER_CUBIC)
        for point in points:
            x, y = shape.after[point] - (x0, y0)
            moved = cv2.remap(full, np.float32([[x]]), np.float32([[y]]), cv2.INTER_LINEAR)[0, 0]
            error = shape.after[point] + moved - shape.before[point]
            assert np.abs(error).max() < 0.02 * shape.scale, point
        border = np.concatenate([full[0], full[-1], full[:, 0], full[:, -1]])
        assert np.abs(border).max() < 1 / 64
    assert all(v % 2 == 0 for v in box)


def test_nothing_outside_the_box_changes(subject: tuple) -> None:
    frame, track, _ = subject
    marks = track.landmarks[0]
    drawn, (x0, y0, x1, y1) = draw(frame, plan(marks, 0.8), paint_interior(frame, marks, 16))
    for new, old, step in ((drawn.y, frame.y, 1), (drawn.u, frame.u, 2), (drawn.v, frame.v, 2)):
        outside = np.ones(old.shape, bool)
        outside[y0 // step : y1 // step, x0 // step : x1 // step] = False
        assert (new[outside] == old[outside]).all()
        assert (new != old).any()
    assert not np.shares_memory(drawn.y, frame.y)


def test_no_seam_at_the_box_and_eyes_stay(subject: tuple) -> None:
    frame, track, _ = subject
    marks = track.landmarks[0]
    drawn, (x0, y0, x1, y1) = draw(frame, plan(marks, 1.0), paint_interior(frame, marks, 16))
    change = np.abs(drawn.y.astype(int) - frame.y)
    ring = np.concatenate([change[y0, x0:x1], change[y1 - 1, x0:x1], change[y0:y1, x0], change[y0:y1, x1 - 1]])
    assert ring.max() <= 1
    eyes = marks[36:48]
    (ex0, ey0), (ex1, ey1) = eyes.min(axis=0).astype(int) - 4, eyes.max(axis=0).astype(int) + 5
    assert change[ey0:ey1, ex0:ex1].mean() < 0.5


def test_dlib_sees_the_opening_that_was_drawn(subject: tuple) -> None:
    """dlib reads a narrow slit as shut and a smile's teeth as half a mouth, but order and range must be right."""
    frame, track, tracker = subject
    marks = track.landmarks[0]
    interior = take_interior(frame, marks, face_axes(marks)[1], 16)
    openings, seen = np.linspace(0, 1, 6), []
    for opening in openings:
        drawn, _ = draw(frame, plan(marks, opening), interior)
        source = PictureSource([np.dstack([drawn.y] * 3)])
        found = tracker.track(source, TrackRequest([0]), lambda done, total: None)
        seen.append(float(inner_gap(found.landmarks[0])))
    assert seen[0] < 0.03
    assert seen[-1] > 0.1
    assert np.corrcoef(openings, seen)[0, 1] > 0.9


def test_f_shows_the_upper_teeth_on_the_lower_lip(subject: tuple) -> None:
    """Where a slit of the same height is dark."""
    frame, track, _ = subject
    marks = track.landmarks[0]
    interior = take_interior(frame, marks, face_axes(marks)[1], 16)
    seen, lower = [], []
    for tuck in (0.0, 1.0):
        shape = plan(marks, 0.18, jaw=0.15, tuck=tuck)
        drawn, _ = draw(frame, shape, interior)
        x, y = ((shape.after[62] + shape.after[66]) / 2).astype(int)
        seen.append(drawn.y[y - 1 : y + 2, x - 8 : x + 9].mean())
        lower.append(float(shape.after[66] @ shape.down))
    assert seen[1] > seen[0] + 30
    assert lower[1] < lower[0] - 0.01 * shape.scale


@pytest.mark.parametrize("opening", [0.6, 0.9])
@pytest.mark.parametrize("painted", [False, True])
def test_a_raised_tongue_has_its_color_and_stays_between_the_lips(
    subject: tuple, painted: bool, opening: float
) -> None:
    frame, track, _ = subject
    marks = track.landmarks[0]
    interior = paint_interior(frame, marks, 16) if painted else take_interior(frame, marks, face_axes(marks)[1], 16)
    shapes = [plan(marks, opening, tongue=tongue) for tongue in (0.0, 1.0)]
    (without, _), (raised, _) = (draw(frame, shape, interior) for shape in shapes)
    changed = raised.y != without.y
    curves = mouth_curves(shapes[1].after, shapes[1].gaps, reach=reach_of(shapes[1]))
    ys, xs = np.nonzero(changed)
    along, down = curves.coordinates(xs.astype(np.float32), ys.astype(np.float32))
    middle, half_gap = curves.at(along.astype(np.float32))
    assert changed.sum() > 0.15 * 2 * curves.half_gap.mean() * 2 * curves.half_width
    assert (np.abs(down - middle) - half_gap).max() <= edge_px(shapes[1].scale)
    assert np.abs(along).max() <= 0.8 * curves.half_width
    x, y = (0.25 * shapes[1].after[62] + 0.75 * shapes[1].after[66]).astype(int)
    chroma = np.s_[y // 2 - 1 : y // 2 + 1, x // 2 - 3 : x // 2 + 4]
    color = np.array([plane[chroma].mean() for plane in (raised.u, raised.v)])
    assert np.abs(color - interior.tongue[1:]).max() <= 5
    lip = drawn_light(raised, shapes[1].after[57])
    assert 0.35 * lip < drawn_light(raised, np.array([x, y])) < lip, "neither a hole nor a lamp"


def drawn_light(frame: Frame, place: np.ndarray) -> float:
    x, y = place.astype(int)
    return float(frame.y[y - 1 : y + 2, x - 3 : x + 4].mean()) - 16


def test_a_tongue_at_rest_changes_no_pixel(subject: tuple) -> None:
    """Neither its color nor a strength of zero shows."""
    frame, track, _ = subject
    marks = track.landmarks[0]
    interior = take_interior(frame, marks, face_axes(marks)[1], 16)
    other = replace(interior, tongue=np.array([235, 40, 240], np.float32))
    plain, _ = draw(frame, plan(marks, 0.7), interior)
    for tongue, strength in ((0.0, 1.0), (1.0, 0.0)):
        drawn, _ = draw(frame, plan(marks, 0.7, tongue=tongue, strength=strength), other)
        expected = plain if strength else draw(frame, plan(marks, 0.7, strength=0.0), interior)[0]
        for new, old in ((drawn.y, expected.y), (drawn.u, expected.u), (drawn.v, expected.v)):
            assert (new == old).all()


def test_the_tongue_rises_without_a_jump(subject: tuple) -> None:
    frame, track, _ = subject
    marks = track.landmarks[0]
    interior = take_interior(frame, marks, face_axes(marks)[1], 16)
    seen = [draw(frame, plan(marks, 0.7, tongue=t), interior)[0].y.astype(int) for t in np.linspace(0, 1, 11)]
    steps = np.abs(np.diff(seen, axis=0)).sum(axis=(1, 2))
    assert steps.max() < 0.4 * np.abs(seen[-1] - seen[0]).sum()


def test_a_mouth_is_shut_up_to_its_corners() -> None:
    """The dark of an open mouth is not left as a pit where its lips meet."""
    face = frontal_face(24)
    picture = np.full((400, 400, 3), 150, np.uint8)
    middle = face[60:68].mean(axis=0).round().astype(int).tolist()
    half_width = (face[54, 0] - face[48, 0]) / 2
    cv2.ellipse(picture, middle, (round(0.95 * half_width), 13), 0, 0, 360, (15, 15, 15), -1)
    frame = to_frame(0, cv2.GaussianBlur(picture, (0, 0), 1))
    shape = plan(face, 0.0, closure=1.0)
    drawn, _ = draw(frame, shape, paint_interior(frame, face, 16))
    for corner in (60, 64):
        x, y = shape.after[corner].astype(int)
        dark = (drawn.y[y - 15 : y + 15, x - 4 : x + 5] < 80).sum(axis=0)
        assert dark.max() <= 0.04 * shape.scale, corner


def test_strength_zero_is_the_source(subject: tuple) -> None:
    frame, track, _ = subject
    marks = track.landmarks[0]
    drawn, _ = draw(frame, plan(marks, 0.9, strength=0.0), paint_interior(frame, marks, 16), strength=0.0)
    assert (drawn.y == frame.y).all()
    assert (drawn.u == frame.u).all()


def test_painted_mouth_has_dark_teeth_and_the_clips_light(subject: tuple) -> None:
    frame, track, _ = subject
    marks = track.landmarks[0]
    bright = paint_interior(frame, marks, 16)
    dim = paint_interior(
        Frame(0, (16 + (frame.y.astype(int) - 16) * 0.4).astype(np.uint8), frame.u, frame.v), marks, 16
    )
    teeth, cavity = bright.yuv[8:14, 50:78, 0].mean(), bright.yuv[30:36, 4:12, 0].mean()
    assert teeth > cavity + 60
    assert dim.yuv[8:14, 50:78, 0].mean() - 16 == pytest.approx(0.4 * (teeth - 16), rel=0.1)
    assert bright.drawn


def test_flattened_mouth_keeps_what_is_up_and_down() -> None:
    face = frontal_face(40)
    picture = np.full((400, 400, 3), 120, np.uint8)
    cv2.rectangle(picture, (170, 200), (230, 225), (230, 230, 230), -1)
    cv2.rectangle(picture, (170, 226), (230, 260), (20, 20, 20), -1)
    taken = take_interior(to_frame(0, picture), face, np.array([0, 1], np.float32), 16)
    assert taken.yuv[4:20, 50:78, 0].min() > 150
    assert taken.yuv[44:, 50:78, 0].max() < 80
    assert taken.gaps[64] == pytest.approx(0.4, abs=0.06)


def test_open_frames_are_ranked_without_lonely_peaks() -> None:
    gaps = np.array([0.01, 0.02, 0.30, 0.02, 0.14, 0.15, 0.15, np.nan, 0.02], np.float32)
    assert set(rank_open_frames(gaps, 0.01)) == {4, 5, 6}
    assert rank_open_frames(np.full(5, 0.03, np.float32), 0.01) == []


def test_the_sharpest_candidate_wins(subject: tuple) -> None:
    frame, track, _ = subject
    soft = Frame(1, cv2.GaussianBlur(frame.y, (0, 0), 4), frame.u, frame.v)
    assert sharpest([soft, frame, soft], [track.landmarks[0]] * 3) == 1


def test_rest_is_learned_from_the_track() -> None:
    gaps = [0, 0, 6, 12, 18, 12, 6, 0, 0, 0] * 4
    marks = np.stack([frontal_face(g) for g in gaps])
    track = FaceTrack(np.zeros((40, 4), np.float32), marks, np.ones(40, bool))
    rest = learn_rest(track)
    assert rest.closed_gap < 0.02
    assert 0.15 <= rest.open_gap <= 0.21
    assert rest.widths == pytest.approx(0.7, abs=0.06)


def test_curves() -> None:
    curves = mouth_curves(frontal_face(20), np.array([16.8, 20, 16.8]))
    middle, half = curves.at(np.array([-200, -curves.half_width, 0, curves.half_width], np.float32))
    assert half == pytest.approx([0, 0, 10, 0], abs=0.2)
    assert middle == pytest.approx(0, abs=0.5)
    knots, values = np.array([0.0, 1.0, 3.0]), np.array([0.0, 2.0, 2.5])
    assert smooth_curve(knots, values, knots) == pytest.approx(values)
    assert smooth_curve(knots, values, np.array([-1.0, 9.0])) == pytest.approx([0, 2.5])
