"""POST /videos/analyze: what is taken and refused, and how the answer is read."""

from __future__ import annotations

import json

import pytest

from jobs.models import InputRef, JobRequest, JobSpec
from jobs.names import input_key, new_job_id
from tests.api.running import ANALYSIS, MP4, WAV, RunningApi, api_in_both_forms, check_problem

api = api_in_both_forms


def test_an_analysis_is_a_job_like_any_other(api: RunningApi) -> None:
    answer = api.client.post("/videos/analyze", files={"video": ("face.mp4", MP4)}, data={"priority": "2"})
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert (body["kind"], body["status"], body["priority"]) == ("analyze", "queued", 2)
    assert list(body["inputs"]) == ["video"]
    assert answer.headers["location"] == f"{api.base}/jobs/{body['id']}"
    assert b"".join(api.objects.read(input_key(body["id"], "video"))) == MP4
    assert body["id"] in [job["id"] for job in api.client.get("/jobs").json()["jobs"]]
    canceled = api.client.post(f"/jobs/{body['id']}/cancel")
    assert canceled.json()["status"] == "canceled"
    again = api.client.post(f"/jobs/{body['id']}/retry")
    assert again.status_code == 202, again.text
    assert (again.json()["kind"], again.json()["retry_of"]) == ("analyze", body["id"])


def test_the_answer_and_the_pictures_are_read(api: RunningApi) -> None:
    job_id = api.client.post("/videos/analyze/upload", files={"video": ("face.mp4", MP4)}).json()["id"]
    check_problem(api.client.get(f"/jobs/{job_id}/analysis"), 409, "result_not_ready")
    api.finish_analysis(job_id)
    job = api.client.get(f"/jobs/{job_id}").json()
    assert job["status"] == "succeeded"
    assert (job["render"], job["engine"], job["evaluation"]) == (None, None, [])
    assert api.client.get(f"/jobs/{job_id}/analysis").json() == ANALYSIS.model_dump(mode="json")
    assert api.client.get(f"/jobs/{job_id}/result").json() == ANALYSIS.model_dump(mode="json")
    media = api.client.get(f"/jobs/{job_id}/media").json()
    assert media["video"] is not None
    assert media["audio"] is None
    picture = api.client.get(f"/jobs/{job_id}/people/person_1.jpg")
    assert (picture.content, picture.headers["content-type"]) == (b"a picture", "image/jpeg")
    check_problem(api.client.get(f"/jobs/{job_id}/people/person_2.jpg"), 409, "result_not_ready")
    assert api.client.get(f"/jobs/{job_id}/people/..%2fperson_1.jpg").status_code in (404, 422)
    assert api.client.delete(f"/jobs/{job_id}").status_code in (202, 204)


def test_a_render_has_no_analysis(api: RunningApi) -> None:
    job_id = api.new_job()
    api.finish(job_id)
    check_problem(api.client.get(f"/jobs/{job_id}/analysis"), 409, "result_not_ready")


def test_the_same_key_means_the_same_analysis_and_no_render(api: RunningApi) -> None:
    headers = {"Idempotency-Key": f"analysis-{new_job_id()}"}
    files = {"video": ("face.mp4", MP4)}
    answers = [api.client.post("/videos/analyze", files=files, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202], answers[0].text
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert answers[1].headers["idempotent-replayed"] == "true"
    render = api.client.post("/jobs", files=files | {"audio": ("speech.wav", WAV)}, headers=headers)
    check_problem(render, 422, "idempotency_conflict")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_request"),
        ({"video_url": "http://127.0.0.1:9/a.mp4", "audio_url": "http://127.0.0.1:9/a.wav"}, "invalid_request"),
        ({"video_url": "http://127.0.0.1:9/a.mp4", "face": "largest"}, "invalid_request"),
        ({"video_url": "http://127.0.0.1:9/a.mp4", "webhook_events": ["job.failed"]}, "invalid_request"),
        ({"video_url": "http://127.0.0.1:9/a.mp4", "priority": 9}, "invalid_option"),
        ({"video_url": "ftp://127.0.0.1:9/a.mp4"}, "url_not_allowed"),
        ({"video_upload_id": "up_" + "0" * 32}, "upload_not_found"),
    ],
)
def test_wrong_analyses_are_refused_by_name(api: RunningApi, body: dict[str, object], code: str) -> None:
    answer = api.client.post("/videos/analyze", json=body)
    assert answer.json()["code"] == code, answer.text


def test_a_form_with_a_speech_is_refused_and_leaves_nothing_behind(api: RunningApi) -> None:
    before = api.input_keys()
    files = {"video": ("face.mp4", MP4), "audio": ("speech.wav", WAV)}
    answer = api.client.post("/videos/analyze/upload", files=files)
    problem = check_problem(answer, 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "#/audio"
    assert api.input_keys() == before
    check_problem(api.client.post("/videos/analyze/upload", json={}), 415, "unsupported_media_type")


def test_the_json_of_an_analysis_is_sent_whole(api: RunningApi) -> None:
    """A part of it would be announced as JSON, and be none."""
    job_id = api.client.post("/videos/analyze/upload", files={"video": ("face.mp4", MP4)}).json()["id"]
    api.finish_analysis(job_id)
    whole = api.client.get(f"/jobs/{job_id}/result")
    assert whole.headers["accept-ranges"] == "none"
    asked = api.client.get(f"/jobs/{job_id}/result", headers={"Range": "bytes=20-"})
    assert (asked.status_code, asked.json()) == (200, whole.json())


def test_a_record_of_an_earlier_version_is_a_render() -> None:
    source = InputRef(kind="url", url="http://127.0.0.1:9/a")
    stored = json.loads(JobSpec(video=source, audio=source, request=JobRequest()).model_dump_json())
    del stored["kind"]
    assert JobSpec.model_validate(stored).kind == "render"
