"""A real engine with a script: it writes a playable file, and meanwhile does what `seed` selects.

The seed is the only option that means nothing else to a copy, so one worker process serves every behaviour.
"""

from __future__ import annotations

import os
import signal
import time
from enum import IntEnum
from fractions import Fraction
from pathlib import Path

import av

from retalking_core.clip_plan import ClipPlan
from retalking_core.engine import EngineCapabilities
from retalking_core.errors import EngineFaultError, FaceNotFoundError
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ProgressHook
from retalking_core.types import RenderReport

BATCH_S = 0.05


class Act(IntEnum):
    COPY = 0
    """Remux, with two words of progress."""
    CRASH_ONCE = 1
    """SIGKILL to itself in the first attempt (told apart by a mark beside the data), then like COPY."""
    CRASH = 2
    """SIGKILL to itself, always."""
    SLOW = 3
    """Progress every BATCH_S for a minute."""
    HANG = 4
    """No sign of life, and deaf to the soft time limit, as inside a call that never comes back to Python."""
    BREAK = 5
    """An exception that nobody expects, with a secret in it."""
    FAULT = 6
    NO_FACE = 7
    NO_MEMORY = 8
    DISK_FULL = 9
    STUBBORN = 10
    """Progress that never stops, and swallows the soft time limit."""
    BRIEF = 11
    """Progress for about three seconds, then like COPY."""


class ScriptedEngine:
    """marks: a folder where the engine leaves what must outlive its process."""

    def __init__(self, marks: Path, name: str = "preview") -> None:
        self.capabilities = EngineCapabilities(
            name=name, version="test", device="cpu", description="Copies its input.", unsupported_options={}
        )
        self._marks = marks

    def warm_up(self) -> None:
        self._marks.mkdir(parents=True, exist_ok=True)

    def render(self, clip: ClipPlan, result: Path, options: RenderOptions, progress: ProgressHook) -> RenderReport:
        progress(Progress("analyze", 0.0))
        (self._marks / "folder").write_text(str(result.parent))
        try:
            self._act(Act(options.seed), progress)
        finally:
            (self._marks / "left").write_text(str(time.monotonic()))
        report = remux(clip.video, next(iter(clip.files)), result)
        progress(Progress("synthesize", 1.0, report.frames, report.frames))
        return report

    def _act(self, act: Act, progress: ProgressHook) -> None:
        first = self._marks / "crashed"
        if act is Act.CRASH or (act is Act.CRASH_ONCE and not first.exists()):
            first.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        elif act in (Act.SLOW, Act.BRIEF):
            _work(progress, 60.0 if act is Act.SLOW else 3.0)
        elif act is Act.HANG:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            time.sleep(600)
        elif act is Act.BREAK:
            raise RuntimeError("secret /etc/shadow")
        elif act is Act.FAULT:
            raise EngineFaultError("The picture is not a number.")
        elif act is Act.NO_FACE:
            raise FaceNotFoundError("No face was found in the video.")
        elif act is Act.NO_MEMORY:
            raise MemoryError
        elif act is Act.DISK_FULL:
            raise OSError(28, "No space left on device", "/secret/path")
        elif act is Act.STUBBORN:
            try:
                _work(progress, 60.0)
            except Exception:
                _work(progress, 60.0)


def _work(progress: ProgressHook, seconds: float) -> None:
    began = time.monotonic()
    while (spent := time.monotonic() - began) < seconds:
        time.sleep(BATCH_S)
        progress(Progress("synthesize", spent / seconds, int(spent / BATCH_S)))


def remux(video: Path, audio: Path, result: Path) -> RenderReport:
    """The video's packets and the speech as AAC, in one file."""
    with av.open(str(video)) as pictures, av.open(str(audio)) as speech, av.open(str(result), "w") as out:
        source = pictures.streams.video[0]
        target = out.add_stream_from_template(source)
        voice = out.add_stream("aac", rate=speech.streams.audio[0].rate)
        for packet in pictures.demux(source):
            if packet.dts is not None:
                packet.stream = target
                out.mux(packet)
        for frame in speech.decode(audio=0):
            frame.pts = None
            out.mux(voice.encode(frame))
        out.mux(voice.encode(None))
        return RenderReport(
            engine="preview",
            engine_version="test",
            device="cpu",
            frames=source.frames,
            fps=Fraction(source.average_rate or 25),
            duration_s=float(source.duration * source.time_base),
            width=source.width,
            height=source.height,
            face_coverage=1.0,
            faceless_ranges_s=[],
            stage_times_s={"synthesize": 0.1},
        )
