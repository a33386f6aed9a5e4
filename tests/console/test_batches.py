"""The pages of batches: submit a list, follow it, find what failed, cancel, delete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect

from jobs.models import ErrorInfo
from jobs.names import new_job_id
from tests.api.running import RunningApi
from tests.console.browser import Watched, open_page

pytestmark = pytest.mark.e2e
LINK = "https://93.184.215.14/a.mp4"
JOB = {"video_url": LINK, "audio_url": LINK}


def submit(watched: Watched, file: Path, text: str) -> None:
    file.write_text(text)
    watched.page.get_by_label("List of jobs").set_input_files(file)
    watched.page.get_by_role("button", name="Submit the batch").click()


def id_of(watched: Watched) -> str:
    """Of the batch that is shown, once it is."""
    watched.page.locator(".progress-text").wait_for()
    return watched.page.url.rpartition("/")[2]


def feed(api: RunningApi, batch_id: str, *, failed: int, live: int) -> list[str]:
    """What the feeder does with the first items: jobs that failed, and jobs that wait."""
    batch = api.store.batches.get(batch_id)
    ids = [new_job_id() for _ in range(failed + live)]
    error = ErrorInfo(code="face_not_found", message="No face in the video.")
    for number, spec in enumerate(api.store.batches.items(batch, failed + live)):
        api.store.jobs.create(ids[number], spec, max_attempts=3, error=error if number < failed else None)
    return ids


def test_a_list_is_submitted_followed_and_canceled(browser: Browser, api: RunningApi, tmp_path: Path) -> None:
    with open_page(browser, f"{api.url}/#/batches") as watched:
        page = watched.page
        expect(page.get_by_text("There are no batches yet.")).to_be_visible()
        assert watched.audit() == []
        page.get_by_label("Webhook for the end of the batch").fill("https://93.184.215.14/hook")
        submit(
            watched, tmp_path / "jobs.jsonl", "\n".join(json.dumps(JOB | {"seed": seed}) for seed in range(30)) + "\n\n"
        )
        batch_id = id_of(watched)
        stored = api.store.batches.get(batch_id)
        assert (stored.total, stored.webhook_url) == (30, "https://93.184.215.14/hook")
        expect(page.locator(".progress-text")).to_have_text("0 of 30 done: 30 waiting")
        expect(page.get_by_text("No item is a job yet.")).to_be_visible()

        failed, live = feed(api, batch_id, failed=1, live=1)
        expect(page.locator(".progress-text")).to_have_text("1 of 30 done: 28 waiting, 1 queued, 1 failed")
        row = page.locator(".failures tbody tr")
        expect(row).to_contain_text("face_not_found")
        expect(row).to_contain_text("No face in the video.")
        expect(page.locator(f"[data-job='{live}']")).to_contain_text("queued")
        assert page.locator("progress").evaluate("(bar) => [bar.value, bar.max]") == [1, 30]
        for scheme, size in (("light", (1280, 900)), ("dark", (360, 740))):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": size[0], "height": size[1]})
            assert watched.audit() == [], scheme
            assert not watched.is_wider_than_its_window()

        page.get_by_role("link", name="1 failed").click()
        expect(page.locator("[data-job]")).to_have_count(1)
        expect(page.locator(f"[data-job='{failed}']")).to_contain_text("failed")
        page.get_by_role("link", name="one batch").click()
        page.get_by_role("button", name="Cancel", exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel the batch").click()
        expect(page.locator(".job-status")).to_have_text("canceled")
        assert api.store.jobs.get(live).status == "canceled"
        page.get_by_role("button", name="Delete", exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page.get_by_role("heading", name="Batches")).to_be_visible()
        expect(page.get_by_text(batch_id[:12])).to_have_count(0)
        assert api.client.get(f"/jobs/{failed}").status_code == 200


def test_lists_that_are_refused_say_where(browser: Browser, api: RunningApi, tmp_path: Path) -> None:
    with open_page(browser, f"{api.url}/#/batches") as watched:
        alert = watched.page.get_by_role("alert")
        submit(watched, tmp_path / "broken.jsonl", f"{json.dumps(JOB)}\n{{\n")
        expect(alert).to_contain_text("Line 2 is not a JSON object.")
        submit(watched, tmp_path / "wrong.json", json.dumps([JOB, JOB | {"output": {"crf": 99}}]))
        expect(alert).to_contain_text("jobs.1.output.crf")
        submit(watched, tmp_path / "empty.json", "[]")
        expect(alert).to_contain_text("jobs")
        # Of an object with `jobs`, and too long for a body: it is uploaded
        submit(watched, tmp_path / "long.json", json.dumps({"jobs": [JOB | {"transcript": "long " * 900}] * 300}))
        assert api.store.batches.get(id_of(watched)).total == 300


def test_a_list_that_would_go_to_another_host(browser: Browser, api: RunningApi, tmp_path: Path) -> None:
    """The links of an object store: the content policy of the page allows no other host."""

    def elsewhere(route: Route) -> None:
        route.fulfill(status=201, json={"id": "up_" + "0" * 32, "url": "https://store.example.com/up"})

    with open_page(browser, f"{api.url}/#/batches", {"/v1/uploads$": elsewhere}) as watched:
        submit(watched, tmp_path / "long.json", json.dumps([JOB | {"transcript": "long " * 900}] * 300))
        expect(watched.page.get_by_role("alert")).to_contain_text("retalking batch")


def test_batches_are_listed_page_by_page(browser: Browser, api: RunningApi) -> None:
    made = [
        api.client.post("/v1/batches", json={"jobs": [JOB], "metadata": {"title": f"Order {n}"}}) for n in range(13)
    ]
    with open_page(browser, f"{api.url}/#/batches") as watched:
        page = watched.page
        expect(page.locator("tbody tr")).to_have_count(12)
        expect(page.locator("tbody tr").first).to_contain_text("Order 12")
        expect(page.locator("tbody tr").first).to_contain_text("0 of 1")
        page.get_by_role("button", name="Older").click()
        expect(page.locator("tbody tr").first).to_contain_text("Order 0")
        page.get_by_role("link", name="Order 0").click()
        assert id_of(watched) == made[0].json()["id"]
