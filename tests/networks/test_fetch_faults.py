"""Fetching from servers that misbehave, and fetching that is killed."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any

import pytest
import torch

from retalking_core import errors
from retalking_core.digests import file_sha256
from retalking_core.weights import checkpoint, synthesis, table
from retalking_core.weights.fetching import Fetcher, file_url
from retalking_core.weights.synthesis import synthetic_state_dict
from retalking_core.weights.table import LOCK_NAME, WEIGHT_FILES, Manifest, Pin, load_manifest, read_lock
from tests.networks.mirror import to_bytes

ENTRY = replace(WEIGHT_FILES["ganimation"], url=None, mirrors=())
FILE = ENTRY.file


@pytest.fixture(autouse=True)
def small_networks(quick_draws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def shrunken(network: str) -> Manifest:
        full = load_manifest(network).items()
        return {key: replace(spec, shape=tuple(min(n, 3) for n in spec.shape)) for key, spec in full}

    for module in (checkpoint, synthesis, table):
        monkeypatch.setattr(module, "load_manifest", shrunken)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("retalking_core.weights.fetching.CHUNK_BYTES", 1500)


def legacy_bytes(seed: int) -> bytes:
    """An old plain pickle: no checksum inside would notice a mixture of two files."""
    from io import BytesIO

    buffer = BytesIO()
    torch.save(synthetic_state_dict("ganimation", seed), buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


Script = Callable[["Server", BaseHTTPRequestHandler, int], None]


@dataclass
class Server:
    """Answers with a script: called with the handler and the offset asked for (0 without a range)."""

    body: bytes
    script: Script
    tag: str = '"one"'
    ranges: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""

    def send(self, handler: BaseHTTPRequestHandler, start: int = 0, stop: int | None = None, length: int = 0) -> None:
        """Bytes start..stop of the body, stated as `length` bytes (default: all from start)."""
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        handler.send_header("ETag", self.tag)
        handler.send_header("Content-Length", str(length or len(self.body) - start))
        handler.end_headers()
        handler.wfile.write(self.body[start:stop])


@contextmanager
def serve(body: bytes, script: Script) -> Iterator[Server]:
    served = Server(body, script)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            served.ranges.append(asked)
            served.paths.append(self.path)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            served.script(served, self, start)

        def log_message(self, *_args: object) -> None:
            """Keeps the test output clean."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{http.server_port}"
    Thread(target=http.serve_forever, daemon=True).start()
    yield served
    http.shutdown()
    http.server_close()


def honest(server: Server, handler: BaseHTTPRequestHandler, start: int) -> None:
    server.send(handler, start if handler.headers.get("If-Range") == server.tag else 0)


def cutting(server: Server, handler: BaseHTTPRequestHandler, start: int) -> None:
    server.send(handler, start if handler.headers.get("If-Range") == server.tag else 0, start + 3000)


def fetcher(folder: Path, *mirrors: str, **changes: Any) -> Fetcher:
    return Fetcher(folder, mirrors, sleep=lambda _seconds: None, **changes)


