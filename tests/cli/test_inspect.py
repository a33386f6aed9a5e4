"""`retalking inspect` and `retalking provenance`, as a person uses them one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from retalking_core.provenance import InputFile, ProvenanceClaim, load_credentials, sign_file
from tests.cli.conftest import Ended
from tests.media import clips
from tests.media.test_writer import render

Call = Callable[..., Ended]
TAGS = {"title": "Retalking", "comment": "Synthetic media: lip-sync by Retalking, engine videoretalking."}


def test_a_test_certificate_signs_and_is_inspected(call: Call, tmp_path: Path) -> None:
    made = call("provenance", "make-test-certificate", "certificate")
    assert made.code == 0, made.err
    lines = dict(line.split("=", 1) for line in made.out.splitlines())
    again = call("provenance", "make-test-certificate", "certificate")
    assert (again.code, again.err.split(":")[1]) == (1, " file_exists")

    video = clips.make_video(tmp_path / "clip.mp4", frames=6)
    speech = clips.make_wav(tmp_path / "speech.wav", 0.2)
    render(video, speech, tmp_path / "plain.mp4", TAGS)
    credentials = load_credentials(Path(lines["RETALKING_C2PA_CERT"]), Path(lines["RETALKING_C2PA_KEY"]))
    inputs = (InputFile(video, "video/mp4"), (InputFile(speech, "audio/wav"),))
    claim = ProvenanceClaim("videoretalking", "0.1.0", False, *inputs, mime="video/mp4")
    sign_file(tmp_path / "plain.mp4", tmp_path / "signed.mp4", claim, credentials)

    shown = call("inspect", "signed.mp4", "--trust", "certificate/authority.pem", "--require-signature")
    assert shown.code == 0, shown.err
    assert "video/mp4; labeled as synthetic media" in shown.out
    assert "signed, unchanged, trusted signer" in shown.out
    assert "c2pa.edited [compositeWithTrainedAlgorithmicMedia]: Synthetic media" in shown.out
    assert "Input video (parentOf, video/mp4); SHA-256 " in shown.out
    assert TAGS["comment"] in shown.out
    assert "the identity of the signer is not verified" in call("inspect", "signed.mp4").out

    found = json.loads(call("inspect", "signed.mp4", "--json").out)
    assert (found["manifest"]["state"], found["says_synthetic"]) == ("valid", True)

    data = bytearray((tmp_path / "signed.mp4").read_bytes())
    data[data.index(b"mdat") + 100] ^= 1
    (tmp_path / "changed.mp4").write_bytes(data)
    changed = call("inspect", "changed.mp4")
    assert changed.code == 1
    assert "invalid: do not rely on its contents" in changed.out
    assert "The video, the audio or their index changed after the file was signed" in changed.out
    assert changed.err == "error: provenance_invalid: The manifest of changed.mp4 is invalid.\n"


def test_a_file_without_a_signature(call: Call, tmp_path: Path) -> None:
    video = clips.make_video(tmp_path / "clip.mp4", frames=3)
    plain = call("inspect", "clip.mp4")
    assert plain.code == 0
    assert "not labeled as synthetic media" in plain.out
    assert "none: the file has no C2PA signature" in plain.out
    assert call("inspect", "clip.mp4", "--require-signature").err.startswith("error: provenance_missing: ")
    speech = clips.make_wav(tmp_path / "speech.wav", 0.2)
    assert call("inspect", speech.name).err.startswith("error: container_unsupported: ")
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:-200])
    assert call("inspect", "cut.mp4").err.startswith("error: media_unreadable: ")
