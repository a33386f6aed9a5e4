"""The two published protocols for LSE (their numbers are not comparable), MFCC features and SyncNet's face tracks.

frame: talkingface-toolkit. The whole frame resized to 224 x 224 at the file's own rate, shifts -10..10.
face: syncnet_python and Wav2Lip on real videos. S3FD face tracks inside one shot, at 25 frames a second, cropped to
224 x 224, shifts -15..15. Chung and Zisserman, ACCV-W 2016; S3FD: Zhang et al., ICCV 2017.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray
from scipy.signal import medfilt

from retalking_core.clip_plan import nearest_in_time
from retalking_core.errors import MetricUnavailableError
from retalking_core.evaluation.frames import Picture, read_bgr, through_jpeg
from retalking_core.evaluation.sync import SyncScore, score_sync
from retalking_core.faces.landmarks import iou
from retalking_core.faces.neural_tracker import MEANS_BGR, decode_boxes
from retalking_core.media.container import reading
from retalking_core.media.limits import MediaLimits
from retalking_core.media.sound import decode_sound
from retalking_core.networks.inference import InferenceNetwork
from retalking_core.networks.syncnet import SyncNet
from retalking_core.progress import ProgressReporter
from retalking_core.types import VideoInfo

DETECT_SCALE, CONFIDENCE, NMS_OVERLAP = 0.25, 0.9, 0.1
# One picture at a time is bound by launches on a GPU: 125 frames took 0.49 s of its driver's time (H100).
DETECT_BATCH = 16
TRACK_OVERLAP, MOST_MISSED, LEAST_FRAMES, LEAST_SIDE_PX = 0.5, 25, 100, 100.0
# Content detector: mean change of hue, saturation and value (8 bit) that makes a new scene.
SCENE_LEVELS, SCENE_LEAST_FRAMES = 27.0, 15
CROP_SCALE, MEDIAN_FRAMES, BORDER_GRAY, SIDE_PX = 0.4, 13, 110, 224

Boxes = NDArray[np.float64]


@dataclass(frozen=True)
class SceneTrack:
    """One face inside one scene. boxes: f64 [n, 4] left, top, right, bottom px on frames first .. last (inclusive)."""

    first: int
    boxes: Boxes

    @property
    def last(self) -> int:
        return self.first + len(self.boxes) - 1

    def follows(self, wanted: NDArray[np.float32]) -> bool:
        """Whether this is the face in these boxes, f32 [ticks, 4], NaN where unknown, on most ticks that both have."""
        meant = wanted[self.first : self.first + len(self.boxes)]
        boxes = self.boxes[: len(meant)]
        is_known = np.isfinite(meant).all(axis=1)
        if not is_known.any():
            return False
        centers = (meant[is_known, :2] + meant[is_known, 2:]) / 2
        boxes = boxes[is_known]
        return bool(((centers >= boxes[:, :2]) & (centers <= boxes[:, 2:])).all(axis=1).mean() > 0.5)


def find_tracks(pictures: Iterable[Picture], detector: InferenceNetwork) -> list[SceneTrack]:
    """Tracks of all faces, longest first. Raises MetricUnavailableError when there is none to speak of."""
    faces: list[Boxes] = []
    waiting: list[NDArray[np.float32]] = []
    starts = [0]
    before: Picture | None = None
    for number, picture in enumerate(pictures):
        colors = cv2.cvtColor(picture, cv2.COLOR_BGR2HSV)
        if before is not None and number - starts[-1] >= SCENE_LEAST_FRAMES and _change(before, colors) > SCENE_LEVELS:
            starts.append(number)
        before = colors
        waiting.append(shrunk(picture))
        if len(waiting) == DETECT_BATCH:
            faces += detect_faces(waiting, detector)
            waiting = []
    faces += detect_faces(waiting, detector) if waiting else []
    bounds = [*starts, len(faces)]
    tracks = [track for first, end in pairwise(bounds) for track in join_boxes(faces[first:end], first)]
    if not tracks:
        raise MetricUnavailableError(
            f"no face is followed for more than {LEAST_FRAMES} frames (4 s) at a size above {LEAST_SIDE_PX:.0f} px, "
            "which is what the face-track protocol asks for"
        )
    return sorted(tracks, key=lambda track: -len(track.boxes))


def shrunk(picture: Picture) -> NDArray[np.float32]:
    """What the detector sees: a quarter of the size, BGR minus its means, as trained; f32 [h, w, 3]."""
    size = [max(1, round(side * DETECT_SCALE)) for side in (picture.shape[1], picture.shape[0])]
    return cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR).astype(np.float32) - np.array(
        MEANS_BGR, np.float32
    )


def detect_faces(smalls: Sequence[NDArray[np.float32]], detector: InferenceNetwork) -> list[Boxes]:
    """Boxes with a confidence above 0.9 in each of some shrunk pictures of one size, in pixels of the pictures
    themselves, best first; f64 [n, 4]."""
    stacked = torch.from_numpy(np.stack(smalls)).to(detector.device).permute(0, 3, 1, 2)
    found = decode_boxes(detector(stacked), CONFIDENCE, NMS_OVERLAP)
    return [boxes.astype(np.float64) / DETECT_SCALE for boxes in found]


def _change(before: Picture, after: Picture) -> float:
    """Mean of the three channels' mean differences, in one pass."""
    return cv2.norm(before, after, cv2.NORM_L1) / before.size


