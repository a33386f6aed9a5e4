"""Covered mouths are found, and nothing else is taken for one: on a portrait that speaks, and on the shared clips."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from retalking_core.audio.visemes import recognize_visemes
from retalking_core.clip_plan import plan_timeline
from retalking_core.engines.preview.engine import PreviewAnalysis, black_level, learn_speaker, synthesize
from retalking_core.engines.preview.mouth_motion import plan_mouth_motion
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.landmarks import LIPS, face_scale
from retalking_core.faces.track import TrackRequest, covered_notes
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.media.speech import load_waveform
from retalking_core.options import RenderOptions
from retalking_core.progress import StageClock
from retalking_core.types import FaceTrack, Frame
from tests.faces.clips import PictureSource, portrait
from tests.faces.covers import COVERS, Cover, Picture, covered
from tests.faces.test_tracker import MEDIA, needs_media
from tests.preview.speech import talk, write_wav

COUNT = 60
START, STOP, TRAVEL = 20, 40, 4


def to_bgr(frame: Frame) -> Picture:
    planes = np.concatenate([plane.ravel() for plane in (frame.y, frame.u, frame.v)])
    return cv2.cvtColor(planes.reshape(-1, frame.y.shape[1]), cv2.COLOR_YUV2BGR_I420)


@pytest.fixture(scope="module")
def tracker() -> DlibFaceTracker:
    return DlibFaceTracker()


@pytest.fixture(scope="module")
def speaking(tracker: DlibFaceTracker, tmp_path_factory: pytest.TempPathFactory) -> list[Picture]:
    """The portrait, drawn speaking by the preview engine, its head swaying."""
    speech = load_waveform(write_wav(tmp_path_factory.mktemp("s") / "talk.wav", talk(COUNT / 25)), DEFAULT_LIMITS)
    moves = [portrait(130, 340, 320, 170 + 8 * np.sin(k / 9), 150 + 4 * np.cos(k / 11)) for k in range(COUNT)]
    source = PictureSource(moves)
    timeline = plan_timeline(source.info, speech.duration_s, "bounce")
    motion = plan_mouth_motion(speech, timeline, recognize_visemes(speech))
    track = follow(tracker, moves)
    learned = learn_speaker(source, timeline, track, motion, np.ones(len(timeline.source_index), bool))
    scene = PreviewAnalysis(timeline, (learned,), RenderOptions().pads, black_level(source.info))
    return [to_bgr(frame) for frame, _ in synthesize(scene, source, StageClock())][:COUNT]


def follow(tracker: DlibFaceTracker, pictures: list[Picture]) -> FaceTrack:
    return tracker.track(PictureSource(pictures), TrackRequest(range(len(pictures))), lambda _done, _total: None)


def place(track: FaceTrack) -> tuple[np.ndarray, float]:
    """Middle of the mouth on every frame, and the face's scale."""
    assert track.visible.all()
    return track.landmarks[:, LIPS].mean(axis=1), float(np.median(face_scale(track.landmarks)))


def hide(
    tracker: DlibFaceTracker, pictures: list[Picture], cover: Cover, frames: tuple[int, int], travel: int = TRAVEL
) -> FaceTrack:
    mouths, scale = place(follow(tracker, pictures))
    return follow(tracker, covered(pictures, mouths, scale, cover, frames, travel))


def passed_through(track: FaceTrack) -> np.ndarray:
    """Frames on which nothing is drawn."""
    return ~track.uncovered().visible


@pytest.mark.parametrize("cover", COVERS)
def test_a_cover_is_found_where_it_is(tracker: DlibFaceTracker, speaking: list[Picture], cover: Cover) -> None:
    track = hide(tracker, speaking, cover, (START, STOP))
    assert passed_through(track)[START:STOP].all()
    assert not passed_through(track)[: START - TRAVEL].any()
    assert not passed_through(track)[STOP + TRAVEL :].any()
    assert not (track.covered & ~track.visible).any()


def test_a_hand_for_most_of_the_clip_is_not_the_reference(tracker: DlibFaceTracker, speaking: list[Picture]) -> None:
    track = hide(tracker, speaking, "hand", (14, COUNT))
    assert passed_through(track)[14:].all()
    assert not passed_through(track)[: 14 - TRAVEL].any()


def test_a_slow_hand_is_found(tracker: DlibFaceTracker, speaking: list[Picture]) -> None:
    track = hide(tracker, speaking, "hand", (30, 45), travel=20)
    assert passed_through(track)[30:45].all()
    assert not passed_through(track)[:10].any()


def test_a_hand_below_the_mouth_does_not_cover_it(tracker: DlibFaceTracker, speaking: list[Picture]) -> None:
    mouths, scale = place(follow(tracker, speaking))
    track = follow(tracker, covered(speaking, mouths + np.array([0, 0.6 * scale]), scale, "hand", (START, STOP)))
    assert not track.covered.any()


