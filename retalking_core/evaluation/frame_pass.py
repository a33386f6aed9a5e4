"""One look at the pictures for all metrics: each file is decoded once, whatever was asked for.

What can be looked for: `points`, the 68 points of the result; `ssim`, the toolkit's similarity frame by frame;
`outside`, the error outside the face; `crops`, the face on the frames whose sharpness is measured. Each is had or not
for itself: a reference that breaks takes `ssim` and `outside` with it, and nothing else.
"""

from __future__ import annotations

from collections.abc import Set
from contextlib import ExitStack, closing
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import InputError, MetricUnavailableError
from retalking_core.evaluation.clip import EvaluatedClip
from retalking_core.evaluation.face_points import PointFinder
from retalking_core.evaluation.observers import FaceCrops, OutsideObserver, ReferenceFeed, SsimObserver
from retalking_core.media.sources import PrefetchingFrameSource
from retalking_core.threads import disable_opencv_threads
from retalking_core.types import Frame

OBSERVERS = ("ssim", "outside", "crops")
NEED_POINTS = frozenset({"points", "outside", "crops"})
UNSEEN = np.full((68, 2), np.nan, np.float32)
# What costs one look, and not the whole pass.
LOOK_FAULTS = (InputError, MetricUnavailableError)

Marks = NDArray[np.float32]
Findings = dict[str, Any]


class Observer(Protocol):
    """Sees every frame of the result in order. marks: f32 [68, 2] px, NaN without a face."""

    def see(self, number: int, frame: Frame, marks: Marks) -> None: ...

    def found(self) -> Any: ...


def look_once(clip: EvaluatedClip, wanted: Set[str], marks: Marks | None) -> Findings:
    """What was found by look; an exception of `LOOK_FAULTS` stands in place of what could not be had.

    marks: f32 [M, 68, 2] where the points are known; with None they are looked for, and are in the findings.
    """
    disable_opencv_threads()
    findings: Findings = {}
    points: list[Marks] = []
    finder = PointFinder() if marks is None and wanted & NEED_POINTS else None
    with ExitStack() as stack:
        observers = _make_observers(clip, wanted, findings, stack)
        try:
            count = clip.video.info.frame_count
            frames = stack.enter_context(closing(PrefetchingFrameSource(clip.video).frames()))
            for number, frame in enumerate(clip.reporter.watch(frames, count)):
                seen = UNSEEN if marks is None else marks[number]
                if finder is not None:
                    seen = finder.step(frame.y)
                    points.append(seen)
                _show(observers, findings, number, frame, seen)
        except InputError as error:
            return dict.fromkeys(wanted, error) | findings
        for name, observer in observers.items():
            if name not in findings:
                findings[name] = _found(observer)
    return findings | ({"points": np.stack(points)} if finder is not None else {})


def _make_observers(clip: EvaluatedClip, wanted: Set[str], findings: Findings, stack: ExitStack) -> dict[str, Observer]:
    """Who looks; why others cannot is put into the findings."""
    observers: dict[str, Observer] = {}
    feed: ReferenceFeed | None = None
    for name in OBSERVERS:
        if name not in wanted:
            continue
        try:
            if name == "crops":
                observers[name] = FaceCrops(clip.video.info.frame_count)
                continue
            feed = feed or stack.enter_context(closing(ReferenceFeed(clip)))
            kind = SsimObserver if name == "ssim" else OutsideObserver
            observers[name] = kind(clip, feed)
        except LOOK_FAULTS as error:
            findings[name] = error
    return observers


def _found(observer: Observer) -> Any:
    try:
        return observer.found()
    except LOOK_FAULTS as error:
        return error


def _show(observers: dict[str, Observer], findings: Findings, number: int, frame: Frame, marks: Marks) -> None:
    for name, observer in observers.items():
        if name not in findings:
            try:
                observer.see(number, frame, marks)
            except LOOK_FAULTS as error:
                findings[name] = error
