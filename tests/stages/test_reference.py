"""The reference picture against `05_reference_align`, and the one-step version against the original's three."""

import numpy as np
import pytest
import torch

from retalking_core.engines.original import stages as original_stages
from retalking_core.engines.original.stages import resize_bilinear
from retalking_core.faces.landmarks import oriented_square
from retalking_core.stages import lips as stage
from tests.stages.golden_set import GoldenSet, triangle_pattern

pytestmark = [pytest.mark.golden, pytest.mark.golden_file("05_reference_align")]


def test_quads_and_coefficients(golden: GoldenSet) -> None:
    for case in golden["cases"].tolist():
        square = oriented_square(golden[f"{case}_lm"])
        golden.check(f"{case}_cxy", [square.center, square.across, square.down], 1e-4)
        golden.check(f"{case}_quad", square.corners, 1e-4)
        own, stored = original_stages.paste_coefficients(square.corners), golden[f"{case}_coef"]
        assert np.abs(own - stored).max() <= 1e-4 * np.abs(stored).max()


def test_crop_and_paste(golden: GoldenSet) -> None:
    """Some cases are stored as every fourth pixel."""
    golden.require("imgA")
    patch = triangle_pattern(256, 256, golden["imgB_tri_params"])
    for case in golden.pick(golden["cases"].tolist(), "_crop", "_pasted"):
        marks = golden[f"{case}_lm"]
        crop = original_stages.quad_crop_original(golden["imgA"], oriented_square(marks).corners)
        pasted = original_stages.paste_original(golden["imgA"], marks, patch)
        for name, own in ((f"{case}_crop", crop), (f"{case}_pasted", pasted)):
            step = 256 // len(golden[name])
            golden.check(name, own[::step, ::step], 1, 1e-3)


def test_large_quad_is_shrunk_first(golden: GoldenSet) -> None:
    golden.require("imgA")
    golden.check("shrink_out32", original_stages.quad_crop_original(golden["imgA"], golden["shrink_quad"], 32), 1, 1e-2)


def test_insertion_into_the_frame(golden: GoldenSet) -> None:
    golden.require("imgA")
    frame, marks = golden["ins_full"], golden[f"{golden['cases'][0]}_lm"]
    box = tuple(golden["ins_obox"].tolist())
    golden.check("ins_out", original_stages.insert_original(frame, golden["imgA"], marks, box), 2)


def test_one_resampling_shows_the_same_reference(golden: GoldenSet) -> None:
    """Inside the square both versions show the same face; outside it the frame, sharper than after three steps."""
    golden.require("imgA")
    frame, marks, face = golden["ins_full"], golden[f"{golden['cases'][0]}_lm"], golden["imgA"]
    y1, y2, x1, x2 = golden["ins_obox"].tolist()
    inserted = resize_bilinear(
        original_stages.insert_original(frame, face, marks, (y1, y2, x1, x2))[y1:y2, x1:x2], 96, 96
    )

    def tensor(picture: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None]

    original = tensor(resize_bilinear(frame[y1:y2, x1:x2], 96, 96))
    whole = torch.tensor([[0.0, 0.0, 256.0, 256.0]])
    own = stage.build_references(original, tensor(face), marks[None], whole)
    mask = stage.square_mask(marks[None], whole, 96)[0, 0]
    difference = (own - tensor(inserted)).abs()[0].mean(dim=0)
    assert float(difference[mask == 1].mean()) < 8
    assert torch.equal(own[0][:, mask == 0], original[0][:, mask == 0])
