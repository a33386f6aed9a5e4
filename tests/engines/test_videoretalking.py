"""The whole engine on clips made from one portrait, with light networks in place of the trained ones."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from retalking_core.engine import render_files
from retalking_core.engines.videoretalking import engine as videoretalking
from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
from retalking_core.errors import (
    EngineFaultError,
    FaceMissingError,
    FaceNotFoundError,
    OptionUnsupportedError,
    RenderCanceled,
)
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.media.writer import ResultWriter
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ignore_progress
from retalking_core.threads import Turns
from retalking_core.types import Frame, RenderReport
from tests.engines.stand_ins import StandIns, speaking_enet
from tests.faces.clips import backdrop, portrait, write_clip
from tests.preview.speech import make_sound, write_wav

torch.set_num_threads(min(2, torch.get_num_threads()))
FRAMES = 4


@dataclass
class Rendered:
    report: RenderReport
    frames: list[Frame]
    plain: list[Frame]
    progress: list[Progress]

    def change(self, k: int) -> np.ndarray:
        return np.abs(self.frames[k].y.astype(np.int16) - self.plain[k].y)

    def same(self, k: int) -> bool:
        pairs = zip(*((f.y, f.u, f.v) for f in (self.frames[k], self.plain[k])), strict=True)
        return all(np.array_equal(new, old) for new, old in pairs)


def render_watched(
    networks: StandIns, video: Path, speech: Path, result: Path, options: RenderOptions | None, settings: dict
) -> Rendered:
    """Renders, keeping what goes to the encoder and a second decode of the same source frames."""
    options, frames, timelines, told = options or RenderOptions(), [], [], []

    class Watched(ResultWriter):
        def __init__(self, path, info, timeline, *rest) -> None:
            timelines.append(timeline)
            super().__init__(path, info, timeline, *rest)

        def write(self, frame: Frame) -> None:
            frames.append(frame)
            super().write(frame)

    with pytest.MonkeyPatch.context() as context:
        context.setattr(videoretalking, "ResultWriter", Watched)
        engine = VideoRetalkingEngine(networks, **settings)
        report = render_files(engine, video, speech, result, options, told.append)
    source = open_video(video, DEFAULT_LIMITS, options.fps)
    return Rendered(report, frames, list(source.frames_at(timelines[0].source_index.tolist())), told)


@pytest.fixture
def render(tmp_path: Path, speech: Path):
    def run(networks: StandIns, video: Path, options: RenderOptions | None = None, **settings: object) -> Rendered:
        return render_watched(networks, video, speech, tmp_path / "result.mp4", options, settings)

    return run


@pytest.fixture(scope="module")
def calm(clip: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """By networks that change nothing."""
    result = tmp_path_factory.mktemp("calm") / "result.mp4"
    return render_watched(StandIns(), clip, speech, result, None, {})


@pytest.fixture(scope="module")
def loud(clip: Path, speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """By a lip network that darkens the mouth with the sound."""
    result = tmp_path_factory.mktemp("loud") / "result.mp4"
    return render_watched(StandIns(enet=speaking_enet), clip, speech, result, None, {})


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("speech") / "a.wav", make_sound([("a", 0.1), (" ", FRAMES / 25 - 0.1)]))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = [portrait(130, 340, 320, 170 + 1.5 * k, 150) for k in range(FRAMES)]
    return write_clip(tmp_path_factory.mktemp("clip") / "moving.mp4", pictures)


def test_networks_that_change_nothing_give_the_video_back(calm) -> None:
    done = calm
    assert (done.report.engine, done.report.frames, done.report.face_coverage) == ("videoretalking", FRAMES, 1.0)
    assert done.report.faceless_ranges_s == []
    for k in range(FRAMES):
        change = done.change(k)
        assert change.mean() < 0.5
        assert np.abs(done.frames[k].y.mean() - done.plain[k].y.mean()) < 0.05
    steps = [step.fraction for step in done.progress]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0.0, 1.0)


def test_only_the_face_changes_and_it_follows_the_sound(loud) -> None:
    done = loud
    moved = [float(done.change(k).mean()) for k in range(FRAMES)]
    assert moved[0] > moved[-1] + 0.2
    for k in range(FRAMES):
        touched = done.change(k) > 0
        rows, columns = np.flatnonzero(touched.any(axis=1)), np.flatnonzero(touched.any(axis=0))
        assert rows[0] > 50
        assert rows[-1] < 270
        assert columns[0] > 80
        assert columns[-1] < 300


@pytest.mark.parametrize(("width", "height", "face_px"), [(1920, 1080, 150), (3840, 2160, 640), (320, 240, 70)])
def test_sizes(render, tmp_path, width: int, height: int, face_px: int) -> None:
    picture = portrait(face_px, width, height, width / 2, height * 0.45)
    clip = write_clip(tmp_path / "clip.mp4", [picture])
    done = render(StandIns(enet=speaking_enet), clip, RenderOptions(length_mode="cut_off"))
    assert len(done.frames) == 1
    touched = np.any([done.change(k) > 0 for k in range(len(done.frames))], axis=0)
    assert touched.any()
    rows, columns = np.flatnonzero(touched.any(axis=1)), np.flatnonzero(touched.any(axis=0))
    assert rows[-1] - rows[0] < 1.8 * face_px + 25
    assert columns[-1] - columns[0] < 1.6 * face_px
    colors = [(f.u != p.u).sum() for f, p in zip(done.frames, done.plain, strict=True)]
    assert max(colors) <= 4 * touched.sum()


def test_frames_without_a_face_pass_through_and_are_faded_into(render, tmp_path) -> None:
    face, empty = portrait(130, 340, 320, 170, 150), backdrop(340, 320)
    clip = write_clip(tmp_path / "gap.mp4", [face] * 2 + [empty] + [face])
    done = render(StandIns(enet=lambda s, x, r, noises=None: (r * 0.5, r)), clip)
    assert [done.same(k) for k in range(FRAMES)] == [False, False, True, False]
    assert done.change(0).mean() > done.change(1).mean() > 0
    assert done.report.faceless_ranges_s == [(0.08, 0.12)]
    assert done.report.face_coverage == pytest.approx(3 / 4)


def test_missing_faces_can_fail_the_job(render, tmp_path) -> None:
    face, empty = portrait(130, 340, 320, 170, 150), backdrop(340, 320)
    clip = write_clip(tmp_path / "gap.mp4", [face] * 2 + [empty] + [face])
    with pytest.raises(FaceMissingError) as caught:
        render(StandIns(), clip, RenderOptions(missing_face="fail"))
    assert caught.value.details["ranges_s"] == [(0.08, 0.12)]


@pytest.mark.parametrize("network", ["dnet", "gpen512", "enet", "gfpgan", "deep3d", "parsenet"])
def test_nan_never_ships(render, clip, tmp_path, network: str) -> None:
    class Broken(StandIns):
        def get(self, name: str):
            plain = super().get(name)
            return (lambda *a, **k: _spoiled(plain(*a, **k))) if name == network else plain

    with pytest.raises(EngineFaultError, match=network):
        render(Broken(), clip)
    assert list(tmp_path.iterdir()) == []


def test_a_constant_picture_never_ships(render, clip, tmp_path) -> None:
    with pytest.raises(EngineFaultError, match="single color"):
        render(StandIns(gfpgan=torch.zeros_like), clip)
    assert list(tmp_path.iterdir()) == []


def test_batches_do_not_change_the_result(render, clip, loud) -> None:
    four = render(StandIns(enet=speaking_enet), clip, batch_size=4)
    for k in range(FRAMES):
        assert np.abs(loud.frames[k].y.astype(int) - four.frames[k].y).max() <= 1


def test_equal_jobs_give_equal_frames(render, clip, loud) -> None:
    again = render(StandIns(enet=speaking_enet), clip)
    assert all(np.array_equal(a.y, b.y) for a, b in zip(loud.frames, again.frames, strict=True))


def test_too_little_memory_halves_the_batch(render, clip) -> None:
    networks = StandIns(fits=1)
    done = render(networks, clip, batch_size=4)
    assert done.report.frames == FRAMES
    assert networks.asked["dnet"][:3] == [4, 2, 1]


def test_upper_face(render, clip, calm) -> None:
    surprised = render(StandIns(), clip, RenderOptions(upper_face="surprise"))
    brighter = surprised.frames[2].y.astype(int) - calm.frames[2].y
    assert brighter[110:140, 140:200].mean() > 5
    assert np.abs(brighter[195:215, 150:195]).mean() < 3


def test_one_shot_shows_the_expression_network_one_picture(render, clip) -> None:
    seen = []

    def dnet(image, semantics):
        seen.append((image.clone(), semantics.clone()))
        return StandIns()._dnet(image, semantics)

    render(StandIns(dnet=dnet), clip, RenderOptions(one_shot=True), batch_size=1)
    assert all(torch.equal(image, seen[0][0]) for image, _ in seen)
    assert any(not torch.equal(semantics, seen[0][1]) for _, semantics in seen)


def test_expression_from_a_picture(render, clip, tmp_path_factory) -> None:
    picture = tmp_path_factory.mktemp("picture") / "smile.png"
    cv2.imwrite(str(picture), portrait(150, 340, 320, 170, 150))
    seen = []

    def dnet(image, semantics):
        seen.append(semantics[:, :64])
        return StandIns()._dnet(image, semantics)

    render(StandIns(dnet=dnet), clip, RenderOptions(expression=str(picture)))
    assert all((rows == rows[:, :, :1]).all() for rows in seen)
    assert float(seen[0].abs().max()) > 0
    cv2.imwrite(str(picture), backdrop(340, 320))
    with pytest.raises(FaceNotFoundError, match="expression"):
        render(StandIns(), clip, RenderOptions(expression=str(picture)))


def test_smile_needs_its_file(render, clip) -> None:
    assert VideoRetalkingEngine(StandIns()).capabilities.unsupported_options == {
        "transcript": (),
        "expression": ("smile",),
    }
    with pytest.raises(OptionUnsupportedError, match="smile"):
        render(StandIns(), clip, RenderOptions(expression="smile"))


def test_untrained_weights_are_named_in_report_and_file(render, clip, tmp_path) -> None:
    done = render(StandIns(), clip, synthetic_weights=True)
    assert done.report.synthetic_weights
    assert done.report.notes[0].code == "synthetic_weights"
    with av.open(str(tmp_path / "result.mp4")) as container:
        assert "SYNTHETIC WEIGHTS" in container.metadata["comment"]
        assert len(container.streams.audio) == 1


def test_a_face_without_parts_is_told(render, clip) -> None:
    nothing = torch.zeros(1, 19, 512, 512)
    nothing[:, 0] = 1
    done = render(StandIns(parsenet=lambda x: (nothing.expand(len(x), -1, -1, -1), x)), clip)
    assert all(done.same(k) for k in range(FRAMES))
    zero, note = done.report.notes
    assert zero.code == "expression_zero", "there is no expression.mat"
    assert note.code == "face_parts_not_found"
    assert note.ranges_s == ((0.0, pytest.approx(done.report.duration_s, abs=1e-3)),)


def _spoiled(result: object) -> object:
    if isinstance(result, torch.Tensor):
        result = result.contiguous().clone()
        result[(0,) * result.ndim] = float("nan")
        return result
    parts = [_spoiled(part) for part in result]
    return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)


def test_kernels_do_not_change_within_a_render_and_the_report_names_them(
    clip: Path, speech: Path, tmp_path: Path
) -> None:
    networks = StandIns()
    networks.kernel_state = "plain"
    engine = VideoRetalkingEngine(networks)
    engine.turns = Turns(idle_s=0, patience_s=0)
    during: list[str | None] = []

    def swap() -> None:
        with engine.turns.between_jobs():
            networks.kernel_state = "compiled"

    def watch(_: Progress) -> None:
        if len(during) == 1:  # the first word comes before the turn
            thread.start()
        during.append(engine.kernels)

    thread = threading.Thread(target=swap)
    first = render_files(engine, clip, speech, tmp_path / "first.mp4", RenderOptions(), watch)
    thread.join(30)
    assert first.kernels == "plain"
    assert len(during) > 2
    assert set(during) == {"plain"}
    second = render_files(engine, clip, speech, tmp_path / "second.mp4", RenderOptions(), ignore_progress)
    assert second.kernels == "compiled"


def test_a_job_that_waits_for_kernels_can_be_canceled(clip: Path, speech: Path, tmp_path: Path) -> None:
    engine, seen = VideoRetalkingEngine(StandIns()), list[int]()

    def cancel(progress: Progress) -> None:
        seen.append(progress.done)
        if progress.done == 2:
            raise RenderCanceled("no longer wanted")

    with engine.turns.between_jobs(), pytest.raises(RenderCanceled):
        render_files(engine, clip, speech, tmp_path / "result.mp4", RenderOptions(), cancel)
    assert seen[-2:] == [1, 2], "waiting counts as progress"
    assert not list(tmp_path.iterdir())
    render_files(engine, clip, speech, tmp_path / "result.mp4", RenderOptions(), ignore_progress)
