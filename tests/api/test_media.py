"""Links that a media element can open: it sends no key, so the link is the permission."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from jobs.names import curves_key
from jobs.signing import link_secret, sign_link
from tests.api.running import MP4, WAV, RunningApi, api_in_both_forms, check_problem

api = api_in_both_forms

CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def job_id(api: RunningApi) -> str:
    job_id = api.new_job()
    api.finish(job_id, CONTENT)
    return job_id


def test_inputs_and_result_open_by_their_links(api: RunningApi, job_id: str) -> None:
    links = api.client.get(f"/jobs/{job_id}/media").json()
    found = {part: api.client.get(links[part]["url"]) for part in ("video", "audio", "result")}
    assert {part: answer.content for part, answer in found.items()} == {"video": MP4, "audio": WAV, "result": CONTENT}
    types = {part: answer.headers["content-type"] for part, answer in found.items()}
    assert types == {"video": "video/mp4", "audio": "audio/wav", "result": "video/mp4"}
    assert types == {part: links[part]["content_type"] for part in types}


def test_links_take_ranges(api: RunningApi, job_id: str) -> None:
    url = api.client.get(f"/jobs/{job_id}/media").json()["result"]["url"]
    part = api.client.get(url, headers={"Range": "bytes=256-511"})
    assert (part.status_code, part.content) == (206, CONTENT[256:512])
    assert part.headers["content-range"] == f"bytes 256-511/{len(CONTENT)}"


def test_a_waiting_job_has_its_inputs_only(api: RunningApi) -> None:
    waiting = api.new_job()
    links = api.client.get(f"/jobs/{waiting}/media").json()
    assert links["result"] is None
    assert links["video"]["content_type"] == "video/mp4"
    api.client.delete(f"/jobs/{waiting}")


def test_an_input_that_was_given_by_its_address_has_no_link(api: RunningApi) -> None:
    body = {"video_url": "https://1.1.1.1/face.mp4?token=secret", "audio_url": "https://1.1.1.1/speech.wav"}
    by_address = api.client.post("/jobs", json=body).json()["id"]
    answer = api.client.get(f"/jobs/{by_address}/media")
    assert (answer.json()["video"], answer.json()["audio"]) == (None, None)
    assert "secret" not in answer.text
    api.client.delete(f"/jobs/{by_address}")


@pytest.mark.parametrize("change", ["part", "job", "expires", "signature"])
def test_an_altered_link_opens_nothing(api: RunningApi, job_id: str, change: str) -> None:
    url = api.client.get(f"/jobs/{job_id}/media").json()["result"]["url"]
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    path = urlsplit(url).path
    if change == "part":
        path = path.replace("/result", "/video")
    elif change == "job":
        other = api.new_job()
        path = path.replace(job_id, other)
        api.client.delete(f"/jobs/{other}")
    elif change == "expires":
        query["expires"] = str(int(query["expires"]) + 1)
    else:
        query["signature"] = query["signature"][:-1] + ("0" if query["signature"][-1] != "0" else "1")
    check_problem(api.client.get(path, params=query), 403, "link_invalid")


def test_an_expired_link_opens_nothing(api: RunningApi, job_id: str) -> None:
    expires = 1_000_000_000
    signature = sign_link(link_secret(api.settings), "GET", f"jobs/{job_id}/media/result", expires)
    query = {"expires": str(expires), "signature": signature}
    check_problem(api.client.get(f"/jobs/{job_id}/media/result", params=query), 403, "link_invalid")


def test_the_object_store_serves_where_it_can(s3_api: RunningApi) -> None:
    job_id = s3_api.new_job()
    s3_api.finish(job_id, CONTENT)
    links = s3_api.client.get(f"/jobs/{job_id}/media").json()
    assert links["result"]["url"].startswith(s3_api.settings.s3_endpoint)
    assert httpx.get(links["result"]["url"]).content == CONTENT
    assert httpx.get(links["video"]["url"]).content == MP4


def test_the_evaluation_brings_its_curves(api: RunningApi, job_id: str) -> None:
    assert api.client.get(f"/jobs/{job_id}/evaluation").json()["curves"] is None
    result = api.store.jobs.get(job_id).result
    assert result is not None
    with api.objects.writer(curves_key(result.key)) as writer:
        writer.write(b'{"fps": 25.0, "ssim": [0.5, null], "sync": {"frame": {"distances": [1.0], "offset_frames": 0}}}')
        writer.commit()
    curves = api.client.get(f"/jobs/{job_id}/evaluation").json()["curves"]
    assert (curves["fps"], curves["ssim"], curves["mouth_opening"]) == (25.0, [0.5, None], [])
    assert curves["sync"]["frame"]["offset_frames"] == 0
