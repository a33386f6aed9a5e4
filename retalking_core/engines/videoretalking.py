"""The videoretalking engine: the whole method, top to bottom (Cheng et al., SIGGRAPH Asia 2022).

First pass, `analyse`: follow the face, read its 3DMM coefficients. Second pass, `speak`, batch by batch: steady the
expression, sharpen it, draw the lips, restore the face, lay it into the frame. Nothing grows with the clip's length but
the numbers of the first pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core import __version__
from retalking_core.audio.mel import mel_spectrogram, mel_windows
from retalking_core.audio.waveform import load_waveform
from retalking_core.engine import EngineCapabilities
from retalking_core.engines.batching import GuardedNetworks, HalvingBatches, NetworkSource
from retalking_core.engines.compat import OriginalDrawing, cropped_as_asked, open_drawing
from retalking_core.engines.drawing import Drawing
from retalking_core.engines.face_memory import (
    FaceAnalysis,
    FaceMemory,
    analysed_count,
    memory_key,
    open_memory,
)
from retalking_core.engines.lip_scene import (
    AHEAD,
    ClipFaces,
    LipScene,
    crop_256,
    locate_faces,
    plan_windows,
    read_coefficients,
)
from retalking_core.engines.preview_flow import PrefetchedSource, StageClock
from retalking_core.engines.preview_scene import FADE_S, faceless_ranges_s, fade_strength, refuse_faceless
from retalking_core.engines.remembered_source import RememberedSource
from retalking_core.engines.write_behind import WriteBehind
from retalking_core.errors import FaceNotFoundError
from retalking_core.face_cache import FaceCache
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.track import FaceTracker, TrackRequest
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.timeline import plan_timeline
from retalking_core.media.writer import ResultWriter, output_size
from retalking_core.networks.catalogue import INPUT_SHAPES
from retalking_core.networks.enet import ENet
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ProgressHook
from retalking_core.stages.coefficients import regress_coefficients
from retalking_core.stages.lip_windows import hold_noises
from retalking_core.stages.stabilise import TEMPLATE_KEYS, expression_of, load_template
from retalking_core.types import FaceTrack, Frame, FrameSource, RenderReport, Timeline

NETWORKS = ("deep3d", "dnet", "gpen512", "lnet", "enet", "gfpgan", "parsenet")
# Those that the face memory hangs on.
REFERENCE_NETWORKS = ("deep3d", "dnet", "gpen512", "parsenet")
# Share of the whole render that the first pass takes: half for the track, half for the coefficients.
ANALYSE_SHARE = 0.2
BATCH_CUDA, BATCH_CPU = 16, 2
REPORT_EVERY = 4
MADE_BY = "Synthetic media: lip-sync by Retalking, engine videoretalking."
UNTRAINED = "SYNTHETIC WEIGHTS: made with generated checkpoints that were never trained; not a usable result."


def rehearse(name: str, network: Callable[..., object], device: torch.device) -> None:
    """One call with inputs of the right sizes, as the engine makes it."""
    inputs = [torch.zeros(1, *shape, device=device) for shape in INPUT_SHAPES[name]]
    network(*inputs, **({"noises": hold_noises(ENet.noise_sizes, 0, device)} if name == "enet" else {}))


class VideoRetalkingEngine:
    """An `Engine` on the method's networks. templates: the original's expression file, if there is one.
    cache: keeps what depends on the video alone for the next speech; absent, nothing is kept."""

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
        self._networks = GuardedNetworks(networks)
        self._limits, self._templates, self._cache = limits, templates, cache
        self._tracker = tracker or DlibFaceTracker()
        self._batch_size = batch_size or (BATCH_CUDA if networks.device.type == "cuda" else BATCH_CPU)
        no_smile = templates is None or not templates.is_file()
        self.capabilities = EngineCapabilities(
            name="videoretalking",
            version=__version__,
            device=str(networks.device),
            description="Neural lip-sync at the video's own resolution (VideoReTalking).",
            unsupported_options={"expression": ("smile",)} if no_smile else {},
            synthetic_weights=synthetic_weights,
        )

    def warm_up(self) -> None:
        """Load the tracker and every network that a plain render needs. On a GPU each runs once: what is compiled is
        compiled now (or read from the compiler's cache), and not by the first job."""
        self._tracker.warm_up()
        for name in NETWORKS:
            network = self._networks.get(name)
            if self._networks.device.type == "cuda" and name in INPUT_SHAPES:
                rehearse(name, network, self._networks.device)
        self._networks.findings()

    def render(
        self, video: Path, audio: Path, result: Path, options: RenderOptions, progress: ProgressHook
    ) -> RenderReport:
        """See `Engine.render`. Raises: media errors, face_not_found, face_missing, unsupported_option, engine_fault,
        out_of_memory, and what a missing or damaged weight file is refused for."""
        clock = StageClock()
        progress(Progress("analyse", 0.0))
        self._networks.findings()  # of a render that ended early
        with clock.stage("read"):
            source = RememberedSource(open_video(video, self._limits, options.fps))
            speech = load_waveform(audio, self._limits)
            timeline = plan_timeline(source.info, speech.duration_s, options.length_mode, options.output.fps)
            sound = mel_windows(mel_spectrogram(speech), timeline.fps, len(timeline.source_index))
        count = analysed_count(int(timeline.source_index.max()), source.info.frame_count)
        with self._remembered(video, count, options, result.parent, progress) as memory:
            with clock.stage("analyse"):
                scene = self._analyse(source, timeline, sound, options, memory, count, progress)
            drawing = open_drawing(self._networks, self._batch_size, scene, options, memory)
            with clock.stage("synthesise"):
                self._write(drawing, source, timeline, audio, result, options, progress, clock)
            memory.keep()
        clock.times_s |= drawing.times_s
        return self._report(scene, source, options, clock, drawing.notes, memory.outcome)

    def _write(
        self,
        drawing: Drawing | OriginalDrawing,
        source: FrameSource,
        timeline: Timeline,
        audio: Path,
        result: Path,
        options: RenderOptions,
        progress: ProgressHook,
        clock: StageClock,
    ) -> None:
        count = len(timeline.source_index)
        writer = ResultWriter(result, source.info, timeline, audio, options.output, self._metadata(), self._limits)

        def encode(frame: Frame) -> None:
            with clock.stage("encode"):
                writer.write(frame)

        with writer, WriteBehind(encode, AHEAD) as out:
            for done, frame in enumerate(drawing.frames(source), start=1):
                out.put(frame)
                if done % REPORT_EVERY == 0 or done == count:
                    share = ANALYSE_SHARE + (1 - ANALYSE_SHARE) * done / (count + 1)
                    progress(Progress("synthesise", share, done, count))
        progress(Progress("synthesise", 1.0, count, count))

    @contextmanager
    def _remembered(
        self, video: Path, count: int, options: RenderOptions, scratch: Path, progress: ProgressHook
    ) -> Iterator[FaceMemory]:
        """What is known about this video's face."""

        def key() -> str:
            networks = [self._networks.digest(name) for name in REFERENCE_NETWORKS]
            template = (
                None if self._templates is None or not self._templates.is_file() else self._templates.read_bytes()
            )
            expression = options.expression
            if expression not in TEMPLATE_KEYS:
                expression = Path(expression).read_bytes()
            place = (options.face, options.crop, options.pads, options.compat)
            look = (options.one_shot, options.fps, expression, template)
            return memory_key(video, [__version__, count, type(self._tracker).__name__, *networks, *place, *look])

        turns = itertools.count(1)
        # A count that grows: who waits for another render is not taken for one that hangs.
        with open_memory(self._cache, key, lambda: progress(Progress("analyse", 0.0, next(turns))), scratch) as memory:
            yield memory

    def _analyse(
        self,
        source: FrameSource,
        timeline: Timeline,
        sound: NDArray[np.float32],
        options: RenderOptions,
        memory: FaceMemory,
        count: int,
        progress: ProgressHook,
    ) -> LipScene:
        """Pass one: one track for everything, coefficients, and what follows from both."""
        analysis, faces = self._find_faces(source, options, memory, count, progress)
        shown = analysis.track.visible[timeline.source_index]
        if not shown.any():
            raise FaceNotFoundError("No usable face in the part of the video that would be shown.")
        if options.missing_face == "fail":
            refuse_faceless(analysis.track, np.unique(timeline.source_index), source)
        return LipScene(
            timeline=timeline,
            faces=faces,
            windows=plan_windows(analysis, faces, self._expression(options.expression)),
            sound=sound,
            strength=fade_strength(shown, round(FADE_S * float(timeline.fps))),
            still=self._still(source, faces) if options.one_shot else None,
            colour=source.info.colour,
            height=source.info.height,
        )

    def _find_faces(
        self, source: FrameSource, options: RenderOptions, memory: FaceMemory, count: int, progress: ProgressHook
    ) -> tuple[FaceAnalysis, ClipFaces]:
        def tell(part: int) -> Callable[[int, int], None]:
            share = ANALYSE_SHARE / 2
            return lambda done, total: progress(Progress("analyse", share * (part + done / total), done, total))

        def locate(track: FaceTrack) -> ClipFaces:
            return cropped_as_asked(locate_faces(track, count, source, options.pads), source.info, options)

        if memory.analysis is not None:
            return memory.analysis, locate(memory.analysis.track)
        request = TrackRequest(range(count), options.face, options.crop)
        track = self._tracker.track(PrefetchedSource(source, AHEAD), request, tell(0))
        faces = locate(track)
        batches = HalvingBatches(self._batch_size)
        memory.remember(
            analysis := FaceAnalysis(track, read_coefficients(source, faces, self._networks, batches, tell(1)))
        )
        return analysis, faces

    def _still(self, source: FrameSource, faces: ClipFaces) -> Tensor:
        """The first picture with a face: all that the expression network sees with one_shot."""
        first = np.flatnonzero(faces.visible)[:1]
        frames = list(source.frames_at(first.tolist()))
        return crop_256(frames, faces.at(first), source.info.colour, self._networks.device)

    def _expression(self, asked: str) -> NDArray[np.float32]:
        """The template's 64 numbers: of a word, or of the face in a picture. Raises: FaceNotFoundError."""
        if asked in TEMPLATE_KEYS:
            return load_template(asked, self._templates)
        source = open_video(Path(asked), self._limits)
        try:
            track = self._tracker.track(source, TrackRequest([0]), lambda _done, _total: None)
        except FaceNotFoundError as error:
            raise FaceNotFoundError("The picture given as `expression` shows no usable face; send another.") from error
        faces = locate_faces(track, 1, source, (0, 0, 0, 0))
        places = faces.at(np.zeros(1, np.int64))
        picture = crop_256(list(source.frames_at([0])), places, source.info.colour, self._networks.device)
        row = regress_coefficients(self._networks.get("deep3d"), picture, places.scaled())[0]
        return expression_of(row.cpu().numpy())

    def _metadata(self) -> dict[str, str]:
        comment = f"{MADE_BY} {UNTRAINED}" if self.capabilities.synthetic_weights else MADE_BY
        return {"title": "Retalking", "comment": comment}

    def _report(
        self,
        scene: LipScene,
        source: FrameSource,
        options: RenderOptions,
        clock: StageClock,
        notes: list[str],
        face_cache: str,
    ) -> RenderReport:
        timeline = scene.timeline
        count = len(timeline.source_index)
        width, height = output_size(source.info, options.output.max_height)
        shown = scene.strength > 0
        return RenderReport(
            engine="videoretalking",
            engine_version=__version__,
            device=str(self._networks.device),
            frames=count,
            fps=timeline.fps,
            duration_s=timeline.duration_s,
            width=width,
            height=height,
            face_coverage=float(shown.mean()),
            faceless_ranges_s=faceless_ranges_s(shown, np.arange(count) / float(timeline.fps), timeline.duration_s),
            stage_times_s=dict(clock.times_s),
            synthetic_weights=self.capabilities.synthetic_weights,
            notes=([UNTRAINED] if self.capabilities.synthetic_weights else []) + notes,
            face_cache=face_cache,
        )
