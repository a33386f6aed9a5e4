"""The parts of the SyncNet protocols and of the frame reading that need no trained network."""

from __future__ import annotations

import itertools
import threading
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from retalking_core.errors import MetricUnavailableError
from retalking_core.evaluation import metrics, sync_protocols
from retalking_core.evaluation.frames import read_bgr, through_jpeg
from retalking_core.evaluation.measurement import Measurement
from retalking_core.evaluation.metrics import evaluate, measure_all
from retalking_core.evaluation.sync import score_sync
from retalking_core.evaluation.sync_protocols import (
    SceneTrack,
    crop_track,
    detect_faces,
    find_tracks,
    join_boxes,
    shrunk,
)
from retalking_core.faces.neural_tracker import decode_boxes
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.networks.inference import REFERENCE, InferenceNetwork
from retalking_core.progress import ProgressReporter, ignore_progress
from tests.evaluation.clips import BrightnessNet, GivenModels, levels, noise_of, write_samples, write_talking_clip
from tests.media.clips import make_video

FACE = np.array([60.0, 40.0, 220.0, 220.0])
# Code points as FFmpeg numbers them: matrix, primaries, transfer, range.
TAGS = {
    "untagged": {},
    "bt709": {"color": (1, 1, 1, 1)},
    "full range": {"pixel_format": "yuvj420p", "color": (5, 5, 1, 2)},
    "4:4:4, odd": {"pixel_format": "yuv444p", "size": (97, 65)},
    "10 bit": {"pixel_format": "yuv420p10le"},
    "sideways": {"rotation_deg": 90},
    "upside down": {"rotation_deg": 180},
}


@pytest.mark.parametrize("kind", TAGS)
def test_frames_are_byte_for_byte_those_of_opencv(tmp_path: Path, kind: str) -> None:
    path = make_video(tmp_path / "clip.mp4", frames=6, **TAGS[kind])
    capture = cv2.VideoCapture(str(path))
    for picture in read_bgr(path, DEFAULT_LIMITS):
        found, expected = capture.read()
        assert found
        np.testing.assert_array_equal(picture, expected)
    assert not capture.read()[0]


def test_default_jpeg_is_coarse() -> None:
    """ffmpeg ends at quantizer 31 whatever the picture needs: far below OpenCV's quality 95."""
    noise = np.random.default_rng(1).uniform(size=(30, 40, 3))
    picture = cv2.resize((255 * noise).astype(np.uint8), (400, 300), interpolation=cv2.INTER_CUBIC)
    seen = list(through_jpeg([picture] * 12, Fraction(25)))
    assert len(seen) == 12
    assert all(one.shape == picture.shape for one in seen)
    assert 24 < cv2.PSNR(seen[-1], picture) < 36
    fine = cv2.imdecode(cv2.imencode(".jpg", picture)[1], cv2.IMREAD_COLOR)
    assert cv2.PSNR(fine, picture) > cv2.PSNR(seen[-1], picture) + 3


def test_score_needs_windows_of_one_shape() -> None:
    for lips, sound in (((0, 4), (0, 4)), ((3, 4), (4, 4))):
        with pytest.raises(ValueError, match="not of the same windows"):
            score_sync(np.zeros(lips), np.zeros(sound), 10)


def test_boxes_join_over_a_gap_and_split_at_a_jump() -> None:
    frames = [FACE[None] + k * 0.2 for k in range(130)]
    for number in (20, 21, 22):
        frames[number] = np.zeros((0, 4))
    (track,) = join_boxes(frames, first=50)
    assert (track.first, track.last) == (50, 179)
    np.testing.assert_allclose(track.boxes[21], FACE + 21 * 0.2, atol=1e-9)
    jumped = frames[:65] + [boxes + 400 for boxes in frames[65:]]
    assert join_boxes(jumped, first=0) == []
    small = [boxes / 3 for boxes in frames]
    assert join_boxes(small, first=0) == []


def test_crop_has_the_mouth_where_syncnet_expects_it() -> None:
    picture = np.zeros((300, 320, 3), np.uint8)
    picture[:, 140] = 255  # the middle of the face
    picture[220] = 255  # the chin
    track = SceneTrack(2, np.repeat(FACE[None], 20, axis=0))
    crops = list(crop_track([picture] * 30, track))
    assert len(crops) == 20
    crop = crops[10]
    assert crop.shape == (224, 224, 3)
    # Box 160 x 180: half a side is 90 px, the crop 252 px square, from 126 px left of the middle and 90 px above it.
    assert abs(int(crop[10, :, 0].argmax()) - 112) <= 1
    assert abs(int(crop[:, 10, 0].argmax()) - round((220 - 130 + 90) * 224 / 252)) <= 1