def join_boxes(faces: list[Boxes], first: int) -> list[SceneTrack]:
    """The tracks inside one scene: boxes that overlap from frame to frame, gaps of up to 25 frames filled in."""
    left = [list(range(len(boxes))) for boxes in faces]
    tracks: list[SceneTrack] = []
    while True:
        frames: list[int] = []
        boxes: list[NDArray[np.float64]] = []
        for number, candidates in enumerate(left):
            if frames and number - frames[-1] > MOST_MISSED:
                break
            for candidate in candidates:
                if not frames or iou(faces[number][candidate], boxes[-1]) > TRACK_OVERLAP:
                    frames.append(number)
                    boxes.append(faces[number][candidate])
                    candidates.remove(candidate)
                    break
        if not frames:
            return tracks
        if len(frames) > LEAST_FRAMES:
            track = _interpolated(np.array(frames), np.stack(boxes), first)
            if np.maximum(*(track.boxes[:, 2:] - track.boxes[:, :2]).T).mean() > LEAST_SIDE_PX:
                tracks.append(track)


def _interpolated(frames: NDArray[np.int64], boxes: Boxes, first: int) -> SceneTrack:
    every = np.arange(frames[0], frames[-1] + 1)
    filled = np.stack([np.interp(every, frames, side) for side in boxes.T], axis=1)
    return SceneTrack(first + int(frames[0]), filled)


def crop_track(pictures: Iterable[Picture], track: SceneTrack) -> Iterator[Picture]:
    """The face on each frame of the track, BGR u8 [224, 224, 3], below the middle of the box as SyncNet expects it."""
    sizes = (track.boxes[:, 2:] - track.boxes[:, :2]).max(axis=1) / 2
    centers = (track.boxes[:, :2] + track.boxes[:, 2:]) / 2
    sizes, xs, ys = (medfilt(values, MEDIAN_FRAMES) for values in (sizes, centers[:, 0], centers[:, 1]))
    for number, picture in enumerate(pictures):
        at = number - track.first
        if at < 0:
            continue
        if at >= len(sizes):
            return
        yield _crop(picture, float(sizes[at]), float(xs[at]), float(ys[at]))


def _crop(picture: Picture, half: float, x: float, y: float) -> Picture:
    border = int(half * (1 + 2 * CROP_SCALE))
    framed = cv2.copyMakeBorder(
        picture, border, border, border, border, cv2.BORDER_CONSTANT, value=(BORDER_GRAY, BORDER_GRAY, BORDER_GRAY)
    )
    x, y = x + border, y + border
    top, bottom = int(y - half), int(y + half * (1 + 2 * CROP_SCALE))
    left, right = int(x - half * (1 + CROP_SCALE)), int(x + half * (1 + CROP_SCALE))
    return cv2.resize(framed[max(0, top) : bottom, max(0, left) : right], (SIDE_PX, SIDE_PX))


RATE_HZ = 16_000
FRAME, STEP = 400, 160  # 25 ms windows every 10 ms
FFT, FILTERS, COEFFICIENTS, LIFTER = 512, 26, 13, 22
PRE_EMPHASIS = 0.97
EPS = np.finfo(np.float64).eps


