"""Hostile submissions, each with the accepted answers and ends of its job. Everything else is a violation.

A refusal must be named (a 4xx with a public code). `503 service_unavailable` and a broken connection are accepted where
a process was killed at that moment, `429 quota_exceeded` where the key really had as many live jobs as it may have.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import httpx

from bench.soak_callers import API_BROKEN, UNAVAILABLE, Accepted, Ledger, Refusal, cause_of, outcome_of
from bench.soak_service import UPLOAD_TTL_S, Key, SoakedService
from tests.faults.hostile_bases import speeches, videos
from tests.faults.hostile_headers import png
from tests.faults.hostile_media import INPUT_CODES, Bait, HostileFile, hostile_files
from tests.faults.timed_engine import REAL

BROKEN = "connection broken"
UNAVAILABLE_ANSWER, QUOTA_ANSWER = "503 service_unavailable", "429 quota_exceeded"
REFUSED_JSON = frozenset(
    {"400 malformed_json", "413 body_too_large", "422 invalid_option", "422 invalid_request", "422 value_out_of_bounds"}
)
REFUSED_FILE = frozenset(f"422 {code}" for code in INPUT_CODES)
BAD_INPUT = frozenset(f"failed {code}" for code in INPUT_CODES) | {"succeeded"}
UNREACHABLE = frozenset({"failed input_unreachable", "failed url_not_allowed", "failed container_unsupported"})
TOO_SLOW = frozenset({"failed input_too_slow"})
WHOLE = frozenset({"succeeded"})
MAX_METADATA_BYTES = 16 * 1024
# More than a key may have open (EVENT_STREAMS_PER_KEY of the soak).
STREAMS = 40
STREAM_S = 8.0
# Not the address of healthy receivers and files: limits per host must not affect those.
HOSTILE_ADDRESS = "127.0.0.2"
# One that the service is not allowed to reach.
TRAP_ADDRESS = "127.0.0.3"
DRIP_BYTES, DRIP_PAUSE_S = 40, 0.5
RETRY_AFTERS = (
    b"-1",
    b"1e999",
    b"nan",
    b"9" * 400,
    b"\xff\xfe\x00",
    b"Wed, 99 Nov 2026 99:99:99 GMT",
    b"Thu, 01 Jan 1970 00:00:00 GMT",
    b"Fri, 31 Dec 9999 23:59:59 -2359",
    "\u0663".encode(),
    b"",
)


@dataclass(frozen=True)
class Ingredient:
    """answers: accepted for the submission, beside 202 where a job may end. ends: of a job that was accepted; none: it
    must not be accepted. key: `hostile`, `slow` for jobs that wait for inputs, or `throttled`."""

    name: str
    send: Callable[[HostileCaller], str]
    answers: frozenset[str] = frozenset()
    ends: frozenset[str] = frozenset()
    key: str = "hostile"


class Rotation:
    """All ingredients in turn, shared by all hostile callers, so that a short run serves each of them too."""

    def __init__(self, chance: random.Random) -> None:
        self._rows = itertools.cycle(chance.sample(INGREDIENTS, len(INGREDIENTS)))
        self._lock = threading.Lock()

    def next(self) -> Ingredient:
        with self._lock:
            return next(self._rows)


class BucketError(Exception):
    """A link of the bucket answered with a server error."""


class HostileCaller:
    """What the ingredients use: clients with the hostile keys, the service's address, and a random generator."""

    def __init__(self, service: SoakedService, host: HostileHost, ledger: Ledger, seed: int) -> None:
        self.service, self.host, self.ledger = service, host, ledger
        self.chance = random.Random(seed)
        self._keys = {"hostile": service.hostile, "slow": service.slow, "throttled": service.throttled}
        self._clients = {
            name: httpx.Client(base_url=service.url, headers=key.headers, timeout=90)
            for name, key in self._keys.items()
        }
        self.over = threading.Event()
        self._ingredient: Ingredient | None = None

    def run(self, rotation: Rotation, pause_s: float) -> None:
        """One ingredient after the other, until `over` is set."""
        while not self.over.wait(self.chance.uniform(0.2, 1.8) * pause_s):
            row = rotation.next()
            try:
                self.serve(row)
            except Exception as fault:  # a caller must never end early: its ingredients would be missing
                self.ledger.violate(f"hostile {row.name}: broke off with {type(fault).__name__}", repr(fault))
        for client in self._clients.values():
            client.close()

    @property
    def key(self) -> Key:
        """The key of the ingredient that is being served."""
        return self._keys[self._ingredient.key if self._ingredient else "hostile"]

    @property
    def api(self) -> httpx.Client:
        return self._clients[self._ingredient.key if self._ingredient else "hostile"]

    def serve(self, row: Ingredient) -> None:
        self._ingredient, began = row, time.time()
        try:
            outcome = row.send(self)
        except (httpx.TransportError, OSError, BucketError) as fault:
            outcome = f"{BROKEN}: {type(fault).__name__}"
            is_bucket = isinstance(fault, BucketError) or _port_of(fault) not in (None, self.service.port)
            self.ledger.fail(f"hostile {row.name}", cause_of(self.service, fault, is_link=is_bucket))
        else:
            self._judge(row, outcome, began)
        self.ledger.answer(row.name, outcome)

    def _judge(self, row: Ingredient, outcome: str, began: float) -> None:
        if outcome in row.answers or (outcome == "202" and row.ends):
            return
        if outcome in (BROKEN, UNAVAILABLE_ANSWER):
            self.ledger.fail(f"hostile {row.name}", API_BROKEN if outcome == BROKEN else UNAVAILABLE)
        elif outcome == QUOTA_ANSWER:
            self.ledger.refusals.append(Refusal(row.name, self.key, began, time.time()))
        else:
            self.ledger.violate(f"hostile {row.name}: answered {outcome}")

    def record(self, answer: httpx.Response) -> str:
        """The outcome of an answer to a submission; a job that was accepted is noted."""
        if answer.status_code == 202 and self._ingredient is not None:
            ends = self._ingredient.ends | {"canceled"}
            self.ledger.accepted.append(Accepted(answer.json()["id"], self._ingredient.name, ends, is_hostile=True))
        return outcome_of(answer)

    def put(self, link: dict[str, Any], content: bytes | Iterable[bytes], **headers: str) -> str:
        """The outcome of a PUT to an upload link. Raises BucketError."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = httpx.put(link["url"], content=content, headers=fields, timeout=30)
        if self.service.rclone and answer.status_code >= 500:
            raise BucketError(str(answer.status_code))
        return outcome_of(answer)

    def submit(
        self,
        video: bytes | None = None,
        audio: bytes | None = None,
        headers: dict[str, str] | None = None,
        **asked: Any,
    ) -> str:
        """A form with the service's own clips where none are given."""
        files = {
            "video": ("a.mp4", video if video is not None else self.service.video.read_bytes()),
            "audio": ("a.wav", audio if audio is not None else self.service.audio.read_bytes()),
        }
        data = {name: value if isinstance(value, str) else json.dumps(value) for name, value in asked.items()}
        return self.record(self.api.post("/jobs", files=files, data={"evaluate": "[]"} | data, headers=headers))

    def submit_json(self, **asked: Any) -> str:
        return self.record(self.api.post("/jobs", json={"evaluate": []} | asked))

    def submit_raw(self, metadata: str) -> str:
        """metadata: JSON text, put into the body as it is."""
        address = f"{self.host.url}/close"
        text = f'{{"evaluate": [], "video_url": "{address}", "audio_url": "{address}", "metadata": {metadata}}}'
        body = text.encode("utf-8", "surrogatepass")
        return self.record(self.api.post("/jobs", content=body, headers={"Content-Type": "application/json"}))

    def connect(self, timeout_s: float = 30.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.service.port), timeout_s)

    def head(self, method: str, path: str, *fields: str) -> bytes:
        lines = (f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.service.port}", *fields)
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def authorization(self) -> str:
        return f"Authorization: {self.api.headers['Authorization']}"


