"""The restoration pass against `07a_gfpgan_paste`."""

import numpy as np
import pytest
import torch

from retalking_core.engines.original import renderer as stage
from retalking_core.faces.landmarks import GFPGAN_TEMPLATE
from tests.stages.golden_set import GoldenSet
from tests.stages.stubs import Pattern

pytestmark = [pytest.mark.golden, pytest.mark.golden_file("07a_gfpgan_paste")]
CASES = ["single", "two_pick_centre", "partly_out", "outlier", "none", "eye_rule"]


def test_template(golden: GoldenSet) -> None:
    golden.check("template5", GFPGAN_TEMPLATE, 0)


def test_restored_frames(golden: GoldenSet) -> None:
    golden.require("frame")
    frame, network = golden["frame"], Pattern(golden["restored_face_tri_params"])
    done = 0
    for case in golden.pick(CASES, "_det"):
        out = stage.restore_frame_original(frame, golden[f"{case}_det"], network)
        assert (out is frame) == bool(golden[f"{case}_unchanged"])
        assert (len(stage.usable_faces(golden[f"{case}_det"])) > 0) == bool(golden[f"{case}_nfaces"])
        if golden.has(f"{case}_out"):
            golden.check(f"{case}_out", out, 2, 0.2)
            done += 1
    assert done >= 1


def test_alignment(golden: GoldenSet) -> None:
    frame = golden["frame"] if golden.has("frame") else np.zeros((200, 220, 3), np.uint8)
    for case in golden.pick(["single", "two_pick_centre", "partly_out", "outlier"], "_affine"):
        row = stage.central_face(stage.usable_faces(golden[f"{case}_det"]), frame.shape[1], frame.shape[0])
        aligned = stage.align_original(frame, row[5:].reshape(5, 2))
        golden.check(f"{case}_affine", aligned.frame_to_face, 1e-4)
        golden.check(f"{case}_inverse", aligned.face_to_frame, 1e-4)
        if golden.has(f"{case}_cropped_stride4"):
            golden.check(f"{case}_cropped_stride4", aligned.picture[::4, ::4], 0)


def test_network_input(golden: GoldenSet) -> None:
    golden.require("frame")
    network = Pattern(golden["restored_face_tri_params"])
    stage.restore_frame_original(golden["frame"], golden["single_det"], network)
    golden.check("net_in_sub", network.asked[0, :, ::32, ::32], 1e-6)


def test_output_is_rounded(golden: GoldenSet) -> None:
    golden.check("t2i_out", stage.rounded_u8(torch.from_numpy(golden["t2i_in"])), 0)
