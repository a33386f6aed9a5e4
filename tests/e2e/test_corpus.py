"""A few situations of the corpus through the service; `make corpus` runs all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Service
from tests.media.corpus import FACES, SPOKEN, write_speech
from tests.media.run_corpus import run

pytestmark = pytest.mark.e2e

OUTCOMES = {
    "interlaced video": "`video_deinterlaced`",
    "phone turned on the way": "`video_size_changes`",
    "damaged frame": "`video_damaged`, `video_smeared`",
    "hand over the mouth": "`mouth_covered`",
    "still in .heic": "as it is",
    "animation in .webp": "`container_unsupported`",
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_situation_through_the_service(name: str, service: Service, tmp_path: Path) -> None:
    speech = write_speech(tmp_path / "speech.wav", SPOKEN)
    _, outcome, length, lag_ms, worst = run(service, name, FACES[name](tmp_path), speech, tmp_path, SPOKEN, {})
    known = [code for code in outcome.split(", ") if code != "`mouth_interior_painted`"] or ["as it is"]
    assert ", ".join(known) == OUTCOMES[name]
    if length:
        assert abs(float(length.split()[0]) - len(SPOKEN) / 16_000) <= 0.04
        assert abs(float(lag_ms)) <= 20
        assert worst == "0", "outside of the face, what was decoded"
