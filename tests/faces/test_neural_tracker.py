"""The tracker on S3FD and 2DFAN4. Trained weights are not at hand: networks that answer with what dlib sees, in the
networks' own terms, prove the geometry around them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from retalking_core.faces import neural_tracker
from retalking_core.faces.dlib_models import DlibModels
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.faces.follower import FaceSearch
from retalking_core.faces.landmarks import face_scale
from retalking_core.faces.neural_tracker import LookAhead, NeuralFaceModels, NeuralFaceTracker, between
from retalking_core.faces.track import TrackRequest
from tests.faces.clips import PictureSource, backdrop, portrait, to_frame


class DlibInDisguise:
    """asked: batch sizes by network."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self._dlib = DlibModels()
        self.asked: dict[str, list[int]] = {"s3fd": [], "fan2d": []}

    def get(self, name: str):
        one = {"s3fd": self._s3fd, "fan2d": self._fan2d}[name]

        def network(pictures: Tensor) -> list[Tensor]:
            self.asked[name].append(len(pictures))
            results = [one(pictures[k : k + 1]) for k in range(len(pictures))]
            return [torch.cat(parts) for parts in zip(*results, strict=True)]

        return network

    def _s3fd(self, picture: Tensor) -> tuple[Tensor, ...]:
        """A face in the level whose anchor is nearest in size, at the cell under its center."""
        gray = (picture[0, 0] + neural_tracker.MEANS_BGR[0]).round().byte().numpy()
        height, width = gray.shape
        large = cv2.resize(gray, (3 * width, 3 * height))
        found = self._dlib.detect(large, np.array([0, 0, 3 * width, 3 * height], np.float32), 80)
        levels = []
        for level in range(6):
            stride = 2 ** (level + 2)
            size = (-(-height // stride), -(-width // stride))
            classes = torch.zeros(1, 2, *size)
            classes[:, 0] = 10
            levels += [classes, torch.zeros(1, 4, *size)]
        for box in found:
            x0, y0, x1, y1 = box / 3
            side, x, y = x1 - x0, (x0 + x1) / 2, (y0 + y1) / 2
            y -= neural_tracker.DROP * side
            level = int(np.clip(round(np.log2(side / 16)), 0, 5))
            stride = 2 ** (level + 2)
            column, row = int(x / stride), int(y / stride)
            offset = [(x / stride - column - 0.5) / 0.4, (y / stride - row - 0.5) / 0.4]
            offset += [np.log(side / (4 * stride)) / 0.2] * 2
            levels[2 * level][0, 1, row, column] = 20
            levels[2 * level + 1][0, :, row, column] = torch.tensor(offset, dtype=torch.float32)
        return tuple(levels)

    def _fan2d(self, crop: Tensor) -> list[Tensor]:
        gray = (crop[0, 0] * 255).round().byte().numpy()
        half = 256 / neural_tracker.FAN_SIDE / 2
        y = 128 + (neural_tracker.DROP + neural_tracker.FAN_RISE) * 2 * half
        marks = self._dlib.landmarks(gray, np.array([128 - half, y - half, 128 + half, y + half], np.float32))
        places = torch.from_numpy((marks + 0.5) / 4)
        grid = torch.arange(64) + 0.5
        across = torch.exp(-((grid - places[:, :1]) ** 2) / 2)
        down = torch.exp(-((grid - places[:, 1:]) ** 2) / 2)
        heat = (down[:, :, None] * across[:, None, :])[None]
        return [torch.zeros_like(heat)] * 3 + [heat]


def test_peaks_are_found_between_the_cells() -> None:
    grid = torch.arange(64) + 0.5
    places = torch.tensor([[20.2, 31.7], [0.6, 63.2], [40.0, 10.5]])
    heat = (
        torch.exp(-((grid - places[:, 1:]) ** 2) / 2)[:, :, None]
        * torch.exp(-((grid - places[:, :1]) ** 2) / 2)[:, None]
    )
    found = neural_tracker.heat_peaks(heat)
    assert (found[[0, 2]] - places[[0, 2]]).abs().max() < 0.1
    assert (found[1] - places[1]).abs().max() < 0.7


def test_boxes_are_decoded_and_thinned() -> None:
    """Two overlapping candidates and one apart, on strides 8 and 16."""
    levels = []
    for level in range(6):
        size = 256 // 2 ** (level + 2)
        classes = torch.zeros(1, 2, size, size)
        classes[:, 0] = 8
        levels += [classes, torch.zeros(1, 4, size, size)]
    levels[2][0, 1, 10, 12], levels[2][0, 1, 10, 13], levels[4][0, 1, 3, 2] = 12.0, 11.0, 16.0
    levels[5][0, :, 3, 2] = torch.tensor([1.0, -1.0, 1.0, 0.0])
    (boxes,) = neural_tracker.decode_boxes(tuple(levels), 0.5)
    half = 32 * np.exp(0.2)
    expected = [[46.4 - half, 49.6 - 32, 46.4 + half, 49.6 + 32], [100 - 16, 84 - 16, 100 + 16, 84 + 16]]
    assert np.abs(boxes - expected).max() < 1e-3


@pytest.mark.parametrize("face_px", [130])
def test_the_track_is_that_of_the_networks(face_px: int) -> None:
    pictures = [portrait(face_px, 640, 480, 300 + 4 * k, 220) for k in range(6)]
    source = PictureSource([*pictures, backdrop(640, 480)])
    request = TrackRequest(range(7))
    own = NeuralFaceTracker(DlibInDisguise()).track(source, request, lambda _done, _total: None)
    plain = DlibFaceTracker().track(source, request, lambda _done, _total: None)
    assert own.visible.tolist() == [True] * 6 + [False]
    distance = np.linalg.norm(own.landmarks[:6, :48] - plain.landmarks[:6, :48], axis=-1).mean()
    assert distance < 0.035 * face_scale(plain.landmarks[:6]).mean()


def test_many_frames_at_once_give_the_track_of_one_by_one() -> None:
    """A face that moves, is gone for a while (a search, frame by frame), and comes back."""
    moving = [portrait(90, 260, 220, 110 + 4 * k, 100 + 2 * k) for k in range(7)]
    source = PictureSource([*moving, *[backdrop(260, 220)] * 4, *moving[:2]])
    request = TrackRequest(range(13))
    tracks, asked = [], []
    for batch in (1, 7):
        networks = DlibInDisguise()
        tracks.append(NeuralFaceTracker(networks, batch).track(source, request, lambda _done, _total: None))
        asked.append(networks.asked)
    single, batched = tracks
    assert batched.visible.tolist() == single.visible.tolist() == [True] * 7 + [False] * 4 + [True] * 2
    distance = np.linalg.norm(batched.landmarks - single.landmarks, axis=-1)[single.visible]
    assert distance.mean() < 0.5
    assert np.quantile(distance, 0.99) < 1.5
    assert max(asked[0]["fan2d"]) == 1
    assert max(asked[1]["fan2d"]) == 7
    assert len(asked[1]["fan2d"]) < len(asked[0]["fan2d"])
    assert max(asked[1]["s3fd"]) == 3


def test_what_lies_between_two_finds_is_interpolated() -> None:
    first, second = np.array([0, 0, 10, 10], np.float32), np.array([4, 8, 18, 18], np.float32)
    placed = between([0, 2, 4, 6], [first, None, first, second], 7)
    assert [box is None for box in placed] == [False, True, True, True, False, False, False]
    assert placed[5].tolist() == [2, 4, 14, 14]


def test_an_empty_frame_beside_the_face_is_no_proposal() -> None:
    face, empty = portrait(110, 360, 280, 150, 120), backdrop(360, 280)
    grays = [to_frame(k, face if k < 6 else empty).y for k in range(11)]
    models = NeuralFaceModels(DlibInDisguise())
    search = FaceSearch.over(models, 360, 280, (0.0, 0.0, 0.0, 0.0))
    ahead = LookAhead(models, search)
    start = search.everywhere(grays[0], fine=False)[0].box
    proposals = ahead.propose(grays, start)
    assert [proposal is not None for proposal in proposals] == [True] * 6 + [False] * 5
    assert [k for k, proposal in enumerate(proposals) if proposal and proposal.confirmed] == [0, 5]
    assert ahead.propose(grays, None) == [None] * 11
