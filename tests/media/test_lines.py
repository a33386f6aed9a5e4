"""Lines are planned to the frame and to the sample, and every wrong list has an error of its own."""

from __future__ import annotations

import math
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from retalking_core.clip_plan import ClipPlan, LineInput, plan_clip
from retalking_core.errors import (
    OptionUnsupportedError,
    RetalkingError,
    SegmentOffsetError,
    SegmentOutOfRangeError,
    SegmentsOverlapError,
    SegmentTooShortError,
    TooManySegmentsError,
)
from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.speech import speech_loudness
from retalking_core.options import FacePoint, OutputOptions, RenderOptions, SoundOptions
from retalking_core.types import Waveform
from retalking_core.vocabulary.options import MAX_SEGMENTS, MAX_SPEAKERS
from tests.media import clips
from tests.preview.speech import talk, write_wav

RATE_HZ = 48_000
SECONDS = 4.0


def write_pcm(path: Path, samples: NDArray[np.int16], rate_hz: int = RATE_HZ) -> Path:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        out.writeframes(samples.astype("<i2").tobytes())
    return path


def film(path: Path, samples: NDArray[np.int16], seconds: float = SECONDS) -> Path:
    """25 pictures a second, and the samples at 48 kHz as PCM."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        sound = out.add_stream("pcm_s16le", rate=RATE_HZ)
        sound.codec_context.layout = "mono"
        for number in range(round(seconds * 25)):
            picture = av.VideoFrame.from_ndarray(clips.gradient_rgb(number, 96, 64), "rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = RATE_HZ
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return path


@pytest.fixture(scope="module")
def own_samples() -> NDArray[np.int16]:
    """Speech-like, at half of full scale."""
    spoken = np.interp(np.arange(round(SECONDS * RATE_HZ)) / 3, np.arange(64_000), talk(SECONDS).samples)
    return (spoken * 16_000).astype(np.int16)


@pytest.fixture(scope="module")
def video(own_samples: NDArray[np.int16], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("film") / "film.mkv", own_samples)


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of noise at 48 kHz: every sample differs from its neighbors."""
    noise = np.random.default_rng(5).integers(-8_000, 8_000, RATE_HZ).astype(np.int16)
    return write_pcm(tmp_path_factory.mktemp("speech") / "noise.wav", noise)


def planned(video: Path, lines: list[LineInput], **options: object) -> ClipPlan:
    return plan_clip(video, lines, RenderOptions(**options), DEFAULT_LIMITS)


def samples_of(clip: ClipPlan) -> NDArray[np.float32]:
    """f32 [channels, n]."""
    return np.concatenate(list(clip.sound.blocks(4096)), axis=1)


def pcm(path: Path) -> NDArray[np.float32]:
    with wave.open(str(path)) as file:
        return (np.frombuffer(file.readframes(-1), "<i2") / 32768).astype(np.float32)


def test_a_line_has_the_frames_whose_time_it_covers_and_the_rest_is_the_video(video: Path, speech: Path) -> None:
    with planned(video, [LineInput(speech, 0.99, 1.73), LineInput(speech, 2.0)]) as clip:
        assert clip.timeline.source_index.tolist() == list(range(100))
        first, second = clip.lines
        assert (first.frames, second.frames) == (range(25, 44), range(50, 75))
        assert second.end_s == pytest.approx(3.0)
        assert len(clip.speakers) == 1
        # The lips' sound begins with the line's first frame, 10 ms after the line.
        with plan_clip(video, speech, RenderOptions(), DEFAULT_LIMITS) as plain:
            whole = plain.speech.samples
        assert np.array_equal(first.speech.samples, whole[160 : round(0.74 * 16_000)])
        assert np.array_equal(clip.speech.samples[16_000:][: len(first.speech.samples)], first.speech.samples)


def test_two_files_are_one_line_over_everything(video: Path, speech: Path) -> None:
    with plan_clip(video, speech, RenderOptions(length_mode="silence"), DEFAULT_LIMITS) as clip:
        (line,) = clip.lines
        assert (line.frames, clip.has_lines) == (range(100), False)
        assert line.speech.samples is clip.speech.samples
        assert np.array_equal(samples_of(clip)[0], pcm(speech))


