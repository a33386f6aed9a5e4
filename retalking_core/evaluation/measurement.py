"""What several metrics look at, measured once: the face on every frame, per-frame scores, SyncNet's distances.

`EarlyLooks` observes the frames while they are rendered; the numbers are those of an evaluation afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from retalking_core.audio.mel import FRAMES_PER_S, mel_spectrogram
from retalking_core.errors import MetricUnavailableError, RenderCanceled
from retalking_core.evaluation.clip import EvaluatedClip
from retalking_core.evaluation.face_points import find_points
from retalking_core.evaluation.frame_pass import (
    LINES,
    LOOK_FAULTS,
    REFERENCE_POINTS,
    Findings,
    OutsideError,
    face_sharpness,
    look_once,
)
from retalking_core.faces.landmarks import inner_gap
from retalking_core.media.speech import load_waveform
from retalking_core.media.tap import ResultTap
from retalking_core.progress import Progress, ProgressHook, ignore_progress
from retalking_core.types import Waveform

if TYPE_CHECKING:
    from retalking_core.evaluation.sync import SyncScore
    from retalking_core.evaluation.sync_protocols import SceneTrack
    from retalking_core.networks.inference import InferenceNetwork


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


Found = TypeVar("Found")


@dataclass(frozen=True)
class Measurement(EvaluatedClip):
    """A clip and everything measured about it. Each measurement is made when it is first needed, and then kept.

    early: looks at the frames that began while the result was being written. found: what an earlier pass over the
    frames found.
    """

    early: EarlyLooks | None = None
    found: Findings = field(default_factory=dict)

    def look(self, wanted: Set[str]) -> None:
        """Look for all of this (see `frame_pass`) in one pass over the pictures, as far as it was not looked for, and
        for `reference_points` in one of their own."""
        missing = wanted - self._findings.keys() - {REFERENCE_POINTS}
        if missing:
            points = self._findings.get("points")
            if isinstance(points, Exception):
                self._findings.update(dict.fromkeys(missing, points))
                return
            self._findings.update(look_once(self, missing, self._findings))
        if REFERENCE_POINTS in wanted:
            with suppress(*LOOK_FAULTS):
                self._found_once(REFERENCE_POINTS, self._find_reference_points)

    @cached_property
    def _findings(self) -> dict[str, Any]:
        return dict(self.found) if self.early is None else self.early.findings(self)

    def stop(self) -> None:
        """Whatever is being measured in other threads stops at its next progress report."""
        self.reporter.stop()
        if self.early is not None:
            self.early.stop()

    def finding(self, name: str) -> Any:
        """What was found. Raises what stood in the way: MetricUnavailableError, media errors."""
        self.look({name})
        return self._given(name)

    def _given(self, name: str) -> Any:
        found = self._findings[name]
        if isinstance(found, Exception):
            raise found
        return found

    @cached_property
    def landmarks(self) -> NDArray[np.float32]:
        """68 points on every frame of the result, f32 [M, 68, 2] px, NaN where dlib sees no face.

        Fitted anew on each frame and not smoothed, so that it shares nothing with the engine's own track but the
        landmark model.
        """
        return self.finding("points")

    @cached_property
    def of_lines(self) -> list[Measurement]:
        """Each line as a clip of its own: its frames, its face, its speech. Raises what stood in the way."""
        points = self.finding(LINES)
        return [
            Measurement(
                self.result,
                line.speech,
                limits=self.limits,
                stored_mouth_target=report.mouth_target,
                face_boxes=report.face_boxes,
                frames=line.frames,
                opened=self.video,
                found={"points": marks},
            )
            for line, report, marks in zip(self.lines, self.line_reports, points, strict=True)
        ]

    @property
    def reference_landmarks(self) -> NDArray[np.float32]:
        """The same for the paired frames of the reference, f32 [n, 68, 2]."""
        return self._found_once(REFERENCE_POINTS, self._find_reference_points)

    def _find_reference_points(self) -> NDArray[np.float32]:
        chosen, back = np.unique(self.paired_index, return_inverse=True)
        frames = self.reporter.watch(self.reference_video.frames_at(chosen.tolist()), len(chosen))
        return find_points(frames, self._reference_face(chosen))[back]

    def _reference_face(self, chosen: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Where the measured face is on these frames of the reference, f32 [n, 4] px."""
        if self.rendered_face is None:
            return None
        paired = self.paired_index[: len(self.rendered_face)]
        boxes = np.full((len(chosen), 4), np.nan, np.float32)
        scale = np.float32(self.reference_video.info.width / self.video.info.width)
        boxes[np.searchsorted(chosen, paired)] = self.rendered_face[: len(paired)] * scale
        return boxes

    @cached_property
    def mouth_opening(self) -> NDArray[np.float32]:
        """Inner-lip gap over face size on every frame, f32 [M], NaN where dlib sees no face."""
        return inner_gap(self.landmarks)

    @cached_property
    def ssim_per_frame(self) -> NDArray[np.float64]:
        """The toolkit's SSIM of frame k of the result against frame k of the reference, f64 [min of both counts]."""
        return self.finding("ssim")

    @cached_property
    def outside_error(self) -> OutsideError:
        """Luma error outside the faces that are drawn, over all paired frames that show them."""
        return self.finding("outside")

    def face_sharpness(self, numbers: NDArray[np.int64]) -> list[float | None]:
        """`frame_pass.face_sharpness` on these result frames, which show a face."""
        seen = self.finding("sharpness")
        if seen.keys() >= set(numbers.tolist()):
            return [seen[number] for number in numbers.tolist()]
        # Some of the frames that were measured in passing show no face: the measure takes others.
        frames = self.video.frames_at(numbers.tolist())
        return [face_sharpness(frame, self.landmarks[number]) for frame, number in zip(frames, numbers, strict=True)]

    @property
    def frame_sync(self) -> SyncScore:
        """SyncNet by the whole-frame protocol."""
        return self._found_once("frame_sync", self._score_frames)

    @property
    def face_sync(self) -> list[tuple[SceneTrack, SyncScore]]:
        """SyncNet by the face-track protocol, longest track first."""
        return self._found_once("face_sync", self._score_faces)

    @property
    def known(self) -> Set[str]:
        """Names of what was measured so far."""
        return vars(self).keys() | {name for name, found in self._findings.items() if not isinstance(found, Exception)}

    def _score_frames(self) -> SyncScore:
        network = self.network("syncnet")
        from retalking_core.evaluation.sync_protocols import frame_score

        return frame_score(self.result, self.video.info, network, self.limits, self.reporter)

    def _score_faces(self) -> list[tuple[SceneTrack, SyncScore]]:
        network, detector = self.network("syncnet"), self.network("s3fd")
        from retalking_core.evaluation.sync_protocols import face_scores

        return face_scores(
            self.result, self.video.info, network, detector, self.limits, self.reporter, self.rendered_face
        )

    def _found_once(self, name: str, make: Callable[[], Found]) -> Found:
        """What stands in the way costs as much to find as a number, and three metrics ask for it."""
        if name not in self._findings:
            try:
                self._findings[name] = make()
            except LOOK_FAULTS as fault:
                self._findings[name] = fault
        return self._given(name)

    def network(self, name: str) -> InferenceNetwork:
        """Raises MetricUnavailableError when its checkpoint is unavailable."""
        if self.models is None:
            raise MetricUnavailableError("needs checkpoints, and no folder of weights was given")
        return self.models.get(name)

    @cached_property
    def waveform(self) -> Waveform:
        """The speech. Raises media errors."""
        return self.speech if isinstance(self.speech, Waveform) else load_waveform(self.speech, self.limits)

    @cached_property
    def speech_level(self) -> NDArray[np.float32]:
        """Loudness of the speech on every frame of the result, f32 [M], 0 (40 dB below the loudest) .. 1; plain band
        energy, without the engine's ideas about vowels and lips."""
        mel_db = (mel_spectrogram(self.waveform) + 4) * 12.5 - 100
        level_db = 10 * np.log10((10 ** (mel_db[:70] / 10)).mean(axis=0))
        level = np.clip(1 + (level_db - np.percentile(level_db, 98)) / 40, 0, 1)
        info = self.video.info
        times_s = (np.arange(info.frame_count)[:, None] + np.linspace(0, 1, 5)) / float(info.fps)
        return np.interp(times_s * FRAMES_PER_S, np.arange(len(level)), level, right=0).mean(axis=1).astype(np.float32)
