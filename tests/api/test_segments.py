"""`segments` of POST /jobs: what is stored, and how each wrong list is refused, leaving nothing behind."""

from __future__ import annotations

import hashlib
import json
from itertools import product
from typing import Any

import pytest

from jobs.models import MAX_AUDIO_FILES
from retalking_core.vocabulary.options import MAX_SEGMENTS
from tests.api.running import MP4, PNG, PREVIEW, WAV, RunningApi, api_in_both_forms, check_problem, input_files

api = api_in_both_forms

OTHER_WAV = WAV + b"more"
FILES = {
    "video": ("scene.mp4", MP4, "video/mp4"),
    "anna": ("anna.wav", WAV, "audio/wav"),
    "ben": ("ben.wav", OTHER_WAV, "audio/wav"),
}
SEGMENTS = [
    {"audio": "anna", "start_s": 0, "end_s": 2, "face": "left_most"},
    {"audio": "ben", "start_s": 1.5, "face": {"x": 400, "y": 120}, "expression": "smile", "upper_face": "angry"},
    {"audio": "anna", "start_s": 4, "audio_offset_s": 2.5, "face": "left_most"},
]
BY_REFERENCE = {"video_url": "http://127.0.0.1:9/scene.mp4"}


def submit(api: RunningApi, segments: Any, files: dict[str, Any] = FILES, **fields: str) -> Any:
    parts = {**files, "segments": (None, json.dumps(segments), "application/json")}
    return api.client.post("/jobs", files=parts, data=fields)


def test_a_form_names_its_files(api: RunningApi) -> None:
    answer = submit(api, SEGMENTS, **{"sound.mix": "over", "sound.ducking_db": "-20"})
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert [(each["audio"], each["start_s"], each["end_s"]) for each in body["segments"]] == [
        ("audio_1", 0, 2),
        ("audio_2", 1.5, None),
        ("audio_1", 4, None),
    ]
    assert body["segments"][1]["face"] == {"x": 400, "y": 120, "time_s": 0}
    assert body["options"]["sound"] == {"mix": "over", "ducking_db": -20}
    assert {part: view["filename"] for part, view in body["inputs"].items()} == {
        "video": "scene.mp4",
        "audio_1": "anna.wav",
        "audio_2": "ben.wav",
    }
    assert body["inputs"]["audio_2"]["sha256"] == hashlib.sha256(OTHER_WAV).hexdigest()
    stored = api.store.jobs.get(body["id"]).inputs
    assert b"".join(api.objects.read(str(stored["audio_1"].key))) == WAV
    assert b"".join(api.objects.read(str(stored["audio_2"].key))) == OTHER_WAV
    assert sum(body["id"] in key for key in api.input_keys()) == 3, "one object a file, not one a segment"


def test_a_file_may_be_named_like_a_scheme(api: RunningApi) -> None:
    files = {"video": FILES["video"], "http1": FILES["anna"]}
    answer = submit(api, [{"audio": "http1", "start_s": 0}], files)
    assert answer.status_code == 202, answer.text
    assert answer.json()["inputs"]["audio_1"]["filename"] == "anna.wav"


def test_players_get_a_link_to_each_speech(api: RunningApi) -> None:
    job_id = submit(api, SEGMENTS).json()["id"]
    links = api.client.get(f"/v1/jobs/{job_id}/media").json()
    assert links["audio"] is None
    assert links["video"]["content_type"] == "video/mp4"
    assert links["segment_audio"].keys() == {"audio_1", "audio_2"}
    for part, content in (("audio_1", WAV), ("audio_2", OTHER_WAV)):
        link = links["segment_audio"][part]
        assert link["content_type"] == "audio/wav"
        assert api.client.get(link["url"]).content == content
    other = links["segment_audio"]["audio_1"]["url"].replace("audio_1", "audio_2")
    check_problem(api.client.get(other), 403, "link_invalid")
    by_address = {"video_url": "https://1.1.1.1/a.mp4", "segments": [{"audio": "https://1.1.1.1/a.wav", "start_s": 0}]}
    waiting = api.client.post("/jobs", json=by_address).json()["id"]
    links = api.client.get(f"/v1/jobs/{waiting}/media").json()
    assert links["segment_audio"] == {"audio_1": None}, "not fetched yet"
    api.client.delete(f"/jobs/{waiting}")


@pytest.mark.parametrize("where", ["text field", "file part", "spec"])
def test_the_list_may_come_in_every_way_that_json_comes(api: RunningApi, where: str) -> None:
    files, text = dict(FILES), json.dumps(SEGMENTS)
    data = {}
    if where == "text field":
        data["segments"] = text
    elif where == "file part":
        files["segments"] = ("segments.json", text.encode(), "application/json")
    else:
        files["spec"] = ("spec.json", json.dumps({"segments": SEGMENTS}).encode(), "application/json")
    answer = api.client.post("/jobs/upload", files=files, data=data)
    assert answer.status_code == 202, answer.text
    assert len(answer.json()["segments"]) == 3


