"""A browser for each file of tests, the service with and without workers, and small inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser

from cli.demo_input import write_portrait
from tests.api.running import MP4, PREVIEW, WAV, RunningApi, run_api
from tests.console.browser import find_chromium, open_browser
from tests.console.stack import RunningStack, run_stack
from tests.media.clips import make_wav
from tests.services import own_database


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed (apt-get install chromium, or name one in RETALKING_CHROMIUM)")
    with open_browser(program) as browser:
        yield browser


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """Redis, workers and the API. Webhooks may reach this machine."""
    with run_stack(
        tmp_path_factory.mktemp("console"), ALLOW_PRIVATE_HOSTS="127.0.0.1", WEBHOOK_BACKOFF_S="1"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """The API alone: jobs wait until a test plays the worker."""
    with run_api(tmp_path_factory.mktemp("console-api"), own_database(redis_url)) as running:
        yield running


@pytest.fixture(scope="module")
def live(api: RunningApi) -> Iterator[RunningApi]:
    with api.live_worker(PREVIEW, metrics=("ssim", "csim")):
        yield api


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    face, speech = tmp_path / "face.mp4", tmp_path / "speech.wav"
    face.write_bytes(MP4)
    speech.write_bytes(WAV)
    return face, speech


@pytest.fixture(scope="session")
def face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The head of the demo's portrait: what a render costs follows the size of the face."""
    folder = tmp_path_factory.mktemp("face")
    target = folder / "face.png"
    Image.open(write_portrait(folder)).convert("RGB").crop((100, 0, 356, 256)).save(target)
    return target


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wav(tmp_path_factory.mktemp("speech") / "speech.wav", seconds=1.6)
