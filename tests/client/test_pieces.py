"""The decisions that both clients share, without a service."""

from __future__ import annotations

import inspect
import json
import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from retalking_client import Client, Job, RetryPolicy, UnexpectedAnswerError, WebhookInvalidError, verify_webhook
from retalking_client.calls import submit_call
from retalking_client.events import EventCursor, EventParser
from retalking_client.options import AccountChanges, JobFilters
from retalking_client.responses import Attempts, error_of_response, retry_after_s, target_of

SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY="
JOB = {"id": "job_1", "status": "succeeded", "created_at": "2026-01-01T00:00:00Z"}


@given(cuts=st.lists(st.integers(0, 120), max_size=8), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_events_survive_every_way_of_cutting_the_stream(cuts: list[int], end: str) -> None:
    lines = [": comment", "", "id: 1", "event: x", 'data: {"a": "ä\u2028"}', "retry: 5", "", "data:one", "data: two"]
    stream = end.join([*lines, "", "data: never ended"]).encode()
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    parser = EventParser()
    found = [data for a, b in pairwise(places) for data in parser.feed(stream[a:b])]
    assert found == [None, '{"a": "ä\u2028"}', "one\ntwo"]


def test_a_listener_takes_no_nonsense_for_an_event() -> None:
    cursor = EventCursor("job_1")
    assert cursor.take("not json") is None
    assert cursor.take('{"id": "1-0"}') is None
    assert cursor.last_id is None
    event = {"id": "2-0", "event": "job.succeeded", "at": JOB["created_at"], "status": "succeeded"}
    assert cursor.take(json.dumps(event)) is not None
    assert (cursor.last_id, cursor.is_over) == ("2-0", True)


def test_pauses_grow_and_vary() -> None:
    attempts = Attempts(
        RetryPolicy(retries=5, first_pause_s=1, longest_pause_s=4), submit_call("http://a", "http://b", {})
    )
    lost = httpx.ReadError("gone", request=httpx.Request("POST", "http://a"))
    pauses = [attempts.after_error(lost) for _ in range(5)]
    for pause_s, full_s in zip(pauses, (1, 2, 4, 4, 4), strict=True):
        assert full_s / 2 <= pause_s <= full_s


def test_retry_after_in_both_forms() -> None:
    def asked(text: str) -> float | None:
        return retry_after_s(httpx.Response(503, headers={"Retry-After": text}))

    assert asked("7") == 7
    assert asked(format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)) == pytest.approx(30, abs=2)
    assert asked(format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)) == 0
    assert asked("soon") is None
    assert asked("") is None


def test_an_answer_of_something_else_shows_no_signature() -> None:
    request = httpx.Request("GET", "http://store/file?X-Signature=secret")
    error = error_of_response(httpx.Response(502, content=b"<h1>Bad gateway</h1>", request=request))
    assert isinstance(error, UnexpectedAnswerError)
    assert error.message == "http://store/file answered 502."


def test_every_submission_has_a_key_of_its_own() -> None:
    keys = {submit_call("http://a", "http://b", {}).headers["Idempotency-Key"] for _ in range(20)}
    assert len(keys) == 20
    assert submit_call("http://a", "http://b", {}, "mine").headers["Idempotency-Key"] == "mine"


def test_where_a_result_goes(tmp_path: Path) -> None:
    job = Job.model_validate(JOB)
    assert target_of(job, None) == Path("job_1.mp4")
    assert target_of(job, tmp_path) == tmp_path / "job_1.mp4"
    assert target_of(job, f"{tmp_path}/new/") == tmp_path / "new" / "job_1.mp4"
    assert target_of(job, tmp_path / "x.mov") == tmp_path / "x.mov"


def signed(body: str, at: datetime) -> dict[str, str]:
    return {
        "Webhook-Id": "whd_1",
        "Webhook-Timestamp": str(int(at.timestamp())),
        "Webhook-Signature": Webhook(SECRET).sign("whd_1", at, body),
    }


def test_a_webhook_is_believed_only_when_it_is_signed() -> None:
    now = datetime.now(UTC)
    body = json.dumps({"type": "job.succeeded", "timestamp": JOB["created_at"], "data": JOB})
    headers = signed(body, now)
    assert verify_webhook(body.encode(), headers, SECRET).data.id == "job_1"
    forged = [
        (body.replace("job_1", "job_2"), headers),
        (body, signed(body, now - timedelta(minutes=6))),
        (body, {**headers, "Webhook-Signature": "v1,AAAA"}),
        (body, {**headers, "Webhook-Signature": "nonsense"}),
        (body, {**headers, "Webhook-Timestamp": "yesterday"}),
        (body, {}),
        ("{}", signed("{}", now)),
        ("no json", signed("no json", now)),
    ]
    for text, sent in forged:
        with pytest.raises(WebhookInvalidError):
            verify_webhook(text, sent, SECRET)
    with pytest.raises(WebhookInvalidError):
        verify_webhook(b"\xff\xfe", headers, SECRET)
    with pytest.raises(ValueError, match="whsec_"):
        verify_webhook(body, headers, "")


def test_a_webhook_verifies_with_one_of_several_secrets() -> None:
    """Ours changes at another moment than theirs."""
    body = json.dumps({"type": "job.succeeded", "timestamp": JOB["created_at"], "owner": "a1", "data": JOB})
    headers = signed(body, datetime.now(UTC))
    other = "whsec_" + "b3RoZXJvdGhlcm90aGVyb3RoZXJvdGhlcm90aGVyb3Q="
    for secrets in ([SECRET, other], [other, SECRET]):
        assert verify_webhook(body, headers, secrets).data.id == "job_1"
    with pytest.raises(WebhookInvalidError):
        verify_webhook(body, headers, [other])
    with pytest.raises(ValueError, match="at least one"):
        verify_webhook(body, headers, [])


def test_the_page_lists_the_methods() -> None:
    """Methods and their arguments in the table of docs/client.md; its Python compiles."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
    table = page[page.index("| method |") : page.index("### On an unreliable network")]
    named = re.findall(r"`(\w+)\(([^)]*)\)`", table)
    assert len(named) >= 12
    for name, arguments in named:
        known = set(inspect.signature(getattr(Client, name)).parameters)
        for arguments_of, unpacked in (("filters", JobFilters), ("changes", AccountChanges)):
            if arguments_of in known:
                known |= set(unpacked.__annotations__)
        listed = [each.strip(" =*") for each in arguments.split(",") if each.strip()]
        assert set(listed) <= known, name
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        compile(block, "docs/client.md", "exec")
