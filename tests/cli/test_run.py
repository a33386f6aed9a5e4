"""`retalking run`: the engine without a server."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cli.dataset import Pairing, result_names
from cli.rendering import RenderRequest, open_renderer, open_stages
from jobs.settings import Settings
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.progress import Progress
from retalking_core.vocabulary.options import JobOptions
from tests.cli.conftest import Ended, media_seconds
from tests.media.clips import make_png
from worker.engines import EngineSet

Call = Callable[..., Ended]


def test_a_video_is_rendered_locally(call: Call, tmp_path: Path, portrait: Path, short_speech: Path) -> None:
    done = call("run", str(portrait), str(short_speech), "-o", "made/out.mov")
    assert done.code == 0, done.err
    assert done.out == "made/out.mov\n"
    picture_s, sound_s, frame_s = media_seconds(tmp_path / "made" / "out.mov")
    assert abs(picture_s - sound_s) <= frame_s
    assert abs(sound_s - 1.3) <= frame_s
    for word in ("analyze", "synthesize", "x real time", "whole render", "by the engine `preview`"):
        assert word in done.err
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["out.mov"]


def test_bad_input_is_one_line_and_leaves_nothing(call: Call, tmp_path: Path, portrait: Path) -> None:
    (tmp_path / "speech.wav").write_bytes(b"RIFF")
    done = call("run", str(portrait), "speech.wav", "-o", "made/out.mp4")
    assert done.code == 1
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in done.err
    assert list((tmp_path / "made").iterdir()) == []


def test_options_are_checked_first(call: Call, portrait: Path, short_speech: Path) -> None:
    name = call("run", str(portrait), str(short_speech), "-o", "out.gif")
    assert (name.code, name.err.split(":")[1]) == (2, " invalid_option")
    neural = call("run", str(portrait), str(short_speech), "-o", "out.mp4", "--option", "upper_face=angry")
    assert neural.code == 1
    assert "error: unsupported_option: " in neural.err
    missing = call("run", str(portrait), str(short_speech), "-o", "out.mp4", "--option", "engine=videoretalking")
    assert missing.code == 1
    assert "error: engine_unavailable: " in missing.err


def test_wrong_usage_is_named(call: Call, tmp_path: Path, portrait: Path, short_speech: Path) -> None:
    (tmp_path / "set").mkdir()
    files = [str(portrait), str(short_speech)]
    for arguments in (
        [files[0]],
        files,
        [*files, "--dataset", "set"],
        ["--dataset", "set"],
        [*files, "-o", "a.mp4", "--model", "wav2lip"],
        [*files, "-o", "a.mp4", "--expression", "gone.png"],
        [*files, "-o", "a.mp4", "--option", "expression=image"],
    ):
        done = call("run", *arguments)
        assert (done.code, done.err.count("error: ")) == (2, 1), (arguments, done.err)
    assert not (tmp_path / "a.mp4").exists()


def test_every_pairing_of_a_data_set(call: Call, tmp_path: Path, portrait: Path, short_speech: Path) -> None:
    """talkingface-toolkit's layout; one face is no face. A second call renders only what is missing or asked anew."""
    faces, tracks = tmp_path / "set" / "val" / "face", tmp_path / "set" / "val" / "audio"
    for folder in (faces, tracks):
        folder.mkdir(parents=True)
    shutil.copy(portrait, faces / "ann.png")
    make_png(faces / "wall.png", np.full((64, 64, 3), 120, np.uint8))
    shutil.copy(short_speech, tracks / "one.wav")
    shutil.copy(short_speech, tracks / "two.wav")
    asked = ("run", "--dataset", "set", "--engine", "preview", "-o", "made")
    done = call(*asked)
    assert done.code == 1
    assert done.out.split() == ["made/ann__one.mp4", "made/ann__two.mp4"]
    assert "error: clips_failed: 2 of 4 clips failed: wall + one, wall + two." in done.err
    assert "all: synthesize" in done.err
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "made").iterdir()}
    assert set(made) == {"ann__one.mp4", "ann__two.mp4", "renders.json"}
    (tmp_path / "made" / "ann__two.mp4").unlink()
    (faces / "wall.png").unlink()
    again = call(*asked)
    assert again.code == 0, again.err
    assert again.err.count("already rendered") == 1
    assert (tmp_path / "made" / "ann__one.mp4").stat().st_mtime_ns == made["ann__one.mp4"]
    (tracks / "two.wav").unlink()
    other = call(*asked, "--option", "output.crf=30")
    assert other.code == 0, other.err
    assert "already rendered" not in other.err


