"""The main job in a real browser on the real service: upload, progress, result, evaluation, webhook, deletion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console.browser import Watched, open_page
from tests.console.stack import RunningStack
from tests.worker.receiver import Receiver, receiving

pytestmark = pytest.mark.e2e
RENDER_MS = 90_000

# Notes every sentence and every position of the bar that the progress of a job shows.
WATCH_PROGRESS = """
window.seen = { sentences: [], shares: [], stages: [] };
new MutationObserver(() => {
  const text = document.querySelector(".progress-text")?.textContent;
  if (text && window.seen.sentences.at(-1) !== text) window.seen.sentences.push(text);
  const share = document.querySelector(".progress-card progress")?.value;
  if (share !== undefined && window.seen.shares.at(-1) !== share) window.seen.shares.push(share);
  const stage = document.querySelector(".stages [aria-current]")?.textContent;
  if (stage && window.seen.stages.at(-1) !== stage) window.seen.stages.push(stage);
}).observe(document.documentElement, { subtree: true, childList: true, characterData: true, attributes: true });
"""
RESULT = ".comparison video[aria-label=Result]"


def choose_inputs(page: Page, face: Path, speech: Path) -> None:
    page.get_by_role("region", name="Face").locator("input[type=file]").set_input_files(face)
    page.get_by_role("region", name="Speech").locator("input[type=file]").set_input_files(speech)


def job_id_of(page: Page) -> str:
    page.wait_for_url("**/#/jobs/job_*")
    return page.url.rpartition("/")[2]


def test_the_main_job(browser: Browser, stack: RunningStack, face: Path, speech: Path) -> None:
    with receiving() as receiver, open_page(browser, f"{stack.url}/") as watched:
        page = watched.page
        page.evaluate(WATCH_PROGRESS)
        choose_inputs(page, face, speech)
        expect(page.get_by_role("img", name="Face: face.png")).to_be_visible()
        ask_for(page, receiver.url)
        page.get_by_role("button", name="Make the video").click()
        job_id = job_id_of(page)
        page.locator(RESULT).wait_for(timeout=RENDER_MS)

        job = stack.client.get(f"/jobs/{job_id}").json()
        assert job["options"]["evaluate"] == ["csim", "mouth_speech_correlation", "ssim"]
        assert job["options"]["output"]["crf"] == 24
        assert job["metadata"] == {"title": "take 3"}
        check_progress(watched)
        check_players(watched, job)
        check_evaluation(watched, job)
        check_webhook(page, receiver)
        delete(page, stack, job_id)


def ask_for(page: Page, webhook_url: str) -> None:
    expect(page.locator("select[name=upper_face]")).to_be_disabled()
    expect(page.locator(".field", has=page.locator("select[name=upper_face]"))).to_contain_text(
        "preview does not support"
    )
    page.get_by_text("More options").click()
    page.locator("select[name=evaluate]").select_option("chosen")
    for name in ("ssim", "csim", "mouth_speech_correlation"):
        page.locator(f"input[value={name}]").check()
    page.locator("input[name='output.crf']").fill("24")
    page.get_by_text("Delivery", exact=True).click()
    page.get_by_label("Webhook URL").fill(webhook_url)
    page.get_by_label("Metadata").fill('{"title": "take 3"}')


def check_progress(watched: Watched) -> None:
    seen = watched.call("window.seen")
    shares = seen["shares"]
    assert shares == sorted(shares)
    assert len([share for share in shares if 0 < share < 1]) >= 3, "progress is live"
    assert "Synthesize" in seen["stages"]
    assert any(sentence.startswith("Synthesize, ") for sentence in seen["sentences"])
    assert seen["sentences"][-1].startswith("Succeeded after ")


def check_players(watched: Watched, job: dict[str, Any]) -> None:
    """The result plays for its whole length, beside the input, which is a still image here."""
    page = watched.page
    watched.wait(f"document.querySelector('{RESULT}').readyState === 4")
    state = watched.call(f"(({{duration, videoWidth}}) => [duration, videoWidth])(document.querySelector('{RESULT}'))")
    assert state[0] == pytest.approx(1.6, abs=0.06)
    assert state[1] == job["result"]["width"]
    assert watched.call("document.querySelector('.comparison img').naturalWidth") == 256
    page.get_by_role("button", name="Play", exact=True).click()
    watched.wait(f"document.querySelector('{RESULT}').currentTime > 0.3")
    page.get_by_role("button", name="Pause", exact=True).click()
    before = watched.call(f"document.querySelector('{RESULT}').currentTime")
    page.get_by_role("button", name="One frame back").click()
    watched.wait(f"document.querySelector('{RESULT}').currentTime < {before}")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == f"{job['id']}.mp4"
    assert Path(download.value.path()).stat().st_size == job["result"]["size_bytes"]


def check_evaluation(watched: Watched, job: dict[str, Any]) -> None:
    """Every number with what it means, every missing one with its reason, and the curves."""
    page, rows = watched.page, {row["name"]: row for row in job["evaluation"]}
    assert rows["csim"]["value"] is None, "the checkpoint of CSIM is not there"
    assert rows["csim"]["reason"] in watched.text(".unmeasured")
    card = page.locator("[data-metric=ssim]")
    expect(card).to_contain_text(f"{rows['ssim']['value']:.4g}")
    expect(card).to_contain_text("Structural similarity")
    expect(card).to_contain_text("higher is better")
    plot = page.locator(".plot", has_text="Mouth and speech")
    assert len(plot.locator("path.curve").get_attribute("d")) > 100
    box = plot.locator("svg").bounding_box()
    plot.locator("svg").click(position={"x": box["width"] * 0.75, "y": 60})
    watched.wait(f"Math.abs(document.querySelector('{RESULT}').currentTime - 1.2) < 0.15")
    expect(page.get_by_text("Where the time went")).to_be_visible()


def check_webhook(page: Page, receiver: Receiver) -> None:
    log = page.get_by_role("region", name="Webhook")
    expect(log).to_contain_text("job.succeeded")
    page.reload()
    expect(log.locator(".badge")).to_have_text("delivered")
    expect(log.locator(".attempts tbody tr")).to_have_count(1)
    log.get_by_role("button", name="Deliver again").click()
    expect(log.locator(".attempts tbody tr")).to_have_count(2)
    assert len(receiver.calls) == 2


def delete(page: Page, stack: RunningStack, job_id: str) -> None:
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Keep it").click()
    assert stack.client.get(f"/jobs/{job_id}").status_code == 200
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.wait_for_url("**/#/jobs")
    expect(page.get_by_text("There are no jobs yet.")).to_be_visible()
    assert stack.client.get(f"/jobs/{job_id}").status_code == 404


def test_recorded_speech_by_keyboard_alone(browser: Browser, stack: RunningStack, face: Path) -> None:
    """From the address bar to the result with Tab, Space and Enter. The microphone is Chromium's own, which beeps."""
    with open_page(browser, f"{stack.url}/", reduced_motion="reduce") as watched:
        page = watched.page
        # Chromium hands choosers over only once somebody listens, which must not begin while one is being opened.
        page.on("filechooser", lambda _chooser: None)
        page.get_by_role("button", name="Make the video").wait_for()
        press_until(page, "Tab", "document.activeElement.id === 'skip'")
        page.keyboard.press("Enter")
        press_until(page, "Tab", "document.activeElement.type === 'file'")
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Space")
        chooser.value.set_files(face)
        press_until(page, "Tab", "document.activeElement.textContent === 'Record'")
        page.keyboard.press("Enter")
        watched.wait("document.querySelector('.record-time').textContent >= '0:01.20'")
        page.keyboard.press("Enter")
        expect(page.locator(".chosen", has_text="recording.webm")).to_be_visible()
        press_until(page, "Tab", "document.activeElement.textContent === 'Make the video'")
        page.keyboard.press("Enter")
        job_id_of(page)
        assert watched.call("document.activeElement.id") == "main", "a reader of the screen begins at the new page"
        page.locator(RESULT).wait_for(timeout=RENDER_MS)
        press_until(page, "Tab", "document.activeElement.textContent === 'Play'")
        page.keyboard.press("Space")
        watched.wait(f"document.querySelector('{RESULT}').currentTime > 0.2")
        assert watched.audit() == []


def press_until(page: Page, key: str, condition: str) -> None:
    for _ in range(60):
        page.keyboard.press(key)
        if page.evaluate(condition):
            return
    raise AssertionError(f"{key} never leads to {condition}")
