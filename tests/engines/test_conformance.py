"""Our own engines pass the conformance tests that plug-ins are asked to pass."""

from __future__ import annotations

import pytest

from retalking_core.engine import Engine
from retalking_core.engine_conformance import EngineConformance
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
from tests.engines.stand_ins import StandIns, speaking_enet


class TestPreviewEngine(EngineConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Engine:
        return PreviewEngine()


class TestVideoRetalkingEngine(EngineConformance):
    """With stand-ins for its networks: everything but what the networks draw.

    A render takes half a minute on two cores, so the tests that make renders of their own are left out; test_options,
    test_videoretalking and test_engine_segments hold the same on clips of a few frames.
    """

    test_every_other_option_is_honored = None
    test_a_picture_of_an_expression_is_taken_or_refused = None
    test_the_same_seed_gives_the_same_pictures = None
    test_a_still_picture_gets_the_rate_asked_for = None
    test_length_modes = None
    test_frames_without_a_face_pass_through = None
    test_missing_faces_can_be_refused = None
    test_progress_rises_to_the_end = None
    test_a_canceled_render_ends_and_leaves_nothing = None
    test_segments_give_the_pictures_of_one_render = None

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Engine:
        return VideoRetalkingEngine(StandIns(enet=speaking_enet))
