"""Free JSON and free text: what is over a limit is refused by name, with the limit, and nothing of it is stored."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.limits import MAX_INTEGER, MAX_METADATA_DEPTH, MAX_METADATA_VALUES
from tests.api.running import MP4, WAV, RunningApi, check_problem, input_files


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


REFUSED: dict[str, tuple[str, str, str]] = {
    "199 deep": (deep(199), "value_out_of_bounds", "16 levels"),
    "17 deep": (deep(17), "value_out_of_bounds", "16 levels"),
    "lists 17 deep": ('{"a":' + "[" * 16 + "]" * 16 + "}", "value_out_of_bounds", "16 levels"),
    "300 deep": (deep(300), "malformed_json", "200 levels"),
    "100,000 deep": (deep(100_000), "malformed_json", "200 levels"),
    "too many": (json.dumps({"a": [0] * 1000}), "value_out_of_bounds", "1000 names and values"),
    "far too many": ('{"a":[' + "[]," * 20_000 + "[]]}", "value_out_of_bounds", "20000 names and values"),
    "long name": (json.dumps({"n" * 256: 1}), "value_out_of_bounds", "255 characters"),
    "huge integer": ('{"a":' + "9" * 30 + "}", "value_out_of_bounds", str(MAX_INTEGER)),
    "integer of 5,000 digits": ('{"a":' + "9" * 5000 + "}", "malformed_json", ""),
    "NaN": ('{"a":NaN}', "malformed_json", ""),
    "-Infinity": ('{"a":-Infinity}', "malformed_json", ""),
    "beyond a double": ('{"a":1e999}', "malformed_json", ""),
    "lone surrogate": ('{"a":"\\ud800"}', "malformed_json", "surrogate"),
    "lone surrogate as a name": ('{"\\udfff":1}', "malformed_json", "surrogate"),
    "NUL": ('{"a":"\\u0000"}', "value_out_of_bounds", "U+0000"),
    "escape in a name": ('{"a\\u001b[2J":1}', "value_out_of_bounds", "U+001B"),
    "C1": ('{"a":"\\u009b31m"}', "value_out_of_bounds", "U+009B"),
}


@pytest.mark.parametrize("form", ["form field", "spec part", "JSON"])
@pytest.mark.parametrize("name", REFUSED)
def test_metadata(api: RunningApi, name: str, form: str) -> None:
    text, code, limit = REFUSED[name]
    before = api.input_keys()
    if form == "form field":
        answer = api.submit(metadata=text)
    elif form == "spec part":
        answer = api.submit(spec=f'{{"metadata":{text}}}')
    else:
        body = f'{{"video_url":"http://8.8.8.8/v","audio_url":"http://8.8.8.8/a","metadata":{text}}}'
        answer = api.client.post("/jobs", content=body, headers={"Content-Type": "application/json"})
    problem = check_problem(answer, 400 if code == "malformed_json" else 422, code)
    assert limit in problem["detail"]
    assert api.input_keys() == before
    assert api.client.get("/jobs").status_code == 200


def test_metadata_at_the_limits_comes_back_as_it_was(api: RunningApi) -> None:
    nested: Any = "tab\t, line\n, \U0001f600"
    for _ in range(MAX_METADATA_DEPTH - 1):
        nested = [nested]
    metadata = {"deep": nested, "n" * 255: [MAX_INTEGER, -MAX_INTEGER, 1e308, None, True]}
    metadata["many"] = [0] * (MAX_METADATA_VALUES - 40)
    job_id = api.new_job(metadata=json.dumps(metadata))
    assert api.client.get(f"/jobs/{job_id}").json()["metadata"] == metadata
    assert job_id in [job["id"] for job in api.client.get("/jobs").json()["jobs"]]


def test_dotted_metadata(api: RunningApi) -> None:
    check_problem(api.submit(**{"metadata.a": "x\x00"}), 422, "value_out_of_bounds")


@pytest.mark.parametrize(("name", "said"), [("n" * 256 + ".mp4", "255 characters"), ("a\x1b[2J.mp4", "U+001B")])
def test_file_names(api: RunningApi, name: str, said: str) -> None:
    head = f'--x\r\nContent-Disposition: form-data; name="video"; filename="{name}"\r\n\r\n'
    content = head.encode() + MP4 + b"\r\n--x--\r\n"
    answer = api.client.post("/jobs", content=content, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert said in check_problem(answer, 422, "value_out_of_bounds")["detail"]


def test_a_name_of_any_script_is_kept(api: RunningApi) -> None:
    files = {"video": ("видео 😀.mp4", MP4), "audio": ("a.wav", WAV)}
    job_id = api.client.post("/jobs", files=files).json()["id"]
    assert api.store.jobs.get(job_id).spec.video.filename == "видео 😀.mp4"


def test_the_limits_are_listed(api: RunningApi) -> None:
    limits = api.client.get("/engines").json()["limits"]
    assert limits["max_metadata_depth"] == MAX_METADATA_DEPTH
    assert limits["max_metadata_values"] == MAX_METADATA_VALUES


def test_headers_that_are_kept(api: RunningApi) -> None:
    for key in ("k" * 256, "two words", "\xe9"):
        answer = api.client.post("/jobs", files=input_files(), headers={b"Idempotency-Key": key.encode("latin-1")})
        check_problem(answer, 422, "invalid_request")
    answer = api.client.post(
        "/jobs", files=input_files(), headers={"X-Request-Id": "r" * 129, "traceparent": "t" * 5000}
    )
    job = api.store.jobs.get(answer.json()["id"])
    assert job.request_id == answer.headers["x-request-id"] != "r" * 129
    assert job.traceparent == ""
