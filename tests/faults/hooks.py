"""A webhook receiver that tests can stop, slow down, or make refuse, and that records every event it receives."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook

SHARED_PATH = "/hook"


@dataclass(frozen=True)
class ReceivedEvent:
    """One request with a valid signature. answered: the status of the answer."""

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
    """Verifies every signature: at `url` with the shared secret, at `url_of(key id)` with the secrets of that API key,
    whose id must be the event's owner.

    plan(job id, number of earlier requests about it) -> Answer. forged: requests with a wrong signature or owner.
    strays: paths that nobody was asked to call.
    """

    def __init__(self, secret: str) -> None:
        self.received: list[ReceivedEvent] = []
        self.forged = 0
        self.strays: list[str] = []
        self.plan: Callable[[str, int], Answer] = lambda _job_id, _before: Answer()
        self._signers: dict[str, list[Webhook]] = {SHARED_PATH: [Webhook(secret)]}
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}{SHARED_PATH}"

    def url_of(self, owner: str) -> str:
        return f"{self.url}/{owner}"

    def trust(self, owner: str, secret: str) -> None:
        """From now on this secret verifies events of the key, beside those that were trusted before."""
        with self._lock:
            self._signers.setdefault(f"{SHARED_PATH}/{owner}", []).append(Webhook(secret))

    def start(self) -> None:
        """Always on the same port."""
        handler = type("Handler", (_Handler,), {"receiver": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def about(self, job_id: str) -> list[ReceivedEvent]:
        with self._lock:
            return [each for each in self.received if each.job_id == job_id]

    def receive(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        message = self._verified(path, headers, body)
        if message is None:
            return Answer(400)
        job = message["data"]
        answer = self.plan(job["id"], len(self.about(job["id"])))
        event = ReceivedEvent(headers["webhook-id"], message["type"], job["id"], job["status"], answer.status)
        with self._lock:
            self.received.append(event)
        return answer

    def _verified(self, path: str, headers: dict[str, str], body: bytes) -> dict | None:
        with self._lock:
            signers = list(self._signers.get(path, ()))
        if not signers:
            self.strays.append(path)
            signers = self._signers[SHARED_PATH]
        owner = path.removeprefix(SHARED_PATH).strip("/") if path in self._signers else ""
        for signer in signers:
            try:
                signer.verify(body, headers)
            except Exception:
                continue
            message = json.loads(body)
            if (message["owner"] or "") == owner:
                return message
        self.forged += 1
        return None


class _Handler(BaseHTTPRequestHandler):
    receiver: HookReceiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.receiver.receive(self.path, headers, body)
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
