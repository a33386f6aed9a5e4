"""How fast the preview engine is: `python -m bench.preview VIDEO SPEECH [--repeat N]` prints a table of stage times.

`analyze` and `synthesize` follow each other; `draw` and `encode` overlap inside `synthesize`. CPU time is what the
whole process used on all cores, so on a busy machine it tells more than the wall clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from retalking_core.engine import render_files
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.options import RenderOptions
from retalking_core.progress import ignore_progress


def main() -> None:
    """Render the clip N times and print each stage of the fastest run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    engine = PreviewEngine()
    engine.warm_up()
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(max(1, arguments.repeat)):
            wall, cpu = time.perf_counter(), time.process_time()
            result = Path(folder) / "result.mp4"
            report = render_files(engine, arguments.video, arguments.speech, result, RenderOptions(), ignore_progress)
            runs.append((time.perf_counter() - wall, time.process_time() - cpu, report))
    wall_s, cpu_s, report = min(runs, key=lambda run: run[0])
    print(
        f"{arguments.video.name}: {report.width}x{report.height}, {report.frames} frames at {float(report.fps):.3f} fps"
    )
    print(f"{'stage':<12}{'seconds':>9}{'ms/frame':>10}")
    for name, seconds in report.stage_times_s.items():
        print(f"{name:<12}{seconds:>9.2f}{1000 * seconds / report.frames:>10.1f}")
    print(f"{'wall':<12}{wall_s:>9.2f}{1000 * wall_s / report.frames:>10.1f}")
    print(f"{'cpu':<12}{cpu_s:>9.2f}{1000 * cpu_s / report.frames:>10.1f}")
    print(f"{report.frames / wall_s:.1f} frames a second, {report.duration_s / wall_s:.2f} times real time")


if __name__ == "__main__":
    main()
