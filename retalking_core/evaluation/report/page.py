"""Puts the page together: one HTML file, everything inside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from retalking_core.evaluation.clip_scores import ClipScores, means
from retalking_core.evaluation.metric import MetricValue
from retalking_core.evaluation.metrics import METRICS
from retalking_core.evaluation.report.charts import LEFT, RIGHT, mouth_chart, ssim_chart, sync_chart
from retalking_core.evaluation.report.strips import Strip

UNIT_FREE = "-"


@dataclass(frozen=True)
class ClipSection:
    """One clip of the page. title: shown as it is, escaped. players: result.mp4, reference.mp4, as far as there are."""

    title: str
    scores: ClipScores
    players: Sequence[Path] = ()
    strips: Sequence[Strip] = ()


@dataclass(frozen=True)
class ReportPage:
    """heading: what was evaluated. facts: lines under it. set_metrics: numbers about the whole set, as FID."""

    heading: str
    facts: Sequence[str]
    clips: Sequence[ClipSection]
    set_metrics: Sequence[MetricValue] = field(default_factory=tuple)


def write_page(page: ReportPage, target: Path) -> None:
    """Raises OSError when it can not be written."""
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
        "metrics": clip.scores.metrics,
        "players": {path.stem: path.read_bytes() for path in clip.players},
        "timed": [(title, chart) for title, chart in timed if chart],
        "sync": [sync_chart(name, curve) for name, curve in curves.sync.items()],
        "strips": clip.strips,
        "duration_s": frames / curves.fps,
    }
