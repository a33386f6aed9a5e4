"""Pass two of the videoretalking engine: the method, step by step, on batches that follow one another without a wait.

While the device draws a batch, the next one is decoded and handed over, and the last one is put into its frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retalking_core.engines.videoretalking.analysis import ClipAnalysis, DrawnFrame, SpeakerAnalysis
from retalking_core.engines.videoretalking.batching import (
    AdaptiveBatcher,
    OutputChecks,
    ValidatingNetworks,
    in_batches_of,
)
from retalking_core.engines.videoretalking.face_cache_session import FaceCacheSession
from retalking_core.errors import EngineFaultError
from retalking_core.imaging import crop_resized
from retalking_core.networks.enet import ENet
from retalking_core.networks.inference import DeviceClock, download, upload
from retalking_core.notes import Note, frame_ranges_s
from retalking_core.options import RenderOptions
from retalking_core.stages.composite import BlendPlan, composite, enhance, faces_found, paste_prediction, restore
from retalking_core.stages.lips import LIP_PX, build_references, fixed_noise, redraw_upper_half, synthesize_lips
from retalking_core.stages.regions import (
    FacePlaces,
    RegionBatch,
    changed_planes,
    cut_regions,
    put_regions,
    region_side,
)
from retalking_core.stages.stabilize import stabilize
from retalking_core.types import Frame

# Largest region of which a full batch is drawn: 16 such take 200 MB a picture.
FULL_BATCH_SIDE_PX = 1024


@dataclass(frozen=True)
class DrawnBatch:
    """A batch that the device works on. Everything on the host is complete only once `wait` returned.

    planes: u8 [B, R * R * 3 / 2], the new regions. parsed: bool [B], whether the parser found a face. drawn_references:
    the steady pictures that were not known before, u8 [b, 3, 256, 256] of the source frames reference_frames. settings:
    which of the networks' settings it was drawn with.
    """

    items: list[DrawnFrame]
    origins: NDArray[np.int64]
    side: int
    planes: Tensor
    parsed: Tensor
    reference_frames: NDArray[np.int64]
    drawn_references: Tensor
    findings: OutputChecks
    settings: int
    done: torch.cuda.Event | None

    def wait(self) -> None:
        if self.done is not None:
            self.done.synchronize()

    def settled(self) -> DrawnBatch:
        """The same with nothing left to look at or to remember."""
        return replace(self, reference_frames=self.reference_frames[:0], findings=OutputChecks([], torch.zeros(0)))


def fitting_batch(batch_size: int, speaker: SpeakerAnalysis) -> int:
    """Fewer frames at once where faces are large: about ten pictures of the region are held for each frame."""
    side = region_side(speaker.faces.at(np.flatnonzero(speaker.faces.visible)))
    return max(1, min(batch_size, int(batch_size * (FULL_BATCH_SIDE_PX / side) ** 2)))


class FrameRenderer:
    """Pass two over one clip, for one speaker. made_exact: networks that were found to need float32, shared by all
    renderers of a clip."""

    def __init__(
        self,
        networks: ValidatingNetworks,
        batch_size: int,
        scene: ClipAnalysis,
        speaker: SpeakerAnalysis,
        options: RenderOptions,
        memory: FaceCacheSession,
        made_exact: list[str],
    ) -> None:
        self._networks, self._scene, self._speaker, self._memory = networks, scene, speaker, memory
        self._batches = AdaptiveBatcher(fitting_batch(batch_size, speaker))
        self._noises = fixed_noise(ENet.noise_sizes, options.seed, networks.device)
        self._clock = DeviceClock(networks.device)
        self._under_way: deque[DrawnBatch] = deque()
        self._made_exact = made_exact
        self._unparsed: list[int] = []  # output frames

    @property
    def times_s(self) -> dict[str, float]:
        """Of the device, by step."""
        return self._clock.times_s

    @property
    def notes(self) -> list[Note]:
        notes = [
            Note(
                "half_precision_exceeded",
                f"The network {name} ran in float32, because its numbers left the range of half precision.",
            )
            for name in self._made_exact
        ]
        if self._unparsed:
            ranges_s = frame_ranges_s(self._unparsed, self._scene.timeline.fps)
            sentence = "Frames were kept as they were, because no face parts were found in them."
            notes.append(Note("face_parts_not_found", sentence, ranges_s))
        return notes

    def frames(self, items: Iterator[DrawnFrame]) -> Iterator[DrawnFrame]:
        """The frames in order, with this speaker drawn on them; those on which it does not speak as they came."""
        waiting: deque[tuple[list[DrawnFrame], int]] = deque()

        def speaks(item: DrawnFrame) -> bool:
            return bool(self._speaker.strength[item.number] > 0)

        for group in in_batches_of(items, self._batches.size, speaks):
            speaking = [item for item in group if speaks(item)]
            before = len(self._under_way)
            for batch in self._batches.run(speaking, self.render_batch):
                self._under_way.append(batch)
            waiting.append((group, len(self._under_way) - before))
            if len(waiting) > 1:
                yield from self._finished(*waiting.popleft())
        for group, batches in waiting:
            yield from self._finished(group, batches)

    def _finished(self, group: list[DrawnFrame], batches: int) -> Iterator[DrawnFrame]:
        drawn: dict[int, Frame] = {}
        for _ in range(batches):
            batch = self._checked(self._under_way.popleft())
            numbers = np.array([item.number for item in batch.items])
            self._unparsed += numbers[~np.asarray(batch.parsed)].tolist()
            new = put_regions([item.drawn for item in batch.items], batch.origins, batch.side, batch.planes.numpy())
            drawn |= zip(numbers.tolist(), new, strict=True)
        yield from (replace(item, drawn=drawn.get(item.number, item.drawn)) for item in group)

    def _checked(self, batch: DrawnBatch) -> DrawnBatch:
        """The batch once it is done and found right; drawn again where half precision was too little for a network."""
        while True:
            batch.wait()
            self._clock.collect()
            try:
                batch.findings.check()
                break
            except EngineFaultError as error:
                if batch.settings == len(self._made_exact):
                    self._make_exact(error)
                batch = self.render_batch(batch.items)
        if len(batch.reference_frames):
            self._memory.remember_references(batch.reference_frames, batch.drawn_references.numpy())
        return batch.settled()

    def _make_exact(self, error: EngineFaultError) -> None:
        name = str(error.details["network"])
        if not self._networks.run_in_float32(name):
            raise error
        self._made_exact.append(name)

    def render_batch(self, items: Sequence[DrawnFrame]) -> DrawnBatch:
        """A batch of frames on which the face speaks: the method, step by step. The networks see the frames as they
        were decoded; what they change is added to what other speakers have changed."""
        scene, speaker = self._scene, self._speaker
        net, device, step = self._networks.get, self._networks.device, self._clock.step
        outputs, frames = np.array([item.number for item in items]), [item.source for item in items]
        used = scene.timeline.source_index[outputs]

        with torch.inference_mode():
            # Where the face is, at the frame's own resolution.
            with step("cut"):
                places = speaker.faces.at(used)
                regions = below = cut_regions(frames, places, region_side(places), scene.color, device)
                if any(item.drawn is not item.source for item in items):
                    drawn = [item.drawn for item in items]
                    below = cut_regions(drawn, places, region_side(places), scene.color, device)
                here = places.shifted(regions.origins)
                boxes = upload(here.boxes, device)

            # The face with one steady expression, sharpened: what the lip network refers to.
            steady, new_frames, new_steady = self._references(used, regions, here)

            # The lips, from the sound.
            with step("lips"):
                faces = crop_resized(regions.pictures, boxes, LIP_PX) / 255
                in_crops = upload(here.boxes_in_crops(), device)
                references = build_references(faces, steady.flip(1) / 255, here.scaled(), in_crops)
                sound = upload(speaker.sound[outputs], device)
                spoken = synthesize_lips(net("enet"), faces, references, sound, self._noises)
                spoken = redraw_upper_half(lambda: net("ganimation"), spoken, faces, speaker.upper_face)

            # Restored, and laid into the frame where face and mouth are.
            with step("restore"):
                pasted = paste_prediction(regions.pictures, spoken, boxes)
                restored = restore(net("gfpgan"), net("parsenet"), pasted, here.landmarks)
            with step("composite"):
                change = composite(regions.pictures, pasted, restored, BlendPlan(speaker.faces.levels, boxes))
                change = change * upload(speaker.strength[outputs], device)[:, None, None, None]
                planes = changed_planes(below, change, scene.color, scene.height)
            parsed = faces_found(restored)
            return self._handed_over(items, regions, (planes, parsed, new_steady), new_frames)

    def _references(
        self, used: NDArray[np.int64], regions: RegionBatch, here: FacePlaces
    ) -> tuple[Tensor, NDArray[np.int64], Tensor]:
        """(steady faces f32 [B, 3, 256, 256] RGB, whole numbers 0..255; which frames' were drawn; those, u8).

        Each source frame's is drawn once, however often the frame is shown: a picture that comes back from the memory
        is the same as one that was just drawn.
        """
        frames, first, order = np.unique(used, return_index=True, return_inverse=True)
        self._settle(frames)
        known = self._memory.knows(frames)
        device = self._networks.device
        steady = torch.empty((len(frames), 3, 256, 256), dtype=torch.uint8, device=device)
        drawn = steady[:0]
        if known.any():
            steady[upload(np.flatnonzero(known), device)] = upload(self._memory.references(frames[known]), device)
        if not known.all():
            drawn = self._draw_references(frames[~known], first[~known], regions, here)
            steady[upload(np.flatnonzero(~known), device)] = drawn
        return steady[upload(order, device)].float(), frames[~known], drawn

    def _settle(self, frames: NDArray[np.int64]) -> None:
        """Take in what is being drawn for the same source frames, so that nothing is drawn twice."""
        busy = [k for k, batch in enumerate(self._under_way) if np.isin(batch.reference_frames, frames).any()]
        for k in busy:
            batch, self._under_way[k] = self._under_way[k], self._under_way[k].settled()
            self._under_way[k] = self._checked(batch)

    def _draw_references(
        self, frames: NDArray[np.int64], rows: NDArray[np.int64], regions: RegionBatch, here: FacePlaces
    ) -> Tensor:
        """u8 [b, 3, 256, 256] RGB of source frames; rows: where they are in the batch."""
        speaker = self._speaker
        net, device, step = self._networks.get, self._networks.device, self._clock.step
        at = upload(rows, device)
        with step("stabilize"):
            crops = crop_resized(regions.pictures[at], upload(here.crops[rows], device), 256).flip(1)
            seen = crops if speaker.still is None else upload(speaker.still, device).expand_as(crops)
            steady = stabilize(net("dnet"), seen, upload(speaker.windows[frames], device))
        with step("enhance"):
            steady = enhance(net("gpen512"), net("parsenet"), steady, here.scaled()[rows])
        return steady.round().clamp(0, 255).to(torch.uint8)

    def _handed_over(
        self,
        items: Sequence[DrawnFrame],
        regions: RegionBatch,
        results: tuple[Tensor, Tensor, Tensor],
        reference_frames: NDArray[np.int64],
    ) -> DrawnBatch:
        planes, parsed, references = (download(result) for result in results)
        findings, done = self._networks.findings(), None
        if self._networks.device.type == "cuda":
            done = torch.cuda.Event()
            done.record()
        return DrawnBatch(
            items=list(items),
            origins=regions.origins,
            side=regions.side,
            planes=planes,
            parsed=parsed,
            reference_frames=reference_frames,
            drawn_references=references,
            findings=findings,
            settings=len(self._made_exact),
            done=done,
        )
