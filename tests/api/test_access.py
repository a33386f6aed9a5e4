"""API keys: authentication, scopes, limits, and isolation between keys."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from api.access import LINK_SCHEME, SCHEME
from cli.keys import make_key
from jobs.names import poster_key, preview_key
from jobs.signing import link_secret, sign_link
from jobs.store.keys import Scope, key_id_of
from tests.api.running import MP4, PREVIEW, RunningApi, check_problem, input_files, run_api
from tests.services import own_database

# Everything else needs a key. Those with a signature answer 403 or 422 without one.
OPEN = {"getHealth", "getReadiness", "listErrors"}
SIGNED = {"putUpload", "openMedia"}
NO_JOB = "job_" + "0" * 32


@pytest.fixture(scope="module")
def locked(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    folder = tmp_path_factory.mktemp("locked")
    with run_api(folder, own_database(redis_url), REQUIRE_KEYS="true", LIVE_JOBS_PER_KEY="50") as running:
        yield running


@dataclass(frozen=True)
class User:
    """A caller with a key."""

    api: RunningApi
    key: str

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"} | request.pop("headers", {})
        return self.api.client.request(method, path, headers=headers, **request)

    def new_job(self, **request: Any) -> str:
        answer = self.ask("POST", "/jobs", files=input_files(), **request)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]


def user(api: RunningApi, *scopes: Scope, **limits: int) -> User:
    return User(api, make_key(api.store, "someone", frozenset(scopes or (Scope.SUBMIT, Scope.READ)), **limits))


def operations(api: RunningApi) -> list[tuple[str, str, dict[str, Any]]]:
    document = api.client.get("/openapi.json").json()
    return [(method, path, each) for path, methods in document["paths"].items() for method, each in methods.items()]


def at_job(path: str, job_id: str) -> str:
    values = {"job_id": job_id, "part": "result", "upload_id": "up_" + "0" * 32, "track": "person_1"}
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)
    return path


def test_every_operation_wants_a_key(locked: RunningApi) -> None:
    """Also those that are added later: what is not named open here must be closed."""
    for method, path, operation in operations(locked):
        answer = locked.client.request(method, at_job(path, NO_JOB))
        name = operation["operationId"]
        if name in OPEN:
            assert answer.status_code != 401, name
            assert operation["security"] == []
        elif name in SIGNED:
            assert answer.status_code in (403, 422), name
            assert operation["security"] == []
        else:
            assert answer.status_code == 401, name
            assert answer.headers["www-authenticate"] == "Bearer"
            assert operation["security"][0] == {SCHEME: []}, name
            assert operation["security"][1:] == ([{LINK_SCHEME: []}] if path.endswith("/result") else []), name
            assert {"401", "403", "429"} <= set(operation["responses"]), name


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/healthz", "/errors"])
def test_what_is_open_to_all(locked: RunningApi, path: str) -> None:
    assert locked.client.get(path).status_code == 200


def test_another_keys_job_does_not_exist(locked: RunningApi) -> None:
    """Over every operation on a job, as the document names them: word for word what an id that never was gets."""
    owner, stranger, admin = user(locked), user(locked), user(locked, Scope.ADMIN)
    job_id = owner.new_job()
    result = locked.finish(job_id).result
    assert result is not None
    for key in (poster_key(result.key), preview_key(result.key)):
        with locked.objects.writer(key, "image/jpeg") as writer:
            writer.write(b"excerpt")
            writer.commit()
    paths = [(method, path, op) for method, path, op in operations(locked) if "{job_id}" in path]
    assert len(paths) >= 7
    for method, path, operation in paths:
        if operation["operationId"] in SIGNED:
            continue
        theirs = stranger.ask(method, at_job(path, job_id))
        nobodys = stranger.ask(method, at_job(path, NO_JOB))
        assert theirs.status_code == nobodys.status_code == 404, path
        if method != "head":
            said = check_problem(theirs, 404, "job_not_found")["detail"]
            assert said == check_problem(nobodys, 404, "job_not_found")["detail"]
        if method in ("get", "head"):
            status = 409 if "/analysis" in path or "/people/" in path else 200  # of a render
            for one in (owner, admin):
                assert one.ask(method, at_job(path, job_id)).status_code == status, path
    assert stranger.ask("DELETE", f"/jobs/{job_id}").status_code == 404
    assert owner.ask("DELETE", f"/jobs/{job_id}").status_code == 204


def test_lists_keys_and_uploads_stay_apart(locked: RunningApi) -> None:
    one, other, admin = user(locked), user(locked), user(locked, Scope.ADMIN)
    named = {"headers": {"Idempotency-Key": "the-same"}}
    mine, theirs = one.new_job(**named), other.new_job(**named)
    assert mine != theirs
    assert one.new_job(**named) == mine
    listed = [{job["id"] for job in who.ask("GET", "/jobs").json()["jobs"]} for who in (one, other, admin)]
    assert listed[:2] == [{mine}, {theirs}]
    assert listed[2] >= {mine, theirs}
    queued = one.ask("GET", "/jobs?status=queued").json()["jobs"]
    assert [job["id"] for job in queued] == [mine]

    link = one.ask("POST", "/uploads").json()
    assert httpx.put(link["url"], content=MP4).status_code == 200
    body = {"video_upload_id": link["id"], "audio_upload_id": link["id"]}
    check_problem(other.ask("POST", "/jobs", json=body), 404, "upload_not_found")
    assert one.ask("POST", "/jobs", json=body).status_code == 202


def test_scopes(locked: RunningApi) -> None:
    reader, submitter = user(locked, Scope.READ), user(locked, Scope.SUBMIT)
    refused = reader.ask("POST", "/jobs", files=input_files())
    problem = check_problem(refused, 403, "forbidden")
    assert "`submit`" in problem["detail"]
    assert refused.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="submit"'
    check_problem(reader.ask("POST", "/uploads"), 403, "forbidden")
    check_problem(reader.ask("DELETE", f"/jobs/{NO_JOB}"), 403, "forbidden")
    job_id = submitter.new_job()
    check_problem(submitter.ask("GET", f"/jobs/{job_id}"), 403, "forbidden")
    assert submitter.ask("DELETE", f"/jobs/{job_id}").status_code == 202
    for each in (reader, submitter):
        assert each.ask("GET", "/engines").status_code == 200
        check_problem(each.ask("GET", "/metrics"), 403, "forbidden")
    assert user(locked, Scope.ADMIN).ask("GET", "/metrics").status_code == 200


def test_keys_that_do_not_open(locked: RunningApi) -> None:
    """Unknown, wrong and revoked keys get the same response."""
    good = user(locked)
    ended = user(locked)
    assert ended.ask("GET", "/jobs").status_code == 200
    locked.store.keys.revoke(str(key_id_of(ended.key)))
    wrong_secret = good.key[:-4] + ("0000" if good.key[-4:] != "0000" else "1111")
    unknown = f"rtk_{'0' * 16}_{'0' * 64}"
    said = set()
    for text in (wrong_secret, unknown, ended.key, "rtk_", "x" * 5000, "null"):
        answer = locked.client.get("/jobs", headers={"Authorization": f"Bearer {text}"})
        said.add(check_problem(answer, 401, "unauthorized")["detail"])
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert len(said) == 1
    for header in (f"Basic {good.key}", good.key, "Bearer", ""):
        check_problem(locked.client.get("/jobs", headers={"Authorization": header}), 401, "unauthorized")
    check_problem(locked.client.get("/jobs", params={"key": good.key}), 401, "unauthorized")


def test_the_rate(locked: RunningApi) -> None:
    hasty = user(locked, requests_per_minute=5)
    answers = [hasty.ask("GET", "/jobs") for _ in range(6)]
    assert [answer.status_code for answer in answers[:5]] == [200] * 5
    assert [answer.headers["ratelimit"].partition(";t=")[0] for answer in answers[:5]] == [
        f'"requests";r={left}' for left in (4, 3, 2, 1, 0)
    ]
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {'"requests";q=5;w=60'}
    problem = check_problem(answers[5], 429, "rate_limited")
    assert problem["retryable"] is True
    assert 1 <= int(answers[5].headers["retry-after"]) <= 12
    assert user(locked).ask("GET", "/jobs").status_code == 200, "another key is not held up"
    assert "ratelimit" not in locked.client.get("/healthz").headers


def test_the_quota_of_live_jobs(locked: RunningApi) -> None:
    busy = user(locked, live_jobs=2)
    first, _ = busy.new_job(), busy.new_job(headers={"Idempotency-Key": "second"})
    refused = busy.ask("POST", "/jobs", files=input_files())
    problem = check_problem(refused, 429, "quota_exceeded")
    assert "2 unfinished jobs" in problem["detail"]
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["ratelimit-policy"] == '"live-jobs";q=2'
    again = busy.ask("POST", "/jobs", files=input_files(), headers={"Idempotency-Key": "second"})
    assert again.headers["idempotent-replayed"] == "true"
    held = busy.ask("POST", "/jobs", files=input_files(), headers={"Idempotency-Key": "third"})
    check_problem(held, 429, "quota_exceeded")
    busy.ask("DELETE", f"/jobs/{first}")
    assert busy.ask("POST", "/jobs", files=input_files()).status_code == 202
    jobs = {job["id"] for job in busy.ask("GET", "/jobs").json()["jobs"]}
    kept = {key.split("/")[1] for key in locked.input_keys()}
    assert jobs <= kept
    assert len(jobs) == 3, "what was refused left no job"


def test_result_links_need_no_key_and_cannot_be_altered(locked: RunningApi) -> None:
    owner = user(locked)
    job_id, other_id = owner.new_job(), owner.new_job()
    content = b"a result" * 100
    locked.finish(job_id, content)
    locked.finish(other_id)
    view = owner.ask("GET", f"/jobs/{job_id}").json()
    link = view["result"]["url"]
    assert view["result"]["expires_at"] is not None
    assert httpx.get(link).content == content
    assert httpx.get(link, headers={"Range": "bytes=0-3"}).content == content[:4]
    assert httpx.head(link).headers["content-length"] == str(len(content))
    query = {name: values[0] for name, values in parse_qs(urlsplit(link).query).items()}
    last = query["signature"][-1]
    altered = [
        (job_id, query | {"signature": query["signature"][:-1] + ("0" if last != "0" else "1")}),
        (job_id, query | {"expires": str(int(query["expires"]) + 1)}),
        (job_id, {"signature": query["signature"]}),
        (other_id, query),
    ]
    past = int(time.time()) - 1
    expired = sign_link(link_secret(locked.settings), "GET", f"jobs/{job_id}/result", past)
    altered.append((job_id, {"expires": str(past), "signature": expired}))
    for named, parameters in altered:
        answer = locked.client.get(f"/jobs/{named}/result", params=parameters)
        check_problem(answer, 403, "link_invalid")
    for none in ({"expires": past}, query | {"signature": ""}):
        check_problem(locked.client.get(f"/jobs/{job_id}/result", params=none), 401, "unauthorized")
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/evaluation"):
        check_problem(locked.client.get(path, params=query), 401, "unauthorized")


def test_links_end_with_their_key(locked: RunningApi) -> None:
    """Of results, of players and of uploads: those of other keys, and of an admin for the same job, go on."""
    owner, other, admin = user(locked), user(locked), user(locked, Scope.ADMIN)
    job_id, other_id = owner.new_job(), other.new_job()
    for each in (job_id, other_id):
        locked.finish(each)

    def links(who: User, of: str) -> list[str]:
        result = who.ask("GET", f"/jobs/{of}").json()["result"]["url"]
        media = who.ask("GET", f"/jobs/{of}/media").json()
        return [result, *(locked.url + media[part]["url"] for part in ("video", "result"))]

    owners, others, admins = links(owner, job_id), links(other, other_id), links(admin, job_id)
    puts = [who.ask("POST", "/uploads").json()["url"] for who in (owner, other)]
    for link in (*owners, *others, *admins):
        assert httpx.get(link).status_code == 200
    query = parse_qs(urlsplit(owners[0]).query)
    assert query["key"] == [key_id_of(owner.key)]
    for renamed in ({"key": key_id_of(other.key)}, {"key": ""}):  # the signature covers whose it is
        changed = {name: values[0] for name, values in query.items()} | renamed
        answer = locked.client.get(f"/jobs/{job_id}/result", params=changed)
        check_problem(answer, 403, "link_invalid")

    locked.store.keys.revoke(str(key_id_of(owner.key)))
    for link in owners:
        check_problem(httpx.get(link), 403, "link_invalid")
    check_problem(httpx.put(puts[0], content=MP4), 403, "link_invalid")
    for link in (*others, *admins):
        assert httpx.get(link).status_code == 200
    assert httpx.put(puts[1], content=MP4).status_code == 200


def test_revoking_a_key_ends_its_event_streams(locked: RunningApi) -> None:
    """Only its own: another key's stream of the same job continues until the job ends."""
    owner, admin = user(locked), user(locked, Scope.ADMIN, Scope.READ)
    job_id = owner.new_job()
    opened = {owner.key: threading.Event(), admin.key: threading.Event()}

    def follow(who: User) -> list[str]:
        headers = {"Authorization": f"Bearer {who.key}"}
        events = []
        with httpx.stream("GET", f"{locked.url}/jobs/{job_id}/events", headers=headers, timeout=60) as response:
            for line in response.iter_lines():
                if line.startswith("event: "):
                    events.append(line.removeprefix("event: "))
                    opened[who.key].set()
        return events

    with ThreadPoolExecutor() as pool:
        streams = {who.key: pool.submit(follow, who) for who in (owner, admin)}
        assert all(each.wait(30) for each in opened.values())
        locked.store.keys.revoke(str(key_id_of(owner.key)))
        wait([streams[owner.key]], timeout=30)
        locked.finish(job_id)
    assert streams[owner.key].result() == ["job.queued"]
    assert streams[admin.key].result()[-1] == "job.succeeded"
    check_problem(owner.ask("GET", f"/jobs/{job_id}/events"), 401, "unauthorized")


