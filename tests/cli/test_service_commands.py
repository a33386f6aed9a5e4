"""The commands that talk to a service, against a running API; jobs are finished by the test in a worker's place."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.api.running import MP4, ROOT, WAV, RunningApi, run_api
from tests.cli.conftest import RETALKING, Ended, clean_environment
from tests.client.breaking_proxy import BreakingProxy, Fault
from tests.client.conftest import finish
from tests.services import first_on_path, own_database, wait_until

Call = Callable[..., Ended]
VIDEO = bytes(range(256)) * 500

# What the extra `client` does not bring.
ABSENT = ("redis", "celery", "kombu", "boto3", "pydantic_settings", "fastapi", "numpy", "av", "cv2", "dlib", "torch")


@pytest.fixture(scope="module")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with run_api(tmp_path_factory.mktemp("cli-api"), own_database(redis_url)) as running:
        yield running


@pytest.fixture
def ask(call: Call, api: RunningApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """A command to that API, with face.mp4 and speech.wav in its folder."""
    (tmp_path / "face.mp4").write_bytes(MP4)
    (tmp_path / "speech.wav").write_bytes(WAV)
    monkeypatch.setenv("RETALKING_URL", api.url)
    return call


def submitted(ask: Call, *options: str) -> str:
    done = ask("submit", "face.mp4", "speech.wav", *options)
    assert done.code == 0, done.err
    return done.out.split()[0]


def test_segments_from_a_file(ask: Call, api: RunningApi, tmp_path: Path) -> None:
    lines = [
        {"audio": "speech.wav", "start_s": 0.5, "end_s": 2, "face": "left_most"},
        {"audio": "speech.wav", "start_s": 1, "face": "right_most"},
    ]
    (tmp_path / "segments.json").write_text(json.dumps(lines))
    done = ask("submit", "face.mp4", "--segments", "segments.json", "--option", "sound.mix=segments_only", "--json")
    assert done.code == 0, done.err
    job = json.loads(done.out)
    assert [(each["audio"], each["face"]) for each in job["segments"]] == [
        ("audio_1", "left_most"),
        ("audio_1", "right_most"),
    ]
    both = ask("submit", "face.mp4", "speech.wav", "--segments", "segments.json")
    neither = ask("submit", "face.mp4")
    assert (both.code, neither.code) == (2, 2)
    assert "either AUDIO or --segments" in both.err + neither.err
    (tmp_path / "segments.json").write_text(json.dumps([{**lines[0], "end_s": 0.1}]))
    refused = ask("submit", "face.mp4", "--segments", "segments.json")
    assert refused.err.startswith("error: segment_end_before_start: ")


def test_a_job_from_submission_to_deletion(ask: Call, api: RunningApi, tmp_path: Path) -> None:
    job_id = submitted(ask, "--option", "length_mode=loop", "--option", 'metadata={"title": "take 3"}')
    assert ask("jobs", "show", job_id).out.splitlines()[0].split() == ["job", job_id]
    refused = ask("delete", job_id, "--yes")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith(f"error: job_not_finished: {job_id} is queued; cancel it")
    early = ask("download", job_id)
    assert early.code == 1
    assert early.err.startswith("error: result_not_ready: ")

    finish(api, job_id, VIDEO)
    fetched = ask("download", job_id, "--out", "new/result.mp4")
    assert (fetched.code, fetched.out) == (0, "new/result.mp4\n")
    assert (tmp_path / "new" / "result.mp4").read_bytes() == VIDEO
    assert ask("download", job_id, "-o", "folder/").out == f"folder/{job_id}.mp4\n"
    lines = ask("events", job_id).out.splitlines()
    assert lines[0].split()[2] == "job.queued"
    assert lines[-1].split()[2:] == ["job.succeeded", "100%"]
    events = [json.loads(line) for line in ask("events", job_id, "--json").out.splitlines()]
    assert len(events) == len(lines)
    assert ask("cancel", job_id).out == f"{job_id}  succeeded\n"
    assert ask("delete", job_id, "--yes").out == f"{job_id}  deleted\n"
    gone = ask("jobs", "show", job_id)
    assert gone.code == 1
    assert gone.err.startswith("error: job_not_found: ")
    assert "retention" in gone.err, "the advice is said too"


def test_quiet_prints_the_id_alone(ask: Call, api: RunningApi) -> None:
    """`J=$(retalking submit ... --quiet)`."""
    done = ask("submit", "face.mp4", "speech.wav", "--quiet")
    job_id = done.out.removesuffix("\n")
    assert api.store.jobs.get(job_id).id == job_id
    assert done.err == ""
    api.fail(job_id)
    again = ask("retry", job_id, "--quiet").out.removesuffix("\n")
    assert api.store.jobs.get(again).spec.retry_of == job_id
    finish(api, again, VIDEO)
    assert ask("retry", again).err.startswith("error: retry_not_possible: ")


def test_waiting_brings_the_result(ask: Call, api: RunningApi, tmp_path: Path) -> None:
    before = set(ask("jobs", "--limit", "100").out.split())

    def work() -> None:
        def newest() -> str | None:
            return next(
                (job.id for job in api.store.jobs.page(status=None, cursor=None, limit=1).jobs if job.id not in before),
                None,
            )

        finish(api, wait_until(newest, 20, 0.05, "the job is submitted"), VIDEO)

    worker = threading.Thread(target=work)
    worker.start()
    done = ask("submit", "face.mp4", "speech.wav", "--out", "result.mp4", "--json", "--timeout", "60")
    worker.join()
    assert done.code == 0, done.err
    job = json.loads(done.out)
    assert job["status"] == "succeeded"
    assert "synthesize" in done.err, "progress goes to stderr"
    assert (tmp_path / "result.mp4").read_bytes() == VIDEO
    again = ask("wait", job["id"])
    assert (again.code, again.out.split()[:2]) == (0, [job["id"], "succeeded"])


def test_a_failed_job_ends_with_1_and_its_code(ask: Call, api: RunningApi) -> None:
    job_id = submitted(ask)
    api.fail(job_id)
    done = ask("wait", job_id, "-o", "result.mp4")
    assert done.code == 1
    assert f"error: face_not_found: No face. (job {job_id}) Send a clip that shows a face" in done.err
    assert not Path("result.mp4").exists()


def test_jobs_are_listed_and_filtered(ask: Call, api: RunningApi) -> None:
    mine = submitted(ask, "--option", 'metadata={"customer": "a-7", "take": 3}')
    other = submitted(ask)
    assert ask("cancel", other).out == f"{other}  canceled\n"
    rows = [line.split("\t") for line in ask("jobs", "--limit", "2").out.splitlines()]
    assert [row[:2] for row in rows] == [[other, "canceled"], [mine, "queued"]]
    found = json.loads(ask("jobs", "list", "--metadata", "customer=a-7", "-m", "take=3", "--json").out)
    assert [job["id"] for job in found] == [mine]
    assert ask("jobs", "list", "-m", "take=4").out == ""
    assert ask("jobs", "list", "--status", "canceled", "-L", "1").out.startswith(other)
    assert ask("jobs", "--status", "done").code == 2
    assert json.loads(ask("jobs", "show", mine, "--json").out)["metadata"]["take"] == 3


def test_refusals_have_exit_codes(ask: Call, api: RunningApi) -> None:
    unreachable = ask("jobs", "--url", "http://127.0.0.1:9")
    assert unreachable.code == 3
    assert unreachable.err.startswith("error: service_unreachable: http://127.0.0.1:9 does not respond")
    assert len(unreachable.err.splitlines()) == 1
    assert ask("jobs", "--url", "nonsense").code == 3
    missing = ask("submit", "no.mp4", "speech.wav")
    assert (missing.code, missing.err) == (2, "error: file_not_found: There is no file no.mp4.\n")
    option = ask("submit", "face.mp4", "speech.wav", "--option", "length_mode=stretch")
    assert option.code == 2
    assert option.err.startswith("error: invalid_option: length_mode: ")
    assert ask("redeliver", submitted(ask)).err.startswith("error: webhook_not_configured: ")
    with BreakingProxy(api.url) as proxy:
        problem = b'{"code": "key_missing", "title": "No API key", "detail": "This service wants a key."}'
        proxy.will(
            Fault("GET", "/jobs", status=401, headers={"Content-Type": "application/problem+json"}, body=problem)
        )
        denied = ask("jobs", "--url", proxy.url)
    assert denied.code == 4
    assert denied.err.startswith("error: key_missing: This service wants a key.")


def test_giving_up_and_deleting_only_when_sure(ask: Call) -> None:
    job_id = submitted(ask)
    late = ask("wait", job_id, "--timeout", "0.3")
    assert late.code == 1
    message = f"error: wait_timeout: {job_id} did not finish within 0.3 s; it continues."
    assert late.err.splitlines()[-1].startswith(message)
    assert ask("delete", job_id).code != 0, "nobody there to say yes"
    assert ask("jobs", "show", job_id).code == 0


def test_a_shell_completes_commands_and_jobs(ask: Call, api: RunningApi) -> None:
    job_id = submitted(ask)

    def completed(words: str) -> list[str]:
        done = subprocess.run(
            RETALKING,
            env=clean_environment(
                _RETALKING_COMPLETE="complete_bash",
                COMP_WORDS=words,
                COMP_CWORD=str(len(words.split(" ")) - 1),
                RETALKING_URL=api.url,
                PYTHONPATH=first_on_path(ROOT),
            ),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        return done.stdout.split()

    assert {"cancel", "jobs", "submit"} <= set(completed("retalking "))
    assert job_id in completed(f"retalking cancel {job_id[:8]}")


def test_the_commands_need_nothing_but_the_client_extra() -> None:
    """No module of the other extras is imported by the time that a command runs."""
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from cli.main import main
for line in sys.stdin:
    sys.argv = ["retalking", *line.split()]
    try:
        main()
    except SystemExit as end:
        print(line.strip(), end.code or 0, file=sys.stderr, sep=" -> ")
"""
    commands = {"--help": 0, "submit --help": 0, "weights list": 0, "jobs --url http://127.0.0.1:9": 3, "up": 2}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="\n".join(commands),
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    for command, code in commands.items():
        assert f"{command} -> {code}\n" in done.stderr, done.stderr
    assert "error: extra_missing: This command needs the `embedded` extra" in done.stderr


def test_the_version(call: Call) -> None:
    from retalking_client import __version__ as of_client
    from retalking_core import __version__

    assert call("--version").out == f"retalking {__version__}\n"
    assert of_client == __version__
