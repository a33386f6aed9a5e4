"""`retalking` as its user starts it: a process of its own, on free ports, in temporary folders."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import psutil
import pytest

from cli.demo_input import write_demo_speech, write_portrait
from cli.main import main
from tests.services import wait_until

RETALKING = [sys.executable, "-P", "-m", "cli.main"]


def clean_environment(**more: str) -> dict[str, str]:
    """Ours without any setting of the service, so that the tests start from the defaults."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RETALKING_")} | more


def run_command(*arguments: str, cwd: Path, timeout_s: float = 120.0, **environment: str) -> CompletedProcess[str]:
    return subprocess.run(
        [*RETALKING, *arguments],
        cwd=cwd,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """A command in this process, standing in tmp_path: much quicker than one of its own."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("RETALKING_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["retalking", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return Ended(ended.value.code or 0, shown.out, shown.err)

    return run


@dataclass
class Up:
    """A running `retalking up`."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text()

    def url(self) -> str:
        """Its address, once it says that it is ready."""

        def find() -> str | None:
            assert self.process.poll() is None, self.text
            ready = re.search(r"Ready at (http://[\d.:]+)", self.text)
            return ready and ready[1]

        return wait_until(find, 60, 0.1, "retalking up is ready")

    def family(self) -> list[psutil.Process]:
        """Itself and everything below it."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def stop(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@pytest.fixture
def start_up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(data: Path, *arguments: str, **environment: str) -> Up:
        log = tmp_path / f"up-{len(started)}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [*RETALKING, "up", "--port", "0", "--data", str(data), *arguments],
                cwd=tmp_path,
                env=clean_environment(**environment),
                stdout=sink,
                stderr=sink,
            )
        started.append(Up(process, log))
        return started[-1]

    yield start
    for up in started:
        if up.process.poll() is None:
            up.stop()


@pytest.fixture(scope="session")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_portrait(tmp_path_factory.mktemp("portrait"))


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    write_demo_speech(path)
    return path


@pytest.fixture(scope="session")
def short_speech(speech: Path) -> Path:
    """The first phrase, 1.3 s."""
    path = speech.with_name("short.wav")
    with wave.open(str(speech)) as whole, wave.open(str(path), "wb") as part:
        part.setparams(whole.getparams())
        part.writeframes(whole.readframes(round(1.3 * whole.getframerate())))
    return path


def media_seconds(path: Path) -> tuple[float, float, float]:
    """Decoded seconds of picture and of sound, and the seconds one frame lasts."""
    import av

    with av.open(str(path)) as container:
        frames = sum(1 for _ in container.decode(video=0))
        rate = container.streams.video[0].average_rate
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        samples = sum(frame.samples for frame in container.decode(audio=0))
        return float(frames / rate), samples / stream.rate, float(1 / rate)
