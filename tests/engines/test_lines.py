"""The neural engine draws two speakers in one pass: each from its own speech, and split as in one piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from retalking_core.clip_plan import LineInput, plan_clip
from retalking_core.engine import render_files
from retalking_core.engines.videoretalking import engine as videoretalking
from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
from retalking_core.face_cache import LocalFaceCache
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.media.writer import ResultWriter, SegmentWriter
from retalking_core.options import RenderOptions
from retalking_core.progress import ignore_progress
from retalking_core.types import Frame
from tests.engines.stand_ins import StandIns, speaking_enet
from tests.media.dialogs import WIDTH, Dialog, make_dialog

torch.set_num_threads(min(2, torch.get_num_threads()))
FRAMES = 10
HALVES = (np.s_[:, : WIDTH // 2], np.s_[:, WIDTH // 2 :])


@pytest.fixture(scope="module")
def dialog(tmp_path_factory: pytest.TempPathFactory) -> Dialog:
    return make_dialog(tmp_path_factory.mktemp("dialog"), seconds=FRAMES / 25)


@pytest.fixture(scope="module")
def lines(dialog: Dialog) -> list[LineInput]:
    """The left one on frames 1 to 6, the right one on frames 4 to 9."""
    return [
        LineInput(dialog.first, 0.04, 0.28, face="left_most"),
        LineInput(dialog.first, 0.16, 0.40, face="right_most", upper_face="sad"),
    ]


def kept_frames(patch: pytest.MonkeyPatch, name: str, kind: type) -> list[Frame]:
    frames: list[Frame] = []

    class Watched(kind):
        def write(self, frame: Frame) -> None:
            frames.append(frame)
            super().write(frame)

    patch.setattr(videoretalking, name, Watched)
    return frames


def test_two_speakers_in_one_pass(
    dialog: Dialog, lines: list[LineInput], tracker: DlibFaceTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks, cache = StandIns(enet=speaking_enet), LocalFaceCache(tmp_path / "cache", 2**30, 3600.0)
    engine = VideoRetalkingEngine(networks, tracker=tracker, cache=cache)
    frames = kept_frames(monkeypatch, "ResultWriter", ResultWriter)
    report = render_files(engine, dialog.video, lines, tmp_path / "result.mp4", RenderOptions(), ignore_progress)
    assert (report.frames, report.face_coverage, report.face_cache) == (FRAMES, 1.0, "miss")
    # The cost grows with the faces drawn: 6 frames of each, and not one more.
    assert networks.asked["enet"] == [2] * 6, "in full batches, wherever the lines begin"
    assert sum(networks.asked["ganimation"]) == 6, "the look of one speaker is not the other's"
    source = list(open_video(dialog.video, DEFAULT_LIMITS).frames())
    changed = np.array(
        [[not np.array_equal(a.y[h], b.y[h]) for h in HALVES] for a, b in zip(frames, source, strict=True)]
    )
    assert changed[:, 0].tolist() == [1 <= k <= 6 for k in range(FRAMES)]
    assert changed[:, 1].tolist() == [4 <= k <= 9 for k in range(FRAMES)]
    alone = list(frames)
    frames.clear()
    # One speaker alone is drawn as it is beside the other.
    render_files(engine, dialog.video, lines[:1], tmp_path / "result.mp4", RenderOptions(), ignore_progress)
    assert all(np.array_equal(a.y[HALVES[0]], b.y[HALVES[0]]) for a, b in zip(alone, frames, strict=True))
    again = render_files(engine, dialog.video, lines, tmp_path / "result.mp4", RenderOptions(), ignore_progress)
    assert again.face_cache == "hit"
    assert all(np.array_equal(a.y, b.y) for a, b in zip(alone, frames[FRAMES:], strict=True))


def test_segments_draw_what_one_render_draws(
    dialog: Dialog, lines: list[LineInput], tracker: DlibFaceTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def engine() -> VideoRetalkingEngine:
        return VideoRetalkingEngine(StandIns(enet=speaking_enet), tracker=tracker)

    whole = kept_frames(monkeypatch, "ResultWriter", ResultWriter)
    render_files(engine(), dialog.video, lines, tmp_path / "result.mp4", RenderOptions(), ignore_progress)
    parts = kept_frames(monkeypatch, "SegmentWriter", SegmentWriter)
    with plan_clip(dialog.video, lines, RenderOptions(), DEFAULT_LIMITS) as clip:
        engine().analyze_clip(clip, tmp_path / "analysis", RenderOptions(), ignore_progress)
    for segment in (range(6), range(6, FRAMES)):
        engine().render_segment(
            tmp_path / "analysis", dialog.video, segment, tmp_path / "part", RenderOptions(), ignore_progress
        )
    for one, other in zip(whole, parts, strict=True):
        assert all(np.array_equal(a, b) for a, b in ((one.y, other.y), (one.u, other.u), (one.v, other.v)))
