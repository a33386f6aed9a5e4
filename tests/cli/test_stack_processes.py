"""Supervision, with real processes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cli.stack.forked import prepare_to_fork
from cli.stack.processes import (
    Child,
    ChildSpec,
    StackAddress,
    api_spec,
    child_environment,
    describe_exit,
    listening_socket,
    worker_specs,
)
from jobs.settings import Settings
from tests.services import accepted_socket, own_database, wait_until

Make = Callable[..., Child]


@pytest.fixture
def make_child(tmp_path: Path) -> Iterator[Make]:
    made: list[Child] = []

    def make(code: str, grace_s: float = 5.0, keep_fds: tuple[int, ...] = (), gpu: int | None = None) -> Child:
        (tmp_path / "sample_child.py").write_text(code)
        log, arguments = tmp_path / "sample.log", ("--some", "thing")
        spec = ChildSpec("sample", "sample_child", arguments, log, grace_s, keep_fds, gpu)
        # Without the marks of coverage, which are an open file.
        environment = {name: value for name, value in os.environ.items() if name != "BRANCH_COVERAGE_MARKS"}
        environment |= {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}", "SAMPLE": "1"}
        made.append(Child(spec, environment, tmp_path))
        return made[-1]

    yield make
    for child in made:
        child.ask_to_stop()
        child.finish()


@pytest.fixture(params=["forked", "fresh"])
def fork(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways to start a process; a fork finds the sample where this process looks for modules."""
    monkeypatch.syspath_prepend(tmp_path)
    return request.param == "forked"


def wait_for(child: Child, text: str) -> None:
    wait_until(lambda: text in child.spec.log.read_text(), 10, what=f"{text!r} in the log")


