"""The shared clips through the engine: what issue 2 says must hold."""

from __future__ import annotations

import os
import wave
from pathlib import Path

import pytest

from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.evaluation.metrics import evaluate
from tests.preview.rendering import render_watched

MEDIA = Path(os.environ.get("RETALKING_MEDIA_DIR", Path(__file__).parents[3] / "shared" / "media"))
pytestmark = [
    pytest.mark.media,
    pytest.mark.skipif(not MEDIA.is_dir(), reason=f"no shared clips at {MEDIA}"),
]


def first_seconds(speech: Path, seconds: float, path: Path) -> Path:
    with wave.open(str(speech)) as whole, wave.open(str(path), "wb") as part:
        part.setparams(whole.getparams())
        part.writeframes(whole.readframes(round(seconds * whole.getframerate())))
    return path


@pytest.mark.parametrize(("clip", "seconds", "frames"), [("1.mp4", 60.0, 111), ("2.mp4", 2.8, 70), ("3.mp4", 2.8, 70)])
def test_real_clip(clip: str, seconds: float, frames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speech, result = first_seconds(MEDIA / "1.wav", seconds, tmp_path / "speech.wav"), tmp_path / "result.mp4"
    watched = render_watched(PreviewEngine(), MEDIA / clip, speech, result, monkeypatch)
    assert watched.report.frames == frames
    assert watched.report.face_coverage == 1.0
    assert all(watched.outside_equal)
    assert min(watched.inside_change) >= 0
    assert sum(change > 0.02 for change in watched.inside_change) > 0.8 * frames
    names = ["mouth_target_correlation", "mouth_target_lag", "mouth_speech_correlation", "av_duration_difference"]
    names.append("viseme_agreement")
    values = {value.name: value.value for value in evaluate(result, speech, watched.report, names)}
    assert values["mouth_target_correlation"] >= 0.85
    assert abs(values["mouth_target_lag"]) <= 1
    assert values["mouth_speech_correlation"] >= 0.5
    assert values["av_duration_difference"] <= 1
    if clip == "1.mp4":
        assert values["viseme_agreement"] == 1.0
