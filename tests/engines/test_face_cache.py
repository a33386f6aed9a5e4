"""The engine with a face cache: what depends on the video alone is computed once, and nothing else changes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retalking_core.engine import render_files
from retalking_core.errors import RenderCanceled
from retalking_core.face_cache import LocalFaceCache
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.options import RenderOptions
from tests.engines.lossless import Rendered, render_lossless
from tests.engines.stand_ins import StandIns, speaking_enet
from tests.faces.clips import portrait, write_clip
from tests.preview.speech import make_sound, write_wav

# What is asked about the video alone; parsenet serves the restoration as well.
OF_THE_VIDEO = ("deep3d", "dnet", "gpen512")


class Counted(DlibFaceTracker):
    """tracked: how often a video was followed."""

    def __init__(self, tracker: DlibFaceTracker) -> None:
        super().__init__(tracker._models)
        self.tracked = 0

    def track(self, *asked: Any) -> Any:
        self.tracked += 1
        return super().track(*asked)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = [portrait(80, 240, 200, 116 + 3 * k, 90) for k in range(3)]
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", pictures)


@pytest.fixture
def cache(tmp_path: Path) -> LocalFaceCache:
    return LocalFaceCache(tmp_path / "cache", 1 << 30, 3600.0)


def render(
    clip: Path, folder: Path, sound: str, cache: LocalFaceCache | None, tracker: Counted, **options: Any
) -> tuple[Rendered, StandIns]:
    folder.mkdir(exist_ok=True)
    speech = write_wav(folder / "speech.wav", make_sound([(sound, 0.12)]))
    networks = StandIns(enet=speaking_enet)
    asked = RenderOptions(**options)
    return render_lossless(networks, clip, speech, folder, asked, tracker=tracker, cache=cache), networks


def equal(one: Rendered, other: Rendered) -> bool:
    pairs = zip(one.frames, other.frames, strict=True)
    return all(np.array_equal(getattr(a, plane), getattr(b, plane)) for a, b in pairs for plane in "yuv")


def test_the_next_speech_on_a_video_pays_only_for_itself(
    clip: Path, tmp_path: Path, cache: LocalFaceCache, tracker: DlibFaceTracker
) -> None:
    counted = Counted(tracker)
    first, asked = render(clip, tmp_path / "first", "a", cache, counted)
    assert first.report.face_cache == "miss"
    assert all(asked.asked[name] for name in OF_THE_VIDEO)
    second, asked = render(clip, tmp_path / "second", "u", cache, counted)
    assert second.report.face_cache == "hit"
    assert not any(asked.asked.get(name) for name in OF_THE_VIDEO)
    assert counted.tracked == 1
    plain, _ = render(clip, tmp_path / "plain", "u", None, counted)
    assert plain.report.face_cache == "off"
    assert equal(second, plain)
    assert not equal(second, first)


def test_another_question_about_the_face_is_another_entry(
    clip: Path, tmp_path: Path, cache: LocalFaceCache, tracker: DlibFaceTracker
) -> None:
    """What changes the steady face is computed anew; what does not, is not."""
    counted = Counted(tracker)
    outcomes = {}
    for name, options in {
        "first": {},
        "pads": {"pads": (0, 0, 0, 0)},
        "mouth": {"upper_face": "angry", "seed": 4},
    }.items():
        outcomes[name] = render(clip, tmp_path / name, "a", cache, counted, **options)[0].report.face_cache
    assert outcomes == {"first": "miss", "pads": "miss", "mouth": "hit"}


def test_one_of_two_renders_at_once_computes(
    clip: Path, tmp_path: Path, cache: LocalFaceCache, tracker: DlibFaceTracker
) -> None:
    counted, outcomes = Counted(tracker), []
    together = threading.Barrier(2)

    def run(name: str) -> None:
        together.wait()
        outcomes.append(render(clip, tmp_path / name, "a", cache, counted)[0].report.face_cache)

    threads = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(outcomes) == ["hit", "miss"]
    assert counted.tracked == 1


def test_who_waits_tells_that_it_lives_and_can_be_canceled(
    clip: Path, tmp_path: Path, cache: LocalFaceCache, tracker: DlibFaceTracker
) -> None:
    """The lease of a job is let go where a render tells nothing new."""
    from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine

    held: list[str] = []
    keep_open, told = cache.open, []

    class Busy(LocalFaceCache):
        def open(self, key: str, waiting: Any) -> Any:
            held.append(key)
            return keep_open(key, waiting)

    def progress(step: Any) -> None:
        told.append((step.stage, step.fraction, step.done))
        if len(told) == 4:
            raise RenderCanceled("enough")

    speech = write_wav(tmp_path / "speech.wav", make_sound([("a", 0.12)]))
    busy = Busy(tmp_path / "cache", 1 << 30, 3600.0)
    engine = VideoRetalkingEngine(StandIns(), tracker=tracker, cache=busy)
    render_files(engine, clip, speech, tmp_path / "a.mp4", RenderOptions(), lambda _step: None)
    (tmp_path / "cache" / "entries" / held[0] / "manifest.json").unlink()
    with (
        keep_open(held[0], lambda: None),
        pytest.raises(RenderCanceled),
    ):
        render_files(engine, clip, speech, tmp_path / "b.mp4", RenderOptions(), progress)
    assert len(set(told)) == 4
    assert not (tmp_path / "b.mp4").exists()
