"""Everything a caller can send that cannot work: its own code, a sentence to act on, and a worker that goes on."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.demo_input import write_portrait
from tests.e2e.conftest import Service
from tests.media import clips

pytestmark = pytest.mark.e2e

Maker = Callable[[Path], Path]


def _still(path: Path) -> Path:
    return write_portrait(path.parent)


def _speech(path: Path) -> Path:
    return clips.make_wav(path.with_suffix(".wav"), seconds=0.6)


def _playlist(path: Path) -> Path:
    return clips.make_playlist(path, Path("/etc/hostname"))


# name of the case: (video, audio, code)
BAD_FILES: dict[str, tuple[Maker, Maker, str]] = {
    "empty file": (clips.make_empty, _speech, "file_empty"),
    "text renamed .mp4": (clips.make_text, _speech, "container_unsupported"),
    "truncated MP4": (clips.make_truncated_mp4, _speech, "media_unreadable"),
    "MP4 without video": (clips.make_sound_only_mp4, _speech, "video_stream_missing"),
    "video without any face": (clips.make_silent_video, _speech, "face_not_found"),
    "audio without audio stream": (_still, clips.make_silent_video, "audio_stream_missing"),
    "zero-length audio": (_still, lambda path: clips.make_empty_wav(path.with_suffix(".wav")), "audio_empty"),
    "20000x20000 image": (lambda path: clips.make_huge_png(path.with_suffix(".png")), _speech, "picture_too_large"),
    "3-hour audio": (_still, lambda path: clips.make_long_wav(path.with_suffix(".wav")), "media_too_long"),
    "HLS playlist renamed .mp4": (_playlist, _speech, "container_unsupported"),
    "picture as speech": (_still, _still, "container_unsupported"),
}


def _refusal(service: Service, answer: Any) -> tuple[str, str]:
    """Code and sentence, whether the request was refused or the job failed."""
    if answer.status_code != 202:
        assert answer.headers["content-type"].startswith("application/problem+json")
        problem = answer.json()
        return problem["code"], problem["detail"]
    job = service.finish(answer.json()["id"])
    assert job["status"] == "failed", job
    assert job["result"] is None
    return job["error"]["code"], job["error"]["message"]


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_named_and_harms_nobody(service: Service, tmp_path: Path, case: str) -> None:
    make_video, make_audio, code = BAD_FILES[case]
    answer = service.submit(make_video(tmp_path / "video.mp4"), make_audio(tmp_path / "audio.mp4"))
    said, sentence = _refusal(service, answer)
    assert said == code
    assert len(sentence.split()) >= 4
    assert sentence.rstrip().endswith(".")
    for leak in ("Traceback", "/tmp", str(tmp_path), "retalking_core", "object at 0x"):
        assert leak not in sentence


def test_the_worker_is_alive_after_all_of_it(succeed: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Runs after the cases above, on the same worker."""
    assert succeed(_still(tmp_path / "face"), _speech(tmp_path / "speech"))["attempts"] == 1


@pytest.mark.parametrize("job_id", ["job_" + "0" * 32, "nonsense", "job_%2e%2e"])
def test_an_unknown_job(service: Service, job_id: str) -> None:
    answer = service.client.get(f"/jobs/{job_id}")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"length_mode": "sideways"}, "invalid_option"),
        ({"output.crf": "99"}, "invalid_option"),
        ({"upper_face": "sad"}, "unsupported_option"),
        ({"expression": "smile", "engine": "preview"}, "unsupported_option"),
        ({"engine": "videoretalking"}, "engine_unavailable"),
        ({"webhook_url": "http://127.0.0.1:9/hook"}, "url_not_allowed"),
        ({"webhook_url": "http://2130706433/hook"}, "url_not_allowed"),
        ({"webhook_url": "http://[::ffff:127.0.0.1]/hook"}, "url_not_allowed"),
    ],
)
def test_a_bad_option(service: Service, tmp_path: Path, fields: dict[str, str], code: str) -> None:
    answer = service.submit(_still(tmp_path / "face"), _speech(tmp_path / "speech"), **fields)
    assert answer.status_code in {409, 422}
    assert answer.json()["code"] == code


def test_a_webhook_name_that_resolves_to_this_machine(service: Service, tmp_path: Path) -> None:
    name = socket.gethostname()
    try:
        addresses = {row[4][0] for row in socket.getaddrinfo(name, 80)}
    except OSError:
        pytest.skip(f"this machine's name {name} does not resolve, so there is no real name to try")
    answer = service.submit(_still(tmp_path / "face"), _speech(tmp_path / "speech"), webhook_url=f"http://{name}/hook")
    assert (answer.status_code, answer.json()["code"]) == (422, "url_not_allowed"), addresses


def test_malformed_json(service: Service) -> None:
    answer = service.client.post("/jobs", content=b'{"video_url": ', headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_json")


def test_a_body_over_the_limit(service: Service) -> None:
    """The JSON limit is 1 MiB by default; the limit of files is tried in tests/api with a small setting."""
    body = b'{"metadata": {"x": "' + b"a" * (2 << 20) + b'"}}'
    answer = service.client.post("/jobs", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
