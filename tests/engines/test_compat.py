"""compat=original: chosen in one place, drawn with the original's arithmetic, and never by accident."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retalking_core.engine import render_files
from retalking_core.engines.preview.engine import PreviewEngine
from retalking_core.errors import OptionUnsupportedError
from retalking_core.faces.dlib_tracker import DlibFaceTracker
from retalking_core.options import RenderOptions
from retalking_core.progress import ignore_progress
from tests.engines.lossless import darkened, render_lossless
from tests.engines.stand_ins import StandIns
from tests.faces.clips import backdrop, portrait, write_clip
from tests.media.clips import make_video, make_wav
from tests.preview.speech import make_sound, write_wav


def test_the_original_s_arithmetic_in_the_engine(tmp_path: Path, tracker: DlibFaceTracker) -> None:
    """The face changes as it does in ours; the rest of the frame shows the round trip through 512 x 512, which dulls it
    by half a level; frames without a face pass through."""
    pictures = [portrait(80, 240, 200, 118 + 2 * k, 90) for k in range(2)]
    for picture in pictures:
        picture[::16] = np.random.default_rng(3).integers(60, 200, picture[::16].shape)
    clip = write_clip(tmp_path / "clip.mp4", [*pictures, backdrop(240, 200)])
    speech = write_wav(tmp_path / "speech.wav", make_sound([("a", 0.12)]))
    done = [
        render_lossless(StandIns(enet=darkened), clip, speech, tmp_path, RenderOptions(compat=word), tracker=tracker)
        for word in ("original", "none")
    ]
    original, ours = done
    assert [note.code for note in original.report.notes] == ["compat_original"]
    assert ours.report.notes == []
    assert original.same(2)
    assert ours.same(2)
    corner = np.s_[:40, :40]
    for k in range(2):
        assert original.changed(k)[corner].mean() > 0.2
        assert not ours.changed(k)[corner].any()
        shift = original.frames[k].y[corner].astype(float) - original.plain[k].y[corner]
        assert -1.5 < shift.mean() < 0
        x, y = original.center(k)
        assert abs(x - ours.center(k)[0]) < 15
        assert abs(y - ours.center(k)[1]) < 20


def test_the_preview_engine_has_no_such_arithmetic(tmp_path: Path) -> None:
    with pytest.raises(OptionUnsupportedError, match="compat"):
        render_files(
            PreviewEngine(),
            make_video(tmp_path / "a.mp4", frames=2),
            make_wav(tmp_path / "a.wav", 0.1),
            tmp_path / "b.mp4",
            RenderOptions(compat="original"),
            ignore_progress,
        )
