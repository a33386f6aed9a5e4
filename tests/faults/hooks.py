"""A webhook receiver that can be down, slow, or of another opinion, and that remembers what it was told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook


@dataclass(frozen=True)
class Told:
    """One request. answered: the status it got."""

    webhook_id: str
    event: str
    job_id: str
    status: str
    answered: int


@dataclass(frozen=True)
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0


class HookReceiver:
    """plan(job id, how many requests about it came before) -> Answer. Every signature is verified."""

    def __init__(self, secret: str) -> None:
        self.told: list[Told] = []
        self.forged = 0
        self.strays: list[str] = []
        self.plan: Callable[[str, int], Answer] = lambda _job_id, _before: Answer()
        self._signer = Webhook(secret)
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/hook"

    def start(self) -> None:
        """Always on the same port."""
        handler = type("Handler", (_Handler,), {"receiver": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Connections are refused from now on."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def about(self, job_id: str) -> list[Told]:
        with self._lock:
            return [each for each in self.told if each.job_id == job_id]

    def take(self, headers: dict[str, str], body: bytes) -> Answer:
        try:
            self._signer.verify(body, headers)
        except Exception:
            self.forged += 1
            return Answer(400)
        message = json.loads(body)
        job = message["data"]
        answer = self.plan(job["id"], len(self.about(job["id"])))
        with self._lock:
            self.told.append(Told(headers["webhook-id"], message["type"], job["id"], job["status"], answer.status))
        return answer


class _Handler(BaseHTTPRequestHandler):
    receiver: HookReceiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != "/hook":
            self.receiver.strays.append(self.path)
        answer = self.receiver.take({name.lower(): value for name, value in self.headers.items()}, body)
        time.sleep(answer.after_s)
        try:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
        except OSError:
            return  # the sender did not wait

    def do_GET(self) -> None:
        self.receiver.strays.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return