def dimmed(picture: Picture, factor: float) -> Picture:
    return np.clip(picture * factor, 0, 255).astype(np.uint8)


def bearded(picture: Picture, k: int, mouths: np.ndarray, scale: float) -> Picture:
    """Dark stubble over the lower face, the lips left out."""
    mask = np.zeros(picture.shape[:2], np.float32)
    center = tuple(int(v) for v in mouths[k])
    cv2.ellipse(mask, center, (int(0.75 * scale), int(0.75 * scale)), 0, -10, 190, 1.0, -1)
    cv2.ellipse(mask, center, (int(0.36 * scale), int(0.2 * scale)), 0, 0, 360, 0.0, -1)
    grain = np.random.default_rng(1).uniform(0.3, 0.6, mask.shape)
    return (picture * (1 - cv2.GaussianBlur(mask, (0, 0), 2) * grain)[..., None]).astype(np.uint8)


HARMLESS: dict[str, Callable[[Picture, int, np.ndarray, float], Picture]] = {
    "as it is": lambda picture, k, mouths, scale: picture,
    "light that fades": lambda picture, k, mouths, scale: dimmed(picture, 1 - 0.6 * k / COUNT),
    "light switched on": lambda picture, k, mouths, scale: dimmed(picture, 0.5 if k < 25 else 1.0),
    "very dark": lambda picture, k, mouths, scale: dimmed(picture, 0.2),
    "light from one side": lambda picture, k, mouths, scale: (
        (picture * np.linspace(0.5, 1 + 0.1 * np.sin(k / 9), picture.shape[1])[:, None]).clip(0, 255).astype(np.uint8)
    ),
    "shadow from below": lambda picture, k, mouths, scale: (
        picture
        * (1 - 0.3 * min(1, max(0, (k - 38) / 10)) / (1 + np.exp((mouths[k, 1] - np.arange(320)) / 20 - 1)))[
            :, None, None
        ]
    ).astype(np.uint8),
    "noise": lambda picture, k, mouths, scale: (
        (picture + np.random.default_rng(k).normal(0, 10, picture.shape)).clip(0, 255).astype(np.uint8)
    ),
    "beard": bearded,
    "head tilts": lambda picture, k, mouths, scale: cv2.warpAffine(
        picture,
        cv2.getRotationMatrix2D((170, 150), 20 * np.sin(k / 10), 1),
        (340, 320),
        borderMode=cv2.BORDER_REPLICATE,
    ),
    "head turns": lambda picture, k, mouths, scale: cv2.warpAffine(
        picture,
        np.float64([[1 - 0.15 * (1 - np.cos(k / 9)), 0, 170 * 0.15 * (1 - np.cos(k / 9))], [0, 1, 0]]),
        (340, 320),
        borderMode=cv2.BORDER_REPLICATE,
    ),
    "small": lambda picture, k, mouths, scale: cv2.resize(picture, (170, 160), interpolation=cv2.INTER_AREA),
}


@pytest.mark.parametrize("change", HARMLESS)
def test_no_open_mouth_is_taken_for_a_covered_one(
    tracker: DlibFaceTracker, speaking: list[Picture], change: str
) -> None:
    mouths, scale = place(follow(tracker, speaking))
    track = follow(tracker, [HARMLESS[change](picture, k, mouths, scale) for k, picture in enumerate(speaking)])
    assert track.visible.all()
    assert not track.covered.any()


def test_one_wide_open_mouth_is_not_covered(tracker: DlibFaceTracker, speaking: list[Picture]) -> None:
    """A cry in a clip whose mouth is shut otherwise: most blocks on the mouth are new, those around it are not."""
    track = follow(tracker, speaking)
    gaps = np.linalg.norm(track.landmarks[:, 66] - track.landmarks[:, 62], axis=1)
    order = np.argsort(gaps)
    calm = [speaking[k] for k in sorted(order[:30])]
    cry = [speaking[order[-1]]] * 6
    assert not follow(tracker, calm[:15] + cry + calm[15:]).covered.any()


@pytest.mark.media
@needs_media
@pytest.mark.parametrize("clip", ["1.mp4", "2.mp4", "3.mp4"])
def test_no_frame_of_the_shared_clips_is_covered(tracker: DlibFaceTracker, clip: str) -> None:
    source = open_video(MEDIA / clip, DEFAULT_LIMITS)
    track = tracker.track(source, TrackRequest(range(source.info.frame_count)), lambda _done, _total: None)
    assert track.visible.all()
    assert not track.covered.any()


def test_the_note_names_the_seconds() -> None:
    assert covered_notes(np.zeros(50, bool), 25) == []
    covered_at = np.zeros(50, bool)
    covered_at[10:20] = covered_at[40:45] = True
    (note,) = covered_notes(covered_at, 25)
    assert (note.code, note.ranges_s) == ("mouth_covered", ((0.4, 0.8), (1.6, 1.8)))
    assert "0.60 s" in note.sentence
