"""Webhooks of a key: undelivered events, its signing secret, and addresses whose names never resolve."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from jobs.models import DeliveryAttempt
from jobs.names import new_delivery_id
from jobs.signing import WebhookSecrets
from jobs.store.keys import Scope
from tests.api.running import RunningApi, check_problem, run_api
from tests.api.test_access import User, user
from tests.services import own_database, wait_until


@pytest.fixture(scope="module")
def locked(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    folder = tmp_path_factory.mktemp("locked")
    settings = {"REQUIRE_KEYS": "true", "ALLOW_PRIVATE_HOSTS": "127.0.0.1"}
    with run_api(folder, own_database(redis_url), **settings) as running:
        yield running


def key_id(who: User) -> str:
    return who.key.split("_")[1]


def given_up_event(api: RunningApi, who: User) -> tuple[str, str]:
    """Ids of a job and of its delivery, which a receiver refused for good."""
    job_id = who.new_job(data={"webhook_url": "http://127.0.0.1:9/hook"})
    api.fail(job_id)
    (delivery,) = api.store.webhooks.deliveries(job_id)
    attempt = DeliveryAttempt(at=datetime.now(UTC), status_code=410, error="gone")
    api.store.webhooks.record_attempt(delivery.id, attempt, state="given_up", retry_in_s=None)
    return job_id, delivery.id


def listed(who: User, query: str = "") -> list[str]:
    answer = who.ask("GET", f"/webhooks/deliveries{query}")
    assert answer.status_code == 200, answer.text
    return [each["id"] for each in answer.json()["deliveries"]]


def test_undelivered_events_are_listed_by_pages_for_their_owner(locked: RunningApi) -> None:
    owner, stranger, admin = user(locked), user(locked), user(locked, Scope.ADMIN)
    events = [given_up_event(locked, owner) for _ in range(3)]
    first = owner.ask("GET", "/webhooks/deliveries?limit=2").json()
    assert [each["job_id"] for each in first["deliveries"]] == [job_id for job_id, _ in events[:2]]
    assert first["deliveries"][0]["attempts"][0]["status_code"] == 410
    rest = owner.ask("GET", f"/webhooks/deliveries?limit=2&cursor={first['next_cursor']}").json()
    assert ([each["id"] for each in rest["deliveries"]], rest["next_cursor"]) == ([events[2][1]], None)
    assert listed(stranger) == []
    assert {delivery_id for _, delivery_id in events} <= set(listed(admin))
    assert listed(owner, "?state=pending") == []
    check_problem(owner.ask("GET", "/webhooks/deliveries?state=delivered"), 422, "invalid_request")


def test_one_event_is_delivered_once_more(locked: RunningApi) -> None:
    owner, stranger = user(locked), user(locked)
    job_id, delivery_id = given_up_event(locked, owner)
    theirs = stranger.ask("POST", f"/webhooks/deliveries/{delivery_id}/redeliver")
    nobodys = stranger.ask("POST", f"/webhooks/deliveries/{new_delivery_id()}/redeliver")
    said = [check_problem(each, 404, "delivery_not_found")["detail"] for each in (theirs, nobodys)]
    assert said[0] == said[1]
    again = owner.ask("POST", f"/webhooks/deliveries/{delivery_id}/redeliver")
    assert again.status_code == 202
    assert (again.json()["job_id"], again.json()["state"]) == (job_id, "pending")
    assert (listed(owner), listed(owner, "?state=pending")) == ([], [delivery_id])


def test_a_key_reads_and_rotates_its_own_secret(locked: RunningApi) -> None:
    one, other, admin = user(locked), user(locked), user(locked, Scope.ADMIN)
    answer = one.ask("GET", "/webhooks/secret")
    assert answer.headers["cache-control"] == "no-store"
    mine = answer.json()
    assert (mine["account"], mine["version"], mine["previous_secret"]) == (key_id(one), 1, None)
    Webhook(mine["secret"])
    secrets = WebhookSecrets(locked.settings, locked.store.webhooks.secret_state)
    assert [mine["secret"]] == secrets.of(key_id(one))
    assert other.ask("GET", "/webhooks/secret").json()["secret"] != mine["secret"]

    rotated = one.ask("POST", "/webhooks/secret/rotate?overlap_s=60").json()
    assert (rotated["version"], rotated["previous_secret"]) == (2, mine["secret"])
    assert rotated["secret"] != mine["secret"]
    assert one.ask("GET", "/webhooks/secret").json() == rotated
    assert secrets.of(key_id(one)) == [rotated["secret"], mine["secret"]]
    at_once = one.ask("POST", "/webhooks/secret/rotate?overlap_s=0").json()
    assert (at_once["version"], at_once["previous_secret"], at_once["previous_until"]) == (3, None, None)

    check_problem(other.ask("GET", f"/webhooks/secret?key_id={key_id(one)}"), 403, "forbidden")
    check_problem(other.ask("POST", f"/webhooks/secret/rotate?key_id={key_id(one)}"), 403, "forbidden")
    assert admin.ask("GET", f"/webhooks/secret?key_id={key_id(one)}").json() == at_once
    check_problem(admin.ask("GET", f"/webhooks/secret?key_id={'0' * 16}"), 404, "key_not_found")
    check_problem(user(locked, Scope.READ).ask("POST", "/webhooks/secret/rotate"), 403, "forbidden")
    assert mine["secret"] not in locked.log.read_text()
    records = locked.store.redis.client.hgetall(locked.store.redis.key("webhook_secret", key_id(one)))
    assert set(records) == {"version", "previous", "previous_until", "rotated_by"}, "nothing secret is stored"


def test_without_keys_the_secret_of_the_service_is_not_revealed(api: RunningApi) -> None:
    for method, path in (("GET", "/webhooks/secret"), ("POST", "/webhooks/secret/rotate")):
        check_problem(api.client.request(method, path), 409, "webhook_secret_shared")


def test_unresolvable_names_delay_no_other_caller(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Sixty submissions at once with such names, more than the API has threads; the name server is real and silent."""
    folder = tmp_path_factory.mktemp("silent")
    # Nothing else that bounds a key's submissions comes first
    keys = {"REQUIRE_KEYS": "true", "SUBMISSIONS_OPEN": "100", "SUBMISSIONS_OPEN_PER_KEY": "100"}
    with run_api(folder, own_database(redis_url), module="tests.api.silent_names_app", **keys) as running:
        hostile, other = user(running), user(running)
        job_id = other.new_job()

        def submit(number: int) -> tuple[int, str]:
            name = f"http://n{number}.silent.example/a.mp4"
            answer = hostile.ask("POST", "/jobs", json={"video_url": name, "audio_url": name}, timeout=60)
            return answer.status_code, answer.json()["code"]

        with ThreadPoolExecutor(60) as pool:
            refused = [pool.submit(submit, number) for number in range(60)]
            wait_until(lambda: running.client.get("/healthz").status_code == 200)
            slowest_s = 0.0
            while not all(each.done() for each in refused):
                began = time.monotonic()
                assert other.ask("GET", f"/jobs/{job_id}").status_code == 200
                body = {"video_url": "http://93.184.216.34/a.mp4", "audio_url": "http://localhost/a.wav"}
                check_problem(other.ask("POST", "/jobs", json=body), 422, "url_not_allowed")
                slowest_s = max(slowest_s, time.monotonic() - began)
                time.sleep(0.2)
            assert {each.result() for each in refused} == {(422, "host_unresolved")}
        assert slowest_s < 8.0, "the silent server keeps each lookup for 10 s"
