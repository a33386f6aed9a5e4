"""A face track that was found before, at the cost of finding it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.neural_tracker import BATCH, REACH, SHRINKS_TO, STRIDE, FaceNetworks, NeuralFaceModels
from retalking_core.faces.track import OnFrame, TrackRequest
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.types import FaceTrack, FrameSource


class ReplayedTrack:
    """A `FaceTracker` that gives back what another one found.

    Untrained detectors see no face, so that with synthetic weights the neural tracker cannot follow one. Given
    networks, this one does the neural tracker's work on every frame all the same: S3FD around the face on every fifth,
    2DFAN4 on those and then on all; only its findings are thrown away.
    """

    def __init__(self, track: FaceTrack, networks: FaceNetworks | None = None) -> None:
        self.known = track
        self._models = None if networks is None else NeuralFaceModels(networks)

    def warm_up(self) -> None:
        """Everything is loaded already."""

    def track(self, source: FrameSource, request: TrackRequest, on_frame: OnFrame) -> FaceTrack:
        if len(self.known.visible) != source.info.frame_count:
            raise SystemExit("the track belongs to another video")
        wanted = list(request.indices)
        frames, done = source.frames_at(wanted), 0
        while group := list(islice(frames, BATCH)):
            if self._models is not None:
                self._work([frame.y for frame in group], wanted[done : done + len(group)])
            done += len(group)
            on_frame(done, len(wanted))
        asked = np.isin(np.arange(len(self.known.visible)), wanted)
        return FaceTrack(
            np.where(asked[:, None], self.known.boxes, np.nan),
            np.where(asked[:, None, None], self.known.landmarks, np.nan),
            self.known.visible & asked,
        )

    def _work(self, grays: list, numbers: list[int]) -> None:
        boxes = [self.known.boxes[k] for k in numbers]
        size = float(boxes[0][2] - boxes[0][0])
        height, width = grays[0].shape
        window = boxes[0] + np.array([-REACH, -REACH, REACH, REACH], np.float32) * size
        window = np.clip(window, 0, np.array([width, height, width, height], np.float32))
        keys = list(range(0, len(grays), STRIDE))
        self._models.detect_many([grays[k] for k in keys], window, SHRINKS_TO * size, 0.0)
        self._models.landmarks_many([grays[k] for k in keys], [boxes[k] for k in keys])
        self._models.landmarks_many(grays, boxes)


def load_track(file: Path) -> FaceTrack:
    with np.load(file, allow_pickle=False) as arrays:
        return FaceTrack(arrays["boxes"], arrays["landmarks"], arrays["visible"])


def save_track(video: Path, file: Path) -> None:
    """By dlib, on a machine that has its data."""
    source = open_video(video, DEFAULT_LIMITS)
    request = TrackRequest(range(source.info.frame_count))
    track = DlibFaceTracker().track(source, request, lambda _done, _total: None)
    np.savez(file, boxes=track.boxes, landmarks=track.landmarks, visible=track.visible)
