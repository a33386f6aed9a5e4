"""A render whose every frame is compared with what was decoded, on its way to the encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from retalking_core.engine import render_files
from retalking_core.engines.preview import engine as preview
from retalking_core.engines.preview.engine import Box
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ProgressHook
from retalking_core.types import Frame, RenderReport


@dataclass
class Watched:
    """What went to the encoder: per frame its box, whether the rest equals the decode, its mean change, a hash."""

    report: RenderReport | None = None
    boxes: list[Box | None] = field(default_factory=list)
    outside_equal: list[bool] = field(default_factory=list)
    inside_change: list[float] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)


def render_watched(
    engine: preview.PreviewEngine,
    video: Path,
    audio: Path,
    result: Path,
    patch: pytest.MonkeyPatch,
    options: RenderOptions | None = None,
    hook: ProgressHook | None = None,
) -> Watched:
    """Render, comparing each frame that leaves the engine with a second, independent decode of the input."""
    options, watched, drawn = options or RenderOptions(), Watched(), preview.synthesize

    def observed(scene, source, clock) -> Iterator[tuple[Frame, Box | None]]:
        decoded = open_video(video, DEFAULT_LIMITS, options.fps).frames_at(scene.timeline.source_index.tolist())
        for (frame, box), plain in zip(drawn(scene, source, clock), decoded, strict=True):
            watched.boxes.append(box)
            watched.outside_equal.append(_equal_outside(frame, plain, box))
            watched.inside_change.append(float(np.abs(frame.y.astype(np.int16) - plain.y).mean()))
            watched.digests.append(
                hashlib.sha256(b"".join(p.tobytes() for p in (frame.y, frame.u, frame.v))).hexdigest()
            )
            yield frame, box

    def note(step: Progress) -> None:
        watched.progress.append(step)
        if hook is not None:
            hook(step)

    with patch.context() as context:
        context.setattr(preview, "synthesize", observed)
        watched.report = render_files(engine, video, audio, result, options, note)
    return watched


def _equal_outside(frame: Frame, plain: Frame, box: Box | None) -> bool:
    for new, old, step in ((frame.y, plain.y, 1), (frame.u, plain.u, 2), (frame.v, plain.v, 2)):
        outside = np.ones(old.shape, bool)
        if box is not None:
            x0, y0, x1, y1 = (v // step for v in box)
            outside[y0:y1, x0:x1] = False
        if not np.array_equal(new[outside], old[outside]):
            return False
    return True
