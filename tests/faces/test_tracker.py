"""The dlib tracker on clips made from one portrait, and on the shared clips where they are."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from retalking_core.errors import FaceNotFoundError, RenderCanceled
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.landmarks import face_scale
from retalking_core.faces.track import TrackRequest
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.options import FaceBox, FacePoint
from retalking_core.types import FaceTrack, FrameSource
from tests.faces.clips import PictureSource, backdrop, place_face, portrait

MEDIA = Path(os.environ.get("RETALKING_MEDIA_DIR", Path(__file__).parents[3] / "shared" / "media"))
needs_media = pytest.mark.skipif(not MEDIA.is_dir(), reason=f"no shared clips at {MEDIA}")


@pytest.fixture(scope="module")
def tracker() -> DlibFaceTracker:
    tracker = DlibFaceTracker()
    tracker.warm_up()
    return tracker


def follow(tracker: DlibFaceTracker, source: FrameSource, **options: object) -> FaceTrack:
    request = TrackRequest(range(source.info.frame_count), **options)
    return tracker.track(source, request, lambda done, total: None)


def nose(track: FaceTrack) -> np.ndarray:
    return track.landmarks[:, 30]


def test_follows_a_moving_face(tracker: DlibFaceTracker) -> None:
    xs = 180 + 80 * np.sin(np.arange(40) / 40 * 2 * np.pi)
    track = follow(tracker, PictureSource([portrait(120, 400, 300, x, 140) for x in xs]))
    assert track.visible.all()
    travelled = nose(track)[:, 0] - nose(track)[0, 0]
    error = (travelled - (np.round(xs) - np.round(xs[0]))) / face_scale(track.landmarks).mean()
    assert np.abs(error).max() < 0.12
    assert np.sqrt((error**2).mean()) < 0.05
    assert (track.boxes[:, 2] > track.boxes[:, 0]).all()


def test_still_face_does_not_jitter(tracker: DlibFaceTracker) -> None:
    rng = np.random.default_rng(5)
    still = portrait(120, 400, 300, 200, 140)
    noisy = [np.clip(still + rng.normal(0, 4, still.shape), 0, 255).astype(np.uint8) for _ in range(24)]
    track = follow(tracker, PictureSource(noisy))
    steps = np.diff(track.landmarks[4:-4], axis=0) / face_scale(track.landmarks).mean()
    assert np.sqrt((steps**2).mean()) < 0.004


def test_face_leaves_the_frame_and_returns(tracker: DlibFaceTracker) -> None:
    xs = [200, 200, 200, 230, 270, 320, 380, 440, 500, 560, *[620] * 6, 560, 500, 440, 380, 320, 270, 230, *[200] * 5]
    track = follow(tracker, PictureSource([portrait(120, 400, 300, x, 140) for x in xs]))
    away = np.array(xs) > 480
    assert not track.visible[away].any()
    assert track.visible[:4].all()
    assert track.visible[-4:].all()
    assert np.isnan(track.landmarks[away]).all()
    assert np.isfinite(track.landmarks[track.visible]).all()


def test_faceless_middle_after_a_cut(tracker: DlibFaceTracker) -> None:
    face, empty = portrait(120, 400, 300, 200, 140), backdrop(400, 300) // 3
    track = follow(tracker, PictureSource([face] * 8 + [empty] * 20 + [face] * 8))
    assert track.visible.tolist() == [True] * 8 + [False] * 20 + [True] * 8


def two_faces() -> PictureSource:
    picture = backdrop(640, 300)
    place_face(picture, 110, 160, 130)
    place_face(picture, 72, 480, 150)
    return PictureSource([picture] * 8)


@pytest.mark.parametrize(
    ("choice", "is_left"),
    [
        ("largest", True),
        ("left_most", True),
        ("right_most", False),
        ("bottom_most", False),
        (FacePoint(470, 140, 0.2), False),
        (FaceBox(380, 0, 640, 300), False),
        (FaceBox(0, 0, 300, 300), True),
    ],
)
def test_choice_among_two_faces(tracker: DlibFaceTracker, choice: object, is_left: bool) -> None:
    track = follow(tracker, two_faces(), choice=choice)
    assert track.visible.all()
    assert ((nose(track)[:, 0] < 320) == is_left).all()


def test_crop_hides_a_face(tracker: DlibFaceTracker) -> None:
    track = follow(tracker, two_faces(), crop=(0.5, 0.0, 0.0, 0.0))
    assert (nose(track)[:, 0] > 320).all()


def test_stays_with_its_face_while_a_larger_one_comes_in(tracker: DlibFaceTracker) -> None:
    pictures = []
    for step in range(16):
        picture = backdrop(640, 340)
        place_face(picture, 80, 140, 150)
        place_face(picture, 130, 760 - 24 * step, 160)
        pictures.append(picture)
    track = follow(tracker, PictureSource(pictures))
    assert track.visible.all()
    assert (nose(track)[:, 0] < 220).all()


def test_point_in_time_is_followed_both_ways(tracker: DlibFaceTracker) -> None:
    empty = backdrop(400, 300)
    faces = [portrait(110, 400, 300, 180 + 2 * k, 140) for k in range(12)]
    source = PictureSource([empty] * 4 + faces)
    track = follow(tracker, source, choice=FacePoint(200, 140, 14 / 25))
    assert not track.visible[:4].any()
    assert track.visible[4:].all()


@pytest.mark.parametrize("face_px", [56, 64])
def test_small_faces_are_found(tracker: DlibFaceTracker, face_px: int) -> None:
    track = follow(tracker, PictureSource([portrait(face_px, 640, 480, 420, 200)] * 4))
    assert track.visible.all()
    assert abs(float(nose(track)[0, 0]) - 420) < 12


def test_only_the_frames_asked_for_are_read(tracker: DlibFaceTracker) -> None:
    source = PictureSource([portrait(110, 400, 300, 200, 140)] * 12)
    track = tracker.track(source, TrackRequest([3, 4, 5, 6, 7]), lambda done, total: None)
    assert np.flatnonzero(track.visible).tolist() == [3, 4, 5, 6, 7]


def test_no_face_is_a_named_error(tracker: DlibFaceTracker) -> None:
    with pytest.raises(FaceNotFoundError, match="48 pixels"):
        follow(tracker, PictureSource([backdrop(320, 240)] * 5))
    with pytest.raises(FaceNotFoundError, match="inside the box"):
        follow(tracker, two_faces(), choice=FaceBox(300, 0, 340, 300))
    with pytest.raises(FaceNotFoundError, match="near the point"):
        follow(tracker, two_faces(), choice=FacePoint(320, 10))


def test_what_the_hook_raises_ends_the_tracking(tracker: DlibFaceTracker) -> None:
    def cancel(done: int, total: int) -> None:
        if done == 3:
            raise RenderCanceled("enough")

    with pytest.raises(RenderCanceled):
        tracker.track(PictureSource([portrait(110, 400, 300, 200, 140)] * 12), TrackRequest(range(12)), cancel)


@pytest.mark.media
@needs_media
def test_never_jumps_to_another_person(tracker: DlibFaceTracker) -> None:
    """A cut from one speaker to another and back: the other one is not followed, the first is found again."""
    first = list(open_video(MEDIA / "1.mp4", DEFAULT_LIMITS).frames_at(range(0, 16)))
    other = list(open_video(MEDIA / "2.mp4", DEFAULT_LIMITS).frames_at(range(0, 10)))
    shape = first[0].y.shape
    crop = [(f.y[: shape[0], 60 : 60 + shape[1]], f) for f in other]
    source = PictureSource(
        [np.dstack([f.y] * 3) for f in first[:8]]
        + [np.dstack([y] * 3) for y, _ in crop]
        + [np.dstack([f.y] * 3) for f in first[8:]]
    )
    track = follow(tracker, source)
    assert track.visible[:8].all()
    assert not track.visible[8:18].any()
    assert track.visible[-6:].all()


@pytest.mark.media
@needs_media
def test_a_small_face_is_found_again_beside_a_larger_one(tracker: DlibFaceTracker) -> None:
    """After a cut it is elsewhere, and somebody near the camera has come in, whom a coarse search finds alone."""
    (large,) = open_video(MEDIA / "1.mp4", DEFAULT_LIMITS).frames_at([0])
    alone, both = np.zeros((480, 640, 3), np.uint8), backdrop(640, 480)
    both[:400, 240:] = cv2.resize(np.dstack([large.y] * 3), (400, 400))
    place_face(alone, 60, 120, 120)
    place_face(both, 60, 120, 340)
    track = follow(tracker, PictureSource([alone] * 4 + [both] * 4))
    assert track.visible.all()
    assert np.allclose(track.boxes[4:].mean(axis=0)[[0, 2]].mean(), 120, atol=20)
