"""The page of usage and keys: an admin manages keys, others see what their account used."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from cli.keys import make_key
from jobs.store.keys import Scope, key_id_of
from tests.api.running import RunningApi, input_files, run_api
from tests.console.browser import open_page
from tests.services import own_database

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def locked(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    folder = tmp_path_factory.mktemp("console-accounts")
    with run_api(folder, own_database(redis_url), REQUIRE_KEYS="true") as running:
        yield running


def enter(page: Page, key: str) -> None:
    dialog = page.get_by_role("dialog", name="API key")
    dialog.get_by_label("Key").fill(key)
    dialog.get_by_role("button", name="Use this key").click()


def status(api: RunningApi, key: str) -> int:
    return api.client.get("/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code


def test_an_admin_creates_rotates_and_revokes(browser: Browser, locked: RunningApi) -> None:
    admin = make_key(locked.store, "ops", frozenset({Scope.ADMIN}))
    with open_page(browser, f"{locked.url}/#/accounts") as watched:
        page = watched.page
        enter(page, admin)
        page.get_by_label("Whose key it is").fill("studio")
        page.get_by_role("button", name="Create the key").click()
        expect(page.get_by_role("heading", name="The key of studio")).to_be_visible()
        first = page.locator(".new-key").inner_text()
        assert status(locked, first) == 200
        assert locked.store.keys.get(str(key_id_of(first))).scopes == {Scope.SUBMIT, Scope.READ}
        assert watched.audit() == []

        page.get_by_role("button", name="Rotate key studio").click()
        page.get_by_role("dialog").get_by_role("button", name="Rotate").click()
        expect(page.locator(".new-key")).not_to_have_text(first)
        second = page.locator(".new-key").inner_text()
        assert locked.store.keys.get(str(key_id_of(second))).account == key_id_of(first)

        row = page.locator(f"[data-key='{key_id_of(first)}']")
        row.get_by_role("button", name="Revoke").click()
        page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        expect(row.get_by_role("button")).to_have_count(0)
        assert [status(locked, key) for key in (first, second)] == [401, 200]
        page.reload()
        expect(page.locator(f"[data-key='{key_id_of(second)}']")).to_contain_text("studio")
        assert second not in page.content()
        page.set_viewport_size({"width": 360, "height": 740})
        assert not watched.is_wider_than_its_window()


def test_others_see_their_usage_and_no_keys(browser: Browser, locked: RunningApi) -> None:
    key = make_key(locked.store, "someone", frozenset({Scope.SUBMIT, Scope.READ}))
    headers = {"Authorization": f"Bearer {key}"}
    locked.finish(locked.client.post("/v1/jobs", files=input_files(), headers=headers).json()["id"])
    with open_page(browser, f"{locked.url}/#/accounts") as watched:
        page = watched.page
        enter(page, key)
        expect(page.locator("tbody tr").first).to_contain_text("someone")
        assert page.locator("tbody tr").first.locator("td").nth(2).inner_text() == "1"
        expect(page.get_by_role("heading", name="Keys", exact=True)).to_have_count(0)
        assert watched.audit() == []


def test_without_keys_all_callers_are_one(browser: Browser, api: RunningApi) -> None:
    with open_page(browser, f"{api.url}/#/accounts") as watched:
        expect(watched.page.locator("tbody tr").first).to_contain_text("Everyone")
        expect(watched.page.get_by_text("This service requires no API keys")).to_be_visible()


def test_the_console_calls_versioned_paths(browser: Browser, api: RunningApi) -> None:
    called: list[str] = []
    with open_page(browser, f"{api.url}/#/") as watched:
        watched.page.on("request", lambda request: called.append(request.url.removeprefix(api.url.rstrip("/"))))
        watched.page.goto(f"{api.url}/#/jobs/{api.new_job()}")
        watched.page.locator(".progress-text").wait_for()
        watched.page.goto(f"{api.url}/#/jobs")
        watched.page.locator("[data-job]").first.wait_for()
    calls = [path for path in called if not path.startswith(("/#", "/console/", "/readyz", "/openapi.json"))]
    assert len(calls) >= 3
    assert [path for path in calls if not path.startswith("/v1/")] == []
