"""Coefficients that are read while frames are drawn: the same numbers, as early as needed and no earlier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.engine import render_files
from retalking_core.engines.videoretalking import analysis, engine
from retalking_core.engines.videoretalking.analysis import ClipFaces, CoefficientReader, plan_windows
from retalking_core.engines.videoretalking.batching import AdaptiveBatcher, ValidatingNetworks
from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
from retalking_core.errors import EngineFaultError
from retalking_core.face_cache import LocalFaceCache
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ignore_progress
from retalking_core.stages.regions import FacePlaces
from retalking_core.types import ColorTags, Frame
from tests.engines.stand_ins import StandIns, Warped
from tests.faces.clips import portrait, write_clip
from tests.preview.speech import make_sound, write_wav

COUNT, BATCH = 150, 8
# A gap, a cut inside of a run, a run shorter than a window, and a first and last frame without a face.
RUNS = [(3, 40), (40, 47), (60, 118), (120, 121), (122, 149)]
TEMPLATE = np.linspace(-1, 1, 64, dtype=np.float32)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Frames that were regressed, in order. A frame's row hangs on its number alone."""
    numbers: list[int] = []

    def crop(frames: Sequence[Frame], *_: object) -> Tensor:
        return torch.tensor([[float(frame.index)] for frame in frames])

    def regress(regressor: Any, pictures: Tensor, _landmarks: object) -> Tensor:
        numbers.extend(pictures[:, 0].int().tolist())
        return regressor(pictures)

    monkeypatch.setattr(analysis, "crop_256", crop)
    monkeypatch.setattr(analysis, "regress_coefficients", regress)
    return numbers


def rows_of(pictures: Tensor) -> Tensor:
    return torch.sin(pictures * torch.linspace(0.1, 3, 262))


class Source:
    info = SimpleNamespace(color=ColorTags())
    damaged: frozenset[int] = frozenset()

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        half = np.zeros((1, 1), np.uint8)
        return (Frame(index, np.zeros((2, 2), np.uint8), half, half) for index in indices)


def faces() -> ClipFaces:
    visible = np.zeros(COUNT, bool)
    for start, stop in RUNS:
        visible[start:stop] = True
    places = FacePlaces(np.ones((COUNT, 68, 2)), np.tile([0.0, 0, 256, 256], (COUNT, 1)), np.ones((COUNT, 4)))
    return ClipFaces(visible, RUNS, places, 3)


def reader(fits: int = 1000, regressor: Any = rows_of) -> CoefficientReader:
    networks = ValidatingNetworks(StandIns(fits, deep3d=regressor))
    return CoefficientReader(Source(), faces(), networks, AdaptiveBatcher(BATCH))  # type: ignore[arg-type]


def at_once() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows and windows as if everything were known from the start."""
    rows = np.zeros((COUNT, 262), np.float32)
    visible = np.flatnonzero(faces().visible)
    rows[visible] = rows_of(torch.from_numpy(visible[:, None]).float()).numpy()
    return rows, plan_windows(rows, faces(), TEMPLATE)


ORDERS = {
    "in order": range(COUNT),
    "back and forth": [*range(70), *range(69, 20, -1), *range(20, COUNT)],
    "from the middle": range(90, COUNT),
    "one of two": range(0, COUNT, 2),
    "the last": [COUNT - 1],
    "none": [],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
@pytest.mark.parametrize("fits", [1000, 3])
def test_windows_are_the_same_and_there_in_time(order: Sequence[int], fits: int, asked: list[int]) -> None:
    rows, expected = at_once()
    reading = reader(fits)
    windows = reading.windows(TEMPLATE)
    for frame in order:
        reading.reach(frame)
        assert np.array_equal(windows[frame], expected[frame])
    told: list[int] = []
    reading.finish(told.append)
    assert np.array_equal(windows, expected)
    assert np.array_equal(reading.rows, rows)
    # Again where a batch did not fit.
    assert list(dict.fromkeys(asked)) == np.flatnonzero(faces().visible).tolist()
    assert fits < BATCH or len(asked) == len(set(asked))
    assert told == sorted(told)


def test_no_more_is_read_than_two_batches_ahead(asked: list[int]) -> None:
    reading = reader()
    reading.windows(TEMPLATE)
    for frame in range(3, 100):
        reading.reach(frame)
        assert sum(number >= frame + 13 for number in asked) < 3 * BATCH  # between runs there is nothing to read
    reading.close()


def test_numbers_that_are_not_finite_are_named(asked: list[int]) -> None:
    def spoiled(pictures: Tensor) -> Tensor:
        return torch.where(pictures > 64, torch.nan, rows_of(pictures))

    reading = reader(regressor=spoiled)
    reading.windows(TEMPLATE)
    reading.reach(30)
    with pytest.raises(EngineFaultError, match="deep3d"):
        reading.reach(COUNT - 1)


FRAMES = 24


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = [portrait(130, 340, 320, 170 + 0.5 * k, 150) for k in range(FRAMES)]
    return write_clip(tmp_path_factory.mktemp("clip") / "moving.mp4", pictures)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("speech") / "a.wav", make_sound([("a", FRAMES / 25)]))


def sensitive_dnet(image: Tensor, semantics: Tensor) -> Warped:
    """A picture in which every number of the window counts."""
    weights = torch.linspace(0.5, 1.5, semantics[0].numel()).reshape(semantics[0].shape)
    shift = torch.tanh((semantics * weights).mean(dim=(1, 2)))[:, None, None, None]
    return Warped(image, image, (image + shift / 2).clamp(-1, 1))


@pytest.mark.parametrize("cached", [False, True])
def test_a_result_is_bit_equal_to_that_of_a_first_pass_that_was_finished_before(
    cached: bool, clip: Path, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip that is too long to be kept is analyzed as a whole first."""
    results = {}
    for name, kept_bytes in {"beside": engine.KEPT_BYTES, "before": 0}.items():
        monkeypatch.setattr(engine, "KEPT_BYTES", kept_bytes)
        networks, steps = StandIns(dnet=sensitive_dnet), list[Progress]()
        cache = LocalFaceCache(tmp_path / f"faces-{name}", 2**28, 3600) if cached else None
        rendering = VideoRetalkingEngine(networks, batch_size=4, cache=cache)
        result = tmp_path / f"{name}.mp4"
        report = render_files(rendering, clip, speech, result, RenderOptions(), steps.append)
        assert [step.fraction for step in steps] == sorted(step.fraction for step in steps)
        results[name] = result.read_bytes()
        assert report.face_cache == ("miss" if cached else "off")
        if cached:
            again = render_files(rendering, clip, speech, tmp_path / "again.mp4", RenderOptions(), ignore_progress)
            assert again.face_cache == "hit"
            assert (tmp_path / "again.mp4").read_bytes() == results[name]
    assert results["beside"] == results["before"]
