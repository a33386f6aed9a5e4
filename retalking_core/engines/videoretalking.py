"""The videoretalking engine: the whole method, top to bottom (Cheng et al., SIGGRAPH Asia 2022).

First pass, `analyse`: follow the face, read its 3DMM coefficients. Second pass, `speak`, batch by batch: steady the
expression, sharpen it, draw the lips, restore the face, lay it into the frame. Nothing grows with the clip's length but
the numbers of the first pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from retalking_core import __version__
from retalking_core.audio.mel import mel_spectrogram, mel_windows
from retalking_core.audio.waveform import load_waveform
from retalking_core.engine import EngineCapabilities
from retalking_core.engines.batching import GuardedNetworks, HalvingBatches, NetworkSource, in_groups
from retalking_core.engines.lip_scene import (
    LipScene,
    crop_256,
    locate_faces,
    plan_windows,
    read_coefficients,
    shown_frames,
)
from retalking_core.engines.preview_flow import PrefetchedSource, ReadAhead, StageClock
from retalking_core.engines.preview_scene import FADE_S, faceless_ranges_s, fade_strength, refuse_faceless
from retalking_core.errors import FaceNotFoundError
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.track import FaceTracker, TrackRequest
from retalking_core.imaging.separable import crop_resized
from retalking_core.media.limits import DEFAULT_LIMITS, MediaLimits
from retalking_core.media.reader import open_video
from retalking_core.media.timeline import plan_timeline
from retalking_core.media.writer import ResultWriter, output_size
from retalking_core.networks.enet import ENet
from retalking_core.options import RenderOptions
from retalking_core.progress import Progress, ProgressHook
from retalking_core.stages.coefficients import regress_coefficients
from retalking_core.stages.composite import BlendPlan, composite, faces_found, paste_prediction
from retalking_core.stages.emotion import redraw_upper_half
from retalking_core.stages.enhance import enhance
from retalking_core.stages.lip_windows import LIP_PX, hold_noises, synthesise_lips
from retalking_core.stages.reference import build_references
from retalking_core.stages.region import add_changes, cut_regions, region_side
from retalking_core.stages.restore import restore
from retalking_core.stages.stabilise import TEMPLATE_KEYS, expression_of, load_template, stabilise
from retalking_core.types import Frame, FrameSource, RenderReport, Timeline, Waveform

NETWORKS = ("deep3d", "dnet", "gpen512", "lnet", "enet", "gfpgan", "parsenet")
# Share of the whole render that the first pass takes: half for the track, half for the coefficients.
ANALYSE_SHARE = 0.2
BATCH_CUDA, BATCH_CPU = 16, 2
# Largest region of which a full batch is drawn: 16 such take 200 MB a picture.
FULL_BATCH_SIDE_PX = 1024
REPORT_EVERY = 4
MADE_BY = "Synthetic media: lip-sync by Retalking, engine videoretalking."
UNTRAINED = "SYNTHETIC WEIGHTS: made with generated checkpoints that were never trained; not a usable result."


class VideoRetalkingEngine:
    """An `Engine` on the method's networks. templates: the original's expression file, if there is one."""

    def __init__(
        self,
        networks: NetworkSource,
        limits: MediaLimits = DEFAULT_LIMITS,
        tracker: FaceTracker | None = None,
        templates: Path | None = None,
        synthetic_weights: bool = False,
        batch_size: int | None = None,
    ) -> None:
        self._networks = GuardedNetworks(networks)
        self._limits, self._templates = limits, templates
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
        """Load the tracker and every network that a plain render needs."""
        self._tracker.warm_up()
        for name in NETWORKS:
            self._networks.get(name)

    def render(
        self, video: Path, audio: Path, result: Path, options: RenderOptions, progress: ProgressHook
    ) -> RenderReport:
        """See `Engine.render`. Raises: media errors, face_not_found, face_missing, unsupported_option, engine_fault,
        out_of_memory, and what a missing or damaged weight file is refused for."""
        clock = StageClock()
        progress(Progress("analyse", 0.0))
        with clock.stage("read"):
            source = open_video(video, self._limits, options.fps)
            speech = load_waveform(audio, self._limits)
            timeline = plan_timeline(source.info, speech.duration_s, options.length_mode, options.output.fps)
        with clock.stage("analyse"):
            scene = self.analyse(source, speech, timeline, options, progress)
        count, drawing = len(timeline.source_index), Drawing(self._networks, self._batch_size, scene, options, clock)
        with (
            clock.stage("synthesise"),
            ResultWriter(
                result, source.info, timeline, audio, options.output, self._metadata(), self._limits
            ) as writer,
            ReadAhead(drawing.frames(source)) as drawn,
        ):
            for done, frame in enumerate(drawn, start=1):
                with clock.stage("encode"):
                    writer.write(frame)
                if done % REPORT_EVERY == 0 or done == count:
                    share = ANALYSE_SHARE + (1 - ANALYSE_SHARE) * done / (count + 1)
                    progress(Progress("synthesise", share, done, count))
        progress(Progress("synthesise", 1.0, count, count))
        return self._report(scene, source, options, clock, drawing.notes)

    def analyse(
        self,
        source: FrameSource,
        speech: Waveform,
        timeline: Timeline,
        options: RenderOptions,
        progress: ProgressHook,
    ) -> LipScene:
        """Pass one: one track for everything, coefficients, the speech as mel windows."""
        indices = np.unique(timeline.source_index)

        def tell(part: int) -> Callable[[int, int], None]:
            share = ANALYSE_SHARE / 2
            return lambda done, total: progress(Progress("analyse", share * (part + done / total), done, total))

        track = self._tracker.track(
            PrefetchedSource(source), TrackRequest(indices.tolist(), options.face, options.crop), tell(0)
        )
        if options.missing_face == "fail":
            refuse_faceless(track, indices, source)
        faces = locate_faces(track, indices, source, options.pads)
        batches = HalvingBatches(self._batch_size)
        coefficients = read_coefficients(source, faces, self._networks, batches, tell(1))
        still = None
        if options.one_shot:
            first = np.flatnonzero(faces.visible)[:1]
            frames = list(source.frames_at(faces.indices[first].tolist()))
            still = crop_256(frames, faces.at(first), source.info.colour, self._networks.device)
        return LipScene(
            timeline=timeline,
            faces=faces,
            windows=plan_windows(coefficients, faces, self._expression(options.expression)),
            sound=mel_windows(mel_spectrogram(speech), timeline.fps, len(timeline.source_index)),
            strength=fade_strength(track.visible[timeline.source_index], round(FADE_S * float(timeline.fps))),
            still=still,
            colour=source.info.colour,
        )

    def _expression(self, asked: str) -> NDArray[np.float32]:
        """The template's 64 numbers: of a word, or of the face in a picture. Raises: FaceNotFoundError."""
        if asked in TEMPLATE_KEYS:
            return load_template(asked, self._templates)
        source = open_video(Path(asked), self._limits)
        try:
            track = self._tracker.track(source, TrackRequest([0]), lambda _done, _total: None)
        except FaceNotFoundError as error:
            raise FaceNotFoundError("The picture given as `expression` shows no usable face; send another.") from error
        faces = locate_faces(track, np.zeros(1, np.int64), source, (0, 0, 0, 0))
        places = faces.at(np.zeros(1, np.int64))
        picture = crop_256(list(source.frames_at([0])), places, source.info.colour, self._networks.device)
        return expression_of(regress_coefficients(self._networks.get("deep3d"), picture, places.scaled())[0])

    def _metadata(self) -> dict[str, str]:
        comment = f"{MADE_BY} {UNTRAINED}" if self.capabilities.synthetic_weights else MADE_BY
        return {"title": "Retalking", "comment": comment}

    def _report(
        self, scene: LipScene, source: FrameSource, options: RenderOptions, clock: StageClock, notes: list[str]
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
        )


