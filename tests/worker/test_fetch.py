"""Inputs from addresses: followed three times at most, capped, retried where that can help."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.errors import ServiceError
from jobs.local_objects import LocalObjectStore
from jobs.models import InputRef, JobRequest, JobSpec
from tests.worker.receiver import Receiver, Reply, receiving
from worker.egress import Egress
from worker.fetch import Fetcher, Inputs


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def fetcher(tmp_path: Path, waits: list[float]) -> Fetcher:
    objects = LocalObjectStore(tmp_path / "objects")
    (tmp_path / "speech").write_bytes(b"speech")
    objects.put_file("jobs/1/input/audio", tmp_path / "speech", "audio/wav")
    return Fetcher(
        objects=objects,
        egress=Egress(("127.0.0.1",), idle_s=2.0, total_s=5.0),
        max_bytes=1000,
        beat=lambda *_: None,
        wait=waits.append,
    )


def fetch(fetcher: Fetcher, folder: Path, url: str) -> Inputs:
    spec = JobSpec(
        video=InputRef(kind="url", url=url),
        audio=InputRef(kind="object", key="jobs/1/input/audio"),
        request=JobRequest(),
    )
    return fetcher.fetch_all(spec, folder)


def refusal(fetcher: Fetcher, folder: Path, url: str) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        fetch(fetcher, folder, url)
    return caught.value


def test_files_come_from_addresses_and_objects_under_our_own_names(
    fetcher: Fetcher, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.replies = [Reply(chunks=(b"a" * 400, b"b" * 400))]
    seen: list[object] = []
    inputs = fetch(replace(fetcher, beat=lambda *told: seen.append(told)), tmp_path, f"{receiver.url}/../../etc/x?k=v")
    assert inputs == Inputs(tmp_path / "video", tmp_path / "audio", None)
    assert inputs.video.read_bytes() == b"a" * 400 + b"b" * 400
    assert inputs.audio.read_bytes() == b"speech"
    assert seen[0] == ("fetch", 0.0, "video")
    assert seen[-1] == ("fetch", 1.0, None)
    assert len(seen) >= 4


def test_three_redirects_are_followed_and_a_fourth_is_not(fetcher: Fetcher, receiver: Receiver, tmp_path: Path) -> None:
    onward = [Reply(302, {"Location": f"/{number}"}) for number in range(3)]
    receiver.replies = [*onward, Reply(chunks=(b"ok",))]
    assert fetch(fetcher, tmp_path, receiver.url).video.read_bytes() == b"ok"
    assert [call.path for call in receiver.calls] == ["/", "/0", "/1", "/2"]
    receiver.replies = [*onward, Reply(307, {"Location": "/4"})]
    fault = refusal(fetcher, tmp_path, receiver.url)
    assert fault.code == "input_unreachable"
    assert "redirects" in fault.message


@pytest.mark.parametrize("target", ["http://10.0.0.1/x", "http://169.254.169.254/x", "file:///etc/passwd"])
def test_a_redirect_is_checked_like_the_first_address(
    fetcher: Fetcher, receiver: Receiver, tmp_path: Path, target: str
) -> None:
    receiver.replies = [Reply(302, {"Location": target})]
    assert refusal(fetcher, tmp_path, receiver.url).code == "url_not_allowed"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(chunks=(b"x" * 1001,)),
        Reply(headers={"Content-Length": "99999999999"}, chunks=(b"",)),
        Reply(headers={"Content-Length": ""}, chunks=(b"x" * 600, b"x" * 600)),
    ],
)
def test_a_body_over_the_limit_is_refused(fetcher: Fetcher, receiver: Receiver, tmp_path: Path, reply: Reply) -> None:
    receiver.replies = [reply]
    assert refusal(fetcher, tmp_path, receiver.url).code == "body_too_large"
    assert len(receiver.calls) == 1


def test_an_object_over_the_limit_is_refused(fetcher: Fetcher, receiver: Receiver, tmp_path: Path) -> None:
    small = replace(fetcher, max_bytes=5)
    assert refusal(small, tmp_path, receiver.url).code == "body_too_large"


def test_a_fault_that_may_pass_is_tried_again(
    fetcher: Fetcher, receiver: Receiver, tmp_path: Path, waits: list[float]
) -> None:
    cut_short = Reply(headers={"Content-Length": "10"}, chunks=(b"half",))
    receiver.replies = [Reply(503), cut_short, Reply(chunks=(b"whole",))]
    assert fetch(fetcher, tmp_path, receiver.url).video.read_bytes() == b"whole"
    assert len(waits) == 2


def test_a_fault_that_stays_is_said(fetcher: Fetcher, receiver: Receiver, tmp_path: Path, waits: list[float]) -> None:
    receiver.replies = [Reply(500)]
    fault = refusal(fetcher, tmp_path, f"{receiver.url}/?token=secret")
    assert fault.code == "input_unreachable"
    assert "500" in fault.message
    assert "secret" not in fault.message
    assert (len(receiver.calls), len(waits)) == (3, 2)


def test_an_address_that_drips_is_given_up_by_name(
    fetcher: Fetcher, receiver: Receiver, tmp_path: Path, waits: list[float]
) -> None:
    """Once: a server that is slow today is slow in a second as well, and a worker waits for it."""
    paced = replace(fetcher, egress=replace(fetcher.egress, total_s=30.0, min_bytes_per_s=100, rate_window_s=0.5))
    receiver.replies = [Reply(chunks=(b"x",) * 100, before_chunk=lambda: time.sleep(0.1))]
    fault = refusal(paced, tmp_path, f"{receiver.url}/?token=secret")
    assert fault.code == "input_too_slow"
    assert "100 bytes a second" in fault.message
    assert "secret" not in fault.message
    assert (len(receiver.calls), waits) == (1, [])


def test_tries_and_redirects_share_one_deadline(
    fetcher: Fetcher, receiver: Receiver, tmp_path: Path, waits: list[float]
) -> None:
    """Three tries of four requests would take 12 times 0.3 s here."""
    short = replace(fetcher, egress=replace(fetcher.egress, total_s=1.0), wait=time.sleep)
    receiver.replies = [Reply(302, {"Location": "/on"}, before_status=lambda: time.sleep(0.3))]
    fault = refusal(short, tmp_path, receiver.url)
    assert fault.code == "input_too_slow"
    assert "1 s" in fault.message
    receiver.replies = [Reply(503)]
    fault = refusal(short, tmp_path, receiver.url)
    assert fault.code == "input_too_slow"


def test_all_files_share_one_deadline(fetcher: Fetcher, receiver: Receiver, tmp_path: Path) -> None:
    short = replace(fetcher, egress=replace(fetcher.egress, total_s=1.0))
    receiver.replies = [Reply(chunks=(b"ok",), before_status=lambda: time.sleep(0.6))]
    spec = JobSpec(
        video=InputRef(kind="url", url=receiver.url),
        audio=InputRef(kind="url", url=receiver.url),
        request=JobRequest(),
    )
    with pytest.raises(ServiceError) as caught:
        short.fetch_all(spec, tmp_path)
    assert caught.value.code == "input_too_slow"
    assert "audio" in caught.value.message


def test_a_refusal_is_not_repeated(fetcher: Fetcher, receiver: Receiver, tmp_path: Path) -> None:
    receiver.replies = [Reply(404)]
    fault = refusal(fetcher, tmp_path, receiver.url)
    assert fault.code == "input_unreachable"
    assert "404" in fault.message
    assert len(receiver.calls) == 1


@pytest.mark.parametrize("location", ["http://[", "//[", "http://[::1", "http://]/", "http://[v1.x]/", "http://a[b]/"])
def test_a_redirect_to_what_is_no_address(fetcher: Fetcher, receiver: Receiver, tmp_path: Path, location: str) -> None:
    receiver.replies = [Reply(302, {"Location": location})]
    refused = refusal(fetcher, tmp_path, receiver.url)
    assert refused.code in ("input_unreachable", "url_not_allowed")
    assert location not in refused.message
