"""The videoretalking engine: the whole method, top to bottom (Cheng et al., SIGGRAPH Asia 2022).

First pass, `ClipAnalyzer`: follow the face. Second pass, `FrameRenderer.render_batch`: neutralize the expression,
enhance the face, draw the lips, restore the face, composite it into the frame. `CoefficientReader` reads the face's
3DMM coefficients beside it, just in time. Memory does not grow with the clip's length, except for the numbers of the
first pass.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from retalking_core import __version__
from retalking_core.audio.mel import librosa_basis
from retalking_core.clip_plan import ClipPlan, coverage_of, report_lines
from retalking_core.engine import (
    DrawingReport,
    EngineCapabilities,
    load_analysis,
    refuse_unsupported,
    save_analysis,
    sum_of_times,
)
from retalking_core.engines.original.renderer import OriginalRenderer
from retalking_core.engines.videoretalking.analysis import (
    AHEAD,
    ANALYZE_SHARE,
    TRACK_SHARE,
    ClipAnalysis,
    ClipAnalyzer,
    DrawnFrame,
    PendingAnalysis,
    SpeakerAnalysis,
    shown_frames,
)
from retalking_core.engines.videoretalking.batching import NetworkSource, ValidatingNetworks
from retalking_core.engines.videoretalking.face_cache_session import FaceCacheSession, analyzed_count
from retalking_core.engines.videoretalking.renderer import FrameRenderer
from retalking_core.face_cache import FaceCache
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.track import FaceTracker, covered_notes
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.sources import CachingFrameSource
from retalking_core.media.writer import ResultWriter, SegmentWriter, join_segments, output_size
from retalking_core.networks import IMPORTS
from retalking_core.networks.kernels import example_call
from retalking_core.notes import Note, merge_notes
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ProgressHook, StageClock
from retalking_core.threads import EncoderThread, Turns
from retalking_core.types import Frame, FrameSource, RenderReport, VideoInfo
from retalking_core.vocabulary.engines import JobStage, KernelState
from retalking_core.weights.checkpoint import TEMPLATE_KEYS

NETWORKS = ("deep3d", "dnet", "gpen512", "lnet", "enet", "gfpgan", "parsenet")
BATCH_CUDA, BATCH_CPU = 16, 2
REPORT_EVERY = 4
# Threads that load networks at the start.
LOADERS = 4
# Frames kept between the two passes: about 5 s of 1080p. A longer video is decoded again.
KEPT_BYTES = 2**29
Looked = TypeVar("Looked")
MADE_BY = "Synthetic media: lip-sync by Retalking, engine videoretalking."
UNTRAINED = "SYNTHETIC WEIGHTS: made with generated checkpoints that were never trained; not a usable result."


class VideoRetalkingEngine:
    """An `Engine` on the method's networks. templates: the original's expression file, if there is one.
    cache: keeps what depends on the video alone for the next speech; absent, nothing is kept. `turns`: whoever changes
    the networks waits for theirs."""

    def __init__(
        self,
        networks: NetworkSource,
        limits: MediaLimits = DEFAULT_LIMITS,
        tracker: FaceTracker | None = None,
        templates: Path | None = None,
        synthetic_weights: bool = False,
        batch_size: int | None = None,
        cache: FaceCache | None = None,
    ) -> None:
        self._networks, self.turns = ValidatingNetworks(networks), Turns()
        self._limits, self._cache, self._templates = limits, cache, templates
        self._tracker = tracker or DlibFaceTracker()
        self._batch_size = batch_size or (BATCH_CUDA if networks.device.type == "cuda" else BATCH_CPU)
        self._analysis = ClipAnalyzer(self._networks, self._tracker, limits, templates, self._batch_size)
        no_smile = templates is None or not templates.is_file()
        self.capabilities = EngineCapabilities(
            name="videoretalking",
            version=__version__,
            device=str(networks.device),
            description="Neural lip-sync at the video's own resolution (VideoReTalking).",
            unsupported_options={"transcript": ()} | ({"expression": ("smile",)} if no_smile else {}),
            synthetic_weights=synthetic_weights,
            draws_lines=True,
            face_margin=1.0,  # the aligned crop that it restores and composites reaches no farther
        )

    @property
    def kernels(self) -> KernelState | None:
        """What the networks run at this moment, see `RenderReport`."""
        return self._networks.kernels()

    def warm_up(self) -> None:
        """Load the tracker and every network that a plain render needs, side by side: reading files, checking their
        digests, copying to the device and importing hinder one another little."""

        def load(name: str) -> None:
            network = self._networks.get(name)
            self._networks.digest(name)
            if self._networks.device.type == "cuda":
                # The device's libraries load their code and choose algorithms while other files are still read.
                inputs, options = example_call(name, self._networks.device)
                network(*(x.expand(self._batch_size, *x.shape[1:]).contiguous() for x in inputs), **options)

        with self.turns.job(), ThreadPoolExecutor(LOADERS, thread_name_prefix="weights") as pool:
            # LNet is loaded with ENet, whose part it is.
            loading = [pool.submit(load, name) for name in NETWORKS if name != "lnet"]
            with IMPORTS:
                librosa_basis()
            self._tracker.warm_up()
            for each in loading:
                each.result()
            self._networks.findings()  # of noise
        digests = " ".join(self._networks.digest(name) for name in NETWORKS)
        fingerprint = hashlib.sha256(digests.encode()).hexdigest()[:16]
        self.capabilities = self.capabilities.model_copy(update={"fingerprint": fingerprint})

    def render(self, clip: ClipPlan, result: Path, options: RenderOptions, progress: ProgressHook) -> RenderReport:
        """See `Engine.render`. Raises: media errors, face_not_found, face_missing, unsupported_option, engine_fault,
        out_of_memory, and what a missing or damaged weight file is refused for."""
        clock = StageClock()

        def draw(
            source: CachingFrameSource, pending: PendingAnalysis, memories: list[FaceCacheSession]
        ) -> RenderReport:
            scene = pending.analysis
            if source.held(clip.video) is None:
                pending.finish(_tell_coefficients(progress))  # or the clip would be decoded twice at a time
            metadata = self._metadata()
            writer = ResultWriter(result, source.info, scene.timeline, clip.sound, options.output, metadata, clip.tap)
            if clip.tap is not None:
                boxes = _face_boxes(scene, source.info, options)
                clip.tap.announce(boxes[0], source.held(clip.video), report_lines(clip, boxes, None))

            def tell(done: int, total: int) -> None:
                share = ANALYZE_SHARE + (1 - ANALYZE_SHARE) * done / (total + 1)
                progress(Progress("synthesize", share, done, total))

            everything = range(len(scene.timeline.source_index))
            notes = self._draw(source, pending, everything, options, memories, writer, clock, tell)
            if self._cache is not None:
                pending.finish(lambda _done, _total: tell(len(everything), len(everything)))
            progress(Progress("synthesize", 1.0, len(everything), len(everything)))
            for memory in memories:
                memory.keep()
            outcomes = {memory.outcome for memory in memories}
            face_cache = outcomes.pop() if len(outcomes) == 1 else "partial"
            report = self._report(clip, scene, options, clock.times_s, notes, face_cache)
            return replace(report, held=source.held(clip.video), kernels=self.kernels)

        return self._analyze(clip, result.parent, options, progress, clock, draw)

    def analyze_clip(
        self, clip: ClipPlan, scene: Path, options: RenderOptions, progress: ProgressHook
    ) -> DrawingReport:
        """See `SegmentedEngine`. Segments draw their references themselves: a cache entry serves
        the first pass only."""
        clock = StageClock()
        self._analyze(
            clip,
            scene.parent,
            options,
            progress,
            clock,
            lambda _source, pending, _memories: save_analysis(scene, pending.finish(_tell_coefficients(progress))),
        )
        return DrawingReport(dict(clock.times_s))

    def render_segment(
        self, scene: Path, video: Path, segment: range, result: Path, options: RenderOptions, progress: ProgressHook
    ) -> DrawingReport:
        clock, found = StageClock(), load_analysis(scene, ClipAnalysis)
        source = open_video(video, self._limits, options.fps)
        writer = SegmentWriter(result, source.info, found.timeline, segment, options.output)

        def tell(done: int, total: int) -> None:
            progress(Progress("synthesize", done / total, done, total))

        with self._turn("synthesize", progress), ExitStack() as opened:
            memories = [
                opened.enter_context(self._analysis.memory(None, video, 0, options, result.parent, progress))
                for _ in range(found.looks)
            ]
            pending = PendingAnalysis(found, ())
            notes = self._draw(source, pending, segment, options, memories, writer, clock, tell)
        return DrawingReport(dict(clock.times_s), notes)

    def join_clip(
        self,
        clip: ClipPlan,
        scene: Path,
        parts: Sequence[Path],
        result: Path,
        options: RenderOptions,
        drawn: Sequence[DrawingReport],
        progress: ProgressHook,
    ) -> RenderReport:
        clock, found = StageClock(), load_analysis(scene, ClipAnalysis)
        with clock.stage("join"):
            join_segments(result, parts, found.timeline, clip.sound, options.output, self._metadata(), progress)
        times_s = sum_of_times([*drawn, DrawingReport(clock.times_s)])
        notes = merge_notes(note for report in drawn for note in report.notes)
        return self._report(clip, found, options, times_s, notes, "off")

    def _analyze(
        self,
        clip: ClipPlan,
        scratch: Path,
        options: RenderOptions,
        progress: ProgressHook,
        clock: StageClock,
        then: Callable[[CachingFrameSource, PendingAnalysis, list[FaceCacheSession]], Looked],
    ) -> Looked:
        """Do the first pass, up to the coefficients, and call `then` inside the face cache sessions."""
        refuse_unsupported(options, self.capabilities, has_original_arithmetic=True)
        progress(Progress("analyze", 0.0))
        source, timeline = CachingFrameSource(clip.source, KEPT_BYTES), clip.timeline
        count = analyzed_count(int(timeline.source_index.max()), source.info.frame_count)
        with (
            self._turn("analyze", progress),
            self._analysis.sessions(self._cache, clip, count, options, scratch, progress) as sessions,
        ):
            self._networks.findings()  # of a render that ended early
            with clock.stage("analyze"):
                pending = self._analysis.scene(clip, source, options, sessions, count, progress)
            with closing(pending):
                return then(source, pending, list(sessions.values()))

    @contextmanager
    def _turn(self, stage: JobStage, progress: ProgressHook) -> Iterator[None]:
        """Of a job. Networks do not change meanwhile."""
        seen = itertools.count(1)
        # A growing count: waiting counts as progress.
        with self.turns.job(lambda: progress(Progress(stage, 0.0, next(seen)))):
            yield

    def _draw(
        self,
        source: FrameSource,
        pending: PendingAnalysis,
        segment: range,
        options: RenderOptions,
        memories: list[FaceCacheSession],
        writer: ResultWriter | SegmentWriter,
        clock: StageClock,
        tell: Callable[[int, int], None],
    ) -> list[Note]:
        """Pass two, encoded beside it: each speaker is drawn onto the frames of the one before. Returns what there is
        to say about it."""
        self._networks.findings()
        scene, made_exact = pending.analysis, list[str]()
        drawings = [
            self._renderer(scene, speaker, options, source.info, memories[speaker.look], made_exact)
            for speaker in scene.speakers
        ]
        items = _analyzed_in_time(shown_frames(scene, source, segment), pending)
        for drawing in drawings:
            items = drawing.frames(items)

        def encode(frame: Frame) -> None:
            with clock.stage("encode"):
                writer.write(frame)

        with clock.stage("synthesize"), writer, EncoderThread(encode, AHEAD) as out:
            for done, item in enumerate(items, start=1):
                out.put(item.drawn)
                if done % REPORT_EVERY == 0 or done == len(segment):
                    tell(done, len(segment))
        clock.times_s |= sum_of_times([DrawingReport(drawing.times_s) for drawing in drawings])
        return merge_notes(note for drawing in drawings for note in drawing.notes)

    def _renderer(
        self,
        scene: ClipAnalysis,
        speaker: SpeakerAnalysis,
        options: RenderOptions,
        info: VideoInfo,
        memory: FaceCacheSession,
        made_exact: list[str],
    ) -> FrameRenderer | OriginalRenderer:
        """Pass two of a speaker, with this project's arithmetic or, for `compat=original`, with the original's."""
        if options.compat == "original":
            return OriginalRenderer(self._networks, scene, speaker, options, info)
        return FrameRenderer(self._networks, self._batch_size, scene, speaker, options, memory, made_exact)

    def _standing_notes(self, clip: ClipPlan) -> Iterator[Note]:
        """Notes that hold for every render of this engine with these looks."""
        if self.capabilities.synthetic_weights:
            yield Note("synthetic_weights", UNTRAINED)
        for expression in dict.fromkeys(speaker.expression for speaker in clip.speakers):
            if expression in TEMPLATE_KEYS:  # else a picture of the caller's
                yield self._template_note(expression)

    def _template_note(self, expression: str) -> Note:
        if self._templates is None or not self._templates.is_file():
            return Note(
                "expression_zero",
                "expression.mat is not in the weights folder: `neutral` is the zero expression of the 3DMM, which "
                "differs from the original's.",
            )
        variable = TEMPLATE_KEYS[expression]
        return Note("expression_template", f"`{expression}` is {variable} of {self._templates.name}.")

    def _metadata(self) -> dict[str, str]:
        comment = f"{MADE_BY} {UNTRAINED}" if self.capabilities.synthetic_weights else MADE_BY
        return {"title": "Retalking", "comment": comment}

    def _report(
        self,
        clip: ClipPlan,
        scene: ClipAnalysis,
        options: RenderOptions,
        times_s: dict[str, float],
        notes: list[Note],
        face_cache: str,
    ) -> RenderReport:
        timeline, info = scene.timeline, clip.source.info
        width, height = output_size(info, options.output.max_height)
        coverage, faceless = coverage_of(clip, [(one.strength > 0) | one.covered for one in scene.speakers])
        boxes, covered = _face_boxes(scene, info, options), np.any([one.covered for one in scene.speakers], axis=0)
        return RenderReport(
            engine="videoretalking",
            engine_version=__version__,
            device=str(self._networks.device),
            frames=clip.frames,
            fps=timeline.fps,
            duration_s=timeline.duration_s,
            width=width,
            height=height,
            face_coverage=coverage,
            faceless_ranges_s=faceless,
            stage_times_s=dict(times_s),
            synthetic_weights=self.capabilities.synthetic_weights,
            notes=[*self._standing_notes(clip), *covered_notes(covered, timeline.fps), *notes],
            face_cache=face_cache,
            face_boxes=boxes[0],
            lines=report_lines(clip, boxes, None),
        )


def _analyzed_in_time(items: Iterator[DrawnFrame], pending: PendingAnalysis) -> Iterator[DrawnFrame]:
    """The frames, each once the analysis has reached it."""
    order = pending.analysis.timeline.source_index
    for item in items:
        pending.reach(int(order[item.number]))
        yield item


def _tell_coefficients(progress: ProgressHook) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        share = TRACK_SHARE + (ANALYZE_SHARE - TRACK_SHARE) * done / total
        progress(Progress("analyze", share, done, total))

    return tell


def _face_boxes(scene: ClipAnalysis, info: VideoInfo, options: RenderOptions) -> list[NDArray[np.float32]]:
    """See `RenderReport.face_boxes`, of each speaker."""
    scale = np.float32(output_size(info, options.output.max_height)[0] / info.width)
    return [boxes * scale for boxes in scene.face_boxes]
