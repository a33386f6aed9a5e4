"""POST /jobs: what is accepted, what is refused and by which name, and that refusals leave nothing behind."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest

from jobs.names import input_key
from tests.api.running import MP4, NEURAL, PNG, PREVIEW, WAV, RunningApi, api_in_both_forms, check_problem, input_files

api = api_in_both_forms

BY_REFERENCE = {"video_url": "http://127.0.0.1:9/face.mp4", "audio_url": "http://127.0.0.1:9/speech.wav"}


def test_files_are_stored_and_the_job_waits(api: RunningApi) -> None:
    answer = api.submit(**{"output.crf": "20", "metadata": '{"order": 7}', "evaluate": "[]", "priority": "2"})
    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["location"] == f"{api.base}/jobs/{body['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert body["status"] == "queued"
    assert body["queue_position"] >= 1
    assert body["options"]["output"] == {"crf": 20, "max_height": None, "container": "mp4", "fps": None, "badge": False}
    assert body["options"]["evaluate"] == []
    assert (body["metadata"], body["priority"]) == ({"order": 7}, 2)
    assert b"".join(api.objects.read(input_key(body["id"], "video"))) == MP4
    spec = api.store.jobs.get(body["id"]).spec
    assert spec.video.sha256 == hashlib.sha256(MP4).hexdigest()
    assert (spec.audio.size_bytes, spec.audio.filename) == (len(WAV), "speech.wav")


def test_the_message_is_sent(api: RunningApi) -> None:
    job_id = api.new_job()
    assert job_id not in {job.id for job in api.store.jobs.unsent(0)}
    raw = api.store.redis.client  # the broker's lists, seen from the same server
    queued = [text for key in raw.keys("retalking.render*") for text in raw.lrange(key, 0, -1)]
    bodies = [base64.b64decode(json.loads(text)["body"]).decode() for text in queued]
    assert sum(job_id in body for body in bodies) == 1


def test_a_broker_that_refuses_is_no_error_for_the_caller(api: RunningApi) -> None:
    """The list of priority 0 (job priority 2) is made a string: the push fails, the outbox keeps the job."""
    raw, line = api.store.redis.client, "retalking.render"
    raw.delete(line)
    raw.set(line, "in the way")
    try:
        job_id = api.new_job(priority="2")
        assert job_id in {job.id for job in api.store.jobs.unsent(0)}
    finally:
        raw.delete(line)


def test_options_in_one_spec_part(api: RunningApi) -> None:
    spec = {"length_mode": "loop", "face": {"x": 10, "y": 20}, "pads": {"bottom": 5}, "expires_in_s": 60}
    files = {**input_files(), "spec": ("spec.json", json.dumps(spec).encode(), "application/json")}
    body = api.client.post("/jobs", files=files).json()
    assert body["options"]["length_mode"] == "loop"
    assert body["options"]["face"] == {"x": 10, "y": 20, "time_s": 0}
    assert body["options"]["pads"]["bottom"] == 5
    assert body["deadline_at"] is not None


@pytest.mark.parametrize(
    ("fields", "option", "value"),
    [
        ({"face": "left_most"}, "face", "left_most"),
        ({"face": '{"left":1,"top":2,"right":3,"bottom":4}'}, "face", {"left": 1, "top": 2, "right": 3, "bottom": 4}),
        ({"crop.left": "0.25"}, "crop", {"left": 0.25, "top": 0, "right": 0, "bottom": 0}),
        ({"one_shot": "true"}, "one_shot", True),
        ({"evaluate": ["sharpness", "sync_offset"]}, "evaluate", ["sharpness", "sync_offset"]),
        ({"evaluate": ["sharpness"]}, "evaluate", ["sharpness"]),
        ({"fps": "", "seed": "7"}, "seed", 7),
    ],
)
def test_form_fields_become_options(api: RunningApi, fields: dict[str, Any], option: str, value: object) -> None:
    answer = api.client.post("/jobs", files=input_files(), data=fields)
    assert answer.status_code == 202, answer.text
    assert answer.json()["options"][option] == value


def test_a_job_by_reference(tight_api: RunningApi) -> None:
    body = tight_api.client.post("/jobs", json={**BY_REFERENCE, "engine": "preview"}).json()
    assert body["engine_requested"] == "preview"
    spec = tight_api.store.jobs.get(body["id"]).spec
    assert (spec.video.kind, spec.video.url) == ("url", BY_REFERENCE["video_url"])
    assert BY_REFERENCE["video_url"] not in json.dumps(body)


def test_one_input_as_file_the_other_by_address(tight_api: RunningApi) -> None:
    files = {"video": input_files()["video"]}
    answer = tight_api.client.post("/jobs", files=files, data={"audio_url": BY_REFERENCE["audio_url"]})
    assert answer.status_code == 202, answer.text
    spec = tight_api.store.jobs.get(answer.json()["id"]).spec
    assert (spec.video.kind, spec.audio.kind) == ("object", "url")


def test_a_picture_as_face_speech_from_a_video_and_an_expression_picture(api: RunningApi) -> None:
    files = input_files(PNG, MP4) | {"expression": ("smile.png", PNG, "image/png")}
    answer = api.client.post("/jobs", files=files)
    assert answer.status_code == 202, answer.text
    assert answer.json()["options"]["expression"] == "image"
    spec = api.store.jobs.get(answer.json()["id"]).spec
    assert spec.expression_image is not None
    assert spec.expression_image.sha256 == hashlib.sha256(PNG).hexdigest()


def test_an_empty_file_input_of_a_browser_counts_as_not_sent(api: RunningApi) -> None:
    part = 'Content-Disposition: form-data; name="{}"; filename="{}"\r\n\r\n'
    content = b"".join(
        b"--x\r\n" + part.format(name, filename).encode() + data + b"\r\n"
        for name, filename, data in (("video", "a.mp4", MP4), ("audio", "a.wav", WAV), ("expression", "", b""))
    )
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = api.client.post("/jobs", content=content + b"--x--\r\n", headers=headers)
    assert answer.status_code == 202, answer.text
    assert api.store.jobs.get(answer.json()["id"]).spec.expression_image is None


FILE_REFUSALS = {
    "empty video": (input_files(video=b""), "file_empty", "`video`"),
    "empty audio": (input_files(audio=b""), "file_empty", "`audio`"),
    "text renamed mp4": (input_files(video=b"hello, this is a note\n" * 50), "container_unsupported", "text"),
    "HLS playlist renamed mp4": (
        input_files(video=b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"),
        "container_unsupported",
        "an HLS playlist",
    ),
    "zip": (input_files(video=b"PK\x03\x04" + bytes(100)), "container_unsupported", "a ZIP archive"),
    "speech in the video's place": (input_files(video=WAV), "container_unsupported", "a wav file"),
    "picture as speech": (input_files(audio=PNG), "container_unsupported", "a png file"),
    "animated heic": (input_files(video=b"\0\0\0\x18ftyphevc" + bytes(64)), "container_unsupported", "HEIF"),
    "film as expression": (
        input_files() | {"expression": ("smile.png", MP4, "image/png")},
        "container_unsupported",
        "a mp4 file",
    ),
}


@pytest.mark.parametrize("name", FILE_REFUSALS)
def test_unusable_files(api: RunningApi, name: str) -> None:
    files, code, word = FILE_REFUSALS[name]
    before = api.input_keys()
    problem = check_problem(api.client.post("/jobs", files=files), 422, code)
    assert word in problem["detail"]
    assert api.input_keys() == before


FIELD_REFUSALS = {
    "bad value": ({"upper_face": "bored"}, "invalid_option", "#/upper_face"),
    "out of range": ({"output.crf": "52"}, "invalid_option", "#/output/crf"),
    "not a number": ({"fps": "fast"}, "invalid_option", "#/fps"),
    "no such member": ({"output.color": "red"}, "invalid_request", "#/output/color"),
    "no such option": ({"speed": "2"}, "invalid_request", "#/speed"),
    "bad priority": ({"priority": "9"}, "invalid_option", "#/priority"),
    "bad event": ({"webhook_events": "job.exploded"}, "invalid_option", "#/webhook_events/0"),
    "bad face": ({"face": "handsome"}, "invalid_option", "#/face"),
    "sent twice": ({"fps": ["1", "2"]}, "invalid_request", "#/fps"),
    "whole and in parts": ({"output": '{"crf": 1}', "output.fps": "25"}, "ok", ""),
    "in parts and whole": ({"output.fps": "25", "output": '{"crf": 1}'}, "invalid_request", "#/output"),
    "spec and fields": ({"spec": "{}", "fps": "25"}, "invalid_request", None),
    "spec that is a list": ({"spec": "[]"}, "invalid_request", None),
    "video also by address": ({"video_url": "https://example.com/"}, "invalid_request", "#/video"),
    "expression picture that is missing": ({"expression": "image"}, "invalid_request", "#/expression"),
    "expression upload that is none": ({"expression": "upload:up_" + "0" * 32}, "upload_not_found", None),
}


@pytest.mark.parametrize("name", FIELD_REFUSALS)
def test_invalid_fields(api: RunningApi, name: str) -> None:
    fields, code, pointer = FIELD_REFUSALS[name]
    before = api.input_keys()
    answer = api.client.post("/jobs", files=input_files(), data=fields)
    if code == "ok":
        assert answer.json()["options"]["output"]["fps"] == 25
        return
    problem = check_problem(answer, 404 if code == "upload_not_found" else 422, code)
    if pointer is not None:
        assert pointer in [error["pointer"] for error in problem["errors"]]
    assert api.input_keys() == before


def test_bad_json_in_fields_and_spec(api: RunningApi) -> None:
    for fields in ({"output": '{"crf": '}, {"spec": "{'a': 1}"}, {"metadata": '{"a": NaN}'}):
        check_problem(api.submit(**fields), 400, "malformed_json")


JSON_REFUSALS: dict[str, tuple[bytes, int, str]] = {
    "not JSON": (b"{oops", 400, "malformed_json"),
    "nothing": (b"", 400, "malformed_json"),
    "not UTF-8": (b'{"a": "\xff"}', 400, "malformed_json"),
    "NaN": (b'{"metadata": {"a": NaN}}', 400, "malformed_json"),
    "lone surrogate": (b'{"metadata": {"a": "\\ud800"}}', 400, "malformed_json"),
    "too deep": (b'{"metadata": {"a": ' + b"[" * 5000 + b"]" * 5000 + b"}}", 400, "malformed_json"),
    "a list": (b"[]", 422, "invalid_request"),
    "no inputs": (b"{}", 422, "invalid_request"),
    "number as text": (b'{"seed": "7"}', 422, "invalid_option"),
    "wrong type": (b'{"output": 3}', 422, "invalid_option"),
    "video twice": (
        b'{"video_url": "https://example.com/", "video_upload_id": "up_00000000000000000000000000000000"}',
        422,
        "invalid_request",
    ),
    "bad upload id": (b'{"video_upload_id": "../../etc/passwd"}', 422, "invalid_request"),
}


@pytest.mark.parametrize("name", JSON_REFUSALS)
def test_json_bodies_that_are_refused(api: RunningApi, name: str) -> None:
    content, status, code = JSON_REFUSALS[name]
    answer = api.client.post("/jobs", content=content, headers={"content-type": "application/json"})
    check_problem(answer, status, code)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/mixed"])
def test_other_content_types(api: RunningApi, content_type: str) -> None:
    answer = api.client.post("/jobs", content=b"a=b", headers={"content-type": content_type})
    check_problem(answer, 415, "unsupported_media_type")


FORMS_BROKEN: dict[str, tuple[str, bytes]] = {
    "no boundary": ("multipart/form-data", b"--x\r\n"),
    "long boundary": ("multipart/form-data; boundary=" + "x" * 71, b"--x\r\n"),
    "no form": ("multipart/form-data; boundary=x", b"hello"),
    "nothing": ("multipart/form-data; boundary=x", b""),
    "breaks off": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="fps"\r\n\r\n25\r\n--x\r\n',
    ),
    "no name": ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n25\r\n--x--\r\n"),
    "too many parts": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 101 + b"--x--\r\n",
    ),
}


@pytest.mark.parametrize("name", FORMS_BROKEN)
def test_broken_forms(api: RunningApi, name: str) -> None:
    content_type, content = FORMS_BROKEN[name]
    answer = api.client.post("/jobs", content=content, headers={"content-type": content_type})
    check_problem(answer, 400, "malformed_form")


def test_a_form_that_breaks_off_after_a_whole_file_leaves_nothing(api: RunningApi) -> None:
    before = api.input_keys()
    head = b'--x\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
    answer = api.client.post(
        "/jobs", content=head + MP4 + b"\r\n--x\r\n", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    check_problem(answer, 400, "malformed_form")
    assert api.input_keys() == before


@pytest.mark.parametrize("field", ["webhook_url", "video_url", "audio_url"])
@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1/", "http://localhost:8000/", "http://169.254.169.254/latest", "http://[::1]/", "ftp://1.1.1.1/"],
)
def test_addresses_that_lead_inside(api: RunningApi, field: str, address: str) -> None:
    public = {"video_url": "http://1.1.1.1/v.mp4", "audio_url": "http://1.1.1.1/a.wav"}
    problem = check_problem(api.client.post("/jobs", json={**public, field: address}), 422, "url_not_allowed")
    assert problem["errors"][0]["pointer"] == f"#/{field}"


def test_metadata_over_16_kb(api: RunningApi) -> None:
    assert api.submit(metadata=json.dumps({"a": "x" * (16 * 1024 - 8)})).status_code == 202
    check_problem(api.submit(metadata=json.dumps({"a": "x" * (16 * 1024 - 7)})), 413, "body_too_large")


class TestIdempotency:
    """Idempotency-Key."""

    def test_the_same_request_gives_the_same_job(self, api: RunningApi) -> None:
        headers = {"Idempotency-Key": "order-7"}
        first = api.client.post("/jobs", files=input_files(), data={"seed": "1"}, headers=headers)
        keys = api.input_keys()
        again = api.client.post("/jobs", files=input_files(), data={"seed": "1"}, headers=headers)
        assert (first.status_code, again.status_code) == (202, 202)
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        assert again.json()["id"] == first.json()["id"]
        assert again.headers["location"] == first.headers["location"]
        assert api.input_keys() == keys

    @pytest.mark.parametrize("change", ["option", "file"])
    def test_another_request_is_refused(self, api: RunningApi, change: str) -> None:
        headers = {"Idempotency-Key": f"order-8-{change}"}
        assert api.client.post("/jobs", files=input_files(), headers=headers).status_code == 202
        keys = api.input_keys()
        files = input_files(video=MP4 + b"more") if change == "file" else input_files()
        data = {"seed": "2"} if change == "option" else {}
        answer = api.client.post("/jobs", files=files, data=data, headers=headers)
        check_problem(answer, 422, "idempotency_conflict")
        assert api.input_keys() == keys

    @pytest.mark.parametrize("key", ["", "x" * 256, "two words", "tab\there"])
    def test_keys_that_are_none(self, api: RunningApi, key: str) -> None:
        answer = api.client.post("/jobs", files=input_files(), headers={"Idempotency-Key": key})
        problem = check_problem(answer, 422, "invalid_request")
        assert problem["errors"][0] == {
            "location": "header",
            "pointer": "Idempotency-Key",
            "message": problem["errors"][0]["message"],
        }

    def test_a_filename_is_not_part_of_the_fingerprint(self, api: RunningApi) -> None:
        headers = {"Idempotency-Key": "order-9"}
        first = api.client.post("/jobs", files=input_files(), headers=headers)
        renamed = {slot: ("other.bin", row[1], row[2]) for slot, row in input_files().items()}
        assert api.client.post("/jobs", files=renamed, headers=headers).json()["id"] == first.json()["id"]


class TestEngines:
    """What the live workers offer decides at submission."""

    def test_without_a_worker_everything_is_accepted(self, api: RunningApi) -> None:
        assert api.submit(engine="videoretalking", upper_face="angry").status_code == 202

    def test_a_named_engine_that_no_worker_offers(self, api: RunningApi) -> None:
        with api.live_worker(PREVIEW):
            before = api.input_keys()
            problem = check_problem(api.submit(engine="videoretalking"), 409, "engine_unavailable")
            assert "preview" in problem["detail"]
            assert api.input_keys() == before

    @pytest.mark.parametrize(
        ("fields", "word"),
        [
            ({"upper_face": "angry"}, "upper_face=angry"),
            ({"expression": "smile"}, "expression=smile"),
            ({"output.crf": "51"}, "output.crf=51"),
        ],
    )
    def test_options_that_the_engine_refuses(self, api: RunningApi, fields: dict[str, str], word: str) -> None:
        with api.live_worker(PREVIEW):
            problem = check_problem(api.submit(**fields), 422, "unsupported_option")
        assert word in problem["detail"]
        assert "preview" in problem["detail"]

    def test_an_expression_picture_is_an_option_too(self, api: RunningApi) -> None:
        files = input_files() | {"expression": ("smile.png", PNG, "image/png")}
        with api.live_worker(PREVIEW):
            problem = check_problem(api.client.post("/jobs", files=files), 422, "unsupported_option")
        assert "expression=image" in problem["detail"]

    def test_auto_takes_the_neural_engine_where_it_is_offered(self, api: RunningApi) -> None:
        with api.live_worker(PREVIEW, NEURAL):
            assert api.submit(upper_face="angry").status_code == 202
            problem = check_problem(api.submit(engine="preview", upper_face="angry"), 422, "unsupported_option")
        assert "request the engine videoretalking" in problem["detail"]

    def test_metrics_that_no_worker_computes(self, api: RunningApi) -> None:
        with api.live_worker(PREVIEW, metrics=("sharpness",)):
            assert api.submit(evaluate='["sharpness"]').status_code == 202
            problem = check_problem(api.submit(evaluate='["beauty"]'), 422, "invalid_option")
        assert "sharpness" in problem["detail"]
