"""What a page of another site can do with a local service that asks for no keys: nothing. In a real Chromium, whose
names are bent: `evil.test` is another server of this machine, `rebound.test` is the service itself under a name that
its attacker owns (DNS rebinding)."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.api.running import RunningApi, input_files
from tests.console.browser import PATIENCE_MS, find_chromium, open_browser
from tests.media.clips import make_video

# Media errors and loads alike, as promises.
WATCH = """(kind, url) => new Promise((done) => {
  const element = document.createElement(kind);
  element.onload = element.onloadeddata = () => done("shown");
  element.onerror = () => done("refused");
  element.src = url;
  document.body.append(element);
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed (apt-get install chromium, or name one in RETALKING_CHROMIUM)")
    rules = "--host-resolver-rules=MAP evil.test 127.0.0.1, MAP rebound.test 127.0.0.1"
    # Chromium's own guard of local networks is new, and other browsers have none
    with open_browser(program, rules, "--disable-features=LocalNetworkAccessChecks") as browser:
        yield browser


class _BlankPage(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another site</title><body>")

    def log_message(self, *_: Any) -> None:
        pass


@dataclass(frozen=True)
class Attack:
    """A page of `evil.test`, and the service as it would address it."""

    page: Page
    api: RunningApi

    @property
    def target(self) -> str:
        return self.api.url.rstrip("/")

    def count_jobs(self) -> int:
        return len(self.api.client.get("/jobs", params={"limit": 100}).json()["jobs"])


@pytest.fixture
def attack(browser: Browser, api: RunningApi) -> Iterator[Attack]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _BlankPage)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    context = browser.new_context()
    context.set_default_timeout(PATIENCE_MS)
    try:
        page = context.new_page()
        page.goto(f"http://evil.test:{server.server_port}/")
        yield Attack(page, api)
    finally:
        context.close()
        server.shutdown()
        server.server_close()
        thread.join()


def form_script(target: str) -> str:
    """A form with both files, filled by script, as an attacker would."""
    return f"""(files) => {{
      const form = document.createElement("form");
      Object.assign(form, {{method: "post", enctype: "multipart/form-data", action: "{target}/jobs"}});
      for (const [name, bytes] of Object.entries(files)) {{
        const input = Object.assign(document.createElement("input"), {{type: "file", name}});
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], name));
        input.files = transfer.files;
        form.append(input);
      }}
      document.body.append(form);
      form.submit();
    }}"""


def file_bytes() -> dict[str, list[int]]:
    return {name: list(content) for name, (_, content, _) in input_files().items()}


def test_a_form_of_another_site_starts_no_job(attack: Attack) -> None:
    before = attack.count_jobs()
    with attack.page.expect_navigation() as told:
        attack.page.evaluate(form_script(attack.target), file_bytes())
    assert told.value.status == 403
    assert told.value.json()["code"] == "cross_site_refused"
    assert attack.count_jobs() == before


def test_a_script_of_another_site_changes_nothing(attack: Attack) -> None:
    """`no-cors` sends what a form could, and reads nothing."""
    kept = attack.api.new_job()
    before = attack.count_jobs()
    script = """async ([url, files]) => {
      const body = new FormData();
      for (const [name, bytes] of Object.entries(files)) body.append(name, new Blob([new Uint8Array(bytes)]), name);
      const attempts = [
        fetch(`${url}/jobs`, {method: "POST", mode: "no-cors", body}),
        fetch(`${url}/uploads`, {method: "POST", mode: "no-cors"}),
        fetch(`${url}/jobs/KEPT/cancel`, {method: "POST", mode: "no-cors"}),
        fetch(`${url}/jobs/KEPT`, {method: "DELETE"}),
      ];
      return (await Promise.allSettled(attempts)).map((each) => each.status);
    }""".replace("KEPT", kept)
    with attack.page.expect_request(f"**/jobs/{kept}/cancel") as sent:
        outcomes = attack.page.evaluate(script, [attack.target, file_bytes()])
    assert sent.value.method == "POST", "it did reach the service"
    assert outcomes[3] == "rejected", "a DELETE asks first, and nobody says yes"
    assert attack.count_jobs() == before
    assert attack.api.client.get(f"/jobs/{kept}").json()["status"] == "queued"
    assert not attack.api.client.get(f"/jobs/{kept}").json().get("cancel_requested")


def test_another_site_shows_no_result_without_a_signed_link(attack: Attack, tmp_path: Path) -> None:
    """Even one that knows the id of a job. A signed link plays everywhere: that is what it is for."""
    job_id = attack.api.new_job()
    attack.api.finish(job_id, make_video(tmp_path / "result.mp4", frames=30, speech_s=1.2).read_bytes())
    watch = f"([kind, url]) => ({WATCH})(kind, url)"
    assert attack.page.evaluate(watch, ["video", f"{attack.target}/jobs/{job_id}/result"]) == "refused"
    assert attack.page.evaluate(watch, ["img", f"{attack.target}/jobs/{job_id}/media/video"]) == "refused"
    with pytest.raises(Exception, match="Failed to fetch"):
        attack.page.evaluate("(url) => fetch(url).then((answer) => answer.text())", f"{attack.target}/jobs")
    link = attack.api.client.get(f"/jobs/{job_id}/media").json()["result"]["url"]
    assert attack.page.evaluate(watch, ["video", f"{attack.target}{link}"]) == "shown"


def test_a_name_that_was_bent_to_this_machine_opens_nothing(attack: Attack) -> None:
    """The browser sees page and service as one site: only the host name differs."""
    job_id = attack.api.new_job()
    rebound = attack.target.replace("127.0.0.1", "rebound.test")
    assert attack.page.goto(f"{rebound}/").status == 403
    # What the attacker's own server gave, before its name was bent
    attack.page.route(f"{rebound}/bait", lambda route: route.fulfill(content_type="text/html", body="<body>"))
    attack.page.goto(f"{rebound}/bait")
    script = """(id) => Promise.all([
      fetch("/jobs"),
      fetch(`/jobs/${id}`),
      fetch(`/jobs/${id}`, {method: "DELETE"}),
      fetch("/uploads", {method: "POST"}),
    ].map((sent) => sent.then(async (answer) => [answer.status, (await answer.json()).code])))"""
    assert attack.page.evaluate(script, job_id) == [[403, "host_not_allowed"]] * 4
    assert attack.api.client.get(f"/jobs/{job_id}").json()["status"] == "queued"


def test_a_followed_link_opens_a_file(attack: Attack) -> None:
    """From a mail or a chat in the browser: a page of its own, which the other site cannot read."""
    script = """(url) => document.body.append(
      Object.assign(document.createElement("a"), {href: url, id: "followed", text: "a result"})
    )"""
    attack.page.evaluate(script, f"{attack.target}/jobs")
    with attack.page.expect_navigation() as told:
        attack.page.click("#followed")
    assert told.value.status == 200