def test_a_link_of_the_time_before_keys_opens_nothing(locked: RunningApi) -> None:
    job_id = user(locked).new_job()
    locked.finish(job_id)
    path, expires = f"jobs/{job_id}/result", int(time.time()) + 60
    query = {"expires": str(expires), "signature": sign_link(link_secret(locked.settings), "GET", path, expires)}
    check_problem(locked.client.get(f"/{path}", params=query), 403, "link_invalid")


@pytest.mark.parametrize(("limits", "highest"), [({}, 1), ({"max_priority": 0}, 0), ({"max_priority": 2}, 2)])
def test_a_key_has_a_highest_priority(locked: RunningApi, limits: dict[str, int], highest: int) -> None:
    who = user(locked, **limits)
    before = locked.input_keys()
    for priority in range(3):
        if priority <= highest:
            assert who.ask("POST", "/jobs", files=input_files(), data={"priority": priority}).status_code == 202
            before = locked.input_keys()
            continue
        answer = who.ask("POST", "/jobs", files=input_files(), data={"priority": priority})
        problem = check_problem(answer, 403, "priority_not_allowed")
        assert f"at most {highest}," in problem["detail"]
        assert problem["errors"][0]["pointer"] == "#/priority"
        assert locked.input_keys() == before


def test_secrets_stay_out_of_the_log_the_metrics_and_the_answers(locked: RunningApi) -> None:
    owner, admin = user(locked), user(locked, Scope.ADMIN)
    job_id = owner.new_job()
    locked.finish(job_id)
    said = [owner.ask("GET", path).text for path in ("/jobs", f"/jobs/{job_id}", "/engines", "/nope")]
    said += [admin.ask("GET", "/metrics").text, locked.log.read_text()]
    link = owner.ask("GET", f"/jobs/{job_id}").json()["result"]["url"]
    assert httpx.get(link).status_code == 200
    for text in (*said, locked.log.read_text()):
        for key in (owner.key, admin.key):
            assert key.split("_")[2] not in text
            assert locked.store.keys.find(str(key_id_of(key))).digest not in text
    assert link.partition("signature=")[2] not in locked.log.read_text()


def test_metrics_by_setting(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = {"REQUIRE_KEYS": "true", "METRICS_OPEN": "true"}
    with run_api(tmp_path_factory.mktemp("metrics"), own_database(redis_url), **settings) as api:
        assert api.client.get("/metrics").status_code == 200
        check_problem(api.client.get("/engines"), 401, "unauthorized")


def test_without_keys_a_key_changes_nothing(api: RunningApi) -> None:
    """A proxy in front may send its own Authorization on."""
    with api.live_worker(PREVIEW):
        for header in ("Bearer rtk_x", "Basic eA=="):
            assert api.client.get("/jobs", headers={"Authorization": header}).status_code == 200
    assert all(op["security"] == [] or {} in op["security"] for *_, op in operations(api))
