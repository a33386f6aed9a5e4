"""Names and pages that are not the service's own, without keys and with them. In a browser: tests/console."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from cli.keys import make_key
from jobs.store.keys import Scope
from tests.api.running import RunningApi, check_problem, input_files, run_api
from tests.services import own_database


@pytest.fixture(scope="module")
def named(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """Behind a proxy that hides the public name, and known to its network under another."""
    env = {"PUBLIC_URL": "https://faces.example", "PUBLIC_HOSTS": "retalking.lan, api"}
    with run_api(tmp_path_factory.mktemp("named"), own_database(redis_url), **env) as running:
        yield running


def ask(api: RunningApi, method: str = "GET", path: str = "/jobs", **headers: str) -> httpx.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.client.request(method, path, headers=given)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.7", "[", ""],
)
@pytest.mark.parametrize("path", ["/jobs", "/", "/engines", "/metrics", "/openapi.json"])
def test_a_foreign_name_is_refused(api: RunningApi, host: str, path: str) -> None:
    check_problem(ask(api, path=path, host=host), 403, "host_not_allowed")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:8000", "[::1]:8000", "a.localhost"]
)
def test_names_of_this_machine(api: RunningApi, host: str) -> None:
    assert ask(api, host=host).status_code == 200


@pytest.mark.parametrize("host", ["faces.example", "Retalking.LAN:8000", "api:8000", "127.0.0.1"])
def test_names_of_the_deployment(named: RunningApi, host: str) -> None:
    assert ask(named, host=host).status_code == 200
    check_problem(ask(named, host=f"x{host.lstrip('1')}"), 403, "host_not_allowed")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_answer_under_any_name(api: RunningApi, path: str) -> None:
    assert ask(api, path=path, host="10.1.2.3:8000").status_code in (200, 503)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "null"},
        {"origin": "http://["},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"},
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/jobs"), ("POST", "/uploads"), ("GET", "/jobs")])
def test_pages_of_other_sites_are_refused(api: RunningApi, method: str, path: str, headers: dict[str, str]) -> None:
    check_problem(ask(api, method, path, **headers), 403, "cross_site_refused")


def test_a_followed_link_reads_and_a_form_does_not_write(api: RunningApi) -> None:
    followed = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert ask(api, **followed).status_code == 200
    check_problem(ask(api, "POST", "/uploads", **followed), 403, "cross_site_refused")


def test_own_pages_and_programs_pass(api: RunningApi, named: RunningApi) -> None:
    own = f"http://{urlsplit(api.url).netloc}"
    for headers in ({}, {"sec_fetch_site": "none"}, {"sec_fetch_site": "same-origin", "origin": own}):
        assert ask(api, "POST", "/uploads", **headers).status_code == 201
    assert ask(named, "POST", "/uploads", origin="https://faces.example").status_code == 201


def test_keys_take_the_place_of_both_checks(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A page of another site has no key, and a proxy may ask under any name."""
    folder = tmp_path_factory.mktemp("browsers-locked")
    with run_api(folder, own_database(redis_url), REQUIRE_KEYS="true") as locked:
        check_problem(ask(locked, host="evil.example"), 401, "unauthorized")
        key = make_key(locked.store, "someone", frozenset({Scope.SUBMIT, Scope.READ}))
        headers = {"authorization": f"Bearer {key}", "host": "anything.example", "origin": "https://other.example"}
        assert locked.client.post("/jobs", files=input_files(), headers=headers).status_code == 202


def test_only_signed_links_may_be_embedded(api: RunningApi) -> None:
    job_id = api.new_job()
    api.finish(job_id)
    policy = "cross-origin-resource-policy"
    for path in ("/", "/jobs", f"/jobs/{job_id}/result", "/nope"):
        assert api.client.get(path).headers[policy] == "same-origin", path
    link = api.client.get(f"/jobs/{job_id}/media").json()["result"]["url"]
    answer = api.client.get(link, headers={"sec-fetch-site": "cross-site"})
    assert (answer.status_code, answer.headers[policy]) == (200, "cross-origin")
