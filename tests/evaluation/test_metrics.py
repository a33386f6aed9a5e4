"""The metrics on signals with a known answer, and on a file without a face."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.feature import canny

from retalking_core.evaluation.image_quality import EDGE_SHARE, _edge_blocks
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metrics import METRICS, evaluate
from retalking_core.evaluation.sync import MouthSync, measure_sync
from retalking_core.types import RenderReport
from tests.faces.clips import backdrop, portrait, write_clip
from tests.preview.speech import make_sound, talk, write_wav

RNG = np.random.default_rng(11)
SIGNAL = np.convolve(RNG.normal(size=140), np.ones(3) / 3, mode="valid").astype(np.float32)


def report_with(target: np.ndarray | None) -> RenderReport:
    return RenderReport("preview", "0", "cpu", 10, Fraction(25), 0.4, 64, 48, 1.0, [], {}, target)


@pytest.mark.parametrize("lag", [-7, -1, 0, 1, 4, 10])
def test_lag_and_correlation_are_found(lag: int) -> None:
    mouth = 3 * np.roll(SIGNAL, lag) + 0.2 * RNG.normal(size=len(SIGNAL))
    sync = measure_sync(mouth.astype(np.float32), SIGNAL)
    assert isinstance(sync, MouthSync)
    assert sync.lag_frames == lag
    assert sync.correlation > 0.95
    if abs(lag) > 3:
        assert sync.correlation_unshifted < 0.5


def test_frames_without_a_mouth_are_left_out() -> None:
    mouth = np.roll(SIGNAL, 2)
    mouth[20:60] = np.nan
    sync = measure_sync(mouth, SIGNAL)
    assert isinstance(sync, MouthSync)
    assert (sync.lag_frames, sync.frames) == (2, len(SIGNAL) - 40)


def test_what_can_not_be_measured_says_why() -> None:
    unseen = np.full(50, np.nan, np.float32)
    assert "seen on 0 frames" in measure_sync(unseen, SIGNAL)
    assert "does not move" in measure_sync(np.ones(50, np.float32), SIGNAL)
    assert "does not move" in measure_sync(SIGNAL, np.zeros(50, np.float32))


def test_opposite_motion_scores_below_zero() -> None:
    sync = measure_sync(-SIGNAL, SIGNAL)
    assert isinstance(sync, MouthSync)
    assert sync.correlation_unshifted < -0.95


def test_table_is_complete() -> None:
    for name, metric in METRICS.items():
        assert name == metric.name
        assert metric.description.endswith(".")
        assert metric.better in ("higher", "lower", "neutral")
    with pytest.raises(KeyError):
        evaluate(Path("x.mp4"), Path("x.wav"), None, ["no_such_metric"])


def test_video_without_a_face_gives_reasons_not_zeros(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "empty.mp4", [backdrop(160, 120)] * 15)
    speech = write_wav(tmp_path / "talk.wav", talk(1.0))
    values = {
        value.name: value for value in evaluate(clip, speech, report_with(np.ones(15, np.float32)), list(METRICS))
    }
    for name in ("mouth_target_correlation", "mouth_speech_correlation", "mouth_target_lag", "mouth_speech_lag"):
        assert values[name].value is None
        assert "seen on 0 frames" in values[name].reason
    assert values["face_coverage"].value == 0.0
    assert values["av_duration_difference"].value is None
    assert values["av_duration_difference"].reason


def test_engine_without_a_target_has_none(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "empty.mp4", [backdrop(160, 120)] * 3)
    speech = write_wav(tmp_path / "talk.wav", talk(1.0))
    for report in (None, report_with(None)):
        (value,) = evaluate(clip, speech, report, ["mouth_target_correlation"])
        assert (value.value, value.reason) == (None, "the engine states no mouth target")


def test_coverage_counts_frames_with_a_face(tmp_path: Path) -> None:
    pictures = [portrait(120, 320, 260, 160, 130)] * 6 + [backdrop(320, 260)] * 4
    clip = write_clip(tmp_path / "half.mp4", pictures)
    speech = write_wav(tmp_path / "talk.wav", talk(1.0))
    (value,) = evaluate(clip, speech, None, ["face_coverage"])
    assert value.value == pytest.approx(0.6)
    assert value.detail == {"frames": 10, "frames_with_face": 6}


def test_speech_level_follows_the_sound(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", [backdrop(64, 48)] * 30)
    speech = write_wav(tmp_path / "talk.wav", make_sound([(" ", 0.4), ("a", 0.4), (" ", 0.4)]))
    level = Measurement(clip, speech).speech_level
    assert level[12:18].min() > 0.8
    assert level[:7].max() < 0.1
    assert level[24:].max() < 0.1


@pytest.mark.parametrize("blur", [0.0, 3.0, 12.0])
def test_sharpness_settles_its_blocks_as_canny_does_on_the_whole_picture(blur: float) -> None:
    """Flat areas, soft and hard edges: a band settles some blocks, the whole picture the rest."""
    picture = np.full((200, 330), 90, np.uint8)
    cv2.rectangle(picture, (40, 30), (150, 120), 200, -1)
    picture[:, 200:260] = np.random.default_rng(2).integers(0, 256, (200, 60), np.uint8)
    if blur:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    edges = canny(picture.astype(np.float64), sigma=1.0, low_threshold=0.1, high_threshold=0.2)
    whole = edges[:192, :320].reshape(3, 64, 5, 64).sum(axis=(1, 3)) > EDGE_SHARE * 64 * 64
    np.testing.assert_array_equal(_edge_blocks(picture, 3, 5), whole)
    assert whole.any()
    assert blur == 12.0 or not whole.all()
