"""The whole engine, through its public seat, on clips that are not what an engine likes. Its networks are light ones;
what the encoder was handed is read back from a lossless file and compared with what was decoded."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.track import TrackRequest
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.options import RenderOptions
from tests.engines.lossless import Rendered, darkened, render_lossless, with_faces
from tests.engines.stand_ins import StandIns
from tests.faces.clips import backdrop, portrait, write_clip
from tests.faces.covers import covered
from tests.preview.speech import make_sound, write_wav

Render = Callable[..., Rendered]
FACE_PX = 80


@pytest.fixture
def render(tmp_path: Path, tracker: DlibFaceTracker) -> Render:
    """speech_frames: length of the speech, in frames of 40 ms. Every face it finds is drawn darker."""

    def run(video: Path, speech_frames: int, options: RenderOptions | None = None, **replaced: Callable) -> Rendered:
        speech = write_wav(tmp_path / "speech.wav", make_sound([("a", speech_frames / 25)]))
        networks = StandIns(**({"enet": darkened} | replaced))
        return render_lossless(networks, video, speech, tmp_path, options, tracker=tracker)

    return run


def face_at(x: float, y: float, width: int = 240, height: int = 200) -> np.ndarray:
    return portrait(FACE_PX, width, height, x, y)


def test_thirty_faceless_frames_in_the_middle(render: Render, tmp_path: Path) -> None:
    face, empty = face_at(120, 90), backdrop(240, 200)
    clip = write_clip(tmp_path / "gap.mp4", [face] * 2 + [empty] * 30 + [face] * 2)
    done = render(clip, 34)
    assert [done.same(k) for k in range(34)] == [False] * 2 + [True] * 30 + [False] * 2
    assert done.report.faceless_ranges_s == [(0.08, 1.28)]
    assert done.report.face_coverage == pytest.approx(4 / 34)
    # Faded out and in: least beside the gap.
    amounts = [done.changed(k).mean() for k in (0, 1, 32, 33)]
    assert amounts[0] >= amounts[1] > 0
    assert amounts[3] >= amounts[2] > 0


def test_a_covered_mouth_passes_through(render: Render, tmp_path: Path) -> None:
    mouths = np.full((30, 2), (120, 110), np.float32)
    pictures = covered([face_at(120, 90)] * 30, mouths, 0.7 * FACE_PX, "cup", (12, 20), travel=2)
    done = render(write_clip(tmp_path / "cup.mp4", pictures), 30)
    same = np.array([done.same(k) for k in range(30)])
    assert same[12:20].all()
    assert not same[:10].any()
    assert not same[22:].any()
    start, stop = np.flatnonzero(same)[[0, -1]]
    (note,) = [note for note in done.report.notes if note.code == "mouth_covered"]
    assert note.ranges_s == ((start / 25, (stop + 1) / 25),)
    assert done.report.face_coverage == 1.0
    assert done.report.faceless_ranges_s == []


def test_two_faces_crossing(render: Render, tmp_path: Path) -> None:
    """The left face, in front, walks to the right past the other: it stays the one that speaks."""
    walk = [110 + 20 * k for k in range(7)]
    pictures = [with_faces(backdrop(400, 220), FACE_PX, [(340 - x, 100), (x, 100)]) for x in walk]
    done = render(write_clip(tmp_path / "crossing.mp4", pictures), 7, RenderOptions(face="left_most"))
    assert done.report.face_coverage == 1.0
    for k, x in enumerate(walk):
        assert abs(done.center(k)[0] - x) < 0.3 * FACE_PX, (k, done.center(k), x)


def test_a_rotated_phone_clip(render: Render, tmp_path: Path) -> None:
    """Stored on its side, with the turn that players apply."""
    upright = face_at(100, 110, width=200, height=240)
    clip = write_clip(tmp_path / "phone.mp4", [np.rot90(upright, 1)] * 2, rotation_deg=-90)
    done = render(clip, 2)
    assert (done.report.width, done.report.height) == (200, 240)
    assert done.frames[0].y.shape == (240, 200)
    x, y = done.center(0)
    assert abs(x - 100) < 0.3 * FACE_PX
    assert 90 < y < 110 + FACE_PX


def test_a_variable_rate(render: Render, tmp_path: Path) -> None:
    """Each picture stays as long as it was shown, at the average rate; the source is not replayed frame by frame."""
    times_ms = [0, 20, 40, 60, 80, 200]
    shades = [backdrop(240, 200) // 4 + 40 * k for k in range(6)]
    for k in (0, 5):
        shades[k] = face_at(120, 90)
    clip = write_clip(tmp_path / "variable.mp4", shades, times_ms=times_ms)
    done = render(clip, 5)
    info = open_video(clip, DEFAULT_LIMITS).info
    assert done.report.fps == info.fps
    shown_at = np.arange(done.report.frames) / float(done.report.fps)
    for time_s, frame in zip(shown_at, done.plain, strict=True):
        distances_s = abs(info.frame_times_s - time_s)
        assert distances_s[frame.index] <= distances_s.min() + 1e-9, "halfway between two pictures either will do"
    assert not done.same(0)
    assert sum(done.same(k) for k in range(done.report.frames)) >= 2


@pytest.mark.parametrize("mode", ["loop", "bounce"])
def test_speech_three_times_the_video(render: Render, tmp_path: Path, mode: str) -> None:
    """At the turns the result moves as much as its source does there, and the effect neither fades nor pops."""
    clip = write_clip(tmp_path / "short.mp4", [face_at(116 + 3 * k, 90) for k in range(3)])
    done = render(clip, 9, RenderOptions(length_mode=mode))
    order = [frame.index for frame in done.plain]
    assert order == [0, 1, 2, 0, 1, 2, 0, 1, 2] if mode == "loop" else order == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    made, plain = (
        [np.abs(b.y.astype(int) - a.y).mean() for a, b in pairwise(frames)] for frames in (done.frames, done.plain)
    )
    for new, old in zip(made, plain, strict=True):
        assert new < 1.1 * old + 0.1, (made, plain)
    amounts = [np.abs(a.y.astype(int) - b.y).mean() for a, b in zip(done.frames, done.plain, strict=True)]
    assert max(amounts) < 1.15 * min(amounts), amounts
    if mode == "bounce":
        assert max(plain) < 2 * min(plain)


def test_two_frames(render: Render, tmp_path: Path) -> None:
    done = render(write_clip(tmp_path / "two.mp4", [face_at(120, 90), face_at(122, 90)]), 3)
    assert done.report.frames == 3
    assert not any(done.same(k) for k in range(3))


def test_a_face_leaves_the_frame(render: Render, tmp_path: Path) -> None:
    walk = [120, 140, 165, 195, 230, 300, 300, 300, 300]
    done = render(write_clip(tmp_path / "leaves.mp4", [face_at(x, 90) for x in walk]), 9)
    untouched = [done.same(k) for k in range(9)]
    assert untouched[:3] == [False] * 3
    assert untouched[5:] == [True] * 4
    (start, stop) = done.report.faceless_ranges_s[-1]
    assert 0.12 <= start <= 0.2
    assert stop == 0.36


@pytest.mark.parametrize(
    ("width", "height", "face_px", "count"), [(700, 700, 150, 2), (1920, 1080, 110, 2), (3840, 2160, 180, 1)]
)
def test_outside_the_face_every_sample_is_the_decoded_one(
    tmp_path: Path, tracker: DlibFaceTracker, width: int, height: int, face_px: int, count: int
) -> None:
    pictures = [portrait(face_px, width, height, width / 2 + 8 * k, height * 0.45) for k in range(count)]
    rng = np.random.default_rng(7)
    for picture in pictures:  # fine lines, which no resampling leaves as they are
        picture[::32] = rng.integers(60, 200, (len(picture[::32]), width, 3))
    clip = write_clip(tmp_path / "clip.mp4", pictures)
    speech = write_wav(tmp_path / "speech.wav", make_sound([("a", count / 25)]))
    done = render_lossless(StandIns(enet=darkened), clip, speech, tmp_path, tracker=tracker)
    track = tracker.track(open_video(clip, DEFAULT_LIMITS), TrackRequest(range(count)), lambda _done, _total: None)
    for k in range(count):
        left, top, right, bottom = track.boxes[k]
        margin = 0.6 * (bottom - top)
        region = np.zeros((height, width), bool)
        region[int(top - margin) : int(bottom + margin), int(left - margin) : int(right + margin)] = True
        assert done.changed(k).any()
        assert not done.changed(k)[~region].any()
