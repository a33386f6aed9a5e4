"""The HTML report of an evaluation: players, charts (SVG by matplotlib) and frames of every clip in one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from retalking_core.errors import InputError, MetricUnavailableError
from retalking_core.evaluation.frame_pass import face_box
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metrics import METRICS, MetricValue
from retalking_core.evaluation.scores import ClipCurves, ClipScores, Curve, SyncCurve, means
from retalking_core.media.planes import even_box, region_to_bgr
from retalking_core.media.speech import Speech, read_speech, silent_speech
from retalking_core.media.writer import ResultWriter
from retalking_core.options import OutputOptions
from retalking_core.types import FrameSource, Timeline

EACH_END, APART_FRAMES, HEIGHT_PX, MARGIN = 4, 5, 150, 0.35


@dataclass(frozen=True)
class Moment:
    """jpeg: the face in the result, to the right of the same place in the reference where there is one."""

    frame: int
    time_s: float
    score: float
    jpeg: bytes


@dataclass(frozen=True)
class Strip:
    """Moments in order of time. score_name: what they were chosen by."""

    score_name: str
    best: list[Moment]
    worst: list[Moment]


def make_strips(measurement: Measurement, curves: ClipCurves) -> list[Strip]:
    """One strip for SSIM and one for SyncNet's distances, as far as there are such curves."""
    strips = []
    for name, curve, sign in (("SSIM", curves.ssim, 1), ("SyncNet distance", curves.window_distance, -1)):
        if len(curve) < 2 * EACH_END:
            continue
        best, worst = _extremes(curve, sign), _extremes(curve, -sign)
        pictures = _pictures(measurement, sorted({*best, *worst}))
        ends = (
            [Moment(k, k / curves.fps, curve[k] or 0.0, pictures[k]) for k in sorted(chosen) if k in pictures]
            for chosen in (best, worst)
        )
        strips.append(Strip(name, *ends))
    return strips


def _extremes(curve: Curve, sign: int) -> list[int]:
    """Frames with the largest sign * value, none within five frames of another."""
    chosen: list[int] = []
    known = {k: value for k, value in enumerate(curve) if value is not None}
    for number in sorted(known, key=lambda k: -sign * known[k]):
        if all(abs(number - other) >= APART_FRAMES for other in chosen):
            chosen.append(number)
        if len(chosen) == EACH_END:
            break
    return chosen


def _pictures(measurement: Measurement, numbers: list[int]) -> dict[int, bytes]:
    marks = measurement.landmarks
    numbers = [number for number in numbers if number < len(marks)]
    pictures = _cut(measurement.video, numbers, marks[numbers])
    try:
        paired = measurement.paired_index
        known = [number for number in numbers if number < len(paired)]
        beside = _cut(measurement.reference_video, paired[known].tolist(), marks[known])
    except (InputError, MetricUnavailableError):
        known, beside = [], []
    left = dict(zip(known, beside, strict=True))
    return {
        number: _jpeg(cv2.hconcat([left[number], picture]) if number in left else picture)
        for number, picture in zip(numbers, pictures, strict=True)
    }


def _cut(source: FrameSource, numbers: list[int], marks: NDArray[np.float32]) -> list[NDArray[np.uint8]]:
    """BGR pictures, 150 px high and as wide: the face grown by a third, or the whole frame where none is seen."""
    pictures = []
    for frame, points in zip(source.frames_at(numbers), marks, strict=True):
        height, width = frame.y.shape
        box = (0, 0, width, height)
        if np.isfinite(points).all():
            box = face_box(points, width, height, MARGIN)
        if box[2] - box[0] < 2 or box[3] - box[1] < 2:
            box = (0, 0, width, height)
        picture = region_to_bgr(frame, even_box(box, width, height), source.info.color)
        pictures.append(cv2.resize(picture, (HEIGHT_PX, HEIGHT_PX), interpolation=cv2.INTER_AREA))
    return pictures


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


# Enough to see lips; about 150 kB for five seconds.
PLAYER = OutputOptions(crf=26, max_height=420)


def write_players(measurement: Measurement, folder: Path) -> list[Path]:
    """The result, and the reference brought onto the result's own timeline, both with the result's speech.

    Returns the files written: result.mp4, and reference.mp4 where a reference can be opened. Raises media errors of the
    result.
    """
    video = measurement.video
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.arange(video.info.frame_count)
    with _speech(measurement) as speech:
        written = [_write(video, frames, video.info.fps, speech, folder / "result.mp4")]
        if measurement.reference is not None:
            with suppress(InputError):
                reference, paired = measurement.reference_video, measurement.paired_index
                written.append(_write(reference, paired, video.info.fps, speech, folder / "reference.mp4"))
    return written


def _write(source: FrameSource, numbers: NDArray[np.int64], fps: Fraction, speech: Speech, path: Path) -> Path:
    timeline = Timeline(numbers, fps)
    with ResultWriter(path, source.info, timeline, speech.sound, PLAYER, {}) as writer:
        for frame in source.frames_at(numbers.tolist()):
            writer.write(frame)
    return path


def _speech(measurement: Measurement) -> Speech:
    """The result's own sound; silence for a result without any."""
    try:
        return read_speech(measurement.result, measurement.limits)
    except InputError:
        return silent_speech(measurement.video.info.duration_s)


WIDTH_IN, HEIGHT_IN = 9.0, 1.9
# Where the time axis lies in the width of a chart: the page draws its playhead there.
LEFT, RIGHT = 0.07, 0.985
INK, BLUE, ORANGE, GRAY = "#1f2933", "#2563a8", "#d9730d", "#9aa5b1"
STYLE: dict[Any, Any] = {
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
        loader=PackageLoader("retalking_core.evaluation", "."),
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
