"""`retalking run`: the engine without a server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Ended, media_seconds

Call = Callable[..., Ended]


def test_a_video_is_rendered_here(call: Call, tmp_path: Path, portrait: Path, short_speech: Path) -> None:
    done = call("run", str(portrait), str(short_speech), "-o", "made/out.mov")
    assert done.code == 0, done.err
    assert done.out == "made/out.mov\n"
    picture_s, sound_s, frame_s = media_seconds(tmp_path / "made" / "out.mov")
    assert abs(picture_s - sound_s) <= frame_s
    assert abs(sound_s - 1.3) <= frame_s
    for word in ("analyse", "synthesise", "x real time", "by the engine `preview`"):
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