def test_the_file_parts_of_the_two_file_form_may_be_named(api: RunningApi) -> None:
    answer = submit(api, [{"audio": "audio", "start_s": 0}], input_files())
    assert answer.status_code == 202, answer.text
    assert answer.json()["inputs"]["audio_1"]["filename"] == "speech.wav"


def test_speech_by_upload_and_by_address(tight_api: RunningApi) -> None:
    upload = tight_api.client.post("/uploads").json()
    assert tight_api.client.put(upload["url"], content=WAV).status_code == 200
    segments = [
        {"audio": f"upload:{upload['id']}", "start_s": 0, "face": "left_most"},
        {"audio": "http://127.0.0.1:9/ben.wav?key=secret", "start_s": 0, "face": "right_most"},
    ]
    answer = tight_api.client.post("/jobs", json={**BY_REFERENCE, "segments": segments})
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert {part: view["kind"] for part, view in body["inputs"].items()} == {
        "video": "url",
        "audio_1": "upload",
        "audio_2": "url",
    }
    assert "secret" not in answer.text
    stored = tight_api.store.jobs.get(body["id"])
    assert stored.awaits_inputs
    assert b"".join(tight_api.objects.read(str(stored.inputs["audio_1"].key))) == WAV


def test_a_picture_for_some_of_the_segments(api: RunningApi) -> None:
    segments = [{"audio": "anna", "start_s": 0, "expression": "image"}]
    problem = check_problem(submit(api, segments, {**FILES}), 422, "invalid_request")
    assert "#/segments/0/expression" in [error["pointer"] for error in problem["errors"]]
    files = {name: FILES[name] for name in ("video", "anna")} | {"expression": ("smile.png", PNG, "image/png")}
    assert submit(api, segments, files).status_code == 202


def segment(start_s: Any = 0, audio: str = "anna", **more: Any) -> dict[str, Any]:
    return {"audio": audio, "start_s": start_s, **more}


