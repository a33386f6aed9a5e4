"""A render process grows until it has met every kind of media, and no further: what looks like a leak in its first
minutes is decoders that are set up once, and a heap that keeps the size that the largest picture needed."""

from __future__ import annotations

import gc
import multiprocessing
import resource
from pathlib import Path

import pytest

from bench.soak_hostile import covered_speech, hostile_set, huge_video
from retalking_core.engine import render_files
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.errors import RetalkingError
from retalking_core.media.limits import MediaLimits
from retalking_core.options import RenderOptions
from retalking_core.progress import ignore_progress
from tests.faults.hostile_bases import speeches, videos

pytestmark = [pytest.mark.faults, pytest.mark.faults_long]

ROUNDS, WARM_UP_ROUNDS = 8, 4
# Of the hostile files, for each round.
EVERY = 12
LIMITS = MediaLimits(max_video_s=20, max_audio_s=20)
# The size after a round varies by up to 25 MB. A megabyte lost with each file would be 40 MB a round.
NOISE_MB = 40


def _inputs() -> list[tuple[bytes, bytes]]:
    face, speech = videos()["png"], speeches()["wav"]
    rows = [(face, speech), (videos()["mp4"], speech), (huge_video(), speech), (face, covered_speech())]
    for file in hostile_set()[::EVERY]:
        rows.append((file.content, speech) if file.slot == "video" else (face, file.content))
    return rows


def _render_in_rounds(rows: list[tuple[bytes, bytes]], folder: Path, sizes_mb: multiprocessing.Queue[float]) -> None:
    engine = PreviewEngine()
    engine.warm_up()
    video, audio = folder / "video", folder / "audio"
    for _ in range(ROUNDS):
        for picture, sound in rows:
            video.write_bytes(picture)
            audio.write_bytes(sound)
            try:
                render_files(engine, video, audio, folder / "result.mp4", RenderOptions(), ignore_progress, LIMITS)
            except RetalkingError:
                continue
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        sizes_mb.put(pages * resource.getpagesize() / 1e6)


@pytest.mark.timeout(1200)
def test_hostile_media_leave_a_process_as_large_as_the_first_rounds_made_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    sizes_mb: multiprocessing.Queue[float] = context.Queue()
    process = context.Process(target=_render_in_rounds, args=(_inputs(), tmp_path, sizes_mb))
    process.start()
    sizes = [sizes_mb.get(timeout=600) for _ in range(ROUNDS)]
    process.join()
    assert process.exitcode == 0
    print("MB after each round:", [round(size) for size in sizes])
    assert min(sizes[-2:]) < sizes[WARM_UP_ROUNDS - 1] + NOISE_MB, sizes
