"""What the evaluation costs beside the render: `python -m bench.evaluation VIDEO SPEECH [--models DIR] [--repeat N]`.

Renders with the preview engine and evaluates the result as a worker does (every metric whose checkpoints are in DIR, or
that needs none), in the same process, so that both see the same machine. CPU time is what the process used on all
cores: on a busy machine it tells more than the wall clock. The smallest of N runs counts, for each of the two by
itself.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from retalking_core.clip_plan import plan_clip
from retalking_core.engine import render_files
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.evaluation.clip import EvaluationModels
from retalking_core.evaluation.measurement import EarlyLooks, Measurement
from retalking_core.evaluation.metrics import MetricValue, available_metrics, looks_of, measure_all
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.options import RenderOptions
from retalking_core.progress import ignore_progress

T = TypeVar("T")
Cost = tuple[float, float]
# What is timed by itself, too: each with a pass of its own over the files.
ALONE = ("ssim", "psnr_outside_face", "cpbd", "mouth_speech_correlation", "lse_d_frame", "lse_d_face", "csim")


def main() -> None:
    """Print CPU and wall seconds of the render and of the evaluation, their shares, and some metrics alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--models", type=Path, help="folder of weight files; without it no network judges")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    video, speech, repeat = arguments.video, arguments.speech, max(1, arguments.repeat)
    options = RenderOptions()
    engine = PreviewEngine()
    engine.warm_up()
    clip = plan_clip(video, speech, options, DEFAULT_LIMITS)
    models = None if arguments.models is None else EvaluationModels(arguments.models)
    names = available_metrics(models)
    apart = [name for name in ALONE if name in names]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.mp4"
        renders, evaluations, besides, alone = [], [], [], {name: [] for name in apart}
        draft = Measurement(*(result, clip.speech, None, DEFAULT_LIMITS, video, clip.timeline.source_index, models))

        def render_and_evaluate() -> list[MetricValue]:
            """As a worker does it: frames are looked at while later ones are drawn."""
            with EarlyLooks(draft, looks_of(draft, names)) as early:
                report = engine.render(replace(clip, tap=early.tap), result, options, ignore_progress)
                return measure_all(replace(draft, report=report, early=early), names)

        for _ in range(repeat):
            cost, _ = timed(render_and_evaluate)
            besides.append(cost)
            cost, report = timed(lambda: render_files(engine, video, speech, result, options, ignore_progress))
            renders.append(cost)
            for wanted, costs in ((names, evaluations), *(([name], alone[name]) for name in apart)):
                measurement = Measurement(
                    result, clip.speech, report, DEFAULT_LIMITS, video, clip.timeline.source_index, models
                )
                cost, values = timed(lambda m=measurement, w=wanted: measure_all(m, w))
                costs.append(cost)
                if wanted is names:
                    numbers = values
    for each in numbers:
        print(f"{each.name:<28}{each.reason if each.value is None else f'{each.value:.4g}'}")
    print(f"{video.name}: {report.width}x{report.height}, {report.frames} frames, the smallest of {repeat} runs")
    print(f"{'':<28}{'cpu s':>8}{'wall s':>8}{'cpu share':>11}{'wall share':>11}")
    render = smallest(renders)
    for name, costs in (
        ("render", renders),
        ("evaluation", evaluations),
        ("both, beside each other", besides),
        *alone.items(),
    ):
        cpu_s, wall_s = smallest(costs)
        print(f"{name:<28}{cpu_s:>8.2f}{wall_s:>8.2f}{cpu_s / render[0]:>11.0%}{wall_s / render[1]:>11.0%}")


def timed(work: Callable[[], T]) -> tuple[Cost, T]:
    """(CPU, wall) seconds and what came of it."""
    cpu, wall = time.process_time(), time.perf_counter()
    done = work()
    return (time.process_time() - cpu, time.perf_counter() - wall), done


def smallest(costs: list[Cost]) -> Cost:
    return min(cpu for cpu, _ in costs), min(wall for _, wall in costs)


if __name__ == "__main__":
    main()
