"""Boxes and batches of the lip network against `04_boxes_batch`."""

import numpy as np
import pytest
import torch

from retalking_core.engines.original import stages as original_stages
from retalking_core.stages import lips
from tests.stages.golden_set import GoldenSet, triangle_pattern

pytestmark = [pytest.mark.golden, pytest.mark.golden_file("04_boxes_batch")]
COUNTS = (1, 2, 3, 4, 5, 6, 9, 14)


def test_boxes(golden: GoldenSet) -> None:
    height, width = golden["HW"].tolist()
    for count in COUNTS:
        rects = golden[f"rects_{count}"]
        boxes = {
            "smooth": original_stages.face_boxes_original(rects, width, height),
            "nosmooth": original_stages.face_boxes_original(rects, width, height, smooth=False),
            "pads": original_stages.face_boxes_original(rects, width, height, (5, 31, 7, -4)),
            "nojaw": original_stages.face_boxes_original(rects, width, height, original_stages.ORIGINAL_PADS),
        }
        for name, own in boxes.items():
            golden.check(f"coords_{name}_{count}", own, 0)


def _references(golden: GoldenSet, count: int) -> np.ndarray:
    patterns = [np.vstack([golden["dg_enh_tri_ab"], c]) for c in golden["dg_enh_tri_c"][:count]]
    faces = np.stack([triangle_pattern(256, 256, pattern) for pattern in patterns])
    box = tuple(golden["dg_cox"].tolist())
    return original_stages.full_references_original(golden["dg_full"][:count], faces, golden["dg_lms"][:count], box)


def test_batches(golden: GoldenSet) -> None:
    golden.require("dg_mel_batch")
    frames = golden["dg_full"]
    height, width = frames.shape[1:3]
    boxes = original_stages.face_boxes_original(golden["dg_rects"], width, height)
    sound = golden["dg_mel_batch"]
    batches = list(original_stages.lip_batches_original(frames, _references(golden, 5), boxes, sound, size=96, batch=4))
    assert [len(b.six) for b in batches] == golden["dg_batches"].tolist()
    order = np.concatenate([b.frames for b in batches])
    golden.check("dg_frame_index", order, 0)
    golden.check("dg_coords", boxes[order], 0)
    six = np.concatenate([b.six for b in batches]).transpose(0, 2, 3, 1) * 255
    stored = golden["dg_img_batch_u8"].astype(float)
    assert np.abs(six[..., :3] - stored[..., :3]).max() <= 1
    assert np.abs(six[..., 3:] - stored[..., 3:]).max() <= 3
    assert np.abs(six[..., 3:] - stored[..., 3:]).mean() <= 0.2
    golden.check("dg_mel_batch", np.concatenate([b.sound for b in batches])[:, 0], 0)
    faces = np.concatenate([b.faces for b in batches]).transpose(0, 2, 3, 1) * 255
    golden.check("dg_img_original", faces, 1)
    still = next(original_stages.lip_batches_original(frames, frames, boxes, sound[:2], static=True, size=96))
    golden.check("dg_static_frame_index", still.frames, 0)


def test_one_item_at_full_size(golden: GoldenSet) -> None:
    frames = golden["dg_full"][:1]
    height, width = frames.shape[1:3]
    boxes = original_stages.face_boxes_original(golden["dg_rects"][:1], width, height)
    sound = np.zeros((1, 80, 16), np.float32)
    item = next(original_stages.lip_batches_original(frames, _references(golden, 1), boxes, sound))
    golden.check("dg384_tensor_shape", item.six.shape, 0)
    six = item.six.transpose(0, 2, 3, 1)[:, ::2, ::2] * 255
    if golden.has("dg384_img_batch_u8_stride2"):
        golden.check("dg384_img_batch_u8_stride2", six, 3, 0.2)
    else:
        golden.check("dg384_sample", six[0, ::6, ::6], 3, 0.2)
    assert item.six[0, :3, 192:].max() == 0


def test_batched_masking_agrees(golden: GoldenSet) -> None:
    faces = torch.from_numpy(golden["dg_full"][:1, :96, :96]).permute(0, 3, 1, 2).float()
    masked = lips.mask_lower_half(faces)
    assert torch.equal(masked[:, :, :48], faces[:, :, :48])
    assert masked[:, :, 48:].abs().max() == 0
