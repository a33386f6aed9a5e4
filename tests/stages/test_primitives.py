"""Picture arithmetic against `00_primitives` (P1 to P11)."""

import numpy as np
import pytest
import torch

from retalking_core import imaging as batched
from retalking_core.engines.original import stages as original
from retalking_core.imaging import invert_affine
from tests.stages.golden_set import GoldenSet

pytestmark = [pytest.mark.golden, pytest.mark.golden_file("00_primitives")]
SIZES = ["74x106", "96x64", "20x20", "19x27", "64x64"]


def _tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None]


def _resampled(picture: np.ndarray, width: int, height: int, kernel: batched.Kernel) -> np.ndarray:
    """Pillow's order: across first, rounded to 8 bit, then down, rounded."""
    full_height, full_width = picture.shape[:2]
    zero = torch.zeros(1)
    columns = batched.resampling_matrix(zero, torch.tensor([full_width / width]), full_width, width, kernel)
    rows = batched.resampling_matrix(zero, torch.tensor([full_height / height]), full_height, height, kernel)
    across = batched.resample(_tensor(picture), torch.eye(full_height)[None], columns).round().clamp(0, 255)
    down = batched.resample(across, rows, torch.eye(width)[None]).round().clamp(0, 255)
    return down[0].permute(1, 2, 0).numpy()


def test_p1_resize_of_8_bit_pictures_is_exact(golden: GoldenSet) -> None:
    for size in golden.pick(SIZES, prefix="resize_u8_"):
        height, width = map(int, size.split("x"))
        golden.check(f"resize_u8_{size}", original.resize_bilinear(golden["img"], width, height), 0)


def test_p1_resize_of_float_pictures(golden: GoldenSet) -> None:
    for size in golden.pick(SIZES, prefix="resize_f32_"):
        height, width = map(int, size.split("x"))
        picture = golden["img"].astype(np.float32)
        golden.check(f"resize_f32_{size}", original.resize_bilinear(picture, width, height), 1e-5)


def test_p1_batched_resize_agrees(golden: GoldenSet) -> None:
    """The torch form of the same rule; square sizes, as all that the stages ask of it."""
    picture = golden["img"]
    box = torch.tensor([[0.0, 0.0, picture.shape[1], picture.shape[0]]])
    for size in golden.pick(["20x20", "64x64"], prefix="resize_f32_"):
        own = batched.crop_resized(_tensor(picture), box, int(size[:2]), antialias=False)
        golden.check(f"resize_f32_{size}", own[0].permute(1, 2, 0), 2e-4)


def test_p2_p3_affine(golden: GoldenSet) -> None:
    picture, matrix = golden["img"], golden["affine"]
    golden.check("warp_linear_border0", original.warp_affine(picture, matrix, 60, 50), 0)
    golden.check("warp_flags3_border0", original.warp_affine(picture, matrix, 60, 50), 0)
    golden.check("warp_border_135_133_132", original.warp_affine(picture, matrix, 60, 50, (135, 133, 132)), 0)
    golden.check("warp_f32", original.warp_affine(golden["mask"], matrix, 60, 50), 1e-5)
    golden.check("affine_inverse", invert_affine(matrix), 1e-12)


def test_p4_gaussian_blur(golden: GoldenSet) -> None:
    mask = golden["mask"]
    canvas = np.zeros((180, 165), np.float32)
    canvas[70:110, 60:104] = mask
    golden.check("blur_101_s11", original.blur_gaussian(canvas, 101, 11)[::3, ::3], 2e-7)
    for size in (5, 7, 9, 13):
        golden.check(f"blur_{size}_s0", original.blur_gaussian(mask, size, 0), 2e-7)
    golden.check("blur_auto_s1", original.blur_gaussian(mask, 0, 1), 2e-7)


def test_p4_batched_blur_agrees(golden: GoldenSet) -> None:
    mask = torch.from_numpy(golden["mask"])[None, None]
    golden.check("blur_auto_s1", batched.blur(mask, 1.0, reach=4)[0, 0], 1e-6)


def test_p5_erosion(golden: GoldenSet) -> None:
    for size in (2, 4, 12):
        golden.check(f"erode_{size}", original.erode_block(golden["mask"], size), 0)


def test_p6_p7_p11_conversions(golden: GoldenSet) -> None:
    golden.check("filter3", original.smooth_3x3(golden["img"]), 0)
    golden.check("csa_out", original.absolute_u8(golden["csa_in"]), 0)


def test_p9_antialiased_resize(golden: GoldenSet) -> None:
    for name, kernel in (("61x43", "bicubic"), ("23x31", "bicubic"), ("23x31", "lanczos")):
        width, height = map(int, name.split("x"))
        golden.check(f"pil_{kernel}_{name}", _resampled(golden["img"], width, height, kernel), 2, 0.003)


def test_p10_quad_and_perspective(golden: GoldenSet) -> None:
    picture = golden["img"]
    golden.check("pil_quad_32", original.warp_quad(picture, golden["quad"].reshape(4, 2), 32, 32), 1, 1e-3)
    golden.check("pil_persp_53x37", original.warp_perspective(picture, golden["persp"], 53, 37)[0], 1, 1e-3)