@pytest.mark.parametrize(
    ("mode", "order"),
    [
        ("cut_off", list(range(100))),
        ("loop", [*range(100), *range(25)]),
        ("bounce", [*range(100), *range(98, 73, -1)]),
        ("silence", [*range(100), *[99] * 25]),
    ],
)
def test_the_length_mode_decides_beyond_the_end_of_the_video(
    mode: str, order: list[int], video: Path, speech: Path
) -> None:
    with planned(video, [LineInput(speech, 0.0), LineInput(speech, 3.5, 5.0)], length_mode=mode) as clip:
        assert clip.timeline.source_index.tolist() == order
        assert [note.code for note in clip.notes] == (["segment_cut"] if mode == "cut_off" else [])
        assert clip.lines[1].frames == range(88, len(order))


@pytest.mark.parametrize("start_s", [0.0, 0.5, 1.00003, 1.2345])
def test_a_line_sounds_within_a_sample_of_its_start(start_s: float, video: Path, speech: Path) -> None:
    with planned(video, [LineInput(speech, start_s)]) as clip:
        sound, spoken = samples_of(clip)[0], pcm(speech)
        at = round(start_s * RATE_HZ)
        assert abs(at / RATE_HZ - start_s) <= 1 / RATE_HZ
        assert not sound[:at].any(), "there is silence before"
        assert np.array_equal(sound[at : at + len(spoken)], spoken)
        assert not sound[at + len(spoken) :].any()


def test_an_offset_skips_into_the_speech(video: Path, speech: Path) -> None:
    with planned(video, [LineInput(speech, 1.0, 1.5, audio_offset_s=0.25)]) as clip:
        sound, spoken = samples_of(clip)[0], pcm(speech)
        inside = slice(RATE_HZ + 1000, RATE_HZ + 23_000)
        assert np.array_equal(sound[inside], spoken[12_000:][1000:23_000])
        assert clip.lines[0].frames == range(25, 38)
        assert sound[RATE_HZ] == 0, "cut in its midst, it fades in"


@pytest.mark.parametrize("mix", ["over", "segments_only"])
def test_the_video_s_own_sound_is_untouched_where_nobody_speaks(
    mix: str, video: Path, speech: Path, own_samples: NDArray[np.int16]
) -> None:
    options = SoundOptions(mix=mix, ducking_db=-20.0)
    with planned(video, [LineInput(speech, 1.0), LineInput(speech, 3.0, 3.5)], sound=options) as clip:
        sound, own = samples_of(clip)[0], (own_samples / 32768).astype(np.float32)
        assert len(sound) == len(own)
        spoken = np.zeros(len(own), bool)
        spoken[RATE_HZ : 2 * RATE_HZ] = spoken[3 * RATE_HZ : round(3.5 * RATE_HZ)] = True
        assert np.array_equal(sound[~spoken], own[~spoken])
        inside = slice(RATE_HZ + 1000, 2 * RATE_HZ - 1000)
        rest = sound[inside] - pcm(speech)[1000:-1000]
        kept = float(rest @ own[inside] / (own[inside] @ own[inside]))
        assert kept == pytest.approx(0.1 if mix == "over" else 0.0, abs=0.02)


def test_a_speech_is_made_as_loud_as_the_video_s_own(video: Path, tmp_path: Path) -> None:
    quiet = write_wav(tmp_path / "quiet.wav", Waveform(talk(2.0).samples * np.float32(0.12)))
    with planned(video, [LineInput(quiet, 1.0)], sound=SoundOptions(mix="segments_only")) as clip:
        sound = samples_of(clip)[0]
    inside, outside = sound[RATE_HZ + 960 : 3 * RATE_HZ - 960 : 3], pcm_of_video(video)[::3]
    assert abs(speech_loudness(inside) - speech_loudness(outside)) < 2


def pcm_of_video(video: Path) -> NDArray[np.float32]:
    with av.open(str(video)) as media:
        return np.concatenate([frame.to_ndarray()[0] for frame in media.decode(audio=0)]).astype(np.float32) / 32768


def test_a_video_without_sound_and_a_result_beyond_it_are_said(tmp_path: Path, video: Path, speech: Path) -> None:
    silent = clips.make_video(tmp_path / "silent.mp4", frames=100)
    over = SoundOptions(mix="over")
    with planned(silent, [LineInput(speech, 1.0)], sound=over) as clip:
        assert [note.code for note in clip.notes] == ["original_sound_missing"]
    with planned(video, [LineInput(speech, 3.5)], sound=over) as clip:
        (note,) = clip.notes
        assert (note.code, note.ranges_s) == ("original_sound_ends", ((4.0, 4.52),))
    with pytest.raises(OptionUnsupportedError, match="remap"):
        planned(video, [LineInput(speech, 3.5)], sound=over, length_mode="remap")


