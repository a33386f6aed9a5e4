"""The batched, native-resolution versions: what they must keep, and how they stand to the original's arithmetic."""

import numpy as np
import pytest
import torch

from retalking_core import imaging
from retalking_core.engines.original import stages as original
from retalking_core.faces.landmarks import GFPGAN_TEMPLATE, moved
from retalking_core.imaging import crop_resized, place_resized, warp_batch
from retalking_core.media.planes import color_matrices
from retalking_core.stages import composite, regions
from retalking_core.types import ColorTags, Frame
from tests.stages.golden_set import GoldenSet, triangle_pattern

COLOR = ColorTags()
SKIN = np.full((512, 512), 1, np.uint8)
SKIN[330:420, 200:312] = 11


class Parts:
    """Parses everything as skin with a mouth in the middle."""

    def __call__(self, faces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(SKIN.astype(np.int64)), 19).permute(2, 0, 1)
        return one_hot[None].float().expand(len(faces), -1, -1, -1), faces


def _unchanged(faces: torch.Tensor) -> torch.Tensor:
    return faces


def _texture(count: int, side: int, seed: int = 5) -> torch.Tensor:
    noise = torch.rand(count, 3, side // 8, side // 8, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(noise, size=side, mode="bicubic").clamp(0, 255)


def _landmarks(count: int, center: float, scale: float) -> np.ndarray:
    """68 points of which eyes, nose tip and mouth corners lie as in GFPGAN's template."""
    points = np.tile(GFPGAN_TEMPLATE[2], (68, 1))
    for part, target in ((slice(36, 42), 0), (slice(42, 48), 1), (30, 2), (48, 3), (54, 4)):
        points[part] = GFPGAN_TEMPLATE[target]
    return np.tile((points - 256) * scale + center, (count, 1, 1))


@pytest.mark.golden
@pytest.mark.golden_file("07b_laplacian")
def test_blend_differs_from_the_original_by_its_rounding_only(golden: GoldenSet) -> None:
    one, other = golden["A64"].astype(np.float32), golden["B64"].astype(np.float32)
    tensors = [torch.from_numpy(p).permute(2, 0, 1)[None] for p in (one, other)]
    mask = torch.from_numpy(golden["m64"])[None, None]
    for levels in (2, 3, 6):
        change = imaging.blend_change(tensors[0] - tensors[1], mask, levels)
        own = (tensors[1] + change)[0].permute(1, 2, 0).numpy()
        golden.check(f"lap64_L{levels}", own, 2.0, 0.4)
        exact = original.blend_laplacian_original(one, other, golden["m64"], levels)
        assert np.abs(own - exact).max() < 1e-3


def test_steps_agree_with_opencv() -> None:
    picture = np.random.default_rng(1).uniform(0, 255, (48, 64, 3)).astype(np.float32)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None]
    assert np.abs(imaging.pyr_down(tensor)[0].permute(1, 2, 0).numpy() - original.pyr_down(picture)).max() < 1e-4
    assert np.abs(imaging.pyr_up(tensor)[0].permute(1, 2, 0).numpy() - original.pyr_up(picture)).max() < 1e-4
    tiny = tensor[..., :2, :2]
    assert imaging.pyr_up(imaging.pyr_down(tiny)).shape == tiny.shape


def test_turning_there_and_back() -> None:
    pictures = _texture(2, 256)
    marks = _landmarks(2, 128, 0.35)
    forward, back = composite.template_transforms(marks, GFPGAN_TEMPLATE)
    assert np.abs(moved(GFPGAN_TEMPLATE[None] + 0.5, back[:1])[0] - (marks[0, [36, 42, 30, 48, 54]] + 0.5)).max() < 1e-6
    again = warp_batch(warp_batch(pictures, back, 512, 512), forward, 256, 256)
    assert (again - pictures)[..., 70:-70, 70:-70].abs().mean() < 1.5


def test_large_faces_are_averaged_on_the_way_down() -> None:
    """A pattern finer than the result must become gray, not another pattern."""
    stripes = (torch.arange(2048) % 2 * 255.0).expand(1, 3, 2048, 2048)
    shrink = np.array([[[4.0, 0, 0], [0, 4.0, 0]]])
    assert (warp_batch(stripes, shrink, 512, 512) - 127.5).abs().max() < 1
    box = torch.tensor([[0.0, 0.0, 2048.0, 2048.0]])
    assert (crop_resized(stripes, box, 384)[..., 4:-4] - 127.5).abs().max() < 16


def test_box_there_and_back() -> None:
    pictures = _texture(1, 256)
    box = torch.tensor([[40.25, 33.5, 200.0, 210.75]])
    laid, cover = place_resized(crop_resized(pictures, box, 384), box, 256, 256)
    inside = cover[0, 0] == 1
    assert (laid - pictures)[0][:, inside].abs().mean() < 1.0
    assert cover.sum() == pytest.approx((200.0 - 40.25) * (210.75 - 33.5), rel=1e-5)


def _run(pictures: torch.Tensor, prediction: torch.Tensor, restorer: composite.Restorer) -> torch.Tensor:
    marks = _landmarks(len(pictures), 192, 0.5)
    boxes = torch.tensor([[100.0, 90.0, 284.0, 300.0]]).expand(len(pictures), -1)
    pasted = composite.paste_prediction(pictures, prediction, boxes)
    restored = composite.restore(restorer, Parts(), pasted, marks)
    return composite.composite(pictures, pasted, restored, composite.BlendPlan(4, boxes))


