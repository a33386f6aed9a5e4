"""`retalking submit` from an environment that holds nothing but the client, against `retalking up`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.api.running import ROOT
from tests.cli.conftest import Up, clean_environment, portrait, run_command, short_speech, speech, start_up  # noqa: F401

pytestmark = [pytest.mark.install, pytest.mark.timeout(600)]
HEAVY = {"torch", "redis", "celery", "boto3", "numpy", "av", "fastapi", "opencv-python-headless", "dlib-bin"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder of programs."""
    folder = tmp_path_factory.mktemp("fresh")
    # A copy: a build leaves folders beside its sources.
    source = shutil.copytree(ROOT / "retalking_client", tmp_path_factory.mktemp("source") / "retalking_client")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(folder / "bin" / "pip"), "install", "--quiet", "--only-binary", ":all:", f"{source}[inspect]"]
    subprocess.run(install, check=True, cwd=folder)
    return folder / "bin"


def test_the_client_alone_is_enough(
    environment: Path,
    start_up: Callable[..., Up],  # noqa: F811
    portrait: Path,  # noqa: F811
    short_speech: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    listed = subprocess.run(
        [str(environment / "pip"), "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    for package in ("api", "bench", "cli", "jobs", "retalking_core", "worker"):
        found = subprocess.run(
            [str(environment / "python"), "-P", "-c", f"import {package}"], capture_output=True, check=False
        )
        assert b"ModuleNotFoundError" in found.stderr, package
    assert not HEAVY & {package["name"].lower() for package in json.loads(listed.stdout)}
    certificate = {
        "RETALKING_C2PA_CERT": str(tmp_path / "certificate" / "chain.pem"),
        "RETALKING_C2PA_KEY": str(tmp_path / "certificate" / "key.pem"),
    }

    def ask(*arguments: str, code: int = 0, url: str = "") -> str:
        done = subprocess.run(
            [str(environment / "retalking"), *arguments],
            cwd=tmp_path,
            env=clean_environment(RETALKING_URL=url),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        return done.stdout

    made = run_command("provenance", "make-test-certificate", "certificate", cwd=tmp_path)  # by the service's command
    assert made.returncode == 0, made.stderr
    up = start_up(tmp_path / "data", **certificate)
    url = up.url()
    submitted = ("submit", str(portrait), str(short_speech), "--option", "evaluate=[]", "-o", "result.mp4", "--json")
    job = json.loads(ask(*submitted, url=url))
    assert job["status"] == "succeeded"
    assert "signed, unchanged" in ask("inspect", "result.mp4", "--trust", "certificate/authority.pem")
    data = bytearray((tmp_path / "result.mp4").read_bytes())
    data[data.rindex(b"moov") + 40] ^= 1
    (tmp_path / "changed.mp4").write_bytes(data)
    ask("inspect", "changed.mp4", code=1)

    assert job["id"] in ask("jobs", url=url)
    assert "job.succeeded" in ask("events", job["id"], url=url)
    assert job["id"] in ask("cancel", job["id"], url=url)
    ask("delete", job["id"], "--yes", url=url)
    ask("jobs", "show", job["id"], url=url, code=1)
    ask("jobs", url="http://127.0.0.1:9", code=3)
