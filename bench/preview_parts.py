"""Where the preview engine's CPU time goes: `python -m bench.preview_parts VIDEO SPEECH [--repeat N]`.

Each part by itself, one after the other, so that none waits for another: CPU milliseconds per output frame, of all
threads, the smallest of N runs. The sum is about what `bench.preview` prints as CPU time of the whole.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from retalking_core.audio.visemes import recognize_visemes
from retalking_core.clip_plan import plan_timeline
from retalking_core.engines.preview.engine import PreviewAnalysis, black_level, learn_speaker, synthesize
from retalking_core.engines.preview.mouth_motion import plan_mouth_motion
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.track import TrackRequest
from retalking_core.media.encoder import PictureEncoder
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.media.sources import CachingFrameSource
from retalking_core.media.speech import Speech, read_speech
from retalking_core.media.writer import ResultFile
from retalking_core.options import OutputOptions
from retalking_core.progress import StageClock
from retalking_core.threads import disable_opencv_threads
from retalking_core.types import Frame, Timeline, VideoInfo

T = TypeVar("T")


class PartClock:
    """CPU seconds by part, the smallest of all runs."""

    def __init__(self) -> None:
        self.smallest_s: dict[str, float] = {}

    def of(self, part: str, work: Callable[[], T]) -> T:
        began = time.process_time()
        done = work()
        taken = time.process_time() - began
        self.smallest_s[part] = min(taken, self.smallest_s.get(part, taken))
        return done


def main() -> None:
    """Print one row a part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    disable_opencv_threads()
    tracker, clock, count = DlibFaceTracker(), PartClock(), 0
    tracker.warm_up()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.repeat):
            count = run_once(arguments.video, arguments.speech, Path(folder) / "result.mp4", tracker, clock)
    print(f"{arguments.video.name}: {count} frames, the smallest of {arguments.repeat} runs")
    print(f"{'part':<20}{'cpu ms/frame':>14}")
    for part, seconds in (*clock.smallest_s.items(), ("sum", sum(clock.smallest_s.values()))):
        print(f"{part:<20}{1000 * seconds / count:>14.2f}")


def run_once(video: Path, speech: Path, result: Path, tracker: DlibFaceTracker, clock: PartClock) -> int:
    """Every part once; how many frames there were."""
    opened = clock.of("open the video", lambda: open_video(video, DEFAULT_LIMITS))
    source = CachingFrameSource(opened, DEFAULT_LIMITS.max_held_bytes)
    sound = clock.of("read the speech", lambda: read_speech(speech, DEFAULT_LIMITS))
    waveform = sound.waveform
    timeline = plan_timeline(source.info, waveform.duration_s, "bounce")
    indices = np.unique(timeline.source_index).tolist()
    clock.of("decode", lambda: list(source.frames_at(indices)))
    track = clock.of("follow the face", lambda: tracker.track(source, TrackRequest(indices), lambda done, total: None))
    visemes = clock.of("recognize visemes", lambda: recognize_visemes(waveform))
    motion = clock.of("plan the mouth", lambda: plan_mouth_motion(waveform, timeline, visemes))
    always = np.ones(len(timeline.source_index), bool)
    learned = clock.of("learn the mouth", lambda: learn_speaker(source, timeline, track, motion, always))
    scene = PreviewAnalysis(timeline, (learned,), (0, 0, 0, 0), black_level(source.info))
    frames = clock.of("draw", lambda: [frame for frame, _ in synthesize(scene, source, StageClock())])
    clock.of("encode the frames", lambda: encode_frames(frames, source.info, timeline, result))
    clock.of("encode the speech", lambda: encode_speech(sound, timeline, result))
    return len(frames)


def encode_frames(frames: list[Frame], info: VideoInfo, timeline: Timeline, result: Path) -> None:
    file = ResultFile(result, "mp4", {})
    pictures = PictureEncoder(file.container, info, (info.width, info.height), timeline.fps, OutputOptions())
    file.begin()
    for frame in frames:
        file.mux(pictures.encode(frame), None)
    file.mux(pictures.finish(), None)
    file.discard()


def encode_speech(speech: Speech, timeline: Timeline, result: Path) -> None:
    file = ResultFile(result, "mp4", {})
    file.add_sound(speech.sound, timeline)
    file.begin()
    file.mux([], None)
    file.discard()


if __name__ == "__main__":
    main()
