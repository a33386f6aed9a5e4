"""What a signed result says, who believes it, and what happens to it when a byte changes."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import stat
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import av
import c2pa
import pytest

from retalking_client.codes import ContainerUnsupportedError
from retalking_client.provenance import Provenance, read_provenance
from retalking_core.errors import OptionUnsupportedError, ProvenanceError
from retalking_core.provenance import (
    OFFLINE,
    SOURCE_TYPES,
    InputFile,
    load_credentials,
    make_trial_certificate,
    mime_of_result,
    sign_file,
)
from tests.media import clips
from tests.media.test_writer import render
from tests.provenance.conftest import TAGS, Material


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as media:
        return [bytes(packet) for packet in media.demux() if packet.size]


def top_boxes(data: bytes) -> dict[bytes, tuple[int, int]]:
    boxes, place = {}, 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        boxes[data[place + 4 : place + 8]] = (place, place + size)
        place += size
    return boxes


def signed_with(material: Material, target: Path, **changes: object) -> Provenance:
    credentials = load_credentials(material.certificate.chain, material.certificate.key)
    sign_file(material.plain, target, material.claim(**changes), credentials)
    return read_provenance(target)


def test_a_signed_result_says_what_it_is(material: Material, signed: Path) -> None:
    found = read_provenance(signed, material.certificate.authority.read_bytes())
    manifest = found.manifest
    assert manifest is not None
    assert (manifest.state, manifest.problems) == ("trusted", [])
    assert (manifest.signer, manifest.algorithm) == ("Trial signer", "Es256")
    assert manifest.generator == "Retalking 1.2"
    assert [action.action for action in manifest.actions] == ["c2pa.opened", "c2pa.edited", "c2pa.placed"]
    assert manifest.actions[1].source_type == "composite"
    assert "Synthetic media" in str(manifest.actions[1].description)
    digest = hashlib.sha256(material.video.read_bytes()).hexdigest()
    video, speech = manifest.ingredients
    assert (video.relationship, video.description) == ("parentOf", f"SHA-256 {digest}")
    assert (speech.relationship, speech.format) == ("componentOf", "audio/wav")
    assert found.tags.items() >= TAGS.items()
    assert found.says_synthetic
    assert packets(signed) == packets(material.plain), "pictures and sound are the same bytes"


def test_who_is_not_known_is_not_trusted(signed: Path) -> None:
    manifest = read_provenance(signed).manifest
    assert manifest is not None
    assert manifest.state == "valid"
    assert [code for code, _ in manifest.problems] == ["signingCredential.untrusted"]


def test_the_neural_engine_says_trained_media(material: Material, tmp_path: Path) -> None:
    found = signed_with(material, tmp_path / "neural.mp4", engine="videoretalking", synthetic_weights=True, badge=True)
    assert found.manifest is not None
    edited = next(action for action in found.manifest.actions if action.action == "c2pa.edited")
    assert edited.source_type == "compositeWithTrainedAlgorithmicMedia"
    assert "untrained weights" in str(edited.description)
    assert "c2pa.addedText" in [action.action for action in found.manifest.actions]
    assert set(SOURCE_TYPES) == {"videoretalking", "preview"}


def test_any_changed_byte_of_media_or_index_is_found(signed: Path, tmp_path: Path) -> None:
    """By the library's own reader, and by ours. `ftyp` and the padding of the signature are outside of what C2PA
    hashes; no picture or sound is in them."""
    data = signed.read_bytes()
    boxes = top_boxes(data)
    assert {b"ftyp", b"uuid", b"mdat", b"moov"} <= set(boxes)
    chosen = random.Random(7)
    for name in (b"mdat", b"moov"):
        start, end = boxes[name]
        for place in [start + 8, end - 1, *(chosen.randrange(start + 8, end) for _ in range(10))]:
            changed = tmp_path / "changed.mp4"
            changed.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            try:
                with c2pa.Context.from_dict(OFFLINE) as context, c2pa.Reader(str(changed), context=context) as reader:
                    assert reader.get_validation_state() == "Invalid", (name, place - start)
                    assert "assertion.bmffHash.mismatch" in json.dumps(reader.get_validation_results())
            except c2pa.C2paError:
                assert name == b"moov", "only a broken index can make the file unreadable"
            manifest = read_manifest_of(changed)
            assert manifest is None or manifest.state == "invalid"


def read_manifest_of(path: Path):
    """None where the boxes do not fit any more."""
    from retalking_client.codes import MediaUnreadableError

    try:
        return read_provenance(path).manifest
    except MediaUnreadableError:
        return None


def test_a_changed_claim_is_found(signed: Path, tmp_path: Path) -> None:
    data = signed.read_bytes()
    assert data.count(b"digitalsourcetype/composite") == 1
    forged = tmp_path / "forged.mp4"
    forged.write_bytes(data.replace(b"digitalsourcetype/composite", b"digitalsourcetype/digitalCa"))
    manifest = read_provenance(forged).manifest
    assert manifest is not None
    assert manifest.state == "invalid"
    assert "assertion.hashedURI.mismatch" in [code for code, _ in manifest.problems]


def test_a_signed_input_brings_its_own_history(material: Material, signed: Path, tmp_path: Path) -> None:
    found = signed_with(material, tmp_path / "second.mp4", video=InputFile(signed, "video/mp4"))
    assert found.manifest is not None
    assert [ingredient.has_provenance for ingredient in found.manifest.ingredients] == [True, False]
    assert found.manifest.state == "valid"


@pytest.mark.parametrize("mime", ["video/x-matroska", "video/webm", "audio/ogg"])
def test_inputs_that_the_library_can_not_read_are_recorded_too(material: Material, tmp_path: Path, mime: str) -> None:
    found = signed_with(material, tmp_path / "signed.mp4", video=InputFile(material.video, mime))
    assert found.manifest is not None
    assert found.manifest.state == "valid"
    (video,) = (each for each in found.manifest.ingredients if each.relationship == "parentOf")
    assert video.format == mime
    assert str(video.description).endswith("its own provenance was not read")


def test_nothing_is_fetched_for_an_input(
    material: Material, signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An input may name an address where its manifest is said to lie."""
    asked: list[object] = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        listener.settimeout(0.5)
        hostile = tmp_path / "hostile.mp4"
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/manifest.c2pa"
        created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPES["preview"]}
        elsewhere = {"assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}]}
        with c2pa.Context.from_dict(OFFLINE) as context, c2pa.Builder(elsewhere, context=context) as builder:
            builder.set_no_embed()
            builder.set_remote_url(address)
            made = material.certificate
            info = c2pa.C2paSignerInfo("es256", made.chain.read_bytes(), made.key.read_bytes(), None)
            with (
                c2pa.Signer.from_info(info) as signer,
                material.plain.open("rb") as plain,
                hostile.open("w+b") as out,
            ):
                builder.sign(signer, "video/mp4", plain, out)
        assert address.encode() in hostile.read_bytes()
        found = signed_with(material, tmp_path / "signed.mp4", video=InputFile(hostile, "video/mp4"))
        read_provenance(hostile)
        with suppress(TimeoutError):
            asked.append(listener.accept())
    assert asked == []
    assert found.manifest is not None
    assert found.manifest.state == "valid"


def test_mov_is_signed_and_mkv_refused(material: Material, tmp_path: Path) -> None:
    render(material.video, material.speech, tmp_path / "plain.mov", TAGS, container="mov")
    credentials = load_credentials(material.certificate.chain, material.certificate.key)
    claim = material.claim(mime=mime_of_result("mov"))
    sign_file(tmp_path / "plain.mov", tmp_path / "signed.mov", claim, credentials)
    found = read_provenance(tmp_path / "signed.mov")
    assert (found.mime, found.manifest and found.manifest.state) == ("video/quicktime", "valid")
    assert found.tags["comment"] == TAGS["comment"]
    with pytest.raises(OptionUnsupportedError, match="mp4 or mov"):
        mime_of_result("mkv")


def test_what_is_wrong_with_the_credentials_is_said_before(material: Material, tmp_path: Path) -> None:
    made = material.certificate
    other = make_trial_certificate(tmp_path / "other")
    old = make_trial_certificate(tmp_path / "old", days=1, now=datetime.now(UTC) - timedelta(days=3))
    wrong = {
        "cannot be opened": (tmp_path / "nothing.pem", made.key),
        "does not belong": (made.chain, other.key),
        "valid from": (old.chain, old.key),
        "cannot be read": (made.chain, material.video),
    }
    for words, (cert, key) in wrong.items():
        with pytest.raises(ProvenanceError, match=words) as refused:
            load_credentials(cert, key)
        assert str(tmp_path) not in refused.value.message
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600
    assert "PRIVATE" not in repr(load_credentials(made.chain, made.key))
    with pytest.raises(FileExistsError):
        make_trial_certificate(made.key.parent)


def test_a_signer_that_fails_leaves_nothing(material: Material, tmp_path: Path) -> None:
    credentials = load_credentials(material.certificate.chain, material.certificate.key)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video at all")
    with pytest.raises(ProvenanceError, match="could not be signed"):
        sign_file(broken, tmp_path / "signed.mp4", material.claim(), credentials)
    assert not (tmp_path / "signed.mp4").exists()


def test_only_what_can_carry_a_manifest_is_inspected(material: Material, tmp_path: Path) -> None:
    with pytest.raises(ContainerUnsupportedError):
        read_provenance(material.speech)
    plain = read_provenance(material.plain)
    assert plain.manifest is None
    assert plain.says_synthetic, "the tags say it without a certificate"
    bare = clips.make_video(tmp_path / "bare.mp4", frames=3)
    assert not read_provenance(bare).says_synthetic
