"""The report page: one HTML file with everything inside, its charts drawn by matplotlib as SVG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from retalking_core.evaluation.clip_scores import ClipCurves, ClipScores, Curve, SyncCurve, means
from retalking_core.evaluation.metric import MetricValue
from retalking_core.evaluation.metrics import METRICS
from retalking_core.evaluation.report.pictures import Strip

WIDTH_IN, HEIGHT_IN = 9.0, 1.9
# Where the time axis lies in the width of a chart: the page draws its playhead there.
LEFT, RIGHT = 0.07, 0.985
INK, BLUE, ORANGE, GRAY = "#1f2933", "#2563a8", "#d9730d", "#9aa5b1"
STYLE = {
    "svg.fonttype": "none",  # text stays text
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def mouth_chart(curves: ClipCurves) -> str | None:
    """Measured mouth opening against speech energy over time."""
    if not curves.mouth_opening or not curves.speech_level:
        return None
    figure, axes = _time_axes(curves, len(curves.mouth_opening))
    times_s = np.arange(len(curves.speech_level)) / curves.fps
    axes.fill_between(times_s, 0, _array(curves.speech_level), color=ORANGE, alpha=0.25, lw=0, label="speech energy")
    opening = _array(curves.mouth_opening)
    top = float(np.nanmax(opening)) if np.isfinite(opening).any() else 0.0
    if top > 0:
        axes.plot(np.arange(len(opening)) / curves.fps, opening / top, color=BLUE, lw=1.3, label="mouth opening")
    axes.set_ylim(0, 1.25)
    axes.set_yticks([0, 0.5, 1])
    axes.set_ylabel("share of the largest")
    axes.legend(loc="upper right", ncols=2, frameon=False, fontsize=8)
    return _svg(figure)


def ssim_chart(curves: ClipCurves) -> str | None:
    """SSIM of each frame; the lowest one marked."""
    if not curves.ssim:
        return None
    figure, axes = _time_axes(curves, max(len(curves.ssim), len(curves.mouth_opening)))
    values = _array(curves.ssim)
    times_s = np.arange(len(values)) / curves.fps
    axes.plot(times_s, values, color=BLUE, lw=1.3)
    worst = int(np.nanargmin(values))
    axes.plot(times_s[worst], values[worst], "o", color=ORANGE, ms=5)
    axes.annotate(
        f"{values[worst]:.4f}", (times_s[worst], values[worst]), xytext=(6, 2), textcoords="offset points", fontsize=8
    )
    axes.set_ylabel("SSIM")
    axes.ticklabel_format(axis="y", useOffset=False)
    return _svg(figure)


def sync_chart(name: str, curve: SyncCurve) -> str:
    """SyncNet's distance over the shifts, drawn over the AV offset; the minimum (LSE-D) and the median marked."""
    distances = _array(curve.distances)
    shifts = len(distances) // 2
    offsets = shifts - np.arange(len(distances))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN / 2, 2.2))
        axes = figure.subplots()
        figure.subplots_adjust(left=0.13, right=0.97, bottom=0.2, top=0.88)
        axes.plot(offsets, distances, color=BLUE, lw=1.3, marker=".", ms=4)
        axes.axhline(float(np.median(distances)), color=GRAY, lw=0.8, ls="--")
        low = float(distances.min())
        axes.plot(curve.offset_frames, low, "o", color=ORANGE, ms=7)
        axes.set_title(
            f"{name} protocol: smallest distance {low:.3f} at {curve.offset_frames:+d}", fontsize=9, loc="left"
        )
        axes.set_xlabel("AV offset in frames (positive: the picture is late)")
        axes.set_ylabel("mean distance")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _svg(figure)


def _time_axes(curves: ClipCurves, frames: int) -> tuple[Figure, Axes]:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN))
        axes = figure.subplots()
    figure.subplots_adjust(left=LEFT, right=RIGHT, bottom=0.24, top=0.95)
    axes.set_xlim(0, frames / curves.fps)
    axes.set_xlabel("seconds")
    return figure, axes


def _array(curve: Curve | Sequence[float]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in curve], np.float64)


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


UNIT_FREE = "-"


@dataclass(frozen=True)
class ClipSection:
    """One clip of the page. title: shown as it is, escaped. players: result.mp4, reference.mp4, as far as there are.
    notes: sentences about the render."""

    title: str
    scores: ClipScores
    players: Sequence[Path] = ()
    strips: Sequence[Strip] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ReportPage:
    """heading: what was evaluated. facts: lines under it. set_metrics: numbers about the whole set, as FID."""

    heading: str
    facts: Sequence[str]
    clips: Sequence[ClipSection]
    set_metrics: Sequence[MetricValue] = field(default_factory=tuple)


def write_page(page: ReportPage, target: Path) -> None:
    """Raises OSError when it cannot be written."""
    environment = Environment(
        loader=PackageLoader("retalking_core.evaluation.report", "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": format_number, "data_uri": data_uri}
    html = environment.get_template("report.html").render(
        page=page,
        table=METRICS,
        columns=_columns(page.clips),
        means=means([clip.scores for clip in page.clips]),
        clips=[_drawn(clip) for clip in page.clips],
        synthetic=any(clip.scores.synthetic_weights for clip in page.clips),
        axis={"left": LEFT, "right": RIGHT},
    )
    partial = target.with_name(f".{target.name}.part")
    partial.write_text(html, encoding="utf-8")
    partial.replace(target)


def format_number(value: float | None) -> str:
    return UNIT_FREE if value is None else f"{value:.4g}"


def data_uri(content: bytes | str, kind: str) -> str:
    raw = content.encode() if isinstance(content, str) else content
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


def _columns(clips: Sequence[ClipSection]) -> list[str]:
    """Metrics that at least one clip has a number for."""
    return [name for name in METRICS if any(clip.scores.value(name) is not None for clip in clips)]


def _drawn(clip: ClipSection) -> dict[str, Any]:
    curves = clip.scores.curves
    timed = (("Mouth opening and speech energy", mouth_chart(curves)), ("SSIM of each frame", ssim_chart(curves)))
    frames = max(len(curves.mouth_opening), len(curves.ssim), 1)
    return {
        "title": clip.title,
        "notes": clip.notes,
        "metrics": clip.scores.metrics,
        "players": {path.stem: path.read_bytes() for path in clip.players},
        "timed": [(title, chart) for title, chart in timed if chart],
        "sync": [sync_chart(name, curve) for name, curve in curves.sync.items()],
        "strips": clip.strips,
        "duration_s": frames / curves.fps,
    }
