"""Face tracking with dlib: HOG detection where needed, the 68-point predictor on every frame.

Detection costs 10 to 40 ms and the predictor 3 ms, so a followed face is detected again only every few frames, inside a
window around it, or when a check fails. A lost face is searched in the whole frame and recognized by its descriptor, so
the track never jumps to another person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.errors import FaceNotFoundError
from retalking_core.faces.covered import PATCH_SHAPE, covered_frames, face_patch
from retalking_core.faces.dlib_models import DlibModels, resident_models
from retalking_core.faces.follower import FaceFollower, FaceSearch, LandmarkProposal, implied_box
from retalking_core.faces.landmarks import INNER_PAIRS, Points, face_scale
from retalking_core.faces.track import OnFrame, TrackRequest, choose_face, smooth_track
from retalking_core.options import FaceBox, FaceChoice, FacePoint
from retalking_core.types import FaceTrack, Frame, FrameSource

# While no face has been seen yet, only every third frame is searched, every fifteenth of them finely.
SEED_STRIDE, FINE_EVERY = 3, 5


class DlibFaceTracker:
    """A `FaceTracker` on dlib; needs no download. One instance may track any number of videos, one after the other."""

    def __init__(self, models: DlibModels | None = None) -> None:
        self._models = models or resident_models()

    def warm_up(self) -> None:
        """Load detector and predictor (1.3 s)."""
        blank = np.zeros((100, 100), np.uint8)
        self._models.detect(blank, np.array([0, 0, 100, 100], np.float32), 80)
        self._models.landmarks(blank, np.array([20, 20, 80, 80], np.float32))

    def track(self, source: FrameSource, request: TrackRequest, on_frame: OnFrame) -> FaceTrack:
        """See `FaceTracker.track`. Runs from the frame that settles the choice to the end, then back to the start."""
        times_s = source.info.frame_times_s
        indices = np.asarray(request.indices, np.int64)
        search = FaceSearch.over(self._models, source.info.width, source.info.height, request.crop)
        seed, first = self._find_seed(source, indices, request.choice, search, on_frame)
        forward = FaceFollower(self._models, search, first)
        raw = np.full((len(times_s), 68, 2), np.nan, np.float32)
        patches = np.zeros((len(times_s), *PATCH_SHAPE), np.uint8)
        cuts = np.zeros(len(times_s) + 1, bool)
        done = 0
        for part in (indices[seed:], indices[:seed][::-1]):
            follower = forward if done == 0 else forward.rewound()
            frames = self.look(source.frames_at(part.tolist()), follower, search)
            for position, (frame, proposal) in zip(part, frames, strict=True):
                found = follower.step(frame.y, proposal)
                if found is not None:
                    raw[position], patches[position] = self.refine(frame, found), face_patch(frame, found)
                # Read backwards, the new shot begins at the frame seen just before.
                cuts[position if follower is forward else position + 1] |= follower.cut
                done += 1
                on_frame(done, len(indices))
            raw[part[follower.doubtful]] = np.nan
        cuts = cuts[indices]
        smooth = smooth_track(times_s[indices], raw[indices], cuts)
        covered = self._find_covered(source, indices, raw, patches, lambda: on_frame(done, done))
        return _spread(replace(smooth, covered=smooth.visible & covered), indices, len(times_s))

    def _find_covered(
        self,
        source: FrameSource,
        indices: NDArray[np.int64],
        raw: NDArray[np.float32],
        patches: NDArray[np.uint8],
        on_progress: Callable[[], None],
    ) -> NDArray[np.bool_]:
        """Whether the mouth is covered on the frames of these numbers; short gaps follow their neighbors."""
        seen = np.flatnonzero(~np.isnan(raw[indices, 0, 0]))
        if len(seen) == 0:
            return np.zeros(len(indices), bool)

        def face_score(picked: NDArray[np.int64]) -> list[float]:
            frames = source.frames_at(indices[seen[picked]].tolist())
            return [self._models.face_score(frame.y, implied_box(raw[frame.index])) for frame in frames]

        black = 0.0 if source.info.color.full_range else 16.0
        covered = covered_frames(patches[indices[seen]], black, face_score, on_progress)
        return np.interp(np.arange(len(indices)), seen, covered) >= 0.5

    def look(
        self, frames: Iterator[Frame], follower: FaceFollower, search: FaceSearch
    ) -> Iterator[tuple[Frame, LandmarkProposal | None]]:
        """The frames, each with what was found on it ahead of time: here nothing, since dlib sees one at a time."""
        return ((frame, None) for frame in frames)

    def refine(self, frame: Frame, landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
        """Landmarks as the track keeps them: with the lips where the picture shows them."""
        return refine_lips(frame, landmarks)

    def _find_seed(
        self,
        source: FrameSource,
        indices: NDArray[np.int64],
        choice: FaceChoice,
        search: FaceSearch,
        on_frame: OnFrame,
    ) -> tuple[int, NDArray[np.float32]]:
        """Position in `indices` of the frame that settles the choice, and the landmarks of the face there."""
        start = 0
        if isinstance(choice, FacePoint):
            start = int(np.abs(source.info.frame_times_s[indices] - choice.time_s).argmin())
        order = [*range(start, len(indices), SEED_STRIDE), *range(start - 1, -1, -SEED_STRIDE)]
        all_faces = choice != "largest"
        for turn, frame in enumerate(source.frames_at([int(indices[k]) for k in order])):
            on_frame(0, len(indices))
            faces = search.everywhere(frame.y, fine=turn % FINE_EVERY == 0, every_size=all_faces)
            chosen = choose_face([face.box for face in faces], choice, source.info.width, source.info.height)
            if chosen is not None:
                return order[turn], faces[chosen].landmarks
        raise FaceNotFoundError(_advice(choice))


def _advice(choice: FaceChoice) -> str:
    if isinstance(choice, FacePoint | FaceBox):
        where = "near the point" if isinstance(choice, FacePoint) else "inside the box"
        return f"No face was found {where} given in `face`; check the place (upright pixels) or use `largest`."
    return (
        "No face was found in the video; send one whose face is at least 48 pixels high, lit, and turned to the camera."
    )


def _spread(track: FaceTrack, indices: NDArray[np.int64], count: int) -> FaceTrack:
    """A track over the analyzed frames -> one over all source frames."""
    boxes = np.full((count, 4), np.nan, np.float32)
    landmarks = np.full((count, 68, 2), np.nan, np.float32)
    visible, covered = np.zeros(count, bool), np.zeros(count, bool)
    boxes[indices], landmarks[indices], visible[indices] = track.boxes, track.landmarks, track.visible
    covered[indices] = track.covered
    return FaceTrack(boxes, landmarks, visible, covered)


UPPER_OUTER, LOWER_OUTER = (50, 51, 52), (58, 57, 56)
SAMPLES = 24
# How far an edge may be moved into its lip, in face scales; a mouth gap below LEAST_GAP is left alone.
UPPER_REACH, LOWER_REACH, LEAST_GAP = 0.025, 0.07, 0.03
# Levels of V (redness) by which lips must differ from the inside of the mouth to be distinguished.
LEAST_CONTRAST = 6.0


def refine_lips(frame: Frame, marks: Points) -> Points:
    """Landmarks (px, 68 x 2) with the six inner-lip points moved onto the color edge, where there is one."""
    scale = float(face_scale(marks))
    upper, lower = [pair[0] for pair in INNER_PAIRS], [pair[1] for pair in INNER_PAIRS]
    gaps = np.linalg.norm(marks[lower] - marks[upper], axis=1)
    if gaps.max() < LEAST_GAP * scale:
        return marks
    refined = marks.copy()
    middle = (marks[upper] + marks[lower]) / 2
    for inner, outer, reach in ((lower, LOWER_OUTER, LOWER_REACH), (upper, UPPER_OUTER, UPPER_REACH)):
        lip = (marks[inner] + marks[list(outer)]) / 2
        steps = _inward_steps(frame, lip, middle)
        if steps is None:
            continue
        edge = lip + (middle - lip) * steps[:, None]
        # Only into the lip: what the model took for mouth is mouth.
        outward = lip - middle
        length = np.maximum(np.linalg.norm(outward, axis=1), 1e-3)
        shift = ((edge - marks[inner]) * outward).sum(axis=1) / length
        shift = np.clip(shift, 0, np.minimum(reach * scale, 0.6 * np.linalg.norm(lip - marks[inner], axis=1) * 2))
        refined[inner] += (shift / length)[:, None] * outward
    return refined


def _inward_steps(frame: Frame, lip: Points, middle: Points) -> NDArray[np.float32] | None:
    """Share of the way from the middle of the lip to the middle of the mouth at which lip ends, f32 [3], 0..1."""
    share = np.linspace(0, 1, SAMPLES, dtype=np.float32)
    places = lip[:, None] + (middle - lip)[:, None] * share[None, :, None]
    x, y = np.ascontiguousarray(places[..., 0]), np.ascontiguousarray(places[..., 1])
    luma = cv2.remap(frame.y, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    red = cv2.remap(frame.v, (x - 0.5) / 2, (y - 0.5) / 2, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    red = cv2.GaussianBlur(red.astype(np.float32), (3, 1), 0)
    lip_red, lip_luma = _at_share(red[:, :4], 0.5), _at_share(luma[:, :4], 0.5)
    contrast = lip_red - _at_share(red, 0.05)
    pale = red < lip_red - max(0.55 * contrast, LEAST_CONTRAST / 2) if contrast >= LEAST_CONTRAST else red < 0
    dark = luma < 0.55 * lip_luma
    outside = pale | dark
    if not outside.any():
        return None
    first = np.where(outside.any(axis=1), outside.argmax(axis=1), SAMPLES - 1)
    return share[first]


def _at_share(values: NDArray[np.float32], share: float) -> float:
    """The quantile, linear between two values (`np.quantile` takes ten times as long for so few)."""
    ordered = np.sort(values, axis=None)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (ordered[high] - ordered[low]) * (place - low))
