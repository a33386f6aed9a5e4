"""The mel is the reference's, number by number; the windows start where the reference's start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retalking_core.audio.mel import (
    librosa_basis,
    mel_basis,
    mel_spectrogram,
    mel_windows,
    window_starts,
)
from retalking_core.types import Waveform

SLICE = np.load(Path(__file__).parent / "golden" / "mel_slice.npz")
# Float64 here and there; the stored reference is float32 of -4..4.
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def golden() -> np.lib.npyio.NpzFile:
    """The whole golden file; skips with the reason where it is absent."""
    root = Path(__file__).resolve().parents[2]
    path = Path(os.environ.get("RETALKING_GOLDEN_DIR", root.parent / "shared" / "golden")) / "pipeline" / "01_audio.npz"
    if not path.is_file():
        pytest.skip(f"no golden vectors at {path}; set RETALKING_GOLDEN_DIR")
    return np.load(path)


Spectrogram = Callable[[Waveform], np.ndarray]


def neural_spectrogram(waveform: Waveform) -> np.ndarray:
    """As the neural engine calls it."""
    return mel_spectrogram(waveform, librosa_basis())


BOTH = pytest.mark.parametrize("spectrogram", [mel_spectrogram, neural_spectrogram])


@BOTH
def test_the_slice_of_the_golden_mel(spectrogram: Spectrogram) -> None:
    mel = spectrogram(Waveform(SLICE["wave16k"]))
    assert mel.dtype == np.float32
    assert mel.shape == (80, 81)
    assert np.abs(mel[:, :78] - SLICE["mel"]).max() < TOLERANCE


@pytest.mark.parametrize("name", ["25", "1350_61", "30000_1001"])
def test_window_starts_of_the_slice(name: str) -> None:
    assert (window_starts(402, Fraction(name.replace("_", "/"))) == SLICE[f"starts_{name}"]).all()


def test_window_counts_of_ten_rates() -> None:
    counts = [[len(window_starts(int(frames), fps)) for frames in SLICE["chunk_T"]] for fps in SLICE["fps_values"]]
    assert (np.array(counts) == SLICE["chunk_counts"]).all()


@BOTH
@pytest.mark.golden
def test_the_whole_golden_mel(golden: np.lib.npyio.NpzFile, spectrogram: Spectrogram) -> None:
    assert np.abs(mel_basis() - golden["mel_basis"]).max() < 1e-7
    for wave, mel in (("wave16k", "mel"), ("media_wav16k", "media_mel")):
        ours = spectrogram(Waveform(golden[wave]))
        assert ours.shape == golden[mel].shape
        assert np.abs(ours - golden[mel]).max() < TOLERANCE
    lengths = [name for name in golden.files if name.startswith("mel_T_n")]
    assert lengths
    for name in lengths:
        wave = Waveform(np.zeros(int(name.removeprefix("mel_T_n")), np.float32))
        assert spectrogram(wave).shape[1] == golden[name], name


@pytest.mark.golden
def test_the_whole_golden_windows(golden: np.lib.npyio.NpzFile) -> None:
    names = [name for name in golden.files if name.startswith("starts_")]
    assert len(names) == len(golden["fps_names"]) * len({name.rsplit("_T", 1)[1] for name in names})
    for name in names:
        rate, frames = name.removeprefix("starts_").rsplit("_T", 1)
        assert (window_starts(int(frames), Fraction(rate.replace("_", "/"))) == golden[name]).all(), name
    windows = mel_windows(golden["mel"], 25)
    assert len(windows) == golden["chunks_fps25_n"]
    assert (windows[golden["chunks_fps25_idx"]] == golden["chunks_fps25"]).all()


def test_silence_is_minus_four_and_short_speech_is_padded_with_it() -> None:
    mel = mel_spectrogram(Waveform(np.zeros(1000, np.float32)))
    assert mel.shape == (80, 6)
    assert (mel == -4).all()
    loud = mel + 5
    windows = mel_windows(loud, 25)
    assert windows.shape == (2, 80, 16)
    assert (windows[:, :, :6] == 1).all()
    assert (windows[:, :, 6:] == -4).all()


@BOTH
def test_a_long_wave_is_the_same_in_blocks(spectrogram: Spectrogram) -> None:
    """Block borders lie every 8000 frames (100 s)."""
    rng = np.random.default_rng(1)
    samples = rng.normal(0, 0.1, 101 * 16000).astype(np.float32)
    mel = spectrogram(Waveform(samples))
    tail = spectrogram(Waveform(samples[98 * 16000 :]))
    assert np.abs(mel[:, 98 * 80 + 4 :] - tail[:, 4:]).max() < TOLERANCE


@BOTH
def test_another_rate_is_refused(spectrogram: Spectrogram) -> None:
    with pytest.raises(ValueError, match="16000"):
        spectrogram(Waveform(np.zeros(100, np.float32), rate_hz=8000))


@given(frames=st.integers(0, 400), count=st.integers(0, 200), fps=st.sampled_from([25, 30, Fraction(1350, 61)]))
def test_padded_windows_are_as_many_as_asked_and_start_at_the_picture(
    frames: int, count: int, fps: Fraction | int
) -> None:
    mel = np.tile(np.arange(frames, dtype=np.float32), (80, 1))
    windows = mel_windows(mel, fps, count)
    assert windows.shape == (count, 80, 16)
    for number, window in enumerate(windows):
        first = int(number * 80 / float(fps))
        expected = [frame if frame < frames else -4 for frame in range(first, first + 16)]
        assert (window[0] == expected).all()


def test_the_preview_engine_needs_neither_librosa_nor_numba(tmp_path: Path) -> None:
    """It installs without the extra `gpu`, and their imports take seconds."""
    code = (
        "import sys\n"
        "from fractions import Fraction\n"
        "import numpy as np\n"
        "import retalking_core.engines.preview.engine\n"
        "from retalking_core.audio.visemes import recognize_visemes\n"
        "from retalking_core.engines.preview.mouth_motion import plan_mouth_motion\n"
        "from retalking_core.types import Timeline, Waveform\n"
        "speech = Waveform(np.random.default_rng(1).normal(0, 0.1, 16000).astype(np.float32))\n"
        "plan_mouth_motion(speech, Timeline(np.arange(25), Fraction(25)), recognize_visemes(speech))\n"
        "print(*sorted({'librosa', 'numba', 'torch', 'kornia', 'scipy.signal'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_spectrogram_of_the_neural_engine_compiles_nothing(tmp_path: Path) -> None:
    """librosa's core has functions that numba compiles at their import: 30 s in a folder that holds none of them."""
    code = (
        "import sys\n"
        "import numpy as np\n"
        "from retalking_core.audio.mel import librosa_basis, mel_spectrogram\n"
        "from retalking_core.types import Waveform\n"
        "mel_spectrogram(Waveform(np.zeros(16000, np.float32)), librosa_basis())\n"
        "print(*sorted({'librosa', 'librosa.filters', 'librosa.core.spectrum'} & set(sys.modules)))\n"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["librosa", "librosa.filters"]
    assert list(tmp_path.rglob("*.nbi")) == []


def test_librosa_gives_the_same_filters() -> None:
    assert np.abs(librosa_basis() - mel_basis()).max() < 1e-7