def test_equal_names_are_numbered() -> None:
    pairs = [Pairing("x", Path(f"{folder}/a.mp4"), Path(f"{folder}/b.wav")) for folder in "pqr"]
    assert result_names(pairs, "mov") == ["a__b.mov", "a__b__2.mov", "a__b__3.mov"]


def test_each_stage_has_a_bar_on_a_terminal() -> None:
    out = io.StringIO()
    display = open_stages(Console(file=out, width=80, force_terminal=True))
    display.begin("load")
    for told in (
        Progress("analyze", 0.0),
        Progress("analyze", 0.1, 3, 3),
        Progress("analyze", 0.15, 1, 3),
        Progress("synthesize", 0.5, 1, 2),
    ):
        display.show(told)
    display.close()
    last = out.getvalue().rsplit("load", 1)[1]
    for line in ("analyze ", "3/3", "analyze 2", "1/1", "synthesize", "1/2"):
        assert line in last


def test_segments_are_read_from_a_file(call: Call, tmp_path: Path, portrait: Path, short_speech: Path) -> None:
    shutil.copy(short_speech, tmp_path / "line.wav")
    listed = tmp_path / "segments.json"
    listed.write_text('[{"audio": "line.wav", "start_s": 0.2, "end_s": 0.6, "face": "left_most"}]')
    done = call("run", str(portrait), "--segments", str(listed), "-o", "out.mp4", "--option", "length_mode=bounce")
    assert done.code == 0, done.err
    assert "Segment 1, 0.20 to 0.60 s: mouth and speech correlate by " in done.err
    picture_s, sound_s, _ = media_seconds(tmp_path / "out.mp4")
    assert picture_s == pytest.approx(0.6)
    assert abs(picture_s - sound_s) < 1024 / 16_000, "one AAC frame"


def test_a_wrong_file_of_segments_is_one_line(call: Call, tmp_path: Path, portrait: Path, short_speech: Path) -> None:
    listed = tmp_path / "segments.json"
    audio = f'"audio": "{short_speech}"'
    for content, words in (
        ("no json", "invalid_request"),
        ("[]", "lists no segment"),
        ('[{"audio": "absent.wav"}]', "file_not_found"),
        (f'[{{{audio}, "start": 1}}]', "0.start"),
        (f'[{{{audio}, "start_s": NaN}}]', "invalid_request"),
        (f'[{{{audio}, "end_s": 0.5}}, {{{audio}, "start_s": 0.2, "end_s": 0.6}}]', "segments_overlap"),
        (f'[{{{audio}, "start_s": -1}}]', "segment_out_of_range"),
    ):
        listed.write_text(content)
        done = call("run", str(portrait), "--segments", str(listed), "-o", "out.mp4")
        assert done.code != 0
        assert words in done.err, done.err
        assert "Traceback" not in done.err
    both = call("run", str(portrait), str(short_speech), "--segments", str(listed), "-o", "out.mp4")
    assert both.code == 2


@pytest.mark.parametrize(
    ("asked", "once", "used"), [("background", True, "plain"), ("background", False, "background")]
)
@pytest.mark.parametrize("waits", [False, True])
def test_one_clip_does_not_begin_to_compile(
    asked: str, once: bool, used: str, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels that are compiled in the background would come after it; who asks to wait for them gets them."""
    seen: list[str] = []

    def load(settings: Settings, *_: object) -> EngineSet:
        seen.append(settings.kernels)
        return EngineSet({"preview": PreviewEngine()})

    monkeypatch.setattr("worker.engines.load_engines", load)
    settings = Settings(_env_file=None, kernels="before_ready" if waits else asked)
    open_renderer(RenderRequest(JobOptions(engine="preview")), settings, Console(), once=once)
    assert seen == ["before_ready" if waits else used]
