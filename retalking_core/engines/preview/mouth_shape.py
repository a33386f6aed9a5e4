"""Where the lips, the jaw and the cheeks of one frame should go, from where they are and what the speech asks for.

All lengths inside are in units of `face_scale` (about the outer-eye distance), so a face counts the same at any size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retalking_core.engines.preview.mouth_motion import MouthPose
from retalking_core.faces.landmarks import INNER_PAIRS, MOUTH, OUTER_EYES, Points, face_scale, inner_gap
from retalking_core.types import FaceTrack

# Of a change of the gap between the lips, the upper lip takes this share; lower lip and jaw, which move much more in
# speech, take the rest.
UPPER_SHARE = 0.22
# How far the jaw line follows the lower lip, by landmark, from the chin (8) up to the ears.
JAW_FOLLOWS = {8: 0.78, 7: 0.75, 9: 0.75, 6: 0.62, 10: 0.62, 5: 0.42, 11: 0.42, 4: 0.2, 12: 0.2, 3: 0.06, 13: 0.06}
# Gap of the outer inner-lip pairs relative to the middle one.
GAP_PROFILE, ROUND_PROFILE = np.array([0.84, 1.0, 0.84], np.float32), np.array([0.72, 1.0, 0.72], np.float32)
WIDEN, NARROW, NARROW_OPEN = 0.07, 0.24, 0.03
# Lips that are pushed forward show more of themselves: how far the outer contour moves out.
PURSE = 0.022
# Pressed lips roll inward: how far the outer contour moves in, and how far the inner edges pass each other, so that
# neither a gap nor the rim of the old mouth is left between them.
PRESS, OVERLAP, OVERLAP_PRESSED = 0.012, 0.006, 0.03
# At f and v the lower lip rolls in under the upper teeth and the upper lip is raised off them.
TUCK_LIFT, TUCK_ROLL = 0.014, 0.022


@dataclass(frozen=True)
class MouthRest:
    """What one clip's mouth does by itself, in units of `face_scale`.

    closed_gap: inner-lip gap that the landmarks report on the closed mouth. open_gap: gap at opening 1. widths: f32
    [N], mouth width around each source frame, its own spreading averaged out.
    """

    closed_gap: float
    open_gap: float
    widths: NDArray[np.float32]


@dataclass(frozen=True)
class MouthShape:
    """One frame's plan.

    before, after: landmarks f32 [68, 2] px. gaps_before: f32 [3] px, how far the lips stand open in the source (the
    resting gap of closed lips taken off). gaps: f32 [3] px, how far they shall be seen open. meeting: f32 [3] px, how
    far apart the field puts the lips. scale: px. across, down: unit axes. tuck: 0..1, lower lip at the upper teeth.
    tongue: 0..1, its tip at the upper teeth.
    """

    before: Points
    after: Points
    gaps_before: NDArray[np.float32]
    gaps: NDArray[np.float32]
    meeting: NDArray[np.float32]
    scale: float
    across: NDArray[np.float32]
    down: NDArray[np.float32]
    tuck: float
    tongue: float

    @property
    def was_open(self) -> float:
        """0 the source's lips are shut .. 1 they are apart."""
        return min(max(float(self.gaps_before.max()) / (0.06 * self.scale), 0.0), 1.0)

    @property
    def sealed(self) -> float:
        """1 lips that were apart are shut .. 0 lips that stay apart, or were shut anyway."""
        return self.was_open * (1 - min(max(float(self.gaps.max()) / (0.08 * self.scale), 0.0), 1.0))


def learn_rest(track: FaceTrack) -> MouthRest:
    """Resting gap, range and width of the mouth from the whole track."""
    visible = np.flatnonzero(track.visible)
    marks = track.landmarks[visible]
    gaps = inner_gap(marks)
    # A mouth that is never shut in the clip has no resting gap to learn: shut lips read about 0.01, and
    # no more than 0.03 is taken for it.
    closed = min(float(np.percentile(gaps, 4)), 0.03)
    largest = float(np.clip(1.15 * (np.percentile(gaps, 97) - closed), 0.16, 0.21))
    across = np.linalg.norm(marks[:, 54] - marks[:, 48], axis=1) / face_scale(marks)
    widths = np.full(len(track.visible), np.nan, np.float32)
    for start in range(len(visible)):
        near = slice(max(0, start - 15), start + 16)
        widths[visible[start]] = np.median(across[near])
    return MouthRest(closed, largest, _smooth_widths(widths))


