"""Table of metrics: what each number about a result means. `retalking_core.evaluation` computes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import StringConstraints

MetricName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,40}$")]
Better = Literal["higher", "lower", "neutral"]


@dataclass(frozen=True)
class MetricInfo:
    """A row of the table.

    Attributes:
        name: As in the option `evaluate` and in results.
        description: What it measures, in a sentence.
        unit: Empty for a plain number.
        better: Which direction is better.
        lowest, highest: Values it can have; None without a bound.
        source: Paper, standard or procedure that defines it.
        checkpoints: Names in the weights table of the files it needs.
        needs_reference: Whether it compares with the source video.
    """

    name: str
    description: str
    unit: str
    better: Better
    lowest: float | None
    highest: float | None
    source: str
    checkpoints: tuple[str, ...] = ()
    needs_reference: bool = False


_MOUTH = "inner-lip gap over face size, dlib 68 points on every frame of the result; Pearson r, lags -10..10"
_DLIB = "dlib HOG detector and 68-point predictor"
_SYNCNET = "Chung and Zisserman, ACCV-W 2016; LSE: Prajwal et al., ACM MM 2020"


def _sync_rows(
    kind: str, view: str, source: str, shifts: float, checkpoints: tuple[str, ...]
) -> tuple[MetricInfo, ...]:
    return (
        MetricInfo(
            f"lse_d_{kind}",
            f"LSE-D {view}: SyncNet's smallest mean distance of lips and sound.",
            "",
            "lower",
            0.0,
            None,
            source,
            checkpoints,
        ),
        MetricInfo(
            f"lse_c_{kind}",
            f"LSE-C {view}: how far the smallest distance lies below the median over all shifts.",
            "",
            "higher",
            0.0,
            None,
            source,
            checkpoints,
        ),
        MetricInfo(
            f"lse_offset_{kind}",
            f"AV offset {view}: frames by which the picture comes after the sound (negative: before).",
            "frames",
            "neutral",
            -shifts,
            shifts,
            source,
            checkpoints,
        ),
    )


_ROWS = (
    MetricInfo(
        "mouth_target_correlation",
        "How well the mouth on the file follows the opening that the engine aimed at (best lag).",
        "r",
        "higher",
        -1.0,
        1.0,
        _MOUTH,
    ),
    MetricInfo(
        "mouth_target_lag",
        "Frames by which the mouth comes after the engine's target (negative: before).",
        "frames",
        "neutral",
        -10.0,
        10.0,
        _MOUTH,
    ),
    MetricInfo(
        "mouth_speech_correlation",
        "How well the mouth on the file follows the loudness of the speech (best lag).",
        "r",
        "higher",
        -1.0,
        1.0,
        _MOUTH,
    ),
    MetricInfo(
        "mouth_speech_lag",
        "Frames by which the mouth comes after the speech (negative: before).",
        "frames",
        "neutral",
        -10.0,
        10.0,
        _MOUTH,
    ),
    MetricInfo(
        "viseme_agreement",
        "Share of the p, b and m of the speech at which the mouth is shut.",
        "share",
        "higher",
        0.0,
        1.0,
        "bilabials that retalking_core.audio.visemes is sure of; shut: inner-lip gap at most 1.5 % of the height of "
        "dlib's 68 points on a frame within 40 ms",
    ),
    MetricInfo(
        "face_coverage", "Share of the result's frames on which dlib sees a face.", "share", "higher", 0.0, 1.0, _DLIB
    ),
    MetricInfo(
        "av_duration_difference",
        "Difference between picture and sound length of the file.",
        "frames",
        "lower",
        0.0,
        None,
        "stream durations",
    ),
    MetricInfo(
        "ssim",
        "Structural similarity to the reference, frame by frame on the whole picture at 224 x 224.",
        "",
        "higher",
        -1.0,
        1.0,
        "Wang et al., IEEE TIP 2004; the procedure of talkingface-toolkit",
        needs_reference=True,
    ),
    MetricInfo(
        "psnr_outside_face",
        "How little the picture outside the face changed (luma).",
        "dB",
        "higher",
        0.0,
        None,
        "ITU-T J.340 (PSNR); outside the box of dlib's 68 points grown by half on each side",
        needs_reference=True,
    ),
    MetricInfo(
        "cpbd",
        "Sharpness of the face: share of edges whose blur nobody sees, on up to 10 frames.",
        "",
        "higher",
        0.0,
        1.0,
        "Narvekar and Karam, IEEE TIP 2011; on the face box grown by a fifth on each side",
    ),
    MetricInfo(
        "landmark_jitter",
        "How much eyes and nose tremble: mean second difference of their points from frame to frame.",
        "% of face size",
        "lower",
        0.0,
        None,
        "acceleration error as in Kanazawa et al., CVPR 2019, on dlib's points, which are not smoothed",
    ),
    MetricInfo("faceless_s", "Seconds of the result on which no face is seen.", "s", "lower", 0.0, None, _DLIB),
    *_sync_rows(
        "frame",
        "on the whole frame",
        f"{_SYNCNET}; talkingface-toolkit's protocol: whole frame, the file's own rate, shifts -10..10",
        10.0,
        ("syncnet",),
    ),
    *_sync_rows(
        "face",
        "on face tracks",
        f"{_SYNCNET}; the protocol of syncnet_python and Wav2Lip: face tracks, 25 fps, shifts -15..15",
        15.0,
        ("syncnet", "s3fd"),
    ),
    MetricInfo(
        "csim",
        "Identity: cosine of ArcFace embeddings of the result's and the reference's face.",
        "",
        "higher",
        -1.0,
        1.0,
        "Deng et al., CVPR 2019; IR-SE50 weights, five points from dlib's 68, frames without a face left out",
        ("arcface",),
        needs_reference=True,
    ),
)
METRIC_TABLE: Mapping[str, MetricInfo] = MappingProxyType({row.name: row for row in _ROWS})
