"""Looks at the frames of a result while it is being rendered; the numbers are those of an evaluation afterwards."""

from __future__ import annotations

import logging
from collections.abc import Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np

from retalking_core.errors import MetricUnavailableError, RenderCanceled
from retalking_core.evaluation.clip import EvaluatedClip
from retalking_core.evaluation.frame_pass import REFERENCE_POINTS, Findings, look_once
from retalking_core.media.tap import ResultTap
from retalking_core.progress import Progress, ProgressHook, ignore_progress

log = logging.getLogger(__name__)


class EarlyLooks:
    """Runs `look_once` in a thread on the frames of `tap`, which belongs into the `ClipPlan` of the render.

    A context manager around render and evaluation: leaving it ends the thread. draft: the clip that will be evaluated,
    as far as it is known before the render. wanted: see `frame_pass`. tap: None for one of its own.
    """

    def __init__(self, draft: EvaluatedClip, wanted: Set[str], tap: ResultTap | None = None) -> None:
        self.tap = tap or ResultTap()
        self._draft, self._wanted = draft, wanted - {REFERENCE_POINTS}
        self._hook: ProgressHook = ignore_progress
        self._is_stopped = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="early-looks")
        self._looking: Future[Findings] | None = None

    def __enter__(self) -> EarlyLooks:
        try:
            self._looking = self._pool.submit(self._look) if self._wanted else None
        except RuntimeError as fault:  # no thread may be started: this must not cost the render
            log.warning("frames are not looked at while they are rendered: %s", fault)
        if self._looking is None:
            self.tap.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._pool.shutdown()

    def stop(self) -> None:
        """The thread ends with its present frame. Findings are lost."""
        self._is_stopped = True
        self.tap.close()

    def findings(self, clip: EvaluatedClip) -> Findings:
        """After the render: waits for the last frames, which count as progress of the clip's evaluation from here on.

        clip: the finished one. Empty where the engine handed no packets on (a split job, a plug-in that does not know
        the tap): then everything is looked for in the file. Raises what the thread raised.
        """
        self._hook = clip.progress
        if self._looking is None or not self.tap.is_complete:
            self.stop()
            return {}
        found = self._looking.result()
        if found and not self._is_of(clip):
            log.warning("frames seen while they were rendered are not those of the result: looking again")
            return {}
        return found

    def _look(self) -> Findings:
        tap = self.tap
        if not tap.open():
            return {}
        clip = replace(self._draft, tap=tap, face_boxes=tap.face_boxes, stored_lines=tap.lines, progress=self._report)
        return look_once(clip, self._wanted, {})

    def _report(self, progress: Progress) -> None:
        if self._is_stopped:
            raise RenderCanceled("The evaluation was stopped.")
        self._hook(progress)

    def _is_of(self, clip: EvaluatedClip) -> bool:
        """Whether what was seen is what the file and the engine's report state."""
        seen, info = self.tap.info, clip.video.info
        return (
            (seen.width, seen.height, seen.color, seen.field_order)
            == (info.width, info.height, info.color, info.field_order)
            and self.tap.read == info.frame_count == seen.frame_count
            and _are_equal(self.tap.face_boxes, clip.rendered_face)
            and (not clip.lines or self._is_of_lines(clip))
        )

    def _is_of_lines(self, clip: EvaluatedClip) -> bool:
        try:
            reports = clip.line_reports
        except MetricUnavailableError:
            return False
        seen = self.tap.lines
        return len(seen) == len(reports) and all(
            one.number == other.number and _are_equal(one.face_boxes, other.face_boxes)
            for one, other in zip(seen, reports, strict=True)
        )


def _are_equal(one: Any, other: Any) -> bool:
    return (one is None) == (other is None) and (one is None or np.array_equal(one, other, equal_nan=True))
