"""What a second face costs: `python -m bench.lines [--repeat N]` prints one face against two at equal frames. With
RETALKING_MEDIA_DIR, also how well two real faces follow their own speech, and the other's: bars 0.6 and 0.2.

The scene is made on the spot (tests/media/dialogs.py); each face speaks on every frame. The preview engine on the CPU,
and where CUDA is, the neural engine with generated weights. Drawing grows with the faces; one decode and one encode
serve both. The bar: two faces take at most 2.1 times the synthesis of one.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.engine import timed
from retalking_core.clip_plan import plan_clip
from retalking_core.engine import Engine, render_files
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.lines import LineInput
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.options import RenderOptions
from retalking_core.progress import ignore_progress
from retalking_core.types import RenderReport
from tests.media.dialogs import make_dialog, make_real_dialog, measure_following

SECONDS, BAR = 3.0, 2.1
# Decoding, encoding and following faces are no synthesis.
NOT_DRAWING = ("read", "analyze", "encode", "synthesize")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dialog = make_dialog(Path(folder), SECONDS)
        lines = [
            LineInput(dialog.first, end_s=SECONDS, face="left_most"),
            LineInput(dialog.second, end_s=SECONDS, face="right_most"),
        ]
        print(f"{'engine':<16}{'faces':>6}{'wall s':>9}{'drawing s':>11}{'ms/frame':>10}")
        for name, engine in _engines(Path(folder)):

            def render(spoken: list[LineInput], engine: Engine = engine) -> RenderReport:
                result = Path(folder) / "result.mp4"
                return render_files(engine, dialog.video, spoken, result, RenderOptions(), ignore_progress)

            one, two = (_best(name, spoken, render, arguments.repeat) for spoken in (lines[:1], lines))
            print(f"{name}: two faces take {two / one:.2f} times the drawing of one (bar {BAR})")
        if media := os.environ.get("RETALKING_MEDIA_DIR"):
            _print_following(Path(media), Path(folder))


def _print_following(media: Path, folder: Path) -> None:
    """By the preview engine: generated weights speak nothing."""
    scene, result, options = make_real_dialog(media, folder), folder / "real-result.mp4", RenderOptions()
    engine = PreviewEngine()
    with plan_clip(scene.video, scene.lines, options, DEFAULT_LIMITS) as clip:
        report = engine.render(clip, result, options, ignore_progress)
        for side, face in zip(("left", "right"), measure_following(clip, report, result), strict=True):
            print(f"{side}: mouth and own speech r {face.own:.2f}, other's {face.other:.2f}; aimed at {face.aimed:.2f}")


def _best(name: str, lines: list[LineInput], render: Callable[[list[LineInput]], RenderReport], repeat: int) -> float:
    """Seconds of drawing of the fastest of some runs."""
    runs = [timed(lambda: render(lines)) for _ in range(max(1, repeat))]
    best = min(runs, key=lambda run: _drawing_s(run.report))
    drawing_s, frames = _drawing_s(best.report), best.report.frames
    print(f"{name:<16}{len(lines):>6}{best.wall_s:>9.2f}{drawing_s:>11.3f}{1000 * drawing_s / frames:>10.2f}")
    return drawing_s


def _drawing_s(report: RenderReport) -> float:
    return sum(seconds for stage, seconds in report.stage_times_s.items() if stage not in NOT_DRAWING)


def _engines(folder: Path) -> Iterator[tuple[str, Engine]]:
    preview = PreviewEngine()
    preview.warm_up()
    yield "preview", preview
    try:
        import torch
    except ImportError:
        return
    if not torch.cuda.is_available():
        return
    from bench.compiled import compile_now
    from retalking_core.engines.videoretalking.engine import VideoRetalkingEngine
    from retalking_core.networks.inference import fast_variants
    from retalking_core.weights.store import NetworkStore
    from retalking_core.weights.synthesis import synthesize
    from retalking_core.weights.table import ENGINE_WEIGHTS

    synthesize(folder / "weights", 1, ENGINE_WEIGHTS)
    store = NetworkStore(folder / "weights", "cuda", fast_variants(16))
    neural = VideoRetalkingEngine(store, limits=DEFAULT_LIMITS, synthetic_weights=True)
    neural.warm_up()
    compile_now(store, 16)
    yield "videoretalking", neural


if __name__ == "__main__":
    main()
