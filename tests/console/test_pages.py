"""The pages of the console on an API whose worker is played by the test: keys, waiting, lists, looks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import numpy as np
import pytest
from playwright.sync_api import Browser, Route, expect

from cli.keys import make_key
from jobs.store.keys import Scope
from retalking_core.clip_plan import plan_timeline
from retalking_core.options import LengthMode
from tests.api.running import RunningApi, input_files, run_api
from tests.console.browser import Watched, open_page
from tests.console.test_main_job import RESULT, choose_inputs
from tests.media.clips import make_video
from tests.media.test_timeline import regular
from tests.services import S3Endpoint, own_database

pytestmark = pytest.mark.e2e
PHONE = {"width": 360, "height": 740}
STATUSES = ("queued", "running", "succeeded", "failed", "canceled")


@pytest.fixture(scope="module")
def locked(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """A service that wants keys."""
    folder = tmp_path_factory.mktemp("console-locked")
    with run_api(folder, own_database(redis_url), REQUIRE_KEYS="true") as running:
        yield running


def test_a_key_is_requested_and_grants_access(browser: Browser, locked: RunningApi, tmp_path: Path) -> None:
    """Also the players, which can send none."""
    key = make_key(locked.store, "someone", frozenset({Scope.SUBMIT, Scope.READ}))
    headers = {"Authorization": f"Bearer {key}"}
    job_id = locked.client.post("/jobs", files=input_files(), headers=headers).json()["id"]
    locked.finish(job_id, make_video(tmp_path / "result.mp4", frames=30, speech_s=1.2).read_bytes())
    with open_page(browser, f"{locked.url}/#/jobs/{job_id}") as watched:
        page = watched.page
        dialog = page.get_by_role("dialog", name="API key")
        expect(dialog).to_contain_text("This call needs an API key, and none was sent.")
        assert watched.audit() == []
        dialog.get_by_label("Key").fill("rtk_wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("This API key is not valid.")
        dialog.get_by_label("Key").fill(f" {key}\n")
        dialog.get_by_role("button", name="Use this key").click()
        page.locator(RESULT).wait_for()
        watched.wait(f"document.querySelector('{RESULT}').readyState >= 2")
        assert watched.call(f"document.querySelector('{RESULT}').duration") == pytest.approx(1.2, abs=0.05)
        expect(page.locator(".history li").last).to_contain_text("job.succeeded")
        assert key not in page.content()
        page.get_by_role("button", name="API key: one is in use").click()
        dialog.get_by_role("button", name="Forget the key").click()
        page.goto(f"{locked.url}/#/jobs")
        expect(dialog).to_contain_text("none was sent")


def test_a_job_with_segments_shows_their_values(browser: Browser, api: RunningApi, tmp_path: Path) -> None:
    segments = json.dumps([{"audio": "audio", "start_s": 0.5, "end_s": 2}, {"audio": "audio", "start_s": 3}])
    job_id = api.new_job(segments=segments)
    api.finish(job_id, make_video(tmp_path / "result.mp4", frames=30, speech_s=1.2).read_bytes())
    with open_page(browser, f"{api.url}/#/jobs/{job_id}") as watched:
        rows = watched.page.locator(".segment-values tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.first).to_contain_text("1: 0:00.50 to 0:01.50")
        expect(rows.first.locator("td").last).to_have_text("0.5")
        expect(rows.last.locator("td").last).to_have_text("–")
        expect(rows.last.locator("td").last).to_have_attribute("title", "No face.")
        assert watched.audit() == []


def test_a_refused_key_leaves_a_way_on(browser: Browser, live: RunningApi) -> None:
    def refuse(route: Route) -> None:
        route.fulfill(status=401, json={"detail": "No key was sent."})

    with open_page(browser, f"{live.url}/#/jobs", {r"/jobs(\?|$)": refuse}) as watched:
        page = watched.page
        page.get_by_role("dialog", name="API key").get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("alert")).to_contain_text("No key was sent.")


def test_the_line_and_a_connection_that_breaks(browser: Browser, live: RunningApi) -> None:
    """Queue position, then the events: the first connection ends early, the second resumes after the last event."""
    first, second = live.new_job(), live.new_job()
    headers: list[str | None] = []

    def cut_once(route: Route) -> None:
        headers.append(route.request.headers.get("last-event-id"))
        if len(headers) > 1:
            route.continue_()
            return
        event = live.store.jobs.events(second, after=None)[0]
        body = f"id: {event.id}\r\nevent: {event.event}\r\ndata: {event.model_dump_json()}\r\n\r\n: still there\r\n"
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    with open_page(browser, f"{live.url}/#/jobs/{second}", {"/events$": cut_once}) as watched:
        page = watched.page
        expect(page.locator(".progress-text")).to_contain_text("Waiting for a worker, number 2 in the line")
        expect(page.get_by_text("The connection is lost.")).to_be_visible()
        live.client.delete(f"/jobs/{first}")
        expect(page.locator(".progress-text")).to_contain_text("number 1 in the line")
        watched.wait("document.querySelector('.connection').textContent === ''")
        assert headers[0] is None
        assert headers[1] == live.store.jobs.events(second, after=None)[0].id
        page.get_by_role("button", name="Cancel", exact=True).click()
        expect(page.locator(".job-status")).to_have_text("canceled")
        expect(page.locator(".history li")).to_have_count(2)


def test_a_failed_job_says_what_to_do(browser: Browser, live: RunningApi) -> None:
    job_id = live.new_job()
    live.fail(job_id)
    advice = next(row["advice"] for row in live.client.get("/errors").json() if row["code"] == "face_not_found")
    with open_page(browser, f"{live.url}/#/jobs/{job_id}") as watched:
        notice = watched.page.locator(".outcome .notice")
        expect(notice).to_contain_text("No face.")
        expect(notice).to_contain_text(advice)
        assert watched.audit() == []


def test_the_notes_of_a_result_are_seen_at_once(browser: Browser, live: RunningApi) -> None:
    job_id = live.new_job()
    live.finish(job_id)
    with open_page(browser, f"{live.url}/#/jobs/{job_id}") as watched:
        notes = watched.page.locator(".outcome .notes li")
        expect(notes).to_have_text(["Painted. (0.50–1.00 s)"])
        expect(notes).to_be_visible()
        assert watched.audit() == []


def test_a_job_that_is_not_there(browser: Browser, live: RunningApi) -> None:
    with open_page(browser, f"{live.url}/#/jobs/job_{'0' * 32}") as watched:
        expect(watched.page.get_by_role("alert")).to_contain_text("There is no job with this id.")


def test_the_list_is_filtered_and_turned(browser: Browser, live: RunningApi) -> None:
    jobs = [live.new_job(metadata=json.dumps({"title": f"take {number}"})) for number in range(14)]
    live.fail(jobs[3])
    with open_page(browser, f"{live.url}/#/jobs") as watched:
        page = watched.page
        rows = page.locator("[data-job]")
        expect(rows).to_have_count(12)
        expect(rows.first).to_contain_text("take 13")
        page.get_by_role("button", name="Older").click()
        expect(page.locator(f"[data-job={jobs[0]}]")).to_contain_text("take 0")
        page.get_by_role("button", name="Newer").click()
        expect(rows.first).to_contain_text("take 13")
        filters = page.get_by_role("navigation", name="Filter by status")
        assert filters.get_by_role("link").all_inner_texts() == ["all", *STATUSES]
        filters.get_by_role("link", name="failed").click()
        # The unfiltered list, which is there until the answer comes, shows take 3, too.
        expect(page.locator("[data-job] .badge").filter(has_not_text="failed")).to_have_count(0)
        expect(page.locator(f"[data-job={jobs[3]}]")).to_contain_text("take 3")
        assert set(page.locator("[data-job] .badge").all_inner_texts()) == {"failed"}
        assert watched.audit() == []
        filters.get_by_role("link", name="queued").click()
        page.get_by_role("button", name="Cancel job take 13").click()
        expect(page.locator(f"[data-job={jobs[13]}]")).to_have_count(0)
    assert live.client.get(f"/jobs/{jobs[13]}").json()["status"] == "canceled"
    for job_id in jobs:
        live.client.delete(f"/jobs/{job_id}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_looks_on_a_phone_and_in_both_schemes(
    browser: Browser, live: RunningApi, files: tuple[Path, Path], scheme: str
) -> None:
    """No page is wider than a phone, every control has a name, every text has enough contrast."""
    waiting, over = live.new_job(), live.new_job()
    live.finish(over)
    with open_page(browser, live.url, viewport=PHONE, color_scheme=scheme) as watched:
        page = watched.page
        choose_inputs(page, *files)
        for summary in page.locator("details.fold > summary").all():
            summary.click()
        page.locator("select[name=face]").select_option("FaceBox")
        page.locator("select[name=evaluate]").select_option("chosen")
        check_looks(watched, "new")
        for address, place in (("jobs", ".jobs"), (f"jobs/{waiting}", ".stages"), (f"jobs/{over}", ".metrics")):
            page.goto(f"{live.url}/#/{address}")
            page.locator(place).wait_for()
            check_looks(watched, address)
        # The clip of this job is no video: the page says so and keeps its own counsel.
        expect(page.get_by_text("The browser cannot play this result")).to_be_visible()
    for job_id in (waiting, over):
        live.client.delete(f"/jobs/{job_id}")


def check_looks(watched: Watched, name: str) -> None:
    assert not watched.is_wider_than_its_window(), name
    assert watched.audit() == [], name


def test_the_theme_button_overrides_the_system(browser: Browser, live: RunningApi) -> None:
    with open_page(browser, live.url, color_scheme="light") as watched:
        paper = "getComputedStyle(document.body).backgroundColor"
        light = watched.call(paper)
        button = watched.page.get_by_role("button", name="Colors")
        button.click()
        assert watched.call(paper) == light
        button.click()
        assert watched.call(paper) != light
        watched.page.reload()
        assert watched.call(paper) != light, "it is remembered"


def test_events_are_read_as_the_standard_says(browser: Browser, live: RunningApi) -> None:
    """Split anywhere, with any line end, comments and several data lines; an unfinished event is none."""
    stream = ": hello\n\nid: 1-0\nevent: job.queued\ndata: {\ndata:}\n\r\nid: 2-0\r\ndata: x\r\n\r\ndata: cut"
    script = """async ([address, stream, size]) => {
      const { EventParser } = await import(address);
      const parser = new EventParser();
      const pieces = stream.match(new RegExp(`[^]{1,${size}}`, "g"));
      return pieces.flatMap((piece) => parser.push(piece));
    }"""
    wanted = [{"id": "1-0", "event": "job.queued", "data": "{\n}"}, {"id": "2-0", "event": "message", "data": "x"}]
    with open_page(browser, live.url) as watched:
        for size in (1, 2, 3, 7, 1000):
            assert watched.call(script, [f"{live.url}/console/events.js", stream, size]) == wanted, size


@pytest.mark.parametrize(("frames", "speech_s"), [(50, 7.0), (225, 4.0)])
def test_the_input_shows_the_moment_that_was_rendered(
    browser: Browser, live: RunningApi, frames: int, speech_s: float
) -> None:
    """Against the plan of the render itself, for every length mode, with a video shorter than the speech and longer."""
    script = """async ([address, mode, count, clip]) => {
      const { sourceTime } = await import(address);
      return Array.from({ length: count }, (_, number) => (
        sourceTime(mode, number * clip.frameS, clip).time / clip.frameS
      ));
    }"""
    with open_page(browser, live.url) as watched:
        for mode in get_args(LengthMode):
            planned = plan_timeline(regular(frames), speech_s, mode).source_index
            clip = {"inputS": frames / 25, "outputS": len(planned) / 25, "frameS": 1 / 25}
            shown = watched.call(script, [f"{live.url}/console/source_time.js", mode, len(planned), clip])
            assert np.abs(np.array(shown) - planned).max() <= 0.5 + 1e-6, mode


def test_input_and_result_stand_and_run_together(browser: Browser, live: RunningApi, tmp_path: Path) -> None:
    """`bounce`, two seconds of video to three of speech: forward, held anywhere, and backward."""
    video = make_video(tmp_path / "input.mp4", frames=50).read_bytes()
    job_id = live.client.post("/jobs", files=input_files(video)).json()["id"]
    live.finish(job_id, make_video(tmp_path / "result.mp4", frames=75, speech_s=3.0).read_bytes())
    span_s, half_frame_s = 49 / 25, 0.02
    with open_page(browser, f"{live.url}/#/jobs/{job_id}") as watched:
        page = watched.page
        page.locator(RESULT).wait_for()
        times = "[...document.querySelectorAll('.comparison video')].map((player) => player.currentTime)"
        watched.wait("[...document.querySelectorAll('.comparison video')].every((player) => player.readyState >= 3)")
        for at_s, shown_s in ((0.6, 0.6), (1.8, 1.8), (2.4, 2 * span_s - 2.4), (0.0, 0.0)):
            watched.call(f"document.querySelector('{RESULT}').currentTime = {at_s}")
            watched.wait(f"Math.abs({times}[0] - {shown_s + half_frame_s}) < 0.002")
        page.get_by_role("button", name="Play", exact=True).click()
        apart_s = []
        while not watched.call(f"document.querySelector('{RESULT}').ended"):
            shown_s, at_s = watched.call(times)
            apart_s.append(abs(shown_s - (at_s if at_s <= span_s else 2 * span_s - at_s)))
            page.wait_for_timeout(60)
        assert len(apart_s) > 8
        assert sorted(apart_s)[len(apart_s) // 2] < 0.15, "seconds, on a machine that is busy with other tests"
    live.client.delete(f"/jobs/{job_id}")


def test_players_open_what_the_object_store_presigns(
    browser: Browser, redis_url: str, s3: S3Endpoint, tmp_path: Path
) -> None:
    """Another origin, no key, no CORS rule, and inputs without a content type of their own."""
    env = {name.removeprefix("RETALKING_"): value for name, value in s3.env().items()}
    clip = make_video(tmp_path / "clip.mp4", frames=25, speech_s=1.0).read_bytes()
    with run_api(tmp_path / "api", own_database(redis_url), **env) as stored:
        job_id = stored.client.post("/jobs", files=input_files(clip)).json()["id"]
        stored.finish(job_id, clip)
        store_host = urlsplit(s3.endpoint).netloc
        with open_page(browser, f"{stored.url}/#/jobs/{job_id}", others=[store_host]) as watched:
            watched.page.locator(RESULT).wait_for()
            watched.wait("[...document.querySelectorAll('.comparison video')].every((one) => one.readyState >= 3)")
            with watched.page.expect_download() as download:
                watched.page.get_by_role("link", name="Download").click()
            assert download.value.suggested_filename == f"{job_id}.mp4"
            assert Path(download.value.path()).read_bytes() == clip


def test_a_page_that_stays_open_gets_new_links(browser: Browser, live: RunningApi, tmp_path: Path) -> None:
    """The first links have expired; new ones are fetched automatically, and the player continues."""
    clip = make_video(tmp_path / "clip.mp4", frames=25, speech_s=1.0).read_bytes()
    job_id = live.client.post("/jobs", files=input_files(clip)).json()["id"]
    live.finish(job_id, clip)
    asked: list[str] = []

    def age(route: Route) -> None:
        """The first answer is that of an hour ago."""
        asked.append(route.request.url)
        if len(asked) > 1:
            route.continue_()
            return
        links = live.client.get(f"/jobs/{job_id}/media").json()
        route.fulfill(json=links | {"expires_at": "2020-01-01T00:00:00Z"})

    with open_page(browser, f"{live.url}/#/jobs/{job_id}", {"/media$": age}) as watched:
        watched.page.locator(RESULT).wait_for()
        download = watched.page.get_by_role("link", name="Download")
        first = download.get_attribute("href")
        watched.wait(f"document.querySelector('a[download]').getAttribute('href') !== '{first}'", timeout_s=30)
        watched.call(f"document.querySelector('{RESULT}').src = 'jobs/{job_id}/media/result?expires=1&signature=x'")
        watched.wait(f"document.querySelector('{RESULT}').readyState >= 2")
        assert len(asked) == 2
    live.client.delete(f"/jobs/{job_id}")
