"""What `retalking bench` measures: the cases, the figures of each, and how they are told."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.clips import CANVASES

# The length that the original was measured on: 109 frames of the clip at 22.131 frames a second.
SHORT_S, LONG_S, LONGEST_S = 109 * 61 / 1350, 60.0, 600.0
FAST_BATCH = 16
SLOWER_BY = 1.1


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    name: str
    canvas: str = "700x700"
    seconds: float = SHORT_S
    mode: str = "fast"
    batch: int = FAST_BATCH
    cached: bool = False


@dataclass
class Figures:
    """Of one case. gpu_busy: share of the synthesis, 0..1, and peak_gpu_gib, of the whole device, by NVML.
    host_gib: the most in each third of the time. step times: of the device."""

    case: Case
    frames: int
    wall_s: float
    all_wall_s: list[float]
    stages_s: dict[str, float]
    peak_gpu_gib: float | None
    host_gib: list[float]
    gpu_busy: float | None
    face_cache: str
    notes: list[str] = field(default_factory=list)


CASES = (
    *(Case(canvas.name, canvas.name) for canvas in CANVASES),
    Case("700x700, cache hit", cached=True),
    Case("1080p, 60 s", "1080p", LONG_S),
    Case("700x700, 60 s", "700x700", LONG_S),
    Case("1080p, 10 min", "1080p", LONGEST_S),
    Case("700x700, float32", mode="exact"),
    Case("700x700, batch 8", batch=8),
)


def print_table(figures: list[Figures]) -> None:
    print(
        "\n| case | frames | s | frames/s | GPU busy | GPU GiB | host GiB by thirds | steps of the device, ms a frame |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for each in figures:
        steps = ("cut", "stabilize", "enhance", "lips", "restore", "composite")
        parts = ", ".join(f"{s} {1000 * each.stages_s[s] / each.frames:.2f}" for s in steps if s in each.stages_s)
        walls = ", ".join(f"{s} {each.stages_s[s]:.2f} s" for s in ("read", "analyze", "synthesize", "encode"))
        busy = "" if each.gpu_busy is None else f"{100 * each.gpu_busy:.0f} %"
        gpu = "" if each.peak_gpu_gib is None else f"{each.peak_gpu_gib:.1f}"
        print(
            f"| {each.case.name} | {each.frames} | {each.wall_s:.2f} | {each.frames / each.wall_s:.1f} | {busy} "
            f"| {gpu} | {' '.join(f'{most:.1f}' for most in each.host_gib)} | {parts}; {walls} |"
        )
        for note in each.notes[1:]:
            print(f"  {each.case.name}: {note}")


def slower_cases(document: dict, earlier: dict) -> list[str]:
    """The regression guard: cases of both that take more than a tenth longer now."""
    before = {run["case"]["name"]: run["wall_s"] for run in earlier["runs"]}
    return [
        f"{run['case']['name']}: {run['wall_s']:.2f} s, was {before[run['case']['name']]:.2f} s"
        for run in document["runs"]
        if run["case"]["name"] in before and run["wall_s"] > SLOWER_BY * before[run["case"]["name"]]
    ]
