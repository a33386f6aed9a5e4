"""What is kept of a video's face between two speeches, and that it changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from retalking_core.engines.videoretalking.face_cache_session import FaceCacheSession, analyzed_count, cache_key
from retalking_core.face_cache import LocalFaceCache
from retalking_core.options import RenderOptions
from tests.engines.stand_ins import StandIns, speaking_enet
from tests.engines.test_videoretalking import FRAMES, render_watched
from tests.faces.clips import portrait, write_clip
from tests.preview.speech import make_sound, write_wav


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = [portrait(130, 340, 320, 170 + 1.5 * k, 150) for k in range(FRAMES)]
    return write_clip(tmp_path_factory.mktemp("clip") / "moving.mp4", pictures)


def speech_of(folder: Path, vowel: str, frames: int = FRAMES) -> Path:
    return write_wav(folder / f"{vowel}{frames}.wav", make_sound([(vowel, 0.1), (" ", frames / 25 - 0.1)]))


def test_the_second_speech_on_a_video_draws_no_reference_again(clip: Path, tmp_path: Path) -> None:
    cache = LocalFaceCache(tmp_path / "cache", 2**30, 60)
    runs = []
    for vowel, settings in (("a", {"cache": cache}), ("a", {"cache": cache}), ("a", {}), ("i", {"cache": cache})):
        networks = StandIns(enet=speaking_enet)
        speech = speech_of(tmp_path, vowel)
        runs.append((networks, render_watched(networks, clip, speech, tmp_path / "out.mp4", None, settings)))
    assert [run.report.face_cache for _, run in runs] == ["miss", "hit", "off", "hit"]
    for networks, run in (runs[1], runs[3]):
        assert not {"deep3d", "dnet", "gpen512"} & set(networks.asked)
        assert networks.asked["parsenet"] == networks.asked["gfpgan"], "one parse a frame is left"
        assert run.report.frames == FRAMES
    for other in (1, 2):
        pairs = zip(runs[0][1].frames, runs[other][1].frames, strict=True)
        assert all(np.array_equal(x, y) for a, b in pairs for x, y in ((a.y, b.y), (a.u, b.u), (a.v, b.v)))


def test_a_longer_speech_adds_to_what_is_known(clip: Path, tmp_path: Path) -> None:
    cache = LocalFaceCache(tmp_path / "cache", 2**30, 60)
    outcomes = []
    for frames in (3, FRAMES, FRAMES):
        networks = StandIns(enet=speaking_enet)
        speech = speech_of(tmp_path, "a", frames)
        run = render_watched(networks, clip, speech, tmp_path / "out.mp4", None, {"cache": cache})
        outcomes.append((run.report.face_cache, sum(networks.asked.get("dnet", []))))
    assert outcomes == [("miss", 3), ("partial", 1), ("hit", 0)]


def test_other_options_are_another_entry(clip: Path, tmp_path: Path) -> None:
    cache = LocalFaceCache(tmp_path / "cache", 2**30, 60)
    speech = speech_of(tmp_path, "a")
    for options in (RenderOptions(), RenderOptions(pads=(0, 30, 0, 0)), RenderOptions(one_shot=True)):
        run = render_watched(StandIns(), clip, speech, tmp_path / "out.mp4", options, {"cache": cache})
        assert run.report.face_cache == "miss"


def test_a_frame_that_is_shown_again_is_drawn_once(clip: Path, tmp_path: Path) -> None:
    networks = StandIns(enet=speaking_enet)
    speech = speech_of(tmp_path, "a", 3 * FRAMES)
    render_watched(networks, clip, speech, tmp_path / "out.mp4", None, {"batch_size": 3})
    assert sum(networks.asked["dnet"]) == FRAMES
    assert sum(networks.asked["gfpgan"]) == 3 * FRAMES
    assert not list(tmp_path.glob(".faces-*"))


def test_half_precision_that_leaves_its_range_goes_on_in_float32(clip: Path, tmp_path: Path) -> None:
    class Half(StandIns):
        exact = False

        def run_in_float32(self, name: str) -> bool:
            changed, self.exact = name == "gfpgan" and not self.exact, True
            return changed

        def _gfpgan(self, faces: torch.Tensor) -> torch.Tensor:
            return faces if self.exact else faces / 0

    speech = speech_of(tmp_path, "a")
    done = render_watched(Half(), clip, speech, tmp_path / "out.mp4", None, {"batch_size": 2})
    plain = render_watched(StandIns(), clip, speech, tmp_path / "out.mp4", None, {"batch_size": 2})
    (note,) = done.report.notes
    assert (note.code, "gfpgan" in note.sentence) == ("half_precision_exceeded", True)
    assert all(np.array_equal(a.y, b.y) for a, b in zip(done.frames, plain.frames, strict=True))


def test_references_come_back_as_they_were(tmp_path: Path) -> None:
    memory = FaceCacheSession(tmp_path, found=False, keep=None)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, 256, 256), dtype=np.uint8)
    numbers = np.array([7, 2, 5])
    memory.remember_references(numbers, pictures)
    assert memory.knows(np.arange(10)).tolist() == [k in (2, 5, 7) for k in range(10)]
    assert np.array_equal(memory.references(np.array([5, 7, 5])), pictures[[2, 0, 2]])
    with pytest.raises(ValueError, match="frame 9"):
        memory.references(np.array([9]))


def test_keys(tmp_path: Path) -> None:
    video = tmp_path / "v.mp4"
    video.write_bytes(b"one")
    first = cache_key(video, ["a", 1])
    assert first == cache_key(video, ["a", 1])
    assert first != cache_key(video, ["a", 2])
    video.write_bytes(b"two")
    assert first != cache_key(video, ["a", 1])
    assert set(first) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("last", "frames", "count"), [(0, 1, 1), (10, 500, 64), (63, 500, 64), (64, 500, 128), (400, 500, 500)]
)
def test_how_much_is_analyzed(last: int, frames: int, count: int) -> None:
    assert analyzed_count(last, frames) == count
