"""Inputs by their addresses, through HTTP: fetched by the stack that `retalking up` starts, as it is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cli.demo_input import write_portrait
from tests.e2e.conftest import Service, running_service
from tests.media import clips
from tests.services import wait_until

pytestmark = pytest.mark.e2e


class SlowFiles(SimpleHTTPRequestHandler):
    """Serves a folder; what is under /slow/ never begins until `gate` is set."""

    gate = threading.Event()

    def do_GET(self) -> None:
        if self.path.startswith("/slow/"):
            self.gate.wait(120)
            self.path = self.path.removeprefix("/slow")
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SlowFiles, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        SlowFiles.gate.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def private_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("stack")
    with running_service(folder, RETALKING_ALLOW_PRIVATE_HOSTS="127.0.0.1") as service:
        yield service


def test_a_job_by_address_speaks_while_a_slow_one_waits(private_service: Service, tmp_path: Path) -> None:
    service = private_service
    portrait, speech = write_portrait(tmp_path), clips.make_wav(tmp_path / "speech.wav", seconds=0.5)
    with serving(tmp_path) as host:
        named = {"audio_url": f"{host}/{speech.name}", "evaluate": []}
        slow = service.client.post("/jobs", json=named | {"video_url": f"{host}/slow/{portrait.name}"}).json()["id"]

        def stage() -> str:
            return service.client.get(f"/jobs/{slow}").json()["stage"]

        wait_until(lambda: stage() == "fetch", 20)
        quick = service.client.post("/jobs", json=named | {"video_url": f"{host}/{portrait.name}"}).json()["id"]
        job = service.finish(quick)
        assert (job["status"], job["error"]) == ("succeeded", None)
        waiting = service.client.get(f"/jobs/{slow}").json()
        assert (waiting["status"], waiting["stage"], waiting["queue_position"]) == ("queued", "fetch", None)
        SlowFiles.gate.set()
        assert service.finish(slow)["status"] == "succeeded"
    links = service.client.get(f"/jobs/{quick}/media").json()
    assert service.client.get(links["audio"]["url"]).content == speech.read_bytes()
