"""Hostile submissions, each with the answers and the ends of its job that are accepted. All else is a violation.

A refusal must be named (a 4xx with a public code). 503 and 429 are always accepted: a limit may refuse the hostile key
at any time. A connection may break only where the row says so, or where a process was killed at that moment.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import httpx

from bench.soak_engine import REAL
from bench.soak_hosts import RETRY_AFTERS, HostileHost
from bench.soak_ledger import Accepted, Ledger, outcome_of
from bench.soak_service import UPLOAD_TTL_S, SoakedService, bearer
from tests.faults.hostile_bases import speeches, videos
from tests.faults.hostile_headers import png
from tests.faults.hostile_media import INPUT_CODES, Bait, HostileFile, hostile_files

ALWAYS = frozenset({"202", "429 rate_limited", "429 quota_exceeded", "503 service_unavailable"})
BROKEN = "connection broken"
REFUSED_JSON = frozenset(
    {"400 malformed_json", "413 body_too_large", "422 invalid_option", "422 invalid_request", "422 value_out_of_bounds"}
)
REFUSED_FILE = frozenset(f"422 {code}" for code in INPUT_CODES)
BAD_INPUT = frozenset(f"failed {code}" for code in INPUT_CODES) | {"succeeded"}
UNREACHABLE = frozenset({"failed input_unreachable", "failed url_not_allowed", "failed container_unsupported"})
WHOLE = frozenset({"succeeded"})
MAX_METADATA_BYTES = 16 * 1024
STREAMS = 40
STREAM_S = 8.0


@dataclass(frozen=True)
class Ingredient:
    """answers: to the submission, beside ALWAYS. ends: of a job that was accepted; none: it must not be accepted.
    is_slow: its job waits for inputs."""

    name: str
    send: Callable[[HostileCaller], str]
    answers: frozenset[str] = frozenset()
    ends: frozenset[str] = frozenset()
    is_slow: bool = False


class Rotation:
    """All ingredients in turn, shared by all hostile callers, so that a short run serves each of them too."""

    def __init__(self, chance: random.Random) -> None:
        self._rows = itertools.cycle(chance.sample(INGREDIENTS, len(INGREDIENTS)))
        self._lock = threading.Lock()

    def next(self) -> Ingredient:
        with self._lock:
            return next(self._rows)


class HostileCaller:
    """What the ingredients use: a client with the hostile key, the service's address, and chance."""

    def __init__(self, service: SoakedService, host: HostileHost, ledger: Ledger, seed: int) -> None:
        self.service, self.host, self.ledger = service, host, ledger
        self.chance = random.Random(seed)
        keys = {False: service.hostile_key, True: service.slow_key}
        self._clients = {
            is_slow: httpx.Client(base_url=service.url, headers=bearer(key), timeout=90)
            for is_slow, key in keys.items()
        }
        self.over = threading.Event()
        self._ingredient: Ingredient | None = None

    def run(self, rotation: Rotation, pause_s: float) -> None:
        """One ingredient after the other, until `over` is set."""
        while not self.over.wait(self.chance.uniform(0.2, 1.8) * pause_s):
            self.serve(rotation.next())
        for client in self._clients.values():
            client.close()

    @property
    def api(self) -> httpx.Client:
        """With the key of the ingredient that is being served."""
        return self._clients[self._ingredient is not None and self._ingredient.is_slow]

    def serve(self, row: Ingredient) -> None:
        self._ingredient, began = row, time.monotonic()
        try:
            outcome = row.send(self)
        except (httpx.TransportError, OSError) as fault:
            self.ledger.answer(row.name, BROKEN)
            if BROKEN not in row.answers:
                self.ledger.fail(f"hostile {row.name}: {type(fault).__name__}", began)
            return
        self.ledger.answer(row.name, outcome)
        if outcome not in row.answers | ALWAYS:
            self.ledger.violate(f"hostile {row.name}: answered {outcome}")
        elif outcome == "202" and not row.ends and "202" not in row.answers:
            self.ledger.violate(f"hostile {row.name}: accepted")

    def took(self, answer: httpx.Response) -> str:
        """The outcome of an answer to a submission; a job that came of it is remembered."""
        if answer.status_code == 202 and self._ingredient is not None:
            ends = self._ingredient.ends | {"canceled"}
            self.ledger.accept(Accepted(answer.json()["id"], self._ingredient.name, ends, is_hostile=True))
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
        return self.took(self.api.post("/jobs", files=files, data={"evaluate": "[]"} | data, headers=headers))

    def submit_json(self, **asked: Any) -> str:
        return self.took(self.api.post("/jobs", json={"evaluate": []} | asked))

    def submit_raw(self, metadata: str) -> str:
        """metadata: JSON text, put into the body as it is."""
        address = f"{self.host.url}/close"
        text = f'{{"evaluate": [], "video_url": "{address}", "audio_url": "{address}", "metadata": {metadata}}}'
        body = text.encode("utf-8", "surrogatepass")
        return self.took(self.api.post("/jobs", content=body, headers={"Content-Type": "application/json"}))

    def connect(self, timeout_s: float = 30.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.service.port), timeout_s)

    def head(self, method: str, path: str, *fields: str) -> bytes:
        lines = (f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.service.port}", *fields)
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def authorization(self) -> str:
        return f"Authorization: {self.api.middleware['Authorization']}"