def _smooth_widths(widths: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median of ±15 frames, then a mean of ±8, over the visible frames only."""
    out = widths.copy()
    known = np.flatnonzero(~np.isnan(widths))
    padded = np.pad(widths[known], 8, mode="edge")
    out[known] = np.convolve(padded, np.full(17, 1 / 17), mode="valid")
    return out


def face_axes(marks: Points) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Unit vectors across (the observer's left to right) and down the face."""
    eyes = marks[OUTER_EYES[1]] - marks[OUTER_EYES[0]]
    across = eyes / max(float(np.linalg.norm(eyes)), 1e-6)
    chin = marks[8] - marks[27]
    down = np.array([-across[1], across[0]]) + chin / max(float(np.linalg.norm(chin)), 1e-6)
    return across.astype(np.float32), (down / np.linalg.norm(down)).astype(np.float32)


def plan_shape(marks: Points, rest: MouthRest, rest_width: float, pose: MouthPose, strength: float = 1.0) -> MouthShape:
    """From the landmarks of a frame (px) to where they should be.

    strength: 0 (the source's own mouth) .. 1 (the planned one).
    """
    scale = float(face_scale(marks))
    across, down = face_axes(marks)
    gaps = np.array([(marks[low] - marks[up]) @ down for up, low in INNER_PAIRS], np.float32) / scale
    before = np.maximum(gaps - rest.closed_gap, 0)
    # Lips that are stretched around a wide-open mouth cannot be pursed by moving them: they would crumple.
    rounded = max(0.0, -pose.spread) * (1 - float(np.clip((before[1] - 0.16) / 0.08, 0, 0.7)))
    wide = max(0.0, pose.spread)
    profile = GAP_PROFILE + (ROUND_PROFILE - GAP_PROFILE) * rounded
    target = pose.opening * rest.open_gap * (1 - 0.1 * wide) * profile
    target = before + (target - before) * strength
    # Closed lips keep the resting gap, which is the landmarks' error about them. Lips that have to be shut go a little
    # past each other instead, so that no sliver of the old mouth shows between them.
    was_open = np.clip(before / 0.04, 0, 1)
    pressed, tuck = pose.closure * (1 - min(1.0, pose.opening * 4)) * strength, pose.tuck * strength
    resting = np.minimum(gaps, rest.closed_gap) * (1 - was_open) - OVERLAP * was_open
    resting += pressed * (-OVERLAP_PRESSED - resting)
    change = target + resting - gaps
    shift = np.zeros((68, 2), np.float32)  # columns: across, down; units of scale
    _move_lips(shift, change, pressed, rounded * strength, tuck)
    _move_corners(shift, marks, across, down, scale, rest_width, wide, rounded, pose.opening, float(change.mean()))
    shift[MOUTH, 0] *= strength
    # How low the source's own jaw is, nobody knows: as low as its lips are apart.
    dropped = (pose.jaw * rest.open_gap - before[1]) * strength
    for point, share in JAW_FOLLOWS.items():
        shift[point, 1] = share * (1 - UPPER_SHARE) * float(np.clip(dropped, -0.28, 0.28))
    after = (marks + scale * (shift[:, :1] * across + shift[:, 1:] * down)).astype(np.float32)
    seen = target + np.maximum(resting, 0) * np.clip(target / 0.03, 0, 1)
    _lift_corners(after, down, scale, float(target[1]))
    lowered = _round_lower_lip(after, across, down, float(target[1])) / scale
    return MouthShape(
        before=marks,
        after=after,
        gaps_before=before * scale,
        gaps=(seen + lowered) * scale,
        meeting=(gaps + change + lowered) * scale,
        scale=scale,
        across=across,
        down=down,
        tuck=tuck,
        tongue=pose.tongue * strength,
    )


def _lift_corners(after: Points, down: NDArray[np.float32], scale: float, target: float) -> None:
    """Keep the corners between the lips of an open mouth. Pursed lips have them far below the middle; opened from there
    without this, the mouth would be an arch that bends down at both ends."""
    gap = float((after[66] - after[62]) @ down)
    for corner in ((48, 60), (54, 64)):
        excess = float((after[corner[1]] - after[62]) @ down) - 0.62 * gap
        lift = min(max(excess, 0.0), 0.07 * scale) * min(1.0, target / 0.07)
        after[list(corner)] -= lift * down


def _round_lower_lip(
    after: Points, across: NDArray[np.float32], down: NDArray[np.float32], target: float
) -> NDArray[np.float32]:
    """Bring the inner lower lip onto an arch as the mouth opens; returns how far its three points went down, f32 [3]
    px.

    On closed lips it has the upper lip's bow; pulled down as it is, an open mouth would have a wavy lower edge.
    """
    lower = [pair[1] for pair in INNER_PAIRS]
    origin, reach = (after[60] + after[64]) / 2, max(float((after[64] - after[60]) @ across) / 2, 1.0)
    u = np.clip((after[lower] - origin) @ across / reach, -0.85, 0.85)
    tilt = float((after[64] - after[60]) @ down) / (2 * reach)
    depth = (after[lower] - origin) @ down - tilt * u * reach
    arch = (1 - u**2) ** 0.7
    height = float((depth * arch).sum() / (arch**2).sum())
    moved = 0.85 * min(1.0, target / 0.07) * (height * arch - depth)
    after[lower] += moved[:, None] * down
    return moved.astype(np.float32)


def _move_lips(
    shift: NDArray[np.float32], change: NDArray[np.float32], pressed: float, rounded: float, tuck: float
) -> None:
    """Upper lip up, lower lip down; the outer contour follows the inner one, thinner when the lips stretch, press or
    tuck, thicker when they are pursed."""
    up, low = -UPPER_SHARE * change - TUCK_LIFT * tuck, (1 - UPPER_SHARE) * change - TUCK_LIFT * tuck
    shift[[61, 62, 63], 1] = up
    shift[[67, 66, 65], 1] = low
    shift[[50, 51, 52], 1] = 0.8 * up + PRESS * pressed - PURSE * rounded
    shift[[49, 53], 1] = 0.45 * up[[0, 2]] - 0.6 * PURSE * rounded
    shift[[58, 57, 56], 1] = 0.93 * low - 1.3 * PRESS * pressed + PURSE * rounded - TUCK_ROLL * tuck
    shift[[59, 55], 1] = 0.6 * low[[0, 2]] + 0.6 * PURSE * rounded - 0.5 * TUCK_ROLL * tuck


def _move_corners(
    shift: NDArray[np.float32],
    marks: Points,
    across: NDArray[np.float32],
    down: NDArray[np.float32],
    scale: float,
    rest_width: float,
    wide: float,
    rounded: float,
    opening: float,
    change: float,
) -> None:
    """Corners out or in (every lip point by its share of the way to its corner), and a little down with the jaw; those
    of a smile come down to be pursed."""
    place = (marks[MOUTH] - (marks[48] + marks[54]) / 2) @ across / scale
    width = float(place[6] - place[0])
    wanted = rest_width * (1 + WIDEN * wide - NARROW * rounded - NARROW_OPEN * opening)
    stretch = np.clip(wanted / max(width, 1e-3) - 1, -0.32, 0.25)
    shift[MOUTH, 0] = place * stretch
    shift[[48, 54, 60, 64], 1] = 0.3 * (1 - UPPER_SHARE) * change - 0.008 * wide
    raised = float((marks[[62, 66]].mean(axis=0) - marks[[48, 54]].mean(axis=0)) @ down) / scale
    relaxed = 0.6 * rounded * min(max(raised - 0.02, 0.0), 0.15)
    shift[[48, 54, 60, 64], 1] += relaxed
    shift[[49, 53, 59, 55], 1] += 0.4 * relaxed


def gap_of(track: FaceTrack) -> NDArray[np.float32]:
    """Inner-lip gap per source frame in units of `face_scale`, NaN where the face is not visible."""
    return inner_gap(track.landmarks)
