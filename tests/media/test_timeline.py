"""Which source picture each output picture shows."""

from __future__ import annotations

from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retalking_core.clip_plan import plan_timeline
from retalking_core.media.reader import exact_rate
from retalking_core.options import LengthMode
from retalking_core.types import ColorTags, VideoInfo

MODES = get_args(LengthMode)


def video(times_s: np.ndarray, last_s: float = 0.04, fps: Fraction = Fraction(25)) -> VideoInfo:
    times_s = np.asarray(times_s, np.float64)
    return VideoInfo(64, 64, fps, times_s, float(times_s[-1] + last_s), 0, ColorTags(), False, "mp4", "h264")


def regular(frames: int, fps: Fraction = Fraction(25)) -> VideoInfo:
    return video(np.arange(frames) / float(fps), float(1 / fps), fps)


def indices(info: VideoInfo, speech_s: float, mode: LengthMode, fps: float | None = None) -> list[int]:
    return plan_timeline(info, speech_s, mode, fps).source_index.tolist()


def test_bounce_turns_without_showing_a_turning_picture_twice() -> None:
    assert indices(regular(4), 0.48, "bounce") == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1]


def test_loop_starts_over() -> None:
    assert indices(regular(4), 0.4, "loop") == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("mode", ["bounce", "loop", "cut_off"])
def test_a_longer_video_is_cut(mode: LengthMode) -> None:
    assert indices(regular(100), 0.2, mode) == [0, 1, 2, 3, 4]


def test_cut_off_ends_with_the_shorter() -> None:
    assert indices(regular(4), 2.0, "cut_off") == [0, 1, 2, 3]


def test_silence_holds_the_last_picture_or_lets_the_video_run_out() -> None:
    assert indices(regular(4), 0.28, "silence") == [0, 1, 2, 3, 3, 3, 3]
    assert indices(regular(10), 0.2, "silence") == list(range(10))


def test_remap_stretches_and_compresses() -> None:
    assert indices(regular(4), 0.32, "remap") == [0, 0, 1, 1, 2, 2, 3, 3]
    assert indices(regular(8), 0.16, "remap") == [0, 2, 4, 6]


def test_every_picture_is_doubled_regularly_at_twice_the_rate() -> None:
    assert indices(regular(50), 2.0, "loop", 50) == sorted([*range(50)] * 2)


def test_a_variable_rate_takes_the_nearest_in_time() -> None:
    info = video(np.array([0, 0.033, 0.1, 0.2, 0.233]), fps=Fraction(20))
    assert indices(info, 0.25, "cut_off") == [0, 1, 2, 2, 3]


def test_a_picture_repeats() -> None:
    info = VideoInfo(64, 64, Fraction(25), np.zeros(1), 0.04, 0, ColorTags(), True, "png", "png")
    for mode in ("bounce", "loop", "silence", "remap"):
        assert indices(info, 0.2, mode) == [0] * 5


def test_a_slide_show_comes_out_at_a_rate_that_lips_can_move_at() -> None:
    slow = regular(3, Fraction(1, 2))
    timeline = plan_timeline(slow, 4.0, "loop")
    assert timeline.fps == 25
    assert len(timeline.source_index) == 100
    assert plan_timeline(slow, 4.0, "loop", 5.0).fps == 5


def test_rates_of_the_ntsc_family_are_exact() -> None:
    assert exact_rate(29.97) == Fraction(30000, 1001)
    assert exact_rate(23.976) == Fraction(24000, 1001)
    assert exact_rate(59.94) == Fraction(60000, 1001)
    assert exact_rate(25.0) == 25
    assert exact_rate(12.5) == Fraction(25, 2)


@pytest.mark.parametrize("speech_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_speech_without_length_is_refused(speech_s: float) -> None:
    with pytest.raises(ValueError, match="speech_s"):
        plan_timeline(regular(4), speech_s, "loop")


@given(
    steps_ms=st.lists(st.integers(1, 200), min_size=1, max_size=60),
    speech_s=st.floats(0.05, 20),
    fps=st.sampled_from([Fraction(1350, 61), Fraction(24000, 1001), Fraction(25), Fraction(30), Fraction(60)]),
    mode=st.sampled_from(MODES),
)
def test_every_plan_is_as_long_as_promised_and_names_frames_that_exist(
    steps_ms: list[int], speech_s: float, fps: Fraction, mode: LengthMode
) -> None:
    times_s = np.concatenate([[0], np.cumsum(steps_ms)[:-1]]) / 1000
    info = video(times_s, steps_ms[-1] / 1000, fps)
    timeline = plan_timeline(info, speech_s, mode)
    wanted_s = {"cut_off": min(speech_s, info.duration_s), "silence": max(speech_s, info.duration_s)}.get(
        mode, speech_s
    )
    count = len(timeline.source_index)
    assert count >= 1
    assert count == 1 or abs(timeline.duration_s - wanted_s) <= float(1 / fps) / 2 + 1e-9
    assert timeline.source_index.min() >= 0
    assert timeline.source_index.max() < info.frame_count
    assert timeline.source_index.dtype == np.int64


@given(
    steps_ms=st.lists(st.integers(1, 200), min_size=2, max_size=60),
    fps=st.sampled_from([Fraction(25), Fraction(30000, 1001), Fraction(60)]),
    mode=st.sampled_from(["bounce", "loop", "cut_off", "silence"]),
)
def test_within_the_first_pass_no_other_picture_is_nearer(steps_ms: list[int], fps: Fraction, mode: LengthMode) -> None:
    times_s = np.concatenate([[0], np.cumsum(steps_ms)]) / 1000
    info = video(times_s, 0.04, fps)
    chosen = plan_timeline(info, float(times_s[-1]) or 0.1, mode).source_index
    for number, index in enumerate(chosen):
        now_s = float(number / fps)
        if now_s > times_s[-1]:
            break
        assert abs(times_s[index] - now_s) <= np.abs(times_s - now_s).min() + 3e-6


@given(frames=st.integers(2, 50), rounds=st.integers(1, 4))
def test_bounce_never_jumps_by_more_than_one_picture(frames: int, rounds: int) -> None:
    chosen = plan_timeline(regular(frames), frames * rounds / 25, "bounce").source_index
    assert np.abs(np.diff(chosen)).max(initial=0) <= 1
    assert (np.diff(chosen) != 0).all()


@given(frames=st.integers(1, 50), speech_s=st.floats(0.04, 5))
def test_remap_runs_forward_and_reaches_the_end(frames: int, speech_s: float) -> None:
    timeline = plan_timeline(regular(frames), speech_s, "remap")
    assert (np.diff(timeline.source_index) >= 0).all()
    reach = frames / len(timeline.source_index)
    assert timeline.source_index[-1] >= frames - 1 - reach
