"""FID over a set: the network's shape, and the number on clips that are equal, near and far."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.inception import Inception3

from retalking_core.errors import MetricUnavailableError
from retalking_core.evaluation.clip import EvaluationModels
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.scores import ClipFeatures, clip_features, fid
from retalking_core.networks.third_party import FIDInception
from retalking_core.weights.synthesis import synthesize
from retalking_core.weights.table import load_manifest
from tests.faces.clips import portrait, write_clip

FRAMES = 3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> EvaluationModels:
    folder = tmp_path_factory.mktemp("inception")
    synthesize(folder, 1, ["inception"])
    return EvaluationModels(folder, "cpu")


def write_faces(path: Path, light: float, frames: int = FRAMES) -> Path:
    pictures = [(portrait(120, 320, 260, 150 + 3 * k, 130) * light).astype(np.uint8) for k in range(frames)]
    return write_clip(path, pictures)


def test_fid_grows_with_the_difference(models: EvaluationModels, tmp_path: Path) -> None:
    source = write_faces(tmp_path / "source.mp4", 1.0)
    found = {}
    for light in (1.0, 0.8):
        result = write_faces(tmp_path / f"{light}.mp4", light, FRAMES + 2)
        features = clip_features(Measurement(result, result, reference=source, models=models))
        assert features.result.shape == features.reference.shape == (FRAMES, 2048)
        features.write(tmp_path / "kept.npz")
        np.testing.assert_array_equal(ClipFeatures.read(tmp_path / "kept.npz").result, features.result)
        found[light] = fid([features])
    assert found[1.0].value == pytest.approx(0, abs=1e-3 * found[0.8].value)
    assert found[0.8].detail == {"frames": FRAMES, "enough": 0.0}


def test_fid_says_what_is_missing(tmp_path: Path) -> None:
    clip = write_faces(tmp_path / "clip.mp4", 1.0, 2)
    with pytest.raises(MetricUnavailableError, match="pt_inception-2015-12-05-6726825d"):
        clip_features(Measurement(clip, clip, reference=clip, models=EvaluationModels(tmp_path)))
    one = np.zeros((1, 2048), np.float32)
    assert "two frames" in fid([ClipFeatures(one, one)]).reason


def test_inception_has_the_layout_of_torchvision_and_other_pools() -> None:
    """The same weights: equal up to the first block, different where the border counts."""
    torch.manual_seed(3)
    ours = FIDInception().eval()
    plain = Inception3(num_classes=1008, aux_logits=False, init_weights=False).eval()
    plain.load_state_dict(ours.state_dict(), strict=True)
    assert list(load_manifest("inception")) == list(ours.state_dict())
    x = torch.rand(1, 192, 9, 9)
    with torch.inference_mode():
        one, other = ours.Mixed_5b(x), plain.Mixed_5b(x)
    pooled = slice(-32, None)  # the branch behind the average pool
    torch.testing.assert_close(one[:, :-32], other[:, :-32])
    torch.testing.assert_close(one[:, pooled, 1:-1, 1:-1], other[:, pooled, 1:-1, 1:-1])
    assert (one[:, pooled, 0] - other[:, pooled, 0]).abs().max() > 1e-3
