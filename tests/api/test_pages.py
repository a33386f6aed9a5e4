"""Security headers of every response, and pages that work under them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from api.pages import page_headers
from tests.api.running import RunningApi, input_files

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def policy(answer: httpx.Response) -> dict[str, list[str]]:
    rules = (rule.split() for rule in answer.headers["content-security-policy"].split(";"))
    return {name: sources for name, *sources in rules}


def answers(api: RunningApi) -> list[httpx.Response]:
    """A page, an asset, data, a file, a refusal, a redirect target that is not there."""
    job_id = api.new_job()
    api.finish(job_id)
    asset = re.search(r'src="(/[^"]+\.js)"', api.client.get("/docs").text)
    assert asset
    paths = [
        "/",
        "/docs",
        asset[1],
        "/engines",
        "/healthz",
        "/metrics",
        "/nope",
        f"/jobs/{job_id}/result",
        "/openapi.json",
    ]
    return [*(api.client.get(path) for path in paths), api.client.post("/jobs", files=input_files(video=b"no"))]


def test_every_answer_is_closed_to_other_sites(api: RunningApi) -> None:
    for answer in answers(api):
        path = answer.request.url.path
        assert answer.headers["x-content-type-options"] == "nosniff", path
        assert answer.headers["referrer-policy"] == "no-referrer", path
        assert answer.headers["permissions-policy"].startswith("microphone=(self), camera=()"), path
        assert policy(answer)["frame-ancestors"] == ["'none'"], path
        assert policy(answer)["default-src"] == ["'none'"], path
        assert "access-control-allow-origin" not in answer.headers, path
        assert "set-cookie" not in answer.headers, path


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_run_only_what_they_brought(api: RunningApi, path: str) -> None:
    rules = policy(api.client.get(path))
    assert rules["script-src"][0] == rules["style-src"][0] == "'self'"
    for sources in rules.values():
        assert not {"'unsafe-inline'", "'unsafe-eval'", "*"} & set(sources)
    assert rules["base-uri"] == ["'none'"]


def test_only_what_stood_in_the_page_is_allowed() -> None:
    one, other = (page_headers(f"<script>{code}</script><style></style>") for code in ("a()", "b()"))
    assert "sha256-" in one["Content-Security-Policy"]
    assert one != other


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: pages are not looked at in a browser")
@pytest.mark.parametrize(("path", "sign"), [("/", "<form"), ("/docs", 'id="operations-jobs-submitJob"')])
def test_the_pages_work_under_their_policy(api: RunningApi, tmp_path: Path, path: str, sign: str) -> None:
    """In a real browser: the page's script has run, and the browser refused nothing."""
    command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={tmp_path}", "--enable-logging=stderr", "--virtual-time-budget=15000", "--dump-dom"]
    done = subprocess.run([*command, f"{api.url}{path}"], capture_output=True, text=True, timeout=90, check=False)
    assert sign in done.stdout, done.stdout[-2000:]
    told = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not [line for line in told if "Refused" in line or "Content Security Policy" in line], told