def test_a_face_that_is_not_changed_changes_nothing() -> None:
    """Defect 16 of the original: small faces came out 4 to 39 levels too bright."""
    pictures = _texture(2, 384)
    boxes = torch.tensor([[100.0, 90.0, 284.0, 300.0]]).expand(2, -1)
    prediction = crop_resized(pictures, boxes, 384) / 255
    change = _run(pictures, prediction, _unchanged)
    assert change.abs().mean() < 0.5
    assert abs(float(change.mean())) < 0.02


def test_change_ends_before_the_edge_and_reaches_the_mouth() -> None:
    pictures = _texture(1, 384)
    change = _run(pictures, torch.full((1, 3, 384, 384), 0.2), lambda faces: torch.full_like(faces, 0.6))
    touched = change[0].abs().amax(dim=0) > 0
    assert not touched[:60].any()
    assert not touched[330:].any()
    assert not touched[:, :70].any()
    assert not touched[:, 312:].any()
    assert touched[140:260, 140:250].all()
    after = (pictures + change)[0, :, 190:200, 105:120].mean()
    assert float(after) == pytest.approx(0.2 * 255, abs=60)


def test_one_parse_gives_both_masks() -> None:
    parts = composite.parse_face(Parts(), torch.zeros(2, 3, 512, 512))
    assert parts.face.shape == parts.mouth.shape == (2, 1, 512, 512)
    assert float(parts.mouth[0, 0, 370, 256]) == pytest.approx(1)
    assert float(parts.face[0, 0, 256, 256]) == pytest.approx(1)
    assert float(parts.face[0, 0, 0].max()) == 0
    assert float(parts.mouth[0, 0, 200, 256]) == 0


def _frame(height: int, width: int, index: int = 0) -> Frame:
    rng = np.random.default_rng(index)
    planes = [
        rng.integers(0, 256, size, dtype=np.uint8) for size in ((height, width), *[(height // 2, width // 2)] * 2)
    ]
    return Frame(index, *planes)


def _places(left: float, top: float, side: float) -> regions.FacePlaces:
    box = np.array([[left, top, left + side, top + side]])
    marks = np.array([[left, top]]) + np.linspace(0, side, 68)[:, None] * (1, 1)
    inner = box + np.array([side / 5, side / 5, -side / 5, side / 20])
    return regions.FacePlaces(marks[None], box, inner)


def _changed(frame: Frame, batch: regions.RegionBatch, change: torch.Tensor) -> Frame:
    planes = regions.changed_planes(batch, change, COLOR, frame.y.shape[0])
    return regions.put_regions([frame], batch.origins, batch.side, planes.numpy())[0]


def _region_by_formula(frame: Frame, origin: np.ndarray, side: int) -> np.ndarray:
    """ITU-T H.273 in double precision on the whole frame, then cut with its edges repeated; not rounded."""
    height, width = frame.y.shape
    to_bgr = color_matrices(COLOR, height)[0].astype(np.float64)
    full = (frame.y, *(plane.repeat(2, axis=0).repeat(2, axis=1) for plane in (frame.u, frame.v)))
    whole = np.stack(full, axis=2) @ to_bgr[:, :3].T + to_bgr[:, 3]
    rows, columns = (
        np.clip(np.arange(start, start + side), 0, n - 1)
        for start, n in zip(origin[::-1], (height, width), strict=True)
    )
    return whole[rows[:, None], columns].clip(0, 255)


@pytest.mark.parametrize("place", [(100.0, 80.0, 130.0), (-40.0, -30.0, 130.0), (230.0, 150.0, 130.0)])
def test_frames_are_untouched_where_the_change_is_zero(place: tuple[float, float, float]) -> None:
    frame, places = _frame(240, 320), _places(*place)
    side = regions.region_side(places)
    assert side % regions.GRAIN_PX == 0
    cut = regions.cut_regions([frame], places, side, COLOR, "cpu")
    change = torch.zeros(1, 3, side, side)
    exact = _region_by_formula(frame, cut.origins[0], side)
    assert np.abs(cut.pictures[0].permute(1, 2, 0).numpy() - exact).max() < 0.5001
    same = _changed(frame, cut, change)
    assert all((a == b).all() for a, b in ((same.y, frame.y), (same.u, frame.u), (same.v, frame.v)))
    change[:, :, side // 2 - 8 : side // 2 + 8, side // 2 - 8 : side // 2 + 8] = 40.0
    other = _changed(frame, cut, change)
    assert 0 < (other.y != frame.y).sum() <= 256
    assert 0 <= (other.u != frame.u).sum() <= 64


def test_places_keep_their_meaning_through_the_transforms() -> None:
    places = _places(100, 80, 128)
    seen = places.shifted(np.array([[60, 40]]))
    assert np.allclose(seen.landmarks[0, 0], [40, 40])
    assert np.allclose(seen.scaled()[0, 0], [0.5, 0.5])
    assert np.allclose(seen.boxes_in_crops()[0, 0], 256 / 5)


def test_enhancement_by_a_network_that_changes_nothing() -> None:
    faces = _texture(2, 256)
    own = composite.enhance(_unchanged, Parts(), faces, _landmarks(2, 128, 0.4))
    assert (own - faces).abs().mean() < 1.5


def test_levels_follow_the_size_of_the_face() -> None:
    assert [composite.pyramid_levels(px) for px in (20, 64, 256, 512, 2000)] == [3, 4, 6, 7, 7]


def test_pattern_of_the_recipe() -> None:
    pattern = triangle_pattern(3, 4, np.array([[1, 2, 3], [4, 5, 6], [0, 0, 300]]))
    assert pattern[2, 1].tolist() == [abs(1 + 8 - 255), abs(2 + 10 - 255), abs(3 + 12 + 300 - 255)]