def mfcc(samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """16 kHz mono int16 [n] -> f64 [T, 13], T = 1 + ceil((n - 400) / 160); the first coefficient is the log energy.

    Davis and Mermelstein, IEEE TASSP 1980, with the defaults of python_speech_features 0.6, on which SyncNet was
    trained; equal to that package, which has had no release since 2017, within float64 rounding.
    """
    power = np.abs(np.fft.rfft(_frames(samples), FFT)) ** 2 / FFT
    energy = power.sum(axis=1)
    bands = power @ _filters().T
    logs = np.log(np.where(bands == 0, EPS, bands))
    cepstrum = logs @ _cosines().T * _lift()
    cepstrum[:, 0] = np.log(np.where(energy == 0, EPS, energy))
    return cepstrum


def _frames(samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """Pre-emphasized windows [T, 400], rectangular, the last one filled with zeros."""
    signal = samples.astype(np.float64)
    signal = np.append(signal[:1], signal[1:] - PRE_EMPHASIS * signal[:-1])
    count = 1 if len(signal) <= FRAME else 1 + -(-(len(signal) - FRAME) // STEP)
    padded = np.pad(signal, (0, max(0, (count - 1) * STEP + FRAME - len(signal))))
    return np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::STEP][:count]


@lru_cache(maxsize=1)
def _filters() -> NDArray[np.float64]:
    """26 triangles over the 257 bins, edges equally spaced in mel from 0 to 8000 Hz."""
    mels = np.linspace(0, 2595 * np.log10(1 + RATE_HZ / 2 / 700), FILTERS + 2)
    edges = np.floor((FFT + 1) * 700 * (10 ** (mels / 2595) - 1) / RATE_HZ)
    bank = np.zeros((FILTERS, FFT // 2 + 1))
    for row, (left, peak, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        rising, falling = np.arange(left, peak), np.arange(peak, right)
        bank[row, int(left) : int(peak)] = (rising - left) / (peak - left)
        bank[row, int(peak) : int(right)] = (right - falling) / (right - peak)
    return bank


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float64]:
    """The first 13 rows of the orthonormal DCT-II over 26 bands."""
    k, n = np.arange(COEFFICIENTS)[:, None], np.arange(FILTERS)
    rows = np.sqrt(2 / FILTERS) * np.cos(np.pi * k * (2 * n + 1) / (2 * FILTERS))
    rows[0] /= np.sqrt(2)
    return rows


def _lift() -> NDArray[np.float64]:
    return 1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)


LIP_FRAMES, SOUND_COLUMNS, COLUMNS_PER_FRAME = 5, 20, 4
SAMPLES_PER_FRAME = 640  # 40 ms at 16 kHz: SyncNet knows no other frame rate
LOST_WINDOWS = 5  # the evaluators' own count: one less than there are
FRAME_SHIFTS, FRAME_BATCH = 10, 50
FACE_SHIFTS, FACE_BATCH = 15, 20
FACE_FPS = Fraction(25)


def frame_score(
    path: Path, info: VideoInfo, network: InferenceNetwork, limits: MediaLimits, steps: ProgressReporter
) -> SyncScore:
    """The toolkit's protocol on a file with sound. Raises media errors, MetricUnavailableError if it is too short."""
    samples = read_speech(path, limits)
    pictures = through_jpeg(steps.watch(read_bgr(path, limits), info.frame_count), info.fps)
    squeezed = (cv2.resize(picture, (SIDE_PX, SIDE_PX)) for picture in pictures)
    return score_clip(squeezed, samples, network, FRAME_SHIFTS, FRAME_BATCH)


def face_scores(
    path: Path,
    info: VideoInfo,
    network: InferenceNetwork,
    detector: InferenceNetwork,
    limits: MediaLimits,
    steps: ProgressReporter,
    wanted: NDArray[np.float32] | None = None,
) -> list[tuple[SceneTrack, SyncScore]]:
    """The face-track protocol: one score a track. Raises MetricUnavailableError when no track is long and large enough.

    wanted: f32 [M, 4], where the face is that is measured on each frame of the file; tracks of others are left out.

    The evaluators' own intermediate files (MPEG-4 and JPEG at quality 2, nearly lossless) are left out; the JPEG of the
    crops, which is not, is kept.
    """
    samples = read_speech(path, limits)
    ticks_s = np.arange(max(1, round(info.duration_s * FACE_FPS))) / float(FACE_FPS)
    picks = nearest_in_time(info.frame_times_s, ticks_s)
    tracks = find_tracks(steps.watch(_picked(read_bgr(path, limits), picks), len(picks)), detector)
    if wanted is not None:
        tracks = [track for track in tracks if track.follows(wanted[np.minimum(picks, len(wanted) - 1)])]
        if not tracks:
            raise MetricUnavailableError("no track of the face-track protocol follows the rendered face")
    scores = []
    for track in tracks:
        crops = crop_track(steps.watch(_picked(read_bgr(path, limits), picks), len(picks)), track)
        start, end = (round(frame * SAMPLES_PER_FRAME) for frame in (track.first, track.last + 1))
        jpegs = through_jpeg(crops, FACE_FPS)
        scores.append((track, score_clip(jpegs, samples[start:end], network, FACE_SHIFTS, FACE_BATCH)))
    return scores


def score_clip(
    pictures: Iterable[Picture], samples: NDArray[np.int16], network: InferenceNetwork, shifts: int, batch: int
) -> SyncScore:
    """BGR u8 [224, 224, 3] pictures of 40 ms each, and their sound, 16 kHz int16."""
    allowed = len(samples) // SAMPLES_PER_FRAME - LOST_WINDOWS
    if allowed < 1:
        raise MetricUnavailableError(f"the sound lasts {len(samples) / 16000:.2f} s; SyncNet needs at least 0.24 s")
    lips = _embed_lips(pictures, allowed, network, batch)
    # As many windows as the sound has and one less than the pictures have.
    count = len(lips)
    if count < 1:
        raise MetricUnavailableError(f"the video has fewer than {LIP_FRAMES + 1} pictures; SyncNet needs that many")
    sound = _embed_sound(mfcc(samples), count, network, batch)
    return score_sync(lips, sound, shifts)


def read_speech(path: Path, limits: MediaLimits) -> NDArray[np.int16]:
    """The sound as ffmpeg's own resampler makes it with default settings: 16 kHz mono int16 [n]."""
    resampler = AudioResampler(format="s16", layout="mono", rate=16_000)
    pieces: list[NDArray[np.int16]] = []
    with reading("speech file"):
        for frame in decode_sound(path, limits):
            frame.pts = None
            pieces.extend(piece.to_ndarray()[0] for piece in resampler.resample(frame))
        pieces.extend(piece.to_ndarray()[0] for piece in resampler.resample(None))
    return np.concatenate(pieces)


def _picked(pictures: Iterator[Picture], picks: NDArray[np.int64]) -> Iterator[Picture]:
    """The pictures of these ascending numbers; numbers repeat where the rate goes up."""
    number, current = -1, None
    for pick in picks:
        while number < pick:
            following = next(pictures, None)
            if following is None:
                break
            number, current = number + 1, following
        if current is not None:
            yield current


def _embed_lips(
    pictures: Iterable[Picture], allowed: int, network: InferenceNetwork, batch: int
) -> NDArray[np.float32]:
    """f32 [n, 1024], n = min(allowed, pictures - 5): windows of five pictures, one step apart."""
    held: deque[Picture] = deque(maxlen=LIP_FRAMES + 1)
    windows: list[NDArray[np.uint8]] = []
    found: list[NDArray[np.float32]] = []
    count = 0
    for picture in pictures:
        held.append(picture)
        # A window is taken one picture late: the last one of a clip does not count.
        if len(held) == LIP_FRAMES + 1 and count < allowed:
            windows.append(np.stack(list(held)[:LIP_FRAMES]))
            count += 1
        if len(windows) == batch:
            found.append(_run_lips(windows, network))
            windows = []
        if count == allowed:
            break
    if windows:
        found.append(_run_lips(windows, network))
    return np.concatenate(found) if found else np.zeros((0, 1024), np.float32)


def _run_lips(windows: list[NDArray[np.uint8]], network: InferenceNetwork) -> NDArray[np.float32]:
    """Windows u8 [5, 224, 224, 3] -> [n, 1024]; the network takes [n, 3, 5, 224, 224], BGR, 0..255."""
    stacked = torch.from_numpy(np.stack(windows)).to(network.device)
    with network.context():
        lips = cast(SyncNet, network.network).embed_lip(stacked.permute(0, 4, 1, 2, 3).float()).float()
    return lips.cpu().numpy()  # outside: nothing else launches inside, and this waits for the device


def _embed_sound(
    coefficients: NDArray[np.float64], count: int, network: InferenceNetwork, batch: int
) -> NDArray[np.float32]:
    """MFCC [T, 13] -> [count, 1024]; window v starts at column 4 v."""
    starts = COLUMNS_PER_FRAME * np.arange(count)
    windows = coefficients[starts[:, None] + np.arange(SOUND_COLUMNS)].transpose(0, 2, 1)[:, None].astype(np.float32)
    found = []
    for first in range(0, count, batch):
        with network.context():
            piece = torch.from_numpy(windows[first : first + batch]).to(network.device)
            sounds = cast(SyncNet, network.network).embed_audio(piece).float()
        found.append(sounds.cpu().numpy())
    return np.concatenate(found)
