"""Every cell of the matrix in docs/inputs.md gives the sound or the pictures that were put in, or is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retalking_core.errors import CodecUnsupportedError, UnsupportedContainerError
from retalking_core.media.limits import DEFAULT_LIMITS as LIMITS
from retalking_core.media.planes import region_to_bgr
from retalking_core.media.reader import StillReader, VideoReader, open_video
from retalking_core.media.speech import read_speech
from retalking_core.types import Frame
from tests.media import formats
from tests.media.corpus import utterance
from tests.media.test_corpus import lag_s

# AVI, WAV and AAC without a container state no delay of the codec: such files play late everywhere. AMR has 5
# ms of look-ahead, and is made for voices and not for noise.
DELAYS_S = {
    (".avi", "libmp3lame"): 0.024,
    (".wav", "libmp3lame"): 0.024,
    (".aac", "aac"): 0.022,
    (".avi", "ac3"): 0.006,
    (".amr", "libopencore_amrnb"): 0.01,
    (".3gp", "libopencore_amrnb"): 0.01,
}


def check_sound(path: Path, likeness: float, lag_limit_s: float) -> None:
    expected = utterance(3.0)
    with read_speech(path, LIMITS) as speech:
        late_s, found = lag_s(speech.waveform.samples, expected)
        assert speech.duration_s == pytest.approx(3.0, abs=0.04)
        assert not speech.notes
    assert found > likeness
    assert abs(late_s) <= lag_limit_s


@pytest.mark.parametrize(
    ("suffix", "codec"), [(suffix, codec) for suffix, all_ in formats.SOUNDS.items() for codec in all_]
)
def test_sound(suffix: str, codec: str, tmp_path: Path) -> None:
    likeness = 0.3 if "amr" in codec else 0.95
    check_sound(formats.make_sound(tmp_path, suffix, codec), likeness, DELAYS_S.get((suffix, codec), 0.001))


@pytest.mark.parametrize("rate_hz", formats.RATES_HZ)
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_rates(suffix: str, rate_hz: int, tmp_path: Path) -> None:
    codec = {".wav": "pcm_s16le", ".flac": "flac"}[suffix]
    check_sound(formats.make_sound(tmp_path, suffix, codec, rate_hz), 0.95, 0.001)


@pytest.mark.parametrize("layout", formats.LAYOUTS)
@pytest.mark.parametrize(("suffix", "codec"), [(".wav", "pcm_s16le"), (".wav", "pcm_f32le")])
def test_layouts(suffix: str, codec: str, layout: str, tmp_path: Path) -> None:
    check_sound(formats.make_sound(tmp_path, suffix, codec, layout=layout), 0.95, 0.001)


def test_eight_channels_in_planes(tmp_path: Path) -> None:
    """PyAV reads past the planes of such a frame, which ended the process."""
    check_sound(formats.make_sound(tmp_path, ".ogg", "libopus", layout="7.1"), 0.95, 0.001)


def test_nine_channels_are_refused(tmp_path: Path) -> None:
    path = formats.make_sound(tmp_path, ".wav", "pcm_s16le", layout="hexadecagonal")
    with pytest.raises(CodecUnsupportedError, match="16 channels"):
        read_speech(path, LIMITS)


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format"),
    [
        (suffix, codec, kind)
        for suffix, all_ in formats.PICTURES.items()
        for codec, kinds in all_.items()
        for kind in kinds
    ],
)
def test_pictures(suffix: str, codec: str, pixel_format: str, tmp_path: Path) -> None:
    video = open_video(formats.make_video(tmp_path / f"clip{suffix}", codec, pixel_format), LIMITS)
    frames = list(video.frames())
    assert (len(frames), video.info.fps, video.info.notes, video.damaged) == (10, 25, (), set())
    for number in (0, 9):
        check_picture(video, frames[number], number)


@pytest.mark.parametrize(
    ("suffix", "mode"), [(suffix, mode) for suffix, modes in formats.STILLS.items() for mode in modes]
)
def test_stills(suffix: str, mode: str, tmp_path: Path) -> None:
    still = open_video(formats.make_still(tmp_path, suffix, mode), LIMITS)
    (frame,) = still.frames()
    if mode != "1":
        check_picture(still, frame, 0)


def check_picture(video: VideoReader | StillReader, frame: Frame, number: int) -> None:
    """Colors as they were put in, within what a lossy codec does to smooth pictures."""
    height, width = frame.y.shape
    found = region_to_bgr(frame, (0, 0, width, height), video.info.color)[..., ::-1].astype(int)
    expected = formats.picture(number, width, height).astype(int)
    for y, x in ((height // 8, width // 8), (height // 2, width // 2), (7 * height // 8, width // 8)):
        box = np.s_[y - 4 : y + 4, x - 4 : x + 4]
        assert np.abs(found[box].mean(axis=(0, 1)) - expected[box].mean(axis=(0, 1))).max() < 6


@pytest.mark.parametrize("name", formats.REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    path = formats.make_refused(tmp_path, name)
    for read in (lambda: open_video(path, LIMITS), lambda: read_speech(path, LIMITS)):
        with pytest.raises(UnsupportedContainerError, match="This is a") as caught:
            read()
        assert "unknown kind" not in str(caught.value)


def test_the_matrix_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/inputs.md").read_text()
    assert "\n".join(formats.table()) in page, "python -m tests.media.formats prints it"
    for row in (*map(str, formats.RATES_HZ), *formats.LAYOUTS, *formats.REFUSED):
        assert row in " ".join(page.split())
