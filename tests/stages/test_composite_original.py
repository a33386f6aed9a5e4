"""Blending, enhancement and the whole chain of a frame against `07b`, `07c` and `07d`."""

import numpy as np
import pytest

from retalking_core.engines.original import renderer as stage
from retalking_core.engines.original import stages as original
from retalking_core.engines.original.renderer import mouth_mask_original, restore_frame_original
from retalking_core.errors import FaceNotFoundError
from retalking_core.faces.landmarks import GPEN_TEMPLATE
from tests.stages.golden_set import GoldenSet, triangle_pattern
from tests.stages.stubs import ClassMap, Pattern

pytestmark = pytest.mark.golden
blending = pytest.mark.golden_file("07b_laplacian")
enhancing = pytest.mark.golden_file("07c_gpen_process")
chain = pytest.mark.golden_file("07d_frame_composite")


def _rectangles(rows: np.ndarray) -> np.ndarray:
    mask = np.zeros((512, 512), np.float32)
    for y0, y1, x0, x1, value in rows:
        mask[int(y0) : int(y1), int(x0) : int(x1)] = value
    return mask


@blending
def test_blend_of_small_pictures(golden: GoldenSet) -> None:
    for levels in (2, 3, 6):
        own = original.blend_laplacian_original(golden["A64"], golden["B64"], golden["m64"], levels)
        golden.check(f"lap64_L{levels}", own, 1e-3)


@blending
def test_blend_at_512(golden: GoldenSet) -> None:
    one, other = (triangle_pattern(512, 512, golden[f"lap512_{x}_tri"]) for x in "AB")
    mask = _rectangles(golden["lap512_mask_rects"])
    for levels in (6, 10):
        own = original.blend_laplacian_original(one, other, mask, levels)
        golden.check(f"lap512_L{levels}_stride5", own[::5, ::5], 1e-3)
        golden.check(f"lap512_L{levels}_minmax", [own.min(), own.max()], 1e-3)


@blending
def test_pyramid_steps(golden: GoldenSet) -> None:
    picture = golden["pyr_in"]
    golden.check("pyr_down_u8", original.pyr_down(picture), 0)
    golden.check("pyr_down_f32", original.pyr_down(picture.astype(np.float32)), 1e-4)
    small = picture.astype(np.float32)
    golden.check("pyr_up_f32", original.pyr_up(small[:6, :7]), 1e-4)
    golden.check("pyr_up_1x1", original.pyr_up(np.full((1, 1, 3), 37, np.float32)), 1e-4)
    golden.check("pyr_down_2x2", original.pyr_down(small[:2, :2]), 1e-4)
    golden.check("pyr_down_1x1", original.pyr_down(small[:1, :1]), 1e-4)


def _faces(golden: GoldenSet, case: str) -> stage.DetectedFaces:
    return stage.DetectedFaces(golden[f"{case}_faces"], golden[f"{case}_landms"])


@enhancing
def test_constants(golden: GoldenSet) -> None:
    golden.check("reference5", GPEN_TEMPLATE, 1e-6)
    golden.check("kernel3", original.SMOOTHING, 0)


@enhancing
def test_enhancement(golden: GoldenSet) -> None:
    restorer, parser = Pattern(golden["gan_out_tri_params"]), ClassMap(golden["class_map"])
    for case in ("A_one", "A_small", "A_two", "A_low_second"):
        faces = _faces(golden, case)
        accepted = list(faces.accepted())
        assert len(accepted) == golden[f"{case}_n"]
        aligned = stage.align_gpen(np.zeros((8, 8, 3), np.uint8), accepted[0][1])
        golden.check(f"{case}_tfm", aligned.frame_to_face, 1e-4)
        golden.check(f"{case}_tfm_inv", aligned.face_to_frame, 1e-4)
        if golden.has("imgA"):
            own = stage.enhance_original(golden["imgA"], faces, restorer, parser)
            golden.check(f"{case}_out", own, 2, 0.1)


@enhancing
def test_what_the_networks_see(golden: GoldenSet) -> None:
    golden.require("imgA")
    restorer, parser = Pattern(golden["gan_out_tri_params"]), ClassMap(golden["class_map"])
    _, points = next(_faces(golden, "A_one").accepted())
    golden.check("A_one_of_stride4", stage.align_gpen(golden["imgA"], points).picture[::4, ::4], 1)
    stage.enhance_original(golden["imgA"], _faces(golden, "A_one"), restorer, parser)
    golden.check("A_one_gan_in_sub", restorer.asked[0, :, ::32, ::32], 0.008)
    golden.check("A_one_parse_in_sub", parser.asked[0, :, ::32, ::32], 1e-6)


@enhancing
def test_masks(golden: GoldenSet) -> None:
    soft, sharp = stage.face_masks(ClassMap(golden["class_map"]), np.zeros((512, 512, 3), np.uint8))
    golden.check("mask_soft_stride4", soft[::4, ::4], 1e-6)
    golden.check("mask_sharp_after_stride4", sharp[::4, ::4], 0)


@enhancing
def test_final_composite(golden: GoldenSet) -> None:
    golden.require("B_img")
    picture, parser = golden["B_img"], ClassMap(golden["class_map"])
    original = triangle_pattern(*picture.shape[:2], golden["B_ori_tri_params"])
    for case in ("B_one", "B_far_box", "B_two"):
        box = tuple(golden[f"{case}_bbox"].tolist())
        golden.check(f"{case}_out", stage.finish_original(picture, original, _faces(golden, case), parser, box), 2, 0.3)
    own = stage.finish_original(picture, original, _faces(golden, "B_one"), parser, None)
    golden.check("B_nobbox_out", own, 2, 0.3)


@enhancing
def test_no_face_is_a_named_error(golden: GoldenSet) -> None:
    assert golden["noface_error"] == "UnboundLocalError"
    nobody = stage.DetectedFaces(np.zeros((0, 5), np.float32), np.zeros((0, 10), np.float32))
    with pytest.raises(FaceNotFoundError):
        stage.merge_faces(np.zeros((64, 64, 3), np.uint8), nobody, ClassMap(golden["class_map"]), None)


@chain
def test_the_chain_of_a_frame(golden: GoldenSet) -> None:
    frame, box = golden["orig_frame"], tuple(golden["coords"].tolist())
    prediction = triangle_pattern(384, 384, golden["pred_tri"]).astype(np.float32) / 255
    restorer, parser = Pattern(golden["restored_face_tri"]), ClassMap(golden["class_map"])
    faces = stage.DetectedFaces(golden["gpen_faces"], golden["gpen_landms"])
    detections = golden["gfpgan_det"]
    blended, final = stage.composite_original(frame, prediction, box, detections, faces, restorer, parser)
    golden.check("after_mouth_blend", blended, 4, 0.3)
    golden.check("final", final, 4, 0.3)
    mouth = mouth_mask_original(parser, restore_frame_original(frame, detections, restorer), box)
    stored = np.unpackbits(golden["mouth_mask_binary"])[: mouth.size].reshape(mouth.shape)
    assert int((mouth != stored).sum()) <= 5
    assert int(stored.sum()) == golden["mouth_mask_count"]
    rows, columns = np.flatnonzero(mouth.any(axis=1)), np.flatnonzero(mouth.any(axis=0))
    golden.check("mouth_mask_bbox", [rows[0], rows[-1], columns[0], columns[-1]], 0)