def _port_of(fault: Exception) -> int | None:
    """The port that a request of httpx went to; None for a raw socket, which goes to the API."""
    return fault.request.url.port if isinstance(fault, httpx.TransportError) else None


def status_of(connection: socket.socket) -> str:
    """The status of a raw answer, with the code of a refusal; BROKEN without an answer. Raises TimeoutError where no
    first byte comes in the connection's time."""
    try:
        answer = connection.recv(65536)
        while answer[9:10] in (b"4", b"5") and not answer.endswith(b"}"):
            if not (more := connection.recv(65536)):
                break
            answer += more
    except ConnectionError:
        return BROKEN
    if not answer.startswith(b"HTTP/1.1 "):
        return BROKEN
    status, (_, _, body) = answer[9:12].decode(), answer.partition(b"\r\n\r\n")
    try:
        return f"{status} {json.loads(body)['code']}"
    except (ValueError, KeyError, TypeError):
        return status


# Hosts that hostile jobs name


class SocketHost:
    """Hands every connection to `answer` in a thread of its own, and closes it afterwards."""

    def __init__(self, address: str) -> None:
        host = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                try:
                    host.answer(self.request)
                except OSError:
                    return  # who asked has left

        server = type("Server", (socketserver.ThreadingTCPServer,), {"daemon_threads": True, "request_queue_size": 128})
        self._server = server((address, 0), Handler)
        self.url = f"http://{address}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, connection: socket.socket) -> None:
        raise NotImplementedError