class OneFace(nn.Module):
    """Stands in for S3FD: sees a face of 160 x 160 px wherever the picture has its brightest square."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Parameter(torch.ones(1))

    def forward(self, image: Tensor) -> list[Tensor]:
        height, width = image.shape[-2:]
        outputs = []
        for level in range(6):
            stride = 4 << level
            rows, columns = -(-height // stride), -(-width // stride)
            classes = torch.zeros(len(image), 2, rows, columns)
            classes[:, 0] = 9.0
            if stride == 8:
                blurred = nn.functional.avg_pool2d(image.sum(1, keepdim=True), stride, ceil_mode=True)
                for k, at in enumerate(blurred.flatten(1).argmax(dim=1).tolist()):
                    classes[k, :, at // columns, at % columns] = torch.tensor([0.0, 9.0])
            boxes = torch.zeros(len(image), 4, rows, columns)
            boxes[:, 2:] = np.log(40 / (4 * stride)) / 0.2
            outputs += [classes, boxes]
        return outputs


def marked(x: int, y: int) -> np.ndarray:
    picture = np.full((320, 400, 3), 40, np.uint8)
    picture[y - 16 : y + 16, x - 16 : x + 16] = 250
    return picture


def test_detector_output_is_decoded() -> None:
    network = InferenceNetwork(OneFace(), REFERENCE)
    ((box,),) = detect_faces([shrunk(marked(208, 144))], network)
    np.testing.assert_allclose(box, [208 - 80, 144 - 80, 208 + 80, 144 + 80], atol=17)


def test_decoding_agrees_with_face_alignment() -> None:
    from face_alignment.detection.sfd.detect import get_predictions

    rng = np.random.default_rng(4)
    sizes = [(20, 24), (10, 12), (5, 6), (3, 3), (2, 2), (1, 1)]
    outputs = []
    for rows, columns in sizes:
        outputs += [rng.normal(size=(1, 2, rows, columns)) * 3, rng.normal(size=(1, 4, rows, columns))]
    soft = [
        np.exp(out) / np.exp(out).sum(axis=1, keepdims=True) if k % 2 == 0 else out for k, out in enumerate(outputs)
    ]
    theirs = np.asarray(get_predictions(soft, 1)).reshape(-1, 5)
    theirs = theirs[theirs[:, 4] > sync_protocols.CONFIDENCE]
    levels_ = [torch.from_numpy(output).float() for output in outputs]
    (ours,) = decode_boxes(levels_, sync_protocols.CONFIDENCE, nms_overlap=1.0)
    assert len(ours) > 20
    theirs = theirs[:, :4]
    np.testing.assert_allclose(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)], rtol=1e-5, atol=1e-3)


def test_a_scene_change_ends_a_track() -> None:
    network = InferenceNetwork(OneFace(), REFERENCE)
    same = [marked(208, 144)] * 210
    assert len(find_tracks(same, network)) == 1
    darkened = same[:105] + [255 - marked(208, 144) // 3 * 2 for _ in range(105)]
    with pytest.raises(MetricUnavailableError, match="more than 100 frames"):
        find_tracks(same[:60], network)
    assert [track.first for track in find_tracks(darkened, network)][:1] in ([0], [105])


def test_face_protocol_end_to_end(tmp_path: Path) -> None:
    """5 s at 20 frames a second, brought to 25; the sound comes 0.2 s late, which is 5 frames of 40 ms."""
    level = np.repeat(levels(28), 5)[:125]
    pictures = []
    for k in range(100):
        picture = marked(208, 144)
        picture[picture < 200] = round(60 + 60 * level[min(124, k * 5 // 4)])  # less than a scene change
        pictures.append(picture)
    sound = write_samples(tmp_path / "late.wav", noise_of(np.roll(level, 5)))
    file = write_talking_clip(tmp_path / "clip.mp4", pictures, sound, fps=20)
    models = GivenModels(syncnet=BrightnessNet(), s3fd=OneFace())
    offset, distance = evaluate(file, file, None, ["lse_offset_face", "lse_d_face"], models=models)
    assert offset.value is not None, offset.reason
    assert abs(offset.value + 5) <= 1
    assert distance.detail["tracks"] == 1
    assert distance.detail["shifts"] == 15


def test_a_protocol_that_fails_is_tried_once(tmp_path: Path) -> None:
    """Its three metrics ask for the same tracks, of which a clip of two seconds has none."""
    seen = []

    class Counted(OneFace):
        def forward(self, image: Tensor) -> list[Tensor]:
            seen.append(len(image))
            return super().forward(image)

    sound = write_samples(tmp_path / "sound.wav", noise_of(np.ones(60)))
    file = write_talking_clip(tmp_path / "clip.mp4", [marked(208, 144)] * 50, sound)
    models = GivenModels(syncnet=BrightnessNet(), s3fd=Counted())
    values = evaluate(file, file, None, ["lse_d_face", "lse_c_face", "lse_offset_face"], models=models)
    assert all("more than 100 frames" in str(value.reason) for value in values)
    assert sum(seen) == 50


def test_what_runs_beside_ends_with_the_block_and_not_when_it_is_done() -> None:
    steps = ProgressReporter(ignore_progress)

    def endless() -> None:
        for _ in steps.watch(itertools.count(), 100):
            time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt), metrics._beside(endless, steps.stop):
        raise KeyboardInterrupt


def test_a_stopped_evaluation_stops_what_runs_beside_it(tmp_path: Path) -> None:
    sound = write_samples(tmp_path / "sound.wav", noise_of(np.ones(60)))
    file = write_talking_clip(tmp_path / "clip.mp4", [marked(208, 144)] * 50, sound)

    class Broken(OneFace):
        def forward(self, image: Tensor) -> list[Tensor]:
            raise KeyboardInterrupt

    models = GivenModels(syncnet=BrightnessNet(), s3fd=Broken())
    measurement = Measurement(file, file, None, reference=file, models=models)
    with pytest.raises(KeyboardInterrupt):
        measure_all(measurement, ["ssim", "landmark_jitter", "lse_d_face"])
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("evaluation")]
