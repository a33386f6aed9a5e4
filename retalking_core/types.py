"""The types that carry the flow. Frozen; shapes are checked where they are born."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from retalking_core.notes import Note
from retalking_core.vocabulary.engines import KernelState

# Which field of an interlaced stream comes first: the top one, the bottom one, or what each picture states. Empty:
# progressive.
FieldOrder = Literal["", "tff", "bff", "auto"]


@dataclass(frozen=True)
class ColorTags:
    """ITU-T H.273 code points as the stream states them; 2 means unspecified. full_range: 0..255 luma."""

    matrix: int = 2
    primaries: int = 2
    transfer: int = 2
    full_range: bool = False


@dataclass(frozen=True)
class VideoInfo:
    """A probed picture stream, described upright (rotation applied) and cut to even width and height.

    fps: nominal rate, see `media.reader.nominal_rate` (a still image: the rate asked for). frame_times_s: f64 [N],
    presentation time of each source frame, ascending, first one 0. rotation_deg: clockwise turn that makes the frame
    upright. field_order: of an interlaced stream, whose frames are given deinterlaced (see `media.interlace`). notes:
    what was converted or guessed to read it.
    """

    width: int
    height: int
    fps: Fraction
    frame_times_s: NDArray[np.float64]
    duration_s: float
    rotation_deg: int
    color: ColorTags
    is_still: bool
    container: str
    codec: str
    field_order: FieldOrder = ""
    notes: tuple[Note, ...] = ()

    def __post_init__(self) -> None:
        if self.frame_times_s.ndim != 1 or len(self.frame_times_s) == 0:
            raise ValueError("frame_times_s must be a non-empty vector")

    @property
    def frame_count(self) -> int:
        return len(self.frame_times_s)


@dataclass(frozen=True)
class AudioTrack:
    """The sound track that became the speech.

    number: among the sound tracks of the file, from 1. count: how many those are.
    language: as the file states it. codec: FFmpeg's name of the decoder. rate_hz, channels: as stored.
    """

    number: int
    count: int
    language: str | None
    codec: str
    rate_hz: int
    channels: int


@dataclass(frozen=True)
class Frame:
    """One upright picture as planar YUV 4:2:0, 8 bit, in the source's own matrix and range.

    y: u8 [H, W]; u, v: u8 [H/2, W/2]. index: number of the source frame. Planes may be read-only; take `copy()` before
    writing.
    """

    index: int
    y: NDArray[np.uint8]
    u: NDArray[np.uint8]
    v: NDArray[np.uint8]

    def __post_init__(self) -> None:
        height, width = self.y.shape
        if height % 2 or width % 2 or self.u.shape != (height // 2, width // 2) or self.v.shape != self.u.shape:
            raise ValueError(f"not 4:2:0 planes: {self.y.shape} {self.u.shape} {self.v.shape}")

    def copy(self) -> Frame:
        return Frame(self.index, self.y.copy(), self.u.copy(), self.v.copy())


class FrameSource(Protocol):
    """A video that can be read more than once. Memory does not grow with its length."""

    info: VideoInfo

    @property
    def damaged(self) -> Set[int]:
        """Numbers of the frames that did not decode so far; each is given as a repeat of the one before."""
        ...

    def frames(self) -> Iterator[Frame]:
        """Every source frame once, in order."""
        ...

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        """The frames of these source numbers, in the order asked; numbers may repeat, jump and run backwards."""
        ...


@dataclass(frozen=True)
class Waveform:
    """Speech for analysis: samples f32 [n], mono, -1..1, at rate_hz (16,000)."""

    samples: NDArray[np.float32]
    rate_hz: int = 16_000

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.rate_hz


@dataclass(frozen=True)
class Timeline:
    """Which source frame each output frame shows.

    source_index: i64 [M]. fps: output rate. duration_s: M / fps.
    """

    source_index: NDArray[np.int64]
    fps: Fraction

    @property
    def duration_s(self) -> float:
        return float(len(self.source_index) / self.fps)


@dataclass(frozen=True)
class FaceTrack:
    """One face through the source video.

    boxes: f32 [N, 4] left, top, right, bottom px; landmarks: f32 [N, 68, 2] (x, y) px of the upright frame, iBUG order;
    visible: bool [N]. Where visible is false, boxes and landmarks are NaN. covered: bool [N], the face is visible, but
    something is in front of its mouth, so these frames are left as they are; None: not looked for.
    """

    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    visible: NDArray[np.bool_]
    covered: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        n = len(self.visible)
        if self.boxes.shape != (n, 4) or self.landmarks.shape != (n, 68, 2):
            raise ValueError(f"face track shapes disagree: {self.boxes.shape} {self.landmarks.shape} {n}")

    def uncovered(self) -> FaceTrack:
        """The track of the frames that show the mouth: where it is covered, the face counts as not visible."""
        if self.covered is None or not self.covered.any():
            return self
        boxes, landmarks = self.boxes.copy(), self.landmarks.copy()
        boxes[self.covered], landmarks[self.covered] = np.nan, np.nan
        return FaceTrack(boxes, landmarks, self.visible & ~self.covered)


@dataclass(frozen=True)
class DecodedClip:
    """A video file and its frames, which a render has decoded: the evaluation need not decode them again."""

    path: Path
    source: FrameSource


@dataclass(frozen=True)
class LineReport:
    """What a render did about one line of n output frames, from `first_frame` on.

    number: of the line in the caller's list, from 0. start_s, end_s: on the clock of the result. face_boxes: f32
    [n, 4], left, top, right, bottom px of its face in the result, NaN where it is not seen. mouth_target: f32 [n], as
    of `RenderReport`.
    """

    number: int
    start_s: float
    end_s: float
    first_frame: int
    face_boxes: NDArray[np.float32] = field(repr=False, compare=False)
    mouth_target: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class RenderReport:
    """What a render did. Times in seconds; regions and ranges in output time.

    face_coverage: share of the spoken frames that show the speaker's face. mouth_target: f32 [M], the mouth opening the
    engine aimed at per output frame, 0 (closed) .. 1, of the first speaker; None for engines without one.
    faceless_ranges_s: output ranges passed through untouched although somebody speaks. synthetic_weights: made with
    generated checkpoints. face_cache: `hit` (all that a cache can give), `partial`, `miss`, or `off` without one.
    kernels: what the networks ran; None for engines that compile none, and for a split clip, where workers may differ.
    audio_track: the sound that was used. held: the clip where its frames are still in memory. face_boxes: f32 [M, 4],
    left, top, right, bottom px of the first speaker's face in the result, NaN where it is not seen. lines: in the order
    of the caller's list; none from an engine that draws no lines.
    """

    engine: str
    engine_version: str
    device: str
    frames: int
    fps: Fraction
    duration_s: float
    width: int
    height: int
    face_coverage: float
    faceless_ranges_s: list[tuple[float, float]]
    stage_times_s: dict[str, float]
    mouth_target: NDArray[np.float32] | None = None
    synthetic_weights: bool = False
    notes: list[Note] = field(default_factory=list)
    face_cache: str = "off"
    kernels: KernelState | None = None
    audio_track: AudioTrack | None = None
    held: DecodedClip | None = field(default=None, repr=False, compare=False)
    face_boxes: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    lines: tuple[LineReport, ...] = ()
