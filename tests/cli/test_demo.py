"""`retalking demo`: the main job of the service, as a person starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import RETALKING, clean_environment, media_seconds, run_command
from tests.services import wait_until

pytestmark = pytest.mark.e2e


def test_the_demo_makes_a_video_as_long_as_its_speech(tmp_path: Path) -> None:
    done = run_command("demo", "-o", "made/demo.mp4", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    video = tmp_path / "made" / "demo.mp4"
    picture_s, sound_s, frame_s = media_seconds(video)
    assert abs(picture_s - sound_s) <= frame_s
    assert picture_s > 3

    evaluation = json.loads((tmp_path / "made" / "demo.evaluation.json").read_text())
    assert evaluation["engine"] == "preview"
    assert evaluation["metrics"], "numbers, or reasons why there are none"
    for metric in evaluation["metrics"]:
        assert metric["name"] in done.stdout
    assert str(video) in done.stdout
    assert str(tmp_path / "made" / "demo.evaluation.json") in done.stdout
    shares = [int(share) for share in re.findall(r"^\w+ +(\d+)%", done.stdout, re.MULTILINE)]
    assert shares == sorted(shares)
    assert shares[-1] == 100
    assert "synthesize" in done.stdout
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["demo.evaluation.json", "demo.mp4"]


def test_a_job_that_fails_fails_the_demo(tmp_path: Path, speech: Path) -> None:
    """Noise without a face, as PNG: refused by the worker with the public code."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(3).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    done = run_command("demo", "--video", "noise.png", "--audio", str(speech), "-o", "out.mp4", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("error: face_not_found: ")
    assert not (tmp_path / "out.mp4").exists()


def test_ctrl_c_takes_the_demo_down(tmp_path: Path) -> None:
    """On a terminal: the bar is drawn, and the cursor comes back."""
    leader, follower = os.openpty()
    process = subprocess.Popen(
        [*RETALKING, "demo", "-o", "out.mp4", "--data", str(tmp_path / "data")],
        cwd=tmp_path,
        env=clean_environment(TERM="xterm"),
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    while b"\x1b[?25l" not in shown:  # a stage's name may be over before it is drawn
        shown += os.read(leader, 4096)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    while True:
        try:
            shown += os.read(leader, 4096)
        except OSError:  # the other end is closed: everything that held it is gone
            break
    assert process.wait(60) == 130
    os.close(leader)
    assert b"Stopped." in shown
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l"), "the cursor is shown again"
    wait_until(lambda: not any(each.is_running() for each in family), 10, 0.1, "no process is left")
    assert len(family) >= 5
    assert not (tmp_path / "out.mp4").exists()
