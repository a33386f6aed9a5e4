"""Composition of the halves and the emotion step against `06_rl1_emotion`, and their mended versions."""

import numpy as np
import pytest
import torch

from retalking_core.engines.original import stages as original_stages
from retalking_core.engines.original.stages import truncate_u8
from retalking_core.stages import lips as stage
from tests.stages.golden_set import GoldenSet, named_pattern_parameters, triangle_pattern

file = pytest.mark.golden_file("06_rl1_emotion")


@pytest.mark.golden
@file
def test_composition(golden: GoldenSet) -> None:
    prediction, six = torch.from_numpy(golden["net_pred"]), torch.from_numpy(golden["img_batch"])
    upper = torch.from_numpy(golden["img_original"])
    golden.check("out_flag_False", prediction.clamp(0, 1), 0)
    composed = original_stages.compose_halves_original(prediction, six[:, :3], upper)
    golden.check("out_flag_True", composed, 0)
    golden.check("out_flag_True_u8", truncate_u8((composed * 255).permute(0, 2, 3, 1).numpy()), 0)


@pytest.mark.golden
@file
def test_action_units(golden: GoldenSet) -> None:
    for word in ("sad", "angry", "surprise"):
        golden.check(f"aus_{word}", stage.action_units(word, 1), 0)


@pytest.mark.golden
@file
def test_sizes(golden: GoldenSet) -> None:
    golden.require("emo_fake", "emo_src128")
    pattern = triangle_pattern(384, 384, named_pattern_parameters("tri0"))
    face = torch.from_numpy(pattern.astype(np.float32) / 255).permute(2, 0, 1)[None]
    golden.check("emo_src128", stage.to_network_size(face)[..., ::2, ::2], 1e-5)
    enlarged = stage.to_face_size(torch.from_numpy(golden["emo_fake"]), 384)
    golden.check("emo_up384", enlarged[..., ::6, ::6], 1e-5)


def _keeps_all(image: torch.Tensor, units: torch.Tensor) -> stage.Edit:
    return stage.Edit(torch.zeros_like(image), torch.ones_like(image[:, :1]), image)


def _brightens(image: torch.Tensor, units: torch.Tensor) -> stage.Edit:
    composed = image + 0.2 * units[:, 3, None, None, None]
    return stage.Edit(composed, torch.zeros_like(image[:, :1]), composed)


def test_an_edit_that_changes_nothing_costs_no_sharpness() -> None:
    faces = torch.rand(2, 3, 384, 384, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(stage.edit_emotion(_keeps_all, faces, "sad"), faces, atol=1e-6, rtol=0)
    assert (original_stages.edit_emotion_original(_keeps_all, faces, "sad") - faces).abs().mean() > 0.1


def test_emotion_changes_the_upper_half_only() -> None:
    faces = torch.full((1, 3, 384, 384), 0.5)
    prediction = torch.full((1, 3, 384, 384), 0.25)
    drawn = stage.redraw_upper_half(lambda: _brightens, prediction, faces, "surprise")
    torch.testing.assert_close(drawn[..., :150, :], torch.full((1, 3, 150, 384), 0.52))
    torch.testing.assert_close(drawn[..., 250:, :], prediction[..., 250:, :])
    assert (torch.diff(drawn[0, 0, :, 0]).abs()).max() < 0.02
    assert stage.redraw_upper_half(lambda: _brightens, prediction, faces, "original") is prediction
