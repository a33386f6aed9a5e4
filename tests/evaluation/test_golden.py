"""The arithmetic of the metrics against golden vectors: the slices committed here, and the full set where it is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from retalking_core.evaluation.image_quality import cpbd, similarity, toolkit_gray
from retalking_core.evaluation.metrics import TEMPLATE, align_face, cosines
from retalking_core.evaluation.scores import frechet_distance
from retalking_core.evaluation.sync import score_sync
from retalking_core.evaluation.sync_protocols import mfcc
from retalking_core.faces.landmarks import fit_similarity

HERE = Path(__file__).parent
FULL = Path(os.environ.get("RETALKING_GOLDEN_DIR", HERE.parents[2] / "shared" / "golden"))
FILES = {"slices": HERE / "golden" / "09_eval.npz", "full": FULL / "pipeline" / "09_eval.npz"}

pytestmark = pytest.mark.golden
Golden = dict[str, np.ndarray]


@pytest.fixture(scope="module", params=FILES)
def golden(request: pytest.FixtureRequest) -> Golden:
    file = FILES[request.param]
    if not file.exists():
        pytest.skip(f"no {request.param} golden set: set RETALKING_GOLDEN_DIR to the folder that holds `pipeline`")
    with np.load(file) as stored:
        return dict(stored)


def test_ssim(golden: Golden) -> None:
    pairs = zip(golden["ssim_a"], golden["ssim_b"], strict=True)
    scores = [similarity(toolkit_gray(one), toolkit_gray(other)) for one, other in pairs]
    np.testing.assert_allclose(scores, golden["ssim_scores"], rtol=0, atol=1e-9)
    assert np.mean(scores) == pytest.approx(float(golden["ssim_mean"]), abs=1e-9)
    if "ssim_gray_a0" in golden:
        np.testing.assert_array_equal(toolkit_gray(golden["ssim_a"][0]), golden["ssim_gray_a0"])


def test_mfcc(golden: Golden) -> None:
    np.testing.assert_allclose(mfcc(golden["mfcc_wave_int16"]), golden["mfcc"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "shifts"), [("None", 10), ("10", 10), ("15", 15)])
def test_lse_arithmetic(golden: Golden, name: str, shifts: int) -> None:
    score = score_sync(golden["lip_feat"], golden["aud_feat"], shifts)
    assert score.distance == pytest.approx(float(golden[f"vshift_{name}_LSE_D"]), abs=1e-5)
    assert score.confidence == pytest.approx(float(golden[f"vshift_{name}_LSE_C"]), abs=1e-5)
    assert score.offset_frames == golden[f"vshift_{name}_offset"] == -golden["lag_true"]
    np.testing.assert_allclose(score.curve, golden[f"vshift_{name}_mean_dist_per_shift"], rtol=0, atol=1e-5)
    # The original smooths the confidence of each window by a median over nine, zeros beyond the ends.
    confidence = np.pad(np.median(score.curve) - score.window_distances, 4)
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(confidence, 9), axis=1)
    np.testing.assert_allclose(smooth, golden[f"vshift_{name}_framewise_conf"], rtol=0, atol=1e-5)


def test_frechet_distance(golden: Golden) -> None:
    one, other = golden["fid_feat_a"], golden["fid_feat_b"]
    assert frechet_distance(one, other) == pytest.approx(float(golden["fid"]), abs=1e-6)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    # Fewer samples than features take the other path; both give the plain formula's number.
    few, other_few = one[:10].astype(float), other[:12].astype(float)
    covariances = np.cov(few, rowvar=False), np.cov(other_few, rowvar=False)
    roots = np.sqrt(np.clip(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0, None))
    shift = few.mean(axis=0) - other_few.mean(axis=0)
    plain = shift @ shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * roots.sum()
    assert frechet_distance(few, other_few) == pytest.approx(plain, abs=1e-6)


def test_cpbd(golden: Golden) -> None:
    values = [cpbd(picture) for picture in golden["cpbd_imgs"]]
    np.testing.assert_allclose(values, golden["cpbd"], rtol=0, atol=1e-9)


def test_alignment(golden: Golden) -> None:
    np.testing.assert_array_equal(TEMPLATE, golden["arcface_template112"])
    np.testing.assert_allclose(fit_similarity(golden["arc_src5"], TEMPLATE), golden["arc_M"], rtol=0, atol=1e-6)
    if "arc_crop112" in golden:
        difference = np.abs(align_face(golden["arc_img"], golden["arc_src5"]).astype(int) - golden["arc_crop112"])
        assert difference.max() <= 1  # P2


def test_cosines(golden: Golden) -> None:
    np.testing.assert_allclose(cosines(golden["emb_a"], golden["emb_b"]), golden["csim"], rtol=0, atol=1e-6)