class Trap(SocketHost):
    """On an address that the service must not reach. visits: connections that were made to it."""

    def __init__(self) -> None:
        self.visits = 0
        super().__init__(TRAP_ADDRESS)

    def answer(self, connection: socket.socket) -> None:
        self.visits += 1


class HostileHost(SocketHost):
    """Reads a request and answers by its path. trap: where redirects lead."""

    def __init__(self, trap: Trap) -> None:
        self._trap = trap.url.encode()
        self._over = threading.Event()
        super().__init__(HOSTILE_ADDRESS)

    def stop(self) -> None:
        self._over.set()
        super().stop()

    def answer(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        path = connection.recv(65536).partition(b" ")[2].partition(b" ")[0].decode("latin-1")
        name, _, rest = path.strip("/").partition("/")
        answers: dict[str, Callable[[], None]] = {
            "never": lambda: self._over.wait(60),
            "close": lambda: None,
            "redirect": lambda: connection.sendall(_head(b"302 Found", b"Location: " + self._trap)),
            "bad-location": lambda: connection.sendall(_head(b"302 Found", b"Location: http://[")),
            "retry-after": lambda: connection.sendall(
                _head(b"503 Busy", b"Retry-After: " + RETRY_AFTERS[int(rest or 0) % len(RETRY_AFTERS)])
            ),
            "junk": lambda: connection.sendall(b"\x00\xffSSH-2.0-x\r\n\r\n" * 100),
            "drip": lambda: self._drip(connection),
            "endless-header": lambda: self._endless_header(connection),
        }
        answers.get(name, lambda: connection.sendall(_head(b"404 Not Found", b"X: 1")))()

    def _drip(self, connection: socket.socket) -> None:
        """A video that comes a byte at a time, and breaks off."""
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n")
        for _ in range(DRIP_BYTES):
            connection.sendall(b"\0")
            self._over.wait(DRIP_PAUSE_S)

    def _endless_header(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        until = time.monotonic() + 5
        while time.monotonic() < until and not self._over.is_set():
            connection.sendall(b"a" * 65536)
            time.sleep(0.01)


def _head(status: bytes, field: bytes) -> bytes:
    return b"HTTP/1.1 " + status + b"\r\n" + field + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


# Documents


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def metadata_at_the_limit(caller: HostileCaller) -> str:
    frame = len(json.dumps({"a": ""}, separators=(",", ":")))
    hook = caller.service.hooks.url_of(caller.key.id)
    return caller.submit(metadata={"a": "x" * (MAX_METADATA_BYTES - frame)}, webhook_url=hook)


def lone_surrogate_in_a_form(caller: HostileCaller) -> str:
    name = caller.chance.choice(("metadata", "engine", "webhook_url"))
    return caller.submit(**{name: '{"a": "\\ud800"}'})


# The wire


def huge_headers(caller: HostileCaller) -> str:
    with caller.connect() as connection:
        fields = (f"X-{number}: " + "a" * 8000 for number in range(125))
        try:
            connection.sendall(caller.head("GET", "/healthz", *fields))
        except ConnectionError:
            return BROKEN
        return status_of(connection)


def pipelined_junk(caller: HostileCaller) -> str:
    """Two megabytes of requests whose answers nobody reads."""
    with caller.connect(5) as connection:
        try:
            connection.sendall(caller.head("GET", "/healthz") * 20_000)
        except (ConnectionError, TimeoutError):
            return BROKEN
        caller.over.wait(2)
        return "left unread"


def no_http(caller: HostileCaller) -> str:
    with caller.connect() as connection:
        connection.sendall(caller.chance.randbytes(4096) + b"\r\n\r\n")
        return status_of(connection)


def dripping_upload(caller: HostileCaller) -> str:
    """A byte a second for 20 s."""
    with caller.connect(1.0) as connection:
        kind = "Content-Type: multipart/form-data; boundary=x"
        connection.sendall(caller.head("POST", "/jobs", caller.authorization(), kind, "Content-Length: 1000000"))
        connection.sendall(b'--x\r\nContent-Disposition: form-data; name="video"; filename="v"\r\n\r\n')
        until = time.monotonic() + 20
        while time.monotonic() < until and not caller.over.is_set():
            try:
                connection.sendall(b"\0")
                return status_of(connection)
            except TimeoutError:  # no answer yet
                continue
            except ConnectionError:
                return BROKEN
        return "held for 20 s"


def aborted_upload(caller: HostileCaller) -> str:
    """Several megabytes of a video, then nobody."""
    with caller.connect() as connection:
        kind = "Content-Type: multipart/form-data; boundary=x"
        connection.sendall(caller.head("POST", "/jobs", caller.authorization(), kind, "Content-Length: 90000000"))
        content = videos()["mp4"] + caller.chance.randbytes(1 << 20) * 7
        head = b'--x\r\nContent-Disposition: form-data; name="video"; filename="v"\r\n\r\n'
        try:
            connection.sendall(head + content)
        except ConnectionError:
            return BROKEN
        return "left"


def many_streams(caller: HostileCaller) -> str:
    """More event streams than a key may have, on a job that waits for a file that never comes."""
    answer = caller.api.post("/jobs", json=_addresses(caller, "never"))
    outcome = caller.record(answer)
    if outcome != "202":
        return outcome
    path, answers, streams = f"/jobs/{answer.json()['id']}/events", set(), []
    try:
        for _ in range(STREAMS):
            stream = caller.connect(10)
            streams.append(stream)
            stream.sendall(caller.head("GET", path, caller.authorization()))
            answers.add(status_of(stream))
        caller.over.wait(STREAM_S)
    finally:
        for stream in streams:
            stream.close()
        caller.api.post(f"/jobs/{answer.json()['id']}/cancel")
    for passing in (BROKEN, UNAVAILABLE_ANSWER):
        if passing in answers:
            return passing
    return ", ".join(sorted(answers))


def too_many_requests(caller: HostileCaller) -> str:
    """More than the key may make in a minute. `never refused` is right only where it took so long to send them."""
    began, outcomes = time.monotonic(), set()
    count = caller.key.per_minute * 3 // 2
    for _ in range(count):
        outcomes.add(outcome_of(caller.api.get("/jobs", params={"limit": 1})))
    if UNAVAILABLE_ANSWER in outcomes:
        return UNAVAILABLE_ANSWER
    if "429 rate_limited" in outcomes:
        outcomes.discard("200")
        return ", ".join(sorted(outcomes))
    allowed = caller.key.per_minute * (1 + (time.monotonic() - began) / 60)
    return "slow enough" if count <= allowed + 1 and outcomes == {"200"} else f"never refused: {sorted(outcomes)}"


def foreign_origin(caller: HostileCaller) -> str:
    return caller.submit(headers={"Origin": "https://foreign.example", "Sec-Fetch-Site": "cross-site"})


# Uploads


def _upload(caller: HostileCaller) -> dict[str, Any] | str:
    answer = caller.api.post("/uploads")
    return answer.json() if answer.status_code == 201 else outcome_of(answer)


def put_twice(caller: HostileCaller) -> str:
    link = _upload(caller)
    if isinstance(link, str):
        return link
    return f"{caller.put(link, videos()['mp4'])} and {caller.put(link, b'other bytes')}"


def put_a_range(caller: HostileCaller) -> str:
    link = _upload(caller)
    return link if isinstance(link, str) else caller.put(link, videos()["mp4"][:100], Content_Range="bytes 0-99/100000")


def put_late(caller: HostileCaller) -> str:
    """A PUT that begins in time and ends after its upload has expired."""
    link = _upload(caller)
    if isinstance(link, str):
        return link

    def drip() -> Iterable[bytes]:
        for _ in range(UPLOAD_TTL_S + 5):
            yield bytes(1000)
            time.sleep(1)

    return caller.put(link, drip(), Content_Length=str(1000 * (UPLOAD_TTL_S + 5)))


# Addresses


def _addresses(caller: HostileCaller, path: str) -> dict[str, Any]:
    return {"evaluate": [], "video_url": f"{caller.host.url}/{path}", "audio_url": f"{caller.host.url}/{path}"}


def input_at(path: str) -> Callable[[HostileCaller], str]:
    return lambda caller: caller.submit_json(**_addresses(caller, path))


def unresolved_names(caller: HostileCaller) -> str:
    name = f"http://{caller.chance.getrandbits(32):x}.never.test/a.mp4"
    return caller.submit_json(video_url=name, audio_url=name, webhook_url=name)


def hook_at(path: str) -> Callable[[HostileCaller], str]:
    return lambda caller: caller.submit(
        webhook_url=f"{caller.host.url}/{path.format(caller.chance.randrange(len(RETRY_AFTERS)))}",
        webhook_events=["job.started", "job.progress", "job.succeeded", "job.failed", "job.canceled"],
    )


# Media


@cache
def hostile_set() -> list[HostileFile]:
    """What playlists point at is not watched here: tests/faults/test_hostile_media.py does that."""
    return hostile_files(Bait(Path("/nowhere/bait.mp4"), 9))


@cache
def huge_video() -> bytes:
    """Two black frames of 33 million pixels in some kilobytes."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "x264-params": "threads=1"})
        stream.width, stream.height, stream.pix_fmt = 8192, 4048, "yuv420p"
        for number in range(2):
            frame = av.VideoFrame(8192, 4048, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return sink.getvalue()


@cache
def covered_speech() -> bytes:
    """An MP3 whose cover is a small file of 64 million pixels."""
    cover = png(8000, 8000, body=bytes(8000 * 24001))
    frame = b"\0image/png\0\3\0" + cover
    body = b"APIC" + len(frame).to_bytes(4, "big") + b"\0\0" + frame
    size = len(body)
    synchsafe = bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + synchsafe + body + speeches()["mp3"]


def corrupted_media(caller: HostileCaller) -> str:
    file = caller.chance.choice(hostile_set())
    other = {"video": "audio", "audio": "video"}[file.slot]
    sound = {"video": videos()["png"], "audio": speeches()["wav"]}[other]
    return caller.submit(**{file.slot: file.content, other: sound}, seed=REAL)


INGREDIENTS = (
    Ingredient("metadata 199 deep, form", lambda c: c.submit(metadata=deep(199)), REFUSED_JSON),
    Ingredient("metadata 199 deep, JSON", lambda c: c.submit_raw(deep(199)), REFUSED_JSON),
    Ingredient("metadata 100,000 deep", lambda c: c.submit_raw(deep(100_000)), REFUSED_JSON),
    Ingredient("metadata at the limit", metadata_at_the_limit, ends=WHOLE),
    Ingredient("metadata over the limit", lambda c: c.submit(metadata={"a": "x" * 17_000}), REFUSED_JSON),
    Ingredient("lone surrogate, JSON", lambda c: c.submit_raw('{"a": "\\ud800"}'), REFUSED_JSON),
    Ingredient("lone surrogate, bytes", lambda c: c.submit_raw('{"a": "\ud800"}'), REFUSED_JSON),
    Ingredient("lone surrogate, form", lone_surrogate_in_a_form, REFUSED_JSON | {"422 url_not_allowed"}),
    Ingredient("NaN and infinity", lambda c: c.submit_raw('{"a": NaN, "b": 1e999}'), REFUSED_JSON),
    Ingredient("a number of 5,000 digits", lambda c: c.submit_raw('{"a": ' + "9" * 5000 + "}"), REFUSED_JSON),
    Ingredient("1 MB of headers", huge_headers, frozenset({"400", "431", BROKEN})),
    Ingredient("pipelined requests, unread", pipelined_junk, frozenset({"left unread", BROKEN})),
    Ingredient("no HTTP", no_http, frozenset({"400", BROKEN})),
    Ingredient("dripping upload", dripping_upload, frozenset({"408 request_timeout", "held for 20 s", BROKEN})),
    Ingredient("aborted upload", aborted_upload, frozenset({"left", BROKEN})),
    Ingredient(
        "event streams, 40 at once", many_streams, frozenset({"200, 429 too_many_open"}), UNREACHABLE, key="slow"
    ),
    Ingredient(
        "more requests than allowed", too_many_requests, frozenset({"429 rate_limited", "slow enough"}), key="throttled"
    ),
    Ingredient(
        "foreign origin", foreign_origin, frozenset({"403 forbidden", "403 cross_site_refused", "202"}), ends=WHOLE
    ),
    # A presigned link takes every PUT until it expires; a link of the API takes one whole file
    Ingredient("PUT twice", put_twice, frozenset({"200 and 200", "200 and 409 upload_complete"})),
    Ingredient("PUT with Content-Range", put_a_range, frozenset({"200", "400 content_range_not_supported", "501 -"})),
    Ingredient("names that never resolve", unresolved_names, frozenset({"422 host_unresolved"}), key="slow"),
    Ingredient("input that drips", input_at("drip"), ends=UNREACHABLE | TOO_SLOW, key="slow"),
    Ingredient("input that never comes", input_at("never"), ends=UNREACHABLE, key="slow"),
    Ingredient("input with Location http://[", input_at("bad-location"), ends=UNREACHABLE),
    Ingredient("input redirected to a trap", input_at("redirect"), ends=UNREACHABLE),
    Ingredient("input with an endless header", input_at("endless-header"), ends=UNREACHABLE, key="slow"),
    Ingredient("input that is no HTTP", input_at("junk"), ends=UNREACHABLE),
    Ingredient("receiver never answers", hook_at("never"), ends=WHOLE),
    Ingredient("receiver with odd Retry-After", hook_at("retry-after/{}"), ends=WHOLE),
    Ingredient("receiver redirects", hook_at("redirect"), ends=WHOLE),
    Ingredient("receiver closes", hook_at("close"), ends=WHOLE),
    Ingredient("receiver with an endless header", hook_at("endless-header"), ends=WHOLE),
    Ingredient("corrupted media", corrupted_media, REFUSED_FILE, BAD_INPUT),
    Ingredient(
        "video of 8192x4048",
        lambda c: c.submit(video=huge_video(), seed=REAL),
        REFUSED_FILE,
        BAD_INPUT | {"failed out_of_memory"},
    ),
    Ingredient(
        "speech with a huge cover", lambda c: c.submit(audio=covered_speech(), seed=REAL), REFUSED_FILE, BAD_INPUT
    ),
    Ingredient("priority 2", lambda c: c.submit(priority=2), frozenset({"403 priority_not_allowed"}), WHOLE),
)
# Takes longer than an upload lives: served once, by a caller of its own.
LATE_PUT = Ingredient(
    "PUT that ends late",
    put_late,
    frozenset({"200", "403 -", "404 upload_not_found", "408 request_timeout", BROKEN}),
)