def fitting_batch(batch_size: int, scene: LipScene) -> int:
    """Fewer frames at once where faces are large: about ten pictures of the region are held for each frame."""
    side = region_side(scene.faces.at(np.flatnonzero(scene.faces.visible)))
    return max(1, min(batch_size, int(batch_size * (FULL_BATCH_SIDE_PX / side) ** 2)))


class Drawing:
    """Pass two over one clip."""

    def __init__(
        self, networks: GuardedNetworks, batch_size: int, scene: LipScene, options: RenderOptions, clock: StageClock
    ) -> None:
        self._networks, self._scene, self._options, self._clock = networks, scene, options, clock
        self._batches = HalvingBatches(fitting_batch(batch_size, scene))
        self._noises = hold_noises(ENet.noise_sizes, options.seed, networks.device)
        self._unparsed = 0

    @property
    def notes(self) -> list[str]:
        return [f"{self._unparsed} frames kept as they were: no face parts were made out in them"] * (
            self._unparsed > 0
        )

    def frames(self, source: FrameSource) -> Iterator[Frame]:
        """Every output frame in order; those without a face as they were decoded."""
        for group in in_groups(shown_frames(self._scene, source), self._batches.size):
            seen = [item for item in group if self._scene.strength[item[0]] > 0]
            drawn = dict(zip((k for k, _ in seen), self._batches.run(seen, self.speak), strict=True))
            yield from (drawn.get(k, frame) for k, frame in group)

    def speak(self, items: list[tuple[int, Frame]]) -> list[Frame]:
        """A batch of (output number, frame) with speaking faces: the method, step by step."""
        scene, net, device = self._scene, self._networks.get, self._networks.device
        outputs, frames = np.array([k for k, _ in items]), [frame for _, frame in items]
        used = scene.faces.positions(scene.timeline.source_index[outputs])
        clock = self._clock

        with clock.stage("draw"):
            # Where the face is, at the frame's own resolution.
            places = scene.faces.at(used)
            regions = cut_regions(frames, places, region_side(places), scene.colour, device)
            here = places.shifted(regions.origins)
            landmarks, boxes = here.scaled(), torch.from_numpy(here.boxes).float().to(device)

            # The face with one steady expression, sharpened: what the lip network refers to.
            crops = crop_resized(regions.pictures, torch.from_numpy(here.crops).float().to(device), 256).flip(1)
            seen = crops if scene.still is None else scene.still.expand_as(crops)
            steady = stabilise(net("dnet"), seen, torch.from_numpy(scene.windows[used]).to(device))
            steady = enhance(net("gpen512"), net("parsenet"), steady, landmarks)

            # The lips, from the sound.
            faces = crop_resized(regions.pictures, boxes, LIP_PX) / 255
            in_crops = torch.from_numpy(here.boxes_in_crops()).float().to(device)
            references = build_references(faces, steady.flip(1) / 255, landmarks, in_crops)
            sound = torch.from_numpy(scene.sound[outputs]).to(device)
            spoken = synthesise_lips(net("enet"), faces, references, sound, self._noises)
            spoken = redraw_upper_half(lambda: net("ganimation"), spoken, faces, self._options.upper_face)

            # Restored, and laid into the frame where face and mouth are.
            pasted = paste_prediction(regions.pictures, spoken, boxes)
            restored = restore(net("gfpgan"), net("parsenet"), pasted, here.landmarks)
            change = composite(regions.pictures, pasted, restored, BlendPlan(scene.faces.levels, boxes))
            strength = torch.from_numpy(scene.strength[outputs]).to(device)[:, None, None, None]
            self._unparsed += int((~faces_found(restored)).sum())
            return add_changes(frames, regions, change * strength, scene.colour)
