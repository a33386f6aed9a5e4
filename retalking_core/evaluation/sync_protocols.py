"""The two ways in which LSE is measured in print. Their numbers are not comparable, so both are named.

frame: talkingface-toolkit. The whole picture squeezed to 224 x 224 at the file's own rate, shifts -10..10.
face: syncnet_python and Wav2Lip on real videos. Face tracks at 25 frames a second, shifts -15..15.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from retalking_core.evaluation.bgr_frames import Picture, read_bgr
from retalking_core.evaluation.face_tracks import SceneTrack, crop_track, find_tracks
from retalking_core.evaluation.jpeg_frames import through_jpeg
from retalking_core.evaluation.mfcc import mfcc
from retalking_core.evaluation.steps import EvaluationSteps
from retalking_core.evaluation.sync_score import SyncScore, score_sync
from retalking_core.evaluation.unmeasurable import UnmeasurableError
from retalking_core.media.faults import reading
from retalking_core.media.limits import MediaLimits
from retalking_core.media.sound import decoded_speech
from retalking_core.media.timeline import nearest_in_time
from retalking_core.networks.inference import InferenceNetwork
from retalking_core.types import VideoInfo

SIDE_PX = 224
LIP_FRAMES, SOUND_COLUMNS, COLUMNS_PER_FRAME = 5, 20, 4
SAMPLES_PER_FRAME = 640  # 40 ms at 16 kHz: SyncNet knows no other frame rate
LOST_WINDOWS = 5  # the evaluators' own count: one less than there are
FRAME_SHIFTS, FRAME_BATCH = 10, 50
FACE_SHIFTS, FACE_BATCH = 15, 20
FACE_FPS = Fraction(25)


def frame_score(
    path: Path, info: VideoInfo, network: InferenceNetwork, limits: MediaLimits, steps: EvaluationSteps
) -> SyncScore:
    """The toolkit's protocol on a file with sound. Raises UnmeasurableError when it is too short, and media errors."""
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
    steps: EvaluationSteps,
) -> list[tuple[SceneTrack, SyncScore]]:
    """The face-track protocol: one score a track. Raises UnmeasurableError when no track is long and large enough.

    The evaluators' own intermediate files (MPEG-4 and JPEG at quality 2, nearly lossless) are left out; the JPEG of the
    crops, which is not, is kept.
    """
    samples = read_speech(path, limits)
    ticks_s = np.arange(max(1, round(info.duration_s * FACE_FPS))) / float(FACE_FPS)
    picks = nearest_in_time(info.frame_times_s, ticks_s)
    tracks = find_tracks(steps.watch(_picked(read_bgr(path, limits), picks), len(picks)), detector)
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
        raise UnmeasurableError(f"the sound lasts {len(samples) / 16000:.2f} s; SyncNet needs at least 0.24 s")
    lips = _embed_lips(pictures, allowed, network, batch)
    # As many windows as the sound has and one less than the pictures have.
    count = len(lips)
    if count < 1:
        raise UnmeasurableError(f"the video has fewer than {LIP_FRAMES + 1} pictures; SyncNet needs that many")
    sound = _embed_sound(mfcc(samples), count, network, batch)
    return score_sync(lips, sound, shifts)


def read_speech(path: Path, limits: MediaLimits) -> NDArray[np.int16]:
    """The sound as ffmpeg's own resampler makes it with default settings: 16 kHz mono int16 [n]."""
    resampler = AudioResampler(format="s16", layout="mono", rate=16_000)
    pieces: list[NDArray[np.int16]] = []
    with reading("speech file"):
        for frame in decoded_speech(path, limits):
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
        return network.network.embed_lip(stacked.permute(0, 4, 1, 2, 3).float()).float().cpu().numpy()


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
            found.append(network.network.embed_audio(piece).float().cpu().numpy())
    return np.concatenate(found)