REFUSED: dict[str, tuple[Any, str, str]] = {
    "same time": ([segment(), segment(audio="ben")], "segments_overlap", "#/segments/1/start_s"),
    "overlap": ([segment(2), segment(audio="ben", end_s=2.1)], "segments_overlap", "#/segments/0/start_s"),
    "inside a long one": (
        [segment(0, end_s=9), segment(1, end_s=2, face="center"), segment(4, "ben", end_s=5)],
        "segments_overlap",
        "#/segments/2/start_s",
    ),
    "overlap by default": (
        [segment(0, end_s=2, face="largest"), segment(1, "ben", end_s=3)],
        "segments_overlap",
        "#/segments/1/start_s",
    ),
    "negative start": ([segment(-0.5)], "segment_out_of_range", "#/segments/0/start_s"),
    "negative offset": ([segment(0, audio_offset_s=-1)], "segment_out_of_range", "#/segments/0/audio_offset_s"),
    "beyond a day": ([segment(1e9)], "segment_out_of_range", "#/segments/0/start_s"),
    "end before start": ([segment(3, end_s=2)], "segment_end_before_start", "#/segments/0/end_s"),
    "no length": ([segment(3, end_s=3)], "segment_end_before_start", "#/segments/0/end_s"),
    "too short": ([segment(3, end_s=3.05)], "segment_too_short", "#/segments/0/end_s"),
    "1,000 segments": ([segment(number) for number in range(1000)], "segments_too_many", "#/segments"),
    "9 faces": (
        [segment(0, face={"x": 10 * number, "y": 5}) for number in range(9)],
        "segments_too_many",
        "#/segments",
    ),
    "9 looks": (
        [
            segment(number, end_s=number + 1, face=face, upper_face=upper)
            for number, (face, upper) in enumerate(
                product(("largest", "center", "left_most"), ("original", "sad", "angry"))
            )
        ],
        "segments_too_many",
        "#/segments",
    ),
    "start is text": ([segment("soon")], "invalid_option", "#/segments/0/start_s"),
    "start is null": ([segment(None)], "invalid_option", "#/segments/0/start_s"),
    "offset beyond a day": ([segment(0, audio_offset_s=1e9)], "segment_out_of_range", "#/segments/0/audio_offset_s"),
    "end beyond a day": ([segment(0, end_s=1e300)], "segment_out_of_range", "#/segments/0/end_s"),
    "part not sent": ([segment(audio="carla")], "segment_audio_missing", "#/segments/0/audio"),
    "a picture as speech": ([segment(audio="expression")], "segment_audio_missing", "#/segments/0/audio"),
    "upload unknown": ([segment(audio="upload:up_" + "0" * 32)], "upload_not_found", ""),
    "address inside": ([segment(audio="http://127.0.0.1/a.wav")], "url_not_allowed", "#/segments/0/audio"),
    "no audio": ([{"start_s": 0}], "invalid_option", "#/segments/0/audio"),
    "no start": ([{"audio": "anna"}], "invalid_option", "#/segments/0/start_s"),
    "unknown face": ([segment(face="handsome")], "invalid_option", "#/segments/0/face"),
    "unknown field": ([segment(speed=2)], "invalid_request", "#/segments/0/speed"),
    "path as audio": ([segment(audio="../etc/passwd")], "invalid_option", "#/segments/0/audio"),
    "no segment": ([], "invalid_option", "#/segments"),
    "not a list": ({"audio": "anna"}, "invalid_option", "#/segments"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_lists(api: RunningApi, name: str) -> None:
    segments, code, pointer = REFUSED[name]
    named = {each["audio"] for each in segments if "audio" in each} if isinstance(segments, list) else {"anna"}
    files = {part: file for part, file in FILES.items() if part == "video" or part in named}
    before = api.input_keys()
    problem = check_problem(submit(api, segments, files), 404 if code == "upload_not_found" else 422, code)
    if pointer:
        assert pointer in [error["pointer"] for error in problem["errors"]]
    assert api.input_keys() == before


@pytest.mark.parametrize("text", ['[{"audio": "anna", "start_s": NaN}]', '[{"audio": "anna", "start_s": 1e999}]'])
def test_times_that_are_no_numbers(api: RunningApi, text: str) -> None:
    """Neither is JSON that every parser reads alike."""
    files = {name: FILES[name] for name in ("video", "anna")}
    check_problem(api.client.post("/jobs", files=files, data={"segments": text}), 400, "malformed_json")
    body = f'{{"video_url": "http://1.1.1.1/v.mp4", "segments": {text}}}'
    answer = api.client.post("/jobs", content=body, headers={"content-type": "application/json"})
    check_problem(answer, 400, "malformed_json")


def test_as_many_as_are_allowed(api: RunningApi) -> None:
    segments = [segment(number, end_s=number + 0.5) for number in range(MAX_SEGMENTS)]
    answer = submit(api, segments, {name: FILES[name] for name in ("video", "anna")})
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize("where", ["form", "json"])
def test_too_many_sound_files(api: RunningApi, where: str) -> None:
    names = [f"line_{number}" for number in range(MAX_AUDIO_FILES + 1)]
    if where == "form":
        files = {"video": FILES["video"]} | dict.fromkeys(names, FILES["anna"])
        answer = submit(api, [segment(number, name) for number, name in enumerate(names)], files)
    else:
        segments = [segment(number, f"http://1.1.1.1/{name}.wav") for number, name in enumerate(names)]
        answer = api.client.post("/jobs", json={"video_url": "http://1.1.1.1/v.mp4", "segments": segments})
    check_problem(answer, 422, "audio_files_too_many")
    answer = submit(
        api,
        [segment(n, name) for n, name in enumerate(names[1:])],
        dict.fromkeys(names[1:], FILES["anna"]) | {"video": FILES["video"]},
    )
    assert answer.status_code == 202, answer.text


def test_a_file_that_no_segment_names(api: RunningApi) -> None:
    before = api.input_keys()
    problem = check_problem(submit(api, SEGMENTS[:1]), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["#/ben"]
    problem = check_problem(
        api.client.post("/jobs", files=input_files() | {"ben": FILES["ben"]}), 422, "invalid_request"
    )
    assert [error["pointer"] for error in problem["errors"]] == ["#/ben"]
    problem = check_problem(submit(api, SEGMENTS, {**FILES, "audio": FILES["ben"]}), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["#/audio"]
    assert api.input_keys() == before


@pytest.mark.parametrize(
    "field", [{"audio_url": "http://1.1.1.1/a.wav"}, {"audio_upload_id": "up_" + "0" * 32}], ids=["url", "upload"]
)
def test_one_speech_for_all_has_no_place_beside_segments(api: RunningApi, field: dict[str, str]) -> None:
    problem = check_problem(submit(api, SEGMENTS, **field), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["#/audio"]


@pytest.mark.parametrize("content", [b"hello, this is a note\n" * 50, PNG, b""], ids=["text", "picture", "empty"])
def test_files_that_are_no_speech(api: RunningApi, content: bytes) -> None:
    before = api.input_keys()
    answer = submit(api, SEGMENTS, {**FILES, "ben": ("ben.wav", content, "audio/wav")})
    problem = check_problem(answer, 422, "container_unsupported" if content else "file_empty")
    assert "`ben`" in problem["detail"]
    assert api.input_keys() == before


def test_all_speech_together_is_limited_like_one_file(tight_api: RunningApi) -> None:
    big = WAV + bytes(120_000)
    files = {**FILES, "anna": ("a.wav", big, "audio/wav"), "ben": ("b.wav", big, "audio/wav")}
    check_problem(submit(tight_api, SEGMENTS, files), 413, "body_too_large")


class TestIdempotency:
    """The fingerprint covers times and files of all segments."""

    def test_the_same_segments_give_the_same_job(self, api: RunningApi) -> None:
        answers = [self.send(api, "dub-1", SEGMENTS, FILES) for _ in range(2)]
        assert answers[0].json()["id"] == answers[1].json()["id"]
        assert answers[1].headers["idempotent-replayed"] == "true"

    @pytest.mark.parametrize("change", ["file", "time", "swap"])
    def test_others_do_not(self, api: RunningApi, change: str) -> None:
        key = f"dub-2-{change}"
        assert self.send(api, key, SEGMENTS, FILES).status_code == 202
        segments, files = [dict(each) for each in SEGMENTS], dict(FILES)
        if change == "file":
            files["ben"] = ("ben.wav", OTHER_WAV + b"!", "audio/wav")
        elif change == "time":
            segments[1]["start_s"] = 1.6
        else:
            files |= {"anna": FILES["ben"], "ben": FILES["anna"]}
        check_problem(self.send(api, key, segments, files), 422, "idempotency_conflict")

    def send(self, api: RunningApi, key: str, segments: Any, files: dict[str, Any]) -> Any:
        parts = {**files, "segments": (None, json.dumps(segments), "application/json")}
        return api.client.post("/jobs", files=parts, headers={"Idempotency-Key": key})


def test_a_retry_copies_every_file(api: RunningApi) -> None:
    job_id = submit(api, SEGMENTS).json()["id"]
    api.fail(job_id)
    again = api.client.post(f"/jobs/{job_id}/retry")
    assert again.status_code == 202, again.text
    body = again.json()
    assert body["segments"] == api.client.get(f"/jobs/{job_id}").json()["segments"]
    assert api.client.delete(f"/jobs/{job_id}").status_code == 204
    stored = api.store.jobs.get(body["id"]).inputs
    assert b"".join(api.objects.read(str(stored["audio_2"].key))) == OTHER_WAV
    assert not [key for key in api.input_keys() if job_id in key], "deleted with the job"


def test_the_bytes_of_all_files_are_counted(api: RunningApi) -> None:
    before = api.store.uploads.stored_bytes()
    job_id = submit(api, SEGMENTS).json()["id"]
    assert api.store.uploads.stored_bytes() - before == len(MP4) + len(WAV) + len(OTHER_WAV)
    api.fail(job_id)
    api.client.delete(f"/jobs/{job_id}")
    assert api.store.uploads.stored_bytes() == before


def test_what_the_engine_does_not_draw(api: RunningApi) -> None:
    files = {name: FILES[name] for name in ("video", "anna")}
    with api.live_worker(PREVIEW):
        answer = submit(api, [segment(), segment(5, upper_face="angry")], files, engine="preview")
        problem = check_problem(answer, 422, "unsupported_option")
        assert [error["pointer"] for error in problem["errors"]] == ["#/segments/1/upper_face"]
        assert submit(api, [segment()], files, engine="preview").status_code == 202
    with api.live_worker(PREVIEW.model_copy(update={"draws_lines": False})):
        problem = check_problem(submit(api, [segment()], files), 422, "unsupported_option")
        assert [error["pointer"] for error in problem["errors"]] == ["#/segments"]


def test_people_are_asked_for_by_id_and_by_speaking(api: RunningApi) -> None:
    """Who speaks is known only to the worker, so such segments may overlap."""
    segments = [
        segment(0, end_s=2, face="speaking"),
        segment(1.5, "ben", end_s=3, face="speaking"),
        segment(2, end_s=4, face={"track": "person_2"}),
    ]
    answer = submit(api, segments)
    assert answer.status_code == 202, answer.text
    assert [each["face"] for each in answer.json()["segments"]] == ["speaking", "speaking", {"track": "person_2"}]
    refused = [*segments, segment(3.5, "ben", face={"track": "person_2"})]
    check_problem(submit(api, refused), 422, "segments_overlap")
    check_problem(submit(api, [segment(face={"track": "../person_2"})]), 422, "invalid_option")
