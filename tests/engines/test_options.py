"""Every option of a job, honoured by the engine: each is asked for, and its effect measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch import Tensor

from retalking_core.engine import render_files
from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.options import FaceBox, FacePoint, OutputOptions, RenderOptions
from retalking_core.progress import ignore_progress
from tests.engines.lossless import Rendered, darkened, render_lossless, with_faces
from tests.engines.stand_ins import StandIns
from tests.faces.clips import backdrop, portrait, write_clip
from tests.preview.speech import make_sound, write_wav

LEFT, RIGHT = 100, 300


@pytest.fixture
def render(tmp_path: Path, tracker: DlibFaceTracker) -> Callable[..., Rendered]:
    def run(video: Path, frames: int, options: RenderOptions, networks: StandIns | None = None, **settings: Any):
        speech = write_wav(tmp_path / "speech.wav", make_sound([("a", frames / 25)]))
        stand_ins = networks or StandIns(enet=darkened)
        return render_lossless(stand_ins, video, speech, tmp_path, options, tracker=tracker, **settings)

    return run


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of one face, then frames without one, each of another shade."""
    shades = [backdrop(240, 200) // 4 + 40 * k for k in range(4)]
    return write_clip(tmp_path_factory.mktemp("one") / "one.mp4", [portrait(80, 240, 200, 120, 90), *shades[1:]])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One frame of two faces, at LEFT and at RIGHT."""
    picture = with_faces(backdrop(400, 200), 80, [(LEFT, 90), (RIGHT, 90)])
    return write_clip(tmp_path_factory.mktemp("two") / "two.mp4", [picture])


@pytest.mark.parametrize(
    ("mode", "speech_frames", "order"),
    [
        ("cut_off", 6, [0, 1, 2, 3]),
        ("cut_off", 2, [0, 1]),
        ("silence", 2, [0, 1, 2, 3]),
        ("remap", 2, [0, 2]),
        ("loop", 6, [0, 1, 2, 3, 0, 1]),
        ("bounce", 6, [0, 1, 2, 3, 2, 1]),
    ],
)
def test_length_mode(render, one: Path, mode: str, speech_frames: int, order: list[int]) -> None:
    done = render(one, speech_frames, RenderOptions(length_mode=mode))
    assert [frame.index for frame in done.plain] == order
    assert [done.same(k) for k in range(len(order))] == [number > 0 for number in order]


@pytest.mark.parametrize(
    ("options", "x"),
    [
        (RenderOptions(face="right_most"), RIGHT),
        (RenderOptions(face=FacePoint(RIGHT + 20, 80)), RIGHT),
        (RenderOptions(face=FaceBox(20, 20, 190, 190)), LEFT),
        (RenderOptions(crop=(0.5, 0.0, 0.0, 0.0)), RIGHT),
    ],
)
def test_which_face_speaks(render, two: Path, options: RenderOptions, x: int) -> None:
    done = render(two, 1, options)
    assert abs(done.center(0)[0] - x) < 24
    assert (done.report.width, done.report.height) == (400, 200)


def test_pads_grow_what_the_lip_network_sees(render, two: Path) -> None:
    seen: list[Tensor] = []

    def enet(sound: Tensor, six: Tensor, reference: Tensor, noises: Any = None) -> tuple[Tensor, Tensor]:
        seen.append(reference[0])
        return reference, reference

    for pads in ((0, 0, 0, 0), (0, 40, 0, 0)):
        render(two, 1, RenderOptions(face="left_most", pads=pads), StandIns(enet=enet))
    plain, padded = (picture.permute(1, 2, 0).numpy() for picture in seen)
    side = plain.shape[0]

    def misfit(share: float) -> float:
        """How far the upper share of the padded face, drawn out to the whole, is from the plain one."""
        part = cv2.resize(padded[: round(share * side)], (side, side), interpolation=cv2.INTER_LINEAR)
        return float(np.abs(part - plain)[20:-20, 20:-20].mean())

    shares = np.arange(0.4, 1.01, 0.02)
    errors = [misfit(share) for share in shares]
    best = shares[int(np.argmin(errors))]
    assert 0.55 < best < 0.9, "40 px below a box of about 90"
    assert min(errors) < 0.3 * errors[-1]


def test_a_still_picture_moves_at_the_rate_asked_for(render, tmp_path: Path) -> None:
    picture = tmp_path / "still.png"
    cv2.imwrite(str(picture), portrait(80, 240, 200, 120, 90))
    done = render(picture, 2, RenderOptions(fps=50.0))
    assert (done.report.fps, done.report.frames) == (50, 4)


def test_output(one: Path, tmp_path: Path, tracker: DlibFaceTracker) -> None:
    speech = write_wav(tmp_path / "speech.wav", make_sound([("a", 0.16)]))
    engine = VideoRetalkingEngine(StandIns(), tracker=tracker)
    sizes = []
    for crf in (10, 40):
        result = tmp_path / f"{crf}.mov"
        options = RenderOptions(output=OutputOptions(crf=crf, max_height=100, container="mov", fps=12.5))
        report = render_files(engine, one, speech, result, options, ignore_progress)
        info = open_video(result, DEFAULT_LIMITS).info
        assert (info.width, info.height, info.fps, info.frame_count) == (120, 100, 12.5, 2)
        assert (report.width, report.height, report.fps, report.frames) == (120, 100, 12.5, 2)
        with av.open(str(result)) as container:
            assert "mov" in container.format.name
            assert container.streams.audio
        sizes.append(result.stat().st_size)
    assert sizes[0] > 1.5 * sizes[1]


def test_seed(render, tmp_path: Path, tracker: DlibFaceTracker) -> None:
    """The noise is the job's own, and the same for every frame and every render of it."""
    drawn: list[Tensor] = []

    def enet(sound: Tensor, six: Tensor, reference: Tensor, noises: Any = None) -> tuple[Tensor, Tensor]:
        drawn.append(torch.cat([noise.flatten() for noise in noises]))
        return reference, reference

    clip = write_clip(tmp_path / "clip.mp4", [portrait(80, 240, 200, 120, 90)] * 2)
    for seed in (0, 0, 5):
        render(clip, 2, RenderOptions(seed=seed), StandIns(enet=enet), batch_size=1)
    assert len(drawn) == 6
    assert all(torch.equal(noise, drawn[0]) for noise in drawn[:4])
    assert torch.equal(drawn[4], drawn[5])
    assert not torch.equal(drawn[4], drawn[0])


def test_smile_is_what_the_expression_file_says(render, one: Path, tmp_path: Path) -> None:
    numbers = np.linspace(-1, 1, 300, dtype=np.float32)
    savemat(tmp_path / "expression.mat", {"expression_center": numbers[None] * 0, "expression_mouth": numbers[None]})
    seen: list[Tensor] = []

    def dnet(image: Tensor, semantics: Tensor) -> Any:
        seen.append(semantics[0, :64])
        return StandIns()._dnet(image, semantics)

    templates = tmp_path / "expression.mat"
    done = render(one, 1, RenderOptions(expression="smile"), StandIns(dnet=dnet), templates=templates)
    assert done.report.frames == 1
    assert torch.equal(seen[0], torch.from_numpy(numbers[:64])[:, None].expand(64, seen[0].shape[1]))
