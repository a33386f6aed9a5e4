"""One signed result, made the way that the writer and the signer make it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from retalking_core.provenance import (
    InputFile,
    ProvenanceClaim,
    TrialCertificate,
    load_credentials,
    make_trial_certificate,
    sign_file,
)
from tests.media import clips
from tests.media.test_writer import render

TAGS = {"title": "Retalking preview", "comment": "Synthetic media: lip-sync by Retalking, engine preview."}


@dataclass(frozen=True)
class Material:
    """plain: a result as the writer leaves it."""

    video: Path
    speech: Path
    plain: Path
    certificate: TrialCertificate

    def claim(self, **changes: object) -> ProvenanceClaim:
        given = {
            "engine": "preview",
            "engine_version": "1.2",
            "synthetic_weights": False,
            "video": InputFile(self.video, "video/mp4"),
            "speech": (InputFile(self.speech, "audio/wav"),),
            "mime": "video/mp4",
        }
        return ProvenanceClaim(**(given | changes))


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = tmp_path_factory.mktemp("provenance")
    video = clips.make_video(folder / "clip.mp4", frames=20)
    speech = clips.make_wav(folder / "speech.wav", 1.0)
    render(video, speech, folder / "plain.mp4", TAGS)
    return Material(video, speech, folder / "plain.mp4", make_trial_certificate(folder / "certificate"))


@pytest.fixture(scope="session")
def signed(material: Material) -> Path:
    target = material.plain.with_name("signed.mp4")
    credentials = load_credentials(material.certificate.chain, material.certificate.key)
    sign_file(material.plain, target, material.claim(), credentials)
    return target