def test_a_child_that_dies_is_started_again_after_growing_pauses(
    make_child: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.stack.processes._FIRST_PAUSE_S", 0.05)
    child = make_child("print('here', flush=True); raise SystemExit(4)")
    child.start()
    news: list[str] = []
    while len(news) < 6:
        if sentence := child.tend():
            news.append(sentence)
    assert [line.startswith("sample exited with code 4; restarting in") for line in news[::2]] == [True] * 3
    assert [line.startswith("sample restarted (process ") for line in news[1::2]] == [True] * 3
    wait_until(lambda: child.spec.log.read_text().count("here") == 4, 10, what="four starts")
    pauses = [child._pause_s]
    assert pauses[0] == pytest.approx(0.4), "0.05 s doubled at each of three deaths"


def test_each_gpu_gets_a_render_worker_of_its_own(tmp_path: Path) -> None:
    specs = worker_specs(tmp_path, 1.0, (0, 2))
    assert [(spec.module, spec.gpu) for spec in specs] == [
        ("worker.gpu", 0),
        ("worker.gpu", 2),
        ("worker.webhooks", None),
    ]
    for distinct in (
        {spec.name for spec in specs},
        {spec.log for spec in specs},
        {spec.arguments for spec in specs},
    ):
        assert len(distinct) == len(specs)


def test_a_render_worker_sees_its_gpu_alone(make_child: Make, fork: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    child = make_child("import os; print('sees', os.environ['CUDA_VISIBLE_DEVICES'], flush=True)", gpu=2)
    child.start(fork=fork)
    wait_for(child, "sees")
    assert child.log_tail() == "  sees 2"


def test_the_end_is_asked_for_first(make_child: Make, fork: bool) -> None:
    child = make_child(
        "import signal, time\n"
        "def leave(*_): print('leaving', flush=True); raise SystemExit(0)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    child.start(fork=fork)
    wait_for(child, "ready")
    child.ask_to_stop()
    assert child.finish() is None
    assert child.exit_code == 0
    assert child.log_tail().splitlines() == ["  ready", "  leaving"]


def test_what_does_not_listen_is_killed_with_its_own_children(make_child: Make, fork: bool) -> None:
    child = make_child(
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('ready', flush=True); time.sleep(60)",
        grace_s=0.5,
    )
    child.start(fork=fork)
    wait_for(child, "ready")
    family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
    assert len(family) == 2
    child.ask_to_stop()
    assert child.finish() == "sample did not exit within 0 s and was killed"
    assert not psutil.wait_procs(family, timeout=5)[1]


def test_a_process_gets_what_its_spec_says_and_nothing_else_of_its_parent(make_child: Make, fork: bool) -> None:
    code = (
        "import atexit, json, os, signal, sys\n"
        "atexit.register(lambda: print('at exit', flush=True))\n"
        "open_fds = []\n"
        "for fd in range(3, 256):\n"
        "    try: open_fds.append((fd, os.fstat(fd))[0])\n"
        "    except OSError: pass\n"
        # A fresh process keeps ignoring what `nohup` or a job in the background ignores; a fork ignores nothing.
        f"expected = (signal.SIG_DFL, signal.default_int_handler) + {'()' if fork else '(signal.SIG_IGN,)'}\n"
        "handlers = [signal.getsignal(n) in expected\n"
        "            for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]\n"
        "print(json.dumps([__name__, sys.argv[1:], os.getcwd(), os.environ['SAMPLE'], os.getsid(0) == os.getpid(),\n"
        "    handlers, len(signal.pthread_sigmask(signal.SIG_BLOCK, ())), open_fds, sys.stdin.read()]), flush=True)\n"
        "raise SystemExit(7)"
    )
    kept, other = os.pipe()
    former = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        child = make_child(code, keep_fds=(kept,))
        child.start(fork=fork)
        wait_until(lambda: child.exit_code is not None, 10, what="the end of the process")
    finally:
        signal.signal(signal.SIGTERM, former)
        os.close(kept)
        os.close(other)
    lines = child.spec.log.read_text().splitlines()
    folder = str(child.spec.log.parent)
    assert json.loads(lines[0]) == ["__main__", ["--some", "thing"], folder, "1", True, [True] * 3, 0, [kept], ""]
    assert lines[1:] == ["at exit"]
    assert child.exit_code == 7
    assert "SAMPLE" not in os.environ


def test_a_process_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text("import time\ntime.sleep(60)")
    parent = (
        "import os, sys, time\nfrom pathlib import Path\nfrom cli.stack.forked import prepare_to_fork\n"
        "from cli.stack.processes import Child, ChildSpec\nassert prepare_to_fork()\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\nfolder = Path({str(tmp_path)!r})\n"
        "child = Child(ChildSpec('sample', 'sleeper', (), folder / 'log', 1.0), os.environ, folder)\n"
        "child.start(fork=True)\nprint(child.pid, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        wait_until(lambda: child.name() == "sample", 10, what="the name of the process")
        process.kill()
    assert not psutil.wait_procs([child], timeout=10)[1]


def test_a_process_with_threads_does_not_fork() -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        assert not prepare_to_fork()
    finally:
        over.set()
        thread.join()


def test_json_logs_are_shown_as_plain_text(make_child: Make, tmp_path: Path) -> None:
    (tmp_path / "sample.log").write_text(
        '{"level": "critical", "message": "no engine", "traceback": "Traceback\\n  File\\nImportError: no cv2"}\n'
        "\n[1, 2]\nplain\n"
    )
    tail = make_child("").log_tail(3)
    assert tail.splitlines() == ["  critical: no engine (ImportError: no cv2)", "  [1, 2]", "  plain"]


def test_exits_are_described() -> None:
    assert describe_exit(3) == "exited with code 3"
    assert describe_exit(-9) == "was killed by SIGKILL"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_answers_on_a_kept_connection_are_sent_at_once(redis_url: str, tmp_path: Path, host: str) -> None:
    (tmp_path / "logs").mkdir()
    with listening_socket(StackAddress(host, 0)) as listener:
        address = StackAddress(host, listener.getsockname()[1])
        environment = child_environment(Settings(_env_file=None), tmp_path, own_database(redis_url), address)
        api = Child(api_spec(tmp_path, listener.fileno()), environment, tmp_path)
        api.start()
        connection = http.client.HTTPConnection(host, address.port, timeout=60)
        try:
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
            with accepted_socket(api.pid, connection.sock) as accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        finally:
            connection.close()
            api.ask_to_stop()
            api.finish()