def status_of(connection: socket.socket) -> str:
    """The status of a raw answer, with the code of a refusal; BROKEN where no answer came. Raises TimeoutError where
    the first byte does not come in the connection's time."""
    try:
        answer = connection.recv(65536)
        while answer[9:10] == b"4" and not answer.endswith(b"}"):
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


# Documents


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def metadata_at_the_limit(caller: HostileCaller) -> str:
    frame = len(json.dumps({"a": ""}, separators=(",", ":")))
    return caller.submit(metadata={"a": "x" * (MAX_METADATA_BYTES - frame)}, webhook_url=caller.service.hooks.url)


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
    """Event streams on a job that waits for a file that never comes."""
    job_id = caller.api.post("/jobs", json=_addresses(caller, "never"))
    outcome = caller.took(job_id)
    if outcome != "202":
        return outcome
    path, answers, streams = f"/jobs/{job_id.json()['id']}/events", set(), []
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
        caller.api.post(f"/jobs/{job_id.json()['id']}/cancel")
    odd = {answer for answer in answers if not answer.startswith(("200", "429 "))}
    return ", ".join(sorted(odd)) if odd else "202"


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
    first = httpx.put(link["url"], content=videos()["mp4"])
    second = httpx.put(link["url"], content=b"other bytes")
    return f"{first.status_code} and {second.status_code}"


def put_a_range(caller: HostileCaller) -> str:
    link = _upload(caller)
    if isinstance(link, str):
        return link
    fields = {"Content-Range": "bytes 0-99/100000"}
    return f"put {httpx.put(link['url'], content=videos()['mp4'][:100], headers=fields).status_code}"


def put_late(caller: HostileCaller) -> str:
    """A PUT that begins in time and ends after its upload has expired."""
    link = _upload(caller)
    if isinstance(link, str):
        return link

    def drip() -> Iterable[bytes]:
        for _ in range(UPLOAD_TTL_S + 5):
            yield bytes(1000)
            time.sleep(1)

    length = {"Content-Length": str(1000 * (UPLOAD_TTL_S + 5))}
    return f"put {httpx.put(link['url'], content=drip(), headers=length, timeout=30).status_code}"


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
    Ingredient("event streams, 40 at once", many_streams, ends=UNREACHABLE, is_slow=True),
    Ingredient(
        "foreign origin", foreign_origin, frozenset({"403 forbidden", "403 cross_site_refused", "202"}), ends=WHOLE
    ),
    Ingredient("PUT twice", put_twice, frozenset({"200 and 200", "200 and 409", "200 and 412"})),
    Ingredient("PUT with Content-Range", put_a_range, frozenset({"put 200", "put 400", "put 501"})),
    Ingredient(
        "names that never resolve", unresolved_names, frozenset({"422 url_not_allowed"}), UNREACHABLE, is_slow=True
    ),
    Ingredient("input that drips", input_at("drip"), ends=UNREACHABLE, is_slow=True),
    Ingredient("input that never comes", input_at("never"), ends=UNREACHABLE, is_slow=True),
    Ingredient("input with Location http://[", input_at("bad-location"), ends=UNREACHABLE),
    Ingredient("input redirected to a trap", input_at("redirect"), ends=UNREACHABLE),
    Ingredient("input with an endless header", input_at("endless-header"), ends=UNREACHABLE, is_slow=True),
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
LATE_PUT = Ingredient("PUT that ends late", put_late, frozenset({"put 200", "put 403", "put 404", "put 409", BROKEN}))