def test_speakers_are_faces_with_looks(video: Path, speech: Path) -> None:
    point = FacePoint(10, 20)
    lines = [
        LineInput(speech, 2.0, face="right_most"),
        LineInput(speech, 0.0, face=point),
        LineInput(speech, 1.0, face="right_most", upper_face="sad"),
        LineInput(speech, 0.0, 1.0),
        LineInput(speech, 1.0, face=point),
    ]
    with planned(video, lines, face="left_most") as clip:
        cast = [
            (speaker.face, speaker.upper_face, [line.number for line in speaker.lines]) for speaker in clip.speakers
        ]
        assert cast == [
            (point, "original", [1, 4]),
            ("left_most", "original", [3]),
            ("right_most", "sad", [2]),
            ("right_most", "original", [0]),
        ]
        assert [line.number for line in clip.lines] == [0, 1, 2, 3, 4]


BAD: list[tuple[str, type[RetalkingError], str, list[tuple[float, float | None, float]]]] = [
    ("overlap", SegmentsOverlapError, "Segments 1 and 2 .* from 0.50 to 1.00", [(0.0, 1.0, 0.0), (0.5, 1.5, 0.0)]),
    ("overlap by the speech", SegmentsOverlapError, "Segments 2 and 1", [(0.9, 2.0, 0.0), (0.0, None, 0.0)]),
    ("beyond the end", SegmentOutOfRangeError, "Segment 2 starts at 4", [(0.0, 1.0, 0.0), (4.0, None, 0.0)]),
    ("negative", SegmentOutOfRangeError, "negative", [(-0.1, 1.0, 0.0)]),
    ("no number", SegmentOutOfRangeError, "no number", [(0.0, math.nan, 0.0)]),
    ("infinite start", SegmentOutOfRangeError, "no number", [(math.inf, None, 0.0)]),
    ("end before start", SegmentOutOfRangeError, "before it starts", [(1.0, 0.5, 0.0)]),
    ("far beyond", SegmentOutOfRangeError, "where a result must end", [(0.0, 1e6, 0.0)]),
    ("offset beyond the speech", SegmentOffsetError, "skips 1.5 s", [(0.0, 1.0, 1.5)]),
    ("too short", SegmentTooShortError, "0.050 s long", [(0.0, 0.05, 0.0)]),
    ("too little speech", SegmentTooShortError, "0.050 s of speech", [(0.0, None, 0.95)]),
    ("too many", TooManySegmentsError, str(MAX_SEGMENTS), [(0.0, 1.0, 0.0)] * 1000),
]


@pytest.mark.parametrize(("kind", "error", "words", "times"), BAD, ids=[row[0] for row in BAD])
def test_a_wrong_list_is_refused_by_name(
    kind: str,
    error: type[RetalkingError],
    words: str,
    times: list[tuple[float, float | None, float]],
    video: Path,
    speech: Path,
) -> None:
    with pytest.raises(error, match=words):
        planned(video, [LineInput(speech, *each) for each in times])


def test_a_line_between_two_frames_is_too_short(tmp_path: Path, speech: Path) -> None:
    slow = clips.make_video(tmp_path / "slow.mp4", frames=10, fps=4)
    with pytest.raises(SegmentTooShortError, match=r"between two frames of the result, which are 0\.250 s apart"):
        planned(slow, [LineInput(speech, 0.3, 0.42)])
    with pytest.raises(SegmentOutOfRangeError, match=r"the last frame of the result is shown at 2\.250 s"):
        planned(slow, [LineInput(speech, 2.3, 2.45)])


def test_too_many_faces_are_refused(video: Path, speech: Path) -> None:
    lines = [LineInput(speech, 0.0, 1.0, face=FacePoint(k, 0)) for k in range(MAX_SPEAKERS + 1)]
    with pytest.raises(TooManySegmentsError, match=f"{MAX_SPEAKERS + 1} different faces"):
        planned(video, lines)


def test_a_still_takes_lines_anywhere(tmp_path: Path, speech: Path) -> None:
    still = clips.make_png(tmp_path / "still.png", clips.gradient_rgb(1, 96, 64))
    with planned(still, [LineInput(speech, 2.0)], output=OutputOptions()) as clip:
        assert clip.frames == 75
        assert clip.lines[0].frames == range(50, 75)
