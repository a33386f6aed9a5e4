"""What the evaluation promises: a clip against itself, shifted sound, bad pairs, missing checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retalking_core.engine import render_files
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.evaluation.clip import EvaluationModels
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metrics import METRICS, MetricValue, available_metrics, evaluate, measure_all
from retalking_core.options import RenderOptions
from retalking_core.progress import ignore_progress
from tests.evaluation.clips import (
    BrightnessNet,
    GivenModels,
    gray_pictures,
    levels,
    noise_of,
    write_samples,
    write_talking_clip,
)
from tests.evaluation.conftest import SEED
from tests.faces.clips import backdrop, portrait, write_clip
from tests.media.clips import make_png
from tests.networks.golden import make_input, read_golden
from tests.preview.speech import talk, write_wav

HERE = Path(__file__).parent
FRAMES = 7
BRIGHTNESS = GivenModels(syncnet=BrightnessNet())


def faces(shift_px: int = 0, frames: int = FRAMES, width: int = 320) -> list[np.ndarray]:
    """A face that drifts by a pixel a frame."""
    return [portrait(120, width, 260, 150 + shift_px + number, 130) for number in range(frames)]


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("speech") / "talk.wav", talk(2.0))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory, speech: Path) -> Path:
    return write_talking_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", faces(), speech)


def score(result: Path, reference: Path | None, *names: str, models: object = BRIGHTNESS) -> dict[str, MetricValue]:
    values = evaluate(result, result, None, names or list(METRICS), reference=reference, models=models)
    return {value.name: value for value in values}


@pytest.mark.golden
def test_syncnet_read_from_a_checkpoint_gives_the_golden_features(models: EvaluationModels) -> None:
    golden = read_golden(HERE.parents[0] / "golden", "syncnet")
    assert golden.seed == SEED
    network = models.get("syncnet")
    inputs = {r["name"]: make_input(r, "syncnet", golden.seed) for r in golden.document["inputs"]}
    with network.context():
        found = {
            "lip_embedding": network.network.embed_lip(inputs["lip"]),
            "audio_embedding": network.network.embed_audio(inputs["mfcc"]),
        }
    for name, tensor in found.items():
        part = golden.document["outputs"][name]["stored"][name]
        cut = tensor.numpy()[tuple(slice(*bounds) for bounds in part)]
        np.testing.assert_allclose(cut, golden.arrays[f"output/{name}"], rtol=0, atol=1e-3)


def test_a_clip_against_itself(tmp_path: Path, speech: Path, models: EvaluationModels) -> None:
    clip = write_talking_clip(tmp_path / "clip.mp4", faces(frames=3), speech)
    values = score(clip, clip, "ssim", "psnr_outside_face", "csim", "faceless_s", models=models)
    assert values["ssim"].value == 1
    assert values["psnr_outside_face"].value is None
    assert "infinite" in values["psnr_outside_face"].reason
    assert values["csim"].value == pytest.approx(1, abs=1e-6)
    assert values["csim"].detail["frames"] == 3
    assert values["faceless_s"].value == 0
    assert models.synthetic


def test_another_face_scores_lower(clip: Path, models: EvaluationModels, tmp_path: Path, speech: Path) -> None:
    darker = [(picture * np.array([0.5, 0.8, 1.0])).astype(np.uint8) for picture in faces(frames=3)]
    other = write_talking_clip(tmp_path / "other.mp4", darker, speech)
    values = score(other, clip, "ssim", "psnr_outside_face", "csim", models=models)
    assert values["ssim"].value < 0.99
    assert 5 < values["psnr_outside_face"].value < 40
    assert values["csim"].value < 0.999


def test_changes_inside_the_face_leave_the_outside_alone(tmp_path: Path, clip: Path, speech: Path) -> None:
    painted = faces()
    for number, picture in enumerate(painted):
        picture[150:165, 140 + number : 160 + number] = (90, 90, 160)  # the mouth
    spoiled = [picture.copy() for picture in painted]
    for picture in spoiled:
        picture[:20, :40] = 0
    near = score(write_talking_clip(tmp_path / "a.mp4", painted, speech), clip, "psnr_outside_face")
    far = score(write_talking_clip(tmp_path / "b.mp4", spoiled, speech), clip, "psnr_outside_face")
    unchanged, changed = near["psnr_outside_face"], far["psnr_outside_face"]
    # The encoder may keep every block outside the mouth as it was: then there is no error at all.
    if unchanged.value is None:
        assert "PSNR is infinite" in unchanged.reason
    else:
        assert unchanged.value > 40
        assert changed.value < unchanged.value - 15
    assert 10 < changed.value < 40


@pytest.mark.parametrize("delay", [0, 5, -5])
def test_sound_shifted_by_frames_is_reported_as_offset(tmp_path: Path, delay: int) -> None:
    """delay: frames by which the sound comes after the picture."""
    level = levels(60)
    sound = noise_of(np.roll(level, delay))
    file = write_talking_clip(tmp_path / "clip.mp4", gray_pictures(level), write_samples(tmp_path / "a.wav", sound))
    values = score(file, None, "lse_offset_frame", "lse_d_frame", "lse_c_frame")
    assert values["lse_offset_frame"].value == -delay
    assert values["lse_c_frame"].value > 0.3 * values["lse_d_frame"].value
    assert values["lse_d_frame"].detail["windows"] == 55


def test_preview_output_with_shifted_sound(tmp_path: Path) -> None:
    voice = talk(2.4)
    face = make_png(tmp_path / "face.png", portrait(150, 320, 320, 160, 150)[..., ::-1].copy())
    result = tmp_path / "result.mp4"
    speech = write_wav(tmp_path / "talk.wav", voice)
    render_files(PreviewEngine(), face, speech, result, RenderOptions(), ignore_progress)
    late = write_samples(tmp_path / "late.wav", np.concatenate([np.zeros(5 * 640), voice.samples]))
    early = write_samples(tmp_path / "early.wav", voice.samples[5 * 640 :])
    lags = {
        name: measure_all(Measurement(result, file), ["mouth_speech_lag"])[0].value
        for name, file in (("in time", speech), ("late", late), ("early", early))
    }
    assert abs(lags["in time"]) <= 1
    assert abs(lags["late"] + 5) <= 1
    assert abs(lags["early"] - 5) <= 1


def test_different_length(tmp_path: Path, clip: Path, speech: Path) -> None:
    longer = write_talking_clip(tmp_path / "longer.mp4", faces(frames=FRAMES + 6), speech)
    values = score(longer, clip)
    assert values["ssim"].value > 0.9
    assert values["ssim"].detail["frames"] == FRAMES
    assert (values["ssim"].detail["frames_result"], values["ssim"].detail["frames_reference"]) == (FRAMES + 6, FRAMES)
    assert values["lse_d_frame"].value is not None


def test_no_sound(tmp_path: Path, clip: Path) -> None:
    values = score(write_clip(tmp_path / "silent.mp4", faces()), clip)
    for name in ("lse_d_frame", "lse_c_frame", "lse_offset_frame", "mouth_speech_lag", "av_duration_difference"):
        assert values[name].value is None, name
        assert "no sound" in values[name].reason, name
    for name in ("ssim", "cpbd", "landmark_jitter", "face_coverage"):
        assert values[name].value is not None, name


def test_no_face(tmp_path: Path, clip: Path, speech: Path, models: EvaluationModels) -> None:
    empty = write_talking_clip(tmp_path / "empty.mp4", [backdrop(320, 260)] * FRAMES, speech)
    values = score(empty, clip, models=models)
    for name in ("psnr_outside_face", "csim", "cpbd", "landmark_jitter", "mouth_speech_lag"):
        assert values[name].value is None, name
        assert "seen" in values[name].reason or "face" in values[name].reason, name
    assert values["ssim"].value is not None
    assert values["faceless_s"].value == pytest.approx(FRAMES / 25)
    assert values["faceless_s"].detail["ranges"] == 1
    assert values["lse_d_frame"].value is not None


def test_different_size(tmp_path: Path, clip: Path, speech: Path) -> None:
    wider = write_talking_clip(tmp_path / "wider.mp4", faces(width=400), speech)
    values = score(wider, clip)
    assert values["psnr_outside_face"].value is None
    assert "400x260" in values["psnr_outside_face"].reason
    assert "320x260" in values["psnr_outside_face"].reason
    assert values["ssim"].value is not None


def test_reference_that_is_no_video(tmp_path: Path, clip: Path) -> None:
    text = tmp_path / "reference.mp4"
    text.write_text("not a film")
    values = score(clip, text)
    assert values["ssim"].value is None
    assert "which is not accepted" in values["ssim"].reason
    assert values["landmark_jitter"].value is not None


def test_too_short_for_syncnet(tmp_path: Path, speech: Path) -> None:
    short = write_talking_clip(tmp_path / "short.mp4", faces(frames=4), speech)
    (value,) = score(short, None, "lse_d_frame").values()
    assert value.value is None
    assert "SyncNet needs" in value.reason


def test_a_missing_checkpoint_is_named(tmp_path: Path, clip: Path) -> None:
    models = EvaluationModels(tmp_path)
    for name, metric in METRICS.items():
        if not metric.checkpoints:
            continue
        (value,) = score(clip, clip, name, models=models).values()
        assert value.value is None
        assert "`retalking weights fetch`" in value.reason
    (value,) = score(clip, clip, "csim", models=models).values()
    assert "recognition_arcface_ir_se50.pth" in value.reason


def test_a_damaged_checkpoint_gives_a_reason(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "syncnet_v2.model").write_bytes(b"PK\x03\x04" + bytes(1000))
    (value,) = score(clip, None, "lse_d_frame", models=EvaluationModels(tmp_path)).values()
    assert value.value is None
    assert "syncnet_v2.model" in value.reason


def test_default_metrics_are_those_whose_checkpoints_are_there(weights: Path) -> None:
    bare, full = available_metrics(None), available_metrics(EvaluationModels(weights))
    assert all(not METRICS[name].checkpoints for name in bare)
    assert set(full) - set(bare) == {"lse_d_frame", "lse_c_frame", "lse_offset_frame", "csim"}
    assert not any(METRICS[name].needs_reference for name in available_metrics(None, has_reference=False))


def test_table_states_what_each_number_is() -> None:
    for metric in METRICS.values():
        low, high = metric.lowest, metric.highest
        assert metric.source
        assert low is None or high is None or low < high


def test_torch_is_not_needed_to_load_the_table() -> None:
    import subprocess
    import sys

    code = "import retalking_core.evaluation.metrics, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=HERE.parents[1]).returncode == 0
