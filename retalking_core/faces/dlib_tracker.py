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
from retalking_core.faces.dlib_models import DlibModels, resident_models
from retalking_core.faces.follower import FaceFollower, FaceSearch, LandmarkProposal, implied_box
from retalking_core.faces.landmarks import INNER_PAIRS, NOSE_BASE, OUTER_EYES, Points, face_scale
from retalking_core.faces.track import OnFrame, TrackRequest, choose_face, smooth_track, visible_runs
from retalking_core.options import FaceBox, FaceChoice, FacePoint
from retalking_core.types import FaceTrack, Frame, FrameSource

Patches = NDArray[np.float32]
# The patch: cells of 0.06 face scales, the nose base between its halves. It reaches from the eyes to the chin, and 0.42
# scales to either side.
CELL, COLUMNS, UPPER_ROWS, ROWS = 0.06, 14, 12, 24
PATCH_SHAPE = (3, ROWS, COLUMNS)
BLOCK = 2
# In blocks: the lower half, and of it the part in which the lips lie (on three clips 0.13 to 0.46 scales below the nose
# base and 0.35 to the side).
UPPER = np.s_[..., : UPPER_ROWS // BLOCK, :]
LOWER = np.s_[..., UPPER_ROWS // BLOCK :, :]
MOUTH = np.s_[..., UPPER_ROWS // BLOCK + 1 : UPPER_ROWS // BLOCK + 4, 1:-1]
AROUND_MOUTH = np.zeros((ROWS // BLOCK, COLUMNS // BLOCK), bool)
AROUND_MOUTH[LOWER] = True
AROUND_MOUTH[MOUTH] = False
# Cells over the cheeks and the nose, whose brightness and color everything is measured against.
SKIN = np.s_[..., 5:11, 2:-2]
CHROMA_WEIGHT = 1.5
# Luma of skin above black, below which rounding and noise would count as much as what is shown.
DARK = 40.0
# How far the jaw, and the landmarks, carry a block between two frames, in cells.
SHIFT_DOWN, SHIFT_ACROSS = 2, 1
# Mean difference of a block, in hundredths of the skin's brightness, above which it is foreign: three times the clip's
# median, within these bounds. A hand has the color of the face, and differs from a face that keeps still by 8 to 14.
FOREIGN_MEDIANS, LEAST_FOREIGN, MOST_FOREIGN = 3.0, 8.0, 14.0
# Shares of foreign blocks. Of each frame of three clips, without the references within a third of a second: at most
# 0.17 of the lower half, 0.40 of the mouth and 0.05 of the upper half; with covers (tests/faces/covers.py) at least
# 0.43 and 0.53, and at most 0.12 of the upper half.
COVERED_LOWER, COVERED_MOUTH, CHANGED_UPPER = 0.3, 0.5, 0.3
# Frames beside covered ones count as covered while it is still in the way.
STILL_LOWER = 0.2
# One frame in 12 is a reference, within these bounds.
FEWEST_REFERENCES, MOST_REFERENCES, REFERENCE_STRIDE = 24, 96, 12
# Fewer frames are not looked at, and shorter covers are none.
FEWEST_FRAMES, SHORTEST_COVER = 8, 3
REPORT_EVERY = 250
# Share of a stretch of such frames that must be covered for certain: under a cover the landmarks drift now and then.
LEAST_CERTAIN = 0.3
# Shares around the mouth and on it at which two frames show the same, and on it at which another reference joins them.
ALIKE_AROUND, ALIKE_MOUTH, EXPLAINED_MOUTH = 0.2, 0.5, 0.4
VOTES, GROWTHS = 2, 3
# References that are compared first, and the share above which all are.
NEAREST, DOUBTFUL = 6, 0.1
# Least and largest factor by which the lower half alone may be darker than in the references.
RELIT = (1.0, 2.0)
# A second group of frames replaces the first as the reference if it is no smaller than this share of all, and its faces
# are surer by this much (dlib's detector: a cover costs 0.3 to 1.7).
SECOND_GROUP, SURER = 0.15, 0.25


def face_patch(frame: Frame, landmarks: Points) -> NDArray[np.uint8]:
    """The face in its own coordinates, u8 [3, 24, 14]: Y, U, V. landmarks: [68, 2] px."""
    left, right = (landmarks[point] for point in OUTER_EYES)
    across = (right - left) / max(float(np.linalg.norm(right - left)), 1e-6)
    down = np.array([-across[1], across[0]])
    cell_px = CELL * float(face_scale(landmarks))
    patch = np.empty(PATCH_SHAPE, np.uint8)
    for plane, picture, pixel, fine in ((0, frame.y, 1, 4), (1, frame.u, 2, 2), (2, frame.v, 2, 2)):
        # Several samples a cell, averaged: cells of a large face cover many pixels.
        step = cell_px / fine
        corner = (
            landmarks[NOSE_BASE] - across * (COLUMNS * fine - 1) / 2 * step - down * (UPPER_ROWS * fine - 0.5) * step
        )
        to_picture = np.column_stack([across * step, down * step, corner - (pixel - 1) / 2]) / pixel
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size = (COLUMNS * fine, ROWS * fine)
        samples = cv2.warpAffine(picture, to_picture, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        patch[plane] = cv2.resize(samples, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA)
    return patch


def covered_frames(
    patches: NDArray[np.uint8],
    black: float,
    face_score: Callable[[NDArray[np.int64]], list[float]],
    on_progress: Callable[[], None],
) -> NDArray[np.bool_]:
    """Whether something is in front of the mouth (a hand, a cup, a microphone, a bar of text), bool [n], on frames of
    one face in order of time.

    A landmark predictor draws a mouth where it expects one, and the presence scores of face models stay high
    (docs/trackers.md), so the picture decides. Each frame gives a small patch of the face in the face's own
    coordinates. Blocks of it are compared with the same blocks, a little shifted, of reference frames of the same clip,
    which show the mouth in all that it does. A block that no two references explain is foreign. The mouth is covered
    where many blocks around it are foreign, most of those on it are, and those of eyes and nose are not: a head that
    turns, or another light, changes all of the face. A mouth that is covered all through the clip cannot be told from
    one that looks so.

    patches: u8 [n, 3, 24, 14]. black: luma of black. face_score: numbers of patches, ascending -> how sure a detector
    is of the face on their frames; asked only where the frames fall into two groups. on_progress: called now and then.
    """
    count = len(patches)
    if count < FEWEST_FRAMES:
        return np.zeros(count, bool)
    faces = _normalized(patches, black)
    wanted = min(count, max(FEWEST_REFERENCES, min(count // REFERENCE_STRIDE, MOST_REFERENCES)))
    samples = np.linspace(0, count - 1, wanted).astype(np.int64)
    group, limit = _reference_group(faces[samples], lambda picked: face_score(samples[picked]))
    references = References(faces[samples[group]], limit)
    shares = np.empty((count, 3))
    for k, face in enumerate(faces):
        shares[k] = references.foreign_shares(face)
        if k % REPORT_EVERY == REPORT_EVERY - 1:
            on_progress()
    lower, mouth, upper = shares.T
    certain = (lower >= COVERED_LOWER) & (mouth >= COVERED_MOUTH) & (upper < CHANGED_UPPER)
    covered = np.zeros(count, bool)
    for start, stop in visible_runs(lower >= STILL_LOWER):
        covered[start:stop] = stop - start >= SHORTEST_COVER and certain[start:stop].mean() >= LEAST_CERTAIN
    return covered


def _normalized(patches: NDArray[np.uint8], black: float) -> Patches:
    """f32 [n, 3, 24, 14]: brightness in hundredths of the skin's, colors as differences from the skin's alike."""
    faces = patches.astype(np.float32)
    faces[:, 0] -= black
    skin = faces[SKIN].mean(axis=(2, 3), keepdims=True)
    faces[:, 1:] = (faces[:, 1:] - skin[:, 1:]) * CHROMA_WEIGHT
    faces *= 100 / np.maximum(skin[:, :1], DARK)
    return faces


def _block_means(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """[..., 3, 24, 14] -> [..., 12, 7], the channels summed."""
    # Written out: numpy's sums over such short axes take five times as long.
    sums = cells[..., 0, :, :] + cells[..., 1, :, :] + cells[..., 2, :, :]
    sums = sums[..., ::BLOCK, :] + sums[..., 1::BLOCK, :]
    means = (sums[..., ::BLOCK] + sums[..., 1::BLOCK]) / BLOCK**2
    return means.astype(np.float32, copy=False)


def _shifted(faces: Patches) -> Patches:
    """Patches in every shift of a block, f32 [k, shifts, 3, 24, 14]."""
    margins = ((0, 0), (0, 0), (SHIFT_DOWN, SHIFT_DOWN), (SHIFT_ACROSS, SHIFT_ACROSS))
    wide = np.pad(faces, margins, mode="edge")
    shifts = [(y, x) for y in range(2 * SHIFT_DOWN + 1) for x in range(2 * SHIFT_ACROSS + 1)]
    return np.stack([wide[..., y : y + ROWS, x : x + COLUMNS] for y, x in shifts], axis=1)


def _differences(face: Patches, shifted: Patches) -> NDArray[np.float32]:
    """Of the blocks of a face from those of each of k patches in the best shift, f32 [k, 12, 7]."""
    return _block_means(np.abs(shifted - face)).min(axis=1)


def _explained(differences: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far the blocks of a face are from what two of k patches show (or the only one), f32 [k, 12, 7] -> [12, 7]."""
    votes = min(VOTES, len(differences))
    return np.partition(differences, votes - 1, axis=0)[votes - 1]


class References:
    """Patches that show the mouth uncovered, f32 [k, 3, 24, 14]. limit: difference above which a block is foreign."""

    def __init__(self, faces: Patches, limit: float) -> None:
        self._faces, self._shifted, self._limit = faces, _shifted(faces), limit
        self._brightness = float(np.median(faces[:, 0, UPPER_ROWS:].mean(axis=(1, 2))))

    def foreign_shares(self, face: Patches) -> tuple[float, float, float]:
        """Shares of foreign blocks in the lower half, on the mouth, and in the upper half."""
        apart = np.abs(self._faces - face)
        nearest = np.argsort(apart.mean(axis=(1, 2, 3)))[:NEAREST]
        # Most frames are explained by what is nearest, without a shift; the rest is 15 to 80 times the work.
        foreign = _explained(_block_means(apart[nearest])) > self._limit
        for which in (nearest, slice(None)):
            if foreign[LOWER].mean() > DOUBTFUL:
                foreign = _explained(_differences(face, self._shifted[which])) > self._limit
        if foreign[LOWER].mean() > DOUBTFUL:
            # A shadow on the lower half alone, if that explains most of it.
            relit = face.copy()
            relit[0, UPPER_ROWS:] *= np.clip(self._brightness / relit[0, UPPER_ROWS:].mean(), *RELIT)
            unexplained = _explained(_differences(relit, self._shifted)) > self._limit
            foreign = unexplained if unexplained[LOWER].mean() < STILL_LOWER else foreign
        return float(foreign[LOWER].mean()), float(foreign[MOUTH].mean()), float(foreign[UPPER].mean())


def _reference_group(
    faces: Patches, face_score: Callable[[NDArray[np.intp]], list[float]]
) -> tuple[NDArray[np.bool_], float]:
    """Which of the sampled frames show the mouth, bool [k], and the difference above which a block is foreign.

    The largest group that looks alike, or the second if its faces are surer."""
    everything, itself = np.ones(len(faces), bool), np.eye(len(faces), dtype=bool)[..., None, None]
    still = np.stack([_block_means(np.abs(faces - face)) for face in faces])
    usual = np.median([_explained(row)[LOWER] for row in np.where(itself, np.inf, still)])
    limit = float(np.clip(FOREIGN_MEDIANS * usual, LEAST_FOREIGN, MOST_FOREIGN))
    if _group(still, limit, everything).all():
        return everything, limit
    shifted, differences = _shifted(faces), still
    for k, face in enumerate(faces):
        unlike = (still[k] > limit).mean(axis=(1, 2)) > DOUBTFUL / 2
        differences[k, unlike] = _differences(face, shifted[unlike])
    first = _group(differences, limit, everything)
    second = _group(differences, limit, ~first) if not first.all() else ~first
    if second.sum() < max(VOTES + 1, SECOND_GROUP * len(faces)):
        return first, limit
    picked = [np.flatnonzero(group)[:: max(1, int(group.sum()) // 3)][:3] for group in (first, second)]
    scores = [float(np.median(face_score(each))) for each in picked]
    return (second if scores[1] > scores[0] + SURER else first), limit


def _group(differences: NDArray[np.float32], limit: float, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The frames like the one that most are like, and those whose mouth they explain, bool [k]. differences: f32
    [k, k, 12, 7], of each frame from each.

    Step by step a mouth opens, and step by step a hand comes: so only what lies on the mouth may be explained by frames
    that were taken in before, and what lies around it by the first ones.
    """
    foreign = differences > limit
    around, mouth = foreign[..., AROUND_MOUTH].mean(axis=2), foreign[MOUTH].mean(axis=(2, 3))
    alike = (np.maximum(around, around.T) < ALIKE_AROUND) & (np.maximum(mouth, mouth.T) < ALIKE_MOUTH)
    alike &= among & among[:, None]
    first = alike[int((alike.sum(axis=1) - around.mean(axis=1)).argmax())]
    candidates = [
        k
        for k in np.flatnonzero(among & ~first)
        if first.any() and (_explained(differences[k, first])[AROUND_MOUTH] > limit).mean() < ALIKE_AROUND
    ]
    group = first.copy()
    for _ in range(GROWTHS):
        for k in candidates:
            group[k] |= bool((_explained(differences[k, group])[MOUTH] > limit).mean() < EXPLAINED_MOUTH)
    return group


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