def check_right(folder: Path, body: bytes) -> None:
    assert (folder / FILE).read_bytes() == body
    assert read_lock(folder)[FILE].sha256 == file_sha256(folder / FILE)
    left = {path.name for path in folder.iterdir()} - {FILE, LOCK_NAME, "weights.fetch.lock"}
    assert not {name for name in left if not name.startswith(f"{LOCK_NAME}.")}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_server_that_cuts_every_answer(legacy: bool, tmp_path: Path) -> None:
    body = legacy_bytes(1) if legacy else to_bytes(synthetic_state_dict("ganimation", 1))
    with serve(body, cutting) as server:
        fetcher(tmp_path, server.url).fetch(ENTRY)
        check_right(tmp_path, body)
        assert len(server.ranges) == -(-len(body) // 3000)


def test_a_length_that_is_too_long_ends_and_heals(tmp_path: Path) -> None:
    """The server then refuses the range beyond the end; a later, honest one is asked from the start."""
    body = legacy_bytes(1)

    def lies(server: Server, handler: BaseHTTPRequestHandler, start: int) -> None:
        if start >= len(body):
            handler.send_error(416)
        else:
            server.send(handler, 0, None, len(body) + 100)

    with serve(body, lies) as server:
        with pytest.raises(errors.WeightsUnreachableError, match="in 5 attempts"):
            fetcher(tmp_path, server.url).fetch(ENTRY)
        assert not (tmp_path / FILE).exists()
        server.script = lambda server, handler, start: (
            handler.send_error(416) if start >= len(body) else honest(server, handler, start)
        )
        fetcher(tmp_path, server.url).fetch(ENTRY)
        check_right(tmp_path, body)


def test_a_length_that_is_too_short_is_refused_and_heals(tmp_path: Path) -> None:
    body = legacy_bytes(1)
    pinned = replace(ENTRY, pins={FILE: Pin(_sha256(body), len(body), 3)})
    with serve(body, lambda server, handler, start: server.send(handler, 0, len(body) - 9, len(body) - 9)) as server:
        for entry in (ENTRY, pinned):
            with pytest.raises(errors.WeightsTruncatedError):
                fetcher(tmp_path, server.url).fetch(entry)
            assert {path.name for path in tmp_path.iterdir()} == {"weights.fetch.lock"}
        server.script = honest
        fetcher(tmp_path, server.url).fetch(pinned)
        check_right(tmp_path, body)


@pytest.mark.parametrize("admits", [True, False], ids=["new-tag", "no-tag"])
def test_a_file_changed_between_two_ranges_is_never_mixed(admits: bool, tmp_path: Path) -> None:
    """The server ignores If-Range and sends the rest of another file of the same length."""
    first, second = legacy_bytes(1), legacy_bytes(2)
    assert len(first) == len(second)

    def changes(server: Server, handler: BaseHTTPRequestHandler, start: int) -> None:
        if start:
            server.body, server.tag = second, '"two"'
            if not admits:
                handler.send_response(206)
                handler.send_header("Content-Range", f"bytes {start}-{len(second) - 1}/{len(second)}")
                handler.send_header("Content-Length", str(len(second) - start))
                handler.end_headers()
                handler.wfile.write(second[start:])
                return
        server.send(handler, start, None if server.body is second else 3000)

    with serve(first, changes) as server:
        fetcher(tmp_path, server.url).fetch(ENTRY)
        check_right(tmp_path, second)


def test_a_file_that_changes_at_every_request_ends(tmp_path: Path) -> None:
    """It makes progress each time, and none in all."""
    count = iter(range(1000))

    def changes(server: Server, handler: BaseHTTPRequestHandler, start: int) -> None:
        server.tag = f'"{next(count)}"'
        server.send(handler, start, start + 3000)

    with serve(legacy_bytes(1), changes) as server:
        with pytest.raises(errors.WeightsUnreachableError, match="in 5 attempts"):
            fetcher(tmp_path, server.url).fetch(ENTRY)
        assert len(server.ranges) < 20


def test_a_range_from_another_place_is_not_used(tmp_path: Path) -> None:
    body = legacy_bytes(1)

    def skips(server: Server, handler: BaseHTTPRequestHandler, start: int) -> None:
        server.send(handler, start + 7 if start else 0, None if start else 3000)
        if start:
            server.script = honest

    with serve(body, skips) as server:
        fetcher(tmp_path, server.url).fetch(ENTRY)
        check_right(tmp_path, body)


@pytest.mark.parametrize("answer", [b"\x00\x01nonsense\r\n\r\n", b""], ids=["nonsense", "silence"])
def test_what_is_not_http_is_tried_again(answer: bytes, tmp_path: Path) -> None:
    def nonsense(server: Server, handler: BaseHTTPRequestHandler, start: int) -> None:
        handler.wfile.write(answer)
        handler.close_connection = True
        server.script = honest

    with serve(legacy_bytes(1), nonsense) as server:
        fetcher(tmp_path, server.url).fetch(ENTRY)
        check_right(tmp_path, server.body)


def redirect(where: str) -> Script:
    def script(server: Server, handler: BaseHTTPRequestHandler, start: int) -> None:
        if handler.path.startswith("/real/"):
            cutting(server, handler, start)
            return
        handler.send_response(302)
        handler.send_header("Location", where)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return script


def test_redirects_are_followed_and_resumed(tmp_path: Path) -> None:
    with serve(legacy_bytes(1), redirect("/real/file")) as server:
        fetcher(tmp_path, server.url).fetch(ENTRY)
        check_right(tmp_path, server.body)
        assert read_lock(tmp_path)[FILE].source == f"{server.url}/{FILE}"


@pytest.mark.parametrize("where", ["/loop", "file:///etc/hostname", "http://127.0.0.1:9/"])
def test_redirects_that_lead_nowhere_have_a_name(where: str, tmp_path: Path) -> None:
    with serve(b"", redirect(where)) as server, pytest.raises(errors.WeightsUnreachableError):
        fetcher(tmp_path, server.url).fetch(ENTRY)
    assert not (tmp_path / FILE).exists()


# Killed


Line = tuple[str, int]
Contents = dict[str, bytes]
KILLED = 1


@dataclass(frozen=True)
class Interruptions:
    """What the disk holds at every line of a fetch, which is what a process leaves that is killed there: bytes that
    still wait in a buffer are not on it. The pages of the kernel outlive the process.

    states: contents of the folder, each once. at: the number of its state, by line and time (first or second).
    """

    states: list[Contents]
    at: dict[tuple[Line, int], int]


def contents(folder: Path) -> Contents:
    """Files by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def begin(folder: Path, server: Server, older: bytes) -> Path:
    """A folder in which an older version was begun: its bytes must not be resumed as the present one's."""
    folder.mkdir()
    (folder / f"{FILE}.part").write_bytes(older[:3000])
    state = {"url": f"{server.url}/{FILE}", "version": '"zero"', "total": len(older)}
    (folder / f"{FILE}.part.json").write_text(json.dumps(state))
    return folder


def interruptions(folder: Path, server: Server) -> Interruptions:
    """Of one whole fetch into the folder, at the first and at the second time that it gets to each line of our code."""
    times: Counter[Line] = Counter()
    found = Interruptions([], {})

    def look(line: Line) -> None:
        times[line] += 1
        if times[line] <= 2:
            state = contents(folder)
            if state not in found.states:
                found.states.append(state)
            found.at[line, times[line]] = found.states.index(state)

    with lines_of_fetching(look):
        fetcher(folder, server.url).fetch(ENTRY)
    return found


@pytest.mark.parametrize("server_changes", [False, True], ids=["same-file", "file-changes-meanwhile"])
def test_a_fetch_killed_at_any_line_and_repeated_ends_right(server_changes: bool, tmp_path: Path) -> None:
    bodies, older = [legacy_bytes(1), legacy_bytes(2)], legacy_bytes(3)
    with serve(bodies[0], cutting) as server:
        found = interruptions(begin(tmp_path / "whole", server, older), server)
        assert len(found.at) > 100, "there is something to kill"
        assert len(found.states) > 8, "it leaves something else behind"
        for number, state in enumerate(found.states):
            folder = tmp_path / str(number)
            folder.mkdir()
            for name, content in state.items():
                (folder / name).write_bytes(content)
            kept = FILE in state or state.get(f"{FILE}.part") == bodies[0]
            if server_changes:
                server.body, server.tag = bodies[1], '"two"'
            fetcher(folder, server.url).fetch(ENTRY)
            check_right(folder, bodies[1 if server_changes and not kept else 0])


# Since Python 3.12: the child calls nothing that another thread may have locked.
@pytest.mark.filterwarnings("ignore:This process .*is multi-threaded:DeprecationWarning")
def test_a_killed_process_leaves_what_the_disk_held(tmp_path: Path) -> None:
    """A child is killed at every twentieth line: what the test above starts from is what is there."""
    older = legacy_bytes(3)
    with serve(legacy_bytes(1), cutting) as server:
        found = interruptions(begin(tmp_path / "whole", server, older), server)
        for number, (target, state) in list(enumerate(found.at.items()))[::20]:
            folder = begin(tmp_path / str(number), server, older)
            child = os.fork()
            if not child:
                _fetch_and_die(folder, server.url, *target)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED, target
            assert sorted(contents(folder).values()) == sorted(found.states[state].values()), target
            assert len(contents(folder).keys() - found.states[state].keys()) <= 1, "a temporary file"


@contextmanager
def lines_of_fetching(on_line: Callable[[Line], None]) -> Iterator[None]:
    """Calls on_line with file and number before each line that this thread runs of the modules that fetch."""
    modules = {sys.modules[f"retalking_core.weights.{name}"].__file__ for name in ("fetching", "table")}

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        if frame.f_code.co_filename not in modules:
            return None
        if event == "line":
            on_line((frame.f_code.co_filename, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _fetch_and_die(folder: Path, url: str, target: Line, time: int) -> None:
    """In the child: fetches, and dies without any cleaning up when it gets to the line for the time-th time."""
    left = [time]

    def die_there(line: Line) -> None:
        if line == target:
            left[0] -= 1
            if left[0] == 0:
                os._exit(KILLED)

    try:
        with lines_of_fetching(die_there):
            fetcher(folder, url).fetch(ENTRY)
    except BaseException:
        os._exit(2)
    os._exit(0)


# Mirrors


def _sha256(body: bytes) -> str:
    import hashlib

    return hashlib.sha256(body).hexdigest()


def missing(server: Server, handler: BaseHTTPRequestHandler, start: int) -> None:
    handler.send_error(404)


def test_each_file_falls_back_along_the_mirrors_to_the_publisher(tmp_path: Path) -> None:
    body, failed = legacy_bytes(1), []
    with serve(body, missing) as first, serve(b"<html>", honest) as second, serve(body, honest) as publisher:
        entry = replace(ENTRY, url=f"{publisher.url}/release/{FILE}")
        fetcher(tmp_path, first.url, second.url, on_failure=lambda url, error: failed.append((url, error.code))).fetch(
            entry
        )
        check_right(tmp_path, body)
        assert failed == [
            (f"{first.url}/{FILE}", "weights_unreachable"),
            (f"{second.url}/{FILE}", "weights_wrong_file"),
        ]
        assert read_lock(tmp_path)[FILE].source == entry.url


def test_an_alias_on_a_mirror_keeps_its_name(tmp_path: Path) -> None:
    body = to_bytes(synthetic_state_dict("parsenet", 1))
    name = "parsing_parsenet.pth"
    entry = replace(WEIGHT_FILES["parsenet"], url=None, mirrors=(), pins={name: Pin(_sha256(body), len(body), 3)})

    def only_alias(server: Server, handler: BaseHTTPRequestHandler, start: int) -> None:
        honest(server, handler, start) if handler.path.endswith(name) else handler.send_error(404)

    with serve(body, only_alias) as server:
        assert fetcher(tmp_path, server.url).fetch(entry).name == name


def test_a_hugging_face_repository_is_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(legacy_bytes(1), honest) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        fetcher(tmp_path, "hf:someone/weights@v1/auxiliary").fetch(ENTRY)
        assert server.paths == [f"/someone/weights/resolve/v1/auxiliary/{FILE}"]
    monkeypatch.delenv("HF_ENDPOINT")
    assert file_url("hf:a/b", "x.pth") == "https://huggingface.co/a/b/resolve/main/x.pth"


def test_known_mirrors_serve_pinned_files_only(tmp_path: Path) -> None:
    body = legacy_bytes(1)
    with serve(body, honest) as server:
        entry = replace(ENTRY, mirrors=(server.url,))
        with pytest.raises(errors.WeightsUnreachableError, match="no URL"):
            fetcher(tmp_path).fetch(entry)
        fetcher(tmp_path).fetch(replace(entry, pins={FILE: Pin(_sha256(body), len(body), 3)}))
        check_right(tmp_path, body)


def test_another_digest_is_refused_everywhere_unless_accepted(tmp_path: Path) -> None:
    body = legacy_bytes(1)
    entry = replace(ENTRY, pins={FILE: Pin("ab" * 32, len(body), 3)})
    with serve(body, honest) as server:
        with pytest.raises(errors.WeightsDigestMismatchError) as caught:
            fetcher(tmp_path, server.url, server.url + "/second").fetch(entry)
        assert {"ab" * 32, _sha256(body)} <= set(caught.value.message.replace(",", " ").split())
        assert len(server.ranges) == 2
        assert not (tmp_path / FILE).exists()
        accepting = fetcher(tmp_path, server.url, accept=frozenset([_sha256(body)]))
        accepting.fetch(entry)
        check_right(tmp_path, body)
        assert read_lock(tmp_path)[FILE].accepted
        fetcher(tmp_path, server.url).fetch(entry)
        assert read_lock(tmp_path)[FILE].accepted, "stays accepted"


def test_a_file_put_there_by_hand_is_checked_and_recorded(tmp_path: Path) -> None:
    body = legacy_bytes(1)
    (tmp_path / FILE).write_bytes(body)
    refused = replace(ENTRY, pins={FILE: Pin("ab" * 32, len(body), 3)})
    with pytest.raises(errors.WeightsDigestMismatchError, match="--accept-digest"):
        fetcher(tmp_path).fetch(refused)
    fetcher(tmp_path, accept=frozenset([_sha256(body)])).fetch(refused)
    assert read_lock(tmp_path)[FILE].accepted
    assert read_lock(tmp_path)[FILE].source == "found in the weights folder"
