"""3DMM alignment and semantic windows against `03_align3dmm`."""

import numpy as np
import pytest
import torch

from retalking_core.engines.original import stages as original_stages
from retalking_core.faces.landmarks import STANDARD_FIVE, five_points_3dmm
from retalking_core.stages import stabilize as stage
from tests.stages.golden_set import GoldenSet, triangle_pattern

pytestmark = [pytest.mark.golden, pytest.mark.golden_file("03_align3dmm")]


def _check_alignment(golden: GoldenSet, case: str, alignment: stage.FaceAlignment) -> None:
    golden.check(f"{case}_trans_params", alignment.parameters[0], 1e-4)
    golden.check(f"{case}_resize_wh", alignment.resized[0], 0)
    corner = alignment.corner[0]
    golden.check(f"{case}_crop_box", [*corner, *(corner + stage.ALIGNED_PX)], 0)


def _aligned(picture: np.ndarray, alignment: stage.FaceAlignment) -> np.ndarray:
    tensor = torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None]
    return (stage.crop_aligned(tensor, alignment)[0].permute(1, 2, 0) * 255).numpy()


def test_standard_points(golden: GoldenSet) -> None:
    golden.check("lm3d_5", STANDARD_FIVE, 0)


def test_alignment_of_every_case(golden: GoldenSet) -> None:
    pattern = triangle_pattern(256, 256, golden["img_tri_params"])
    for case in golden["cases"].tolist():
        five = five_points_3dmm(golden[f"{case}_lm"])
        five[:, 1] = 255 - five[:, 1]
        golden.check(f"{case}_p5", five, 1e-4)
        alignment = stage.align_faces(golden[f"{case}_lm"][None], 256, 256)
        _check_alignment(golden, case, alignment)
        if golden.has(f"{case}_img224") and (case.startswith("real") or golden.has("img")):
            picture = pattern if case.startswith("real") else golden["img"]
            golden.check(f"{case}_img224", _aligned(picture, alignment), 2, 0.003)


def test_alignment_of_a_batch_is_that_of_its_faces(golden: GoldenSet) -> None:
    pattern = triangle_pattern(256, 256, golden["img_tri_params"])
    cases = golden["cases"].tolist()
    marks = np.stack([golden[f"{case}_lm"] for case in cases])
    together = stage.align_faces(marks, 256, 256)
    pictures = torch.from_numpy(pattern.astype(np.float32)).permute(2, 0, 1).expand(len(cases), -1, -1, -1)
    crops = stage.crop_aligned(pictures, together)
    stored = [case for case in cases if case.startswith("real") and golden.has(f"{case}_img224")]
    assert stored
    for case in stored:
        golden.check(f"{case}_img224", crops[cases.index(case)].permute(1, 2, 0) * 255, 2, 0.003)
    for k in range(len(cases)):
        alone = stage.align_faces(marks[k : k + 1], 256, 256)
        torch.testing.assert_close(crops[k : k + 1], stage.crop_aligned(pictures[:1], alone))


def test_alignment_in_a_picture_that_is_not_square(golden: GoldenSet) -> None:
    golden.require("nonsq_img")
    picture = golden["nonsq_img"]
    alignment = stage.align_faces(golden["nonsq_lm"][None], picture.shape[1], picture.shape[0])
    _check_alignment(golden, "nonsq", alignment)
    golden.check("nonsq_img224", _aligned(picture, alignment), 2, 0.003)


def test_alignment_without_a_face(golden: GoldenSet) -> None:
    golden.check("fallback_lm5", stage.standard_place(256, 256), 1e-4)
    alignment = stage.align_faces(np.full((1, 68, 2), stage.NO_FACE, np.float32), 256, 256)
    _check_alignment(golden, "fallback", alignment)
    pattern = triangle_pattern(256, 256, golden["img_tri_params"])
    golden.check("fallback_img224", _aligned(pattern, alignment), 2, 0.003)


def test_semantic_windows(golden: GoldenSet) -> None:
    clip, frames = golden["coeffs"], golden["sem_frames"]
    golden.check("sem_index", stage.window_indices(frames, len(clip)), 0)
    golden.require("sem")
    golden.check("sem", stage.semantic_windows(clip, frames), 0)


def test_semantic_windows_of_a_short_clip(golden: GoldenSet) -> None:
    count = len(golden["short_index"])
    frames = np.arange(count)
    golden.check("short_index", stage.window_indices(frames, count), 0)
    golden.require("short_sem")
    golden.check("short_sem", stage.semantic_windows(golden["coeffs"][:count], frames), 0)


def test_a_template(golden: GoldenSet) -> None:
    """The golden windows are of a foreign face, whose scale row is multiplied by `foreign_ratio`."""
    clip, ratio = golden["coeffs"], np.float32(golden["foreign_ratio"].item())
    prefix = "foreign_sem_expr_frame"
    name = next(name for name in golden.arrays if name.startswith(prefix))
    frame = np.array([int(name.removeprefix(prefix))])
    window = stage.semantic_windows(clip, frame, golden["expr"])
    window[:, stage.SCALE_ROW] *= ratio
    golden.check(name, window, 1e-6)
    # The set does not say which frame the other window is of: exactly one of the clip's has to be it.
    windows = stage.semantic_windows(clip, np.arange(len(clip)))
    windows[:, stage.SCALE_ROW] *= ratio
    matches = np.abs(windows - golden["foreign_sem"]).max(axis=(1, 2)) == 0
    assert matches.sum() == 1


def test_pictures_in_and_out_of_the_expression_network(golden: GoldenSet) -> None:
    golden.check("dnet_out_bgr", original_stages.stabilized_u8_original(torch.from_numpy(golden["dnet_out"]))[0], 0)
    picture = torch.from_numpy(np.rint((golden["dnet_in"] + 1) / 2 * 255)).float()
    golden.check("dnet_in", stage.to_signed(picture), 1e-6)
