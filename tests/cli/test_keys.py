"""`retalking keys`, and a service that asks for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Ended, Up
from tests.services import own_database, wait_until

KEY = re.compile(r"^rtk_[0-9a-f]{16}_[0-9a-f]{64}$", re.MULTILINE)
Call = Callable[..., Ended]


@pytest.fixture
def on_redis(call: Call, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("RETALKING_REDIS_URL", own_database(redis_url))
    return call


def test_the_highest_priority_of_a_key(on_redis: Call) -> None:
    assert on_redis("keys", "create", "usual").code == 0
    assert on_redis("keys", "create", "urgent", "--max-priority", "2").code == 0
    assert on_redis("keys", "create", "too-much", "--max-priority", "3").code == 2
    lines = on_redis("keys", "list").out.splitlines()
    place = lines[0].index("max priority")
    assert [line[place:].split()[0] for line in lines[1:3]] == ["1", "2"]


def test_create_list_revoke(on_redis: Call) -> None:
    made = on_redis("keys", "create", "studio", "--scope", "read", "--live-jobs", "7")
    assert made.code == 0
    (key,) = KEY.findall(made.out)
    assert made.out.strip() == key, "nothing else on stdout: a script can take it"
    _, key_id, secret = key.split("_")
    listed = on_redis("keys", "list").out
    (row,) = [line for line in listed.splitlines() if key_id in line]
    assert row.split()[:5] == [key_id, "studio", "read", "default", "7"]
    assert secret not in listed
    assert on_redis("keys", "revoke", key_id).out == f"{key_id}  studio  revoked\n"
    (row,) = [line for line in on_redis("keys", "list").out.splitlines() if key_id in line]
    assert len(re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d", row)) == 2, "created and revoked"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["revoke", "0" * 16], 1, "key_not_found"),
        (["revoke", "../x"], 1, "key_not_found"),
        (["create", "x", "--scope", "root"], 2, "invalid_scope: A scope is one of submit, read, admin."),
        (["create", ""], 2, "invalid_name"),
        (["create", "two\nlines"], 2, "invalid_name"),
    ],
)
def test_refusals(on_redis: Call, arguments: list[str], code: int, said: str) -> None:
    ended = on_redis("keys", *arguments)
    assert ended.code == code
    assert ended.err.startswith(f"error: {said}")
    assert len(ended.err.splitlines()) == 1


def test_no_service_is_named(call: Call, tmp_path: Path) -> None:
    ended = call("keys", "list", "--data", str(tmp_path / "none"))
    assert ended.code == 2
    assert ended.err.startswith("error: store_not_found: No `retalking up` runs on")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_public_address_without_keys_is_refused(call: Call, tmp_path: Path, host: str) -> None:
    ended = call("up", "--host", host, "--port", "0", "--data", str(tmp_path / "data"))
    assert ended.code == 2
    assert ended.err.startswith("error: keys_required: ")
    assert not (tmp_path / "data").exists()


@pytest.mark.e2e
def test_up_with_keys(
    start_up: Callable[..., Up],
    call: Call,
    tmp_path: Path,
    portrait: Path,
    short_speech: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On all addresses of the machine: the first key is handed out, and makes the others."""
    data = tmp_path / "data"
    up = start_up(data, "--host", "0.0.0.0", RETALKING_REQUIRE_KEYS="true")
    url = up.url()
    (first,) = wait_until(lambda: KEY.findall(up.text), 20, what="the first key is handed out")
    assert httpx.get(f"{url}/jobs").status_code == 401
    assert httpx.get(f"{url}/jobs", headers={"Authorization": f"Bearer {first}"}).status_code == 200

    (key,) = KEY.findall(call("keys", "create", "submitter", "--data", str(data)).out)
    job = ("submit", str(portrait), str(short_speech), "--url", url, "--option", "evaluate=[]", "--out", "result.mp4")
    refused = call(*job)
    assert refused.code == 4
    assert refused.err.startswith("error: unauthorized: ")
    monkeypatch.setenv("RETALKING_API_KEY", key)
    done = call(*job)
    assert done.code == 0, done.err
    assert (tmp_path / "result.mp4").stat().st_size > 1000

    assert call("keys", "revoke", key.split("_")[1], "--data", str(data)).code == 0
    assert call(*job).code == 4
    for log in data.rglob("*.log"):
        assert key.split("_")[2] not in log.read_text(errors="replace"), log


def test_the_webhook_secret_of_a_key_is_shown_and_rotated(
    on_redis: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_id = KEY.findall(on_redis("keys", "create", "studio").out)[0].split("_")[1]
    monkeypatch.setenv("RETALKING_DATA_DIR", str(tmp_path / "elsewhere"))
    unknown = on_redis("keys", "webhook-secret", key_id)
    assert (unknown.code, "webhook_secret_unknown" in unknown.err) == (2, True), "none is made up"
    monkeypatch.setenv("RETALKING_WEBHOOK_SECRET", "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY=")
    (first,) = on_redis("keys", "webhook-secret", key_id).out.split()
    assert first.startswith("whsec_")
    rotated = on_redis("keys", "webhook-secret", key_id, "--rotate").out.split()
    assert rotated[1] == first != rotated[0]
    assert on_redis("keys", "webhook-secret", key_id).out.split() == rotated
    assert len(on_redis("keys", "webhook-secret", key_id, "--rotate", "--overlap-s", "0").out.split()) == 1
    assert on_redis("keys", "webhook-secret", "0" * 16).code == 1


def test_an_account_with_keys_that_come_and_go(on_redis: Call) -> None:
    first = KEY.findall(on_redis("keys", "create", "studio", "--live-jobs", "7").out)[0].split("_")[1]
    second = KEY.findall(on_redis("keys", "create", "ci", "--account", first).out)[0].split("_")[1]
    third = KEY.findall(on_redis("keys", "rotate", second, "--overlap-s", "0").out)[0].split("_")[1]
    rows = [line.split() for line in on_redis("keys", "list").out.splitlines()[1:4]]
    assert [row[0] for row in rows] == [first, second, third]
    assert [row[-2:] for row in rows] == [[first, "studio"]] * 3
    assert [row[5] for row in rows] == ["7"] * 3, "the limit of the account"
    changed = on_redis("keys", "limits", first, "--live-jobs", "0", "--stored-bytes", "4096").out
    assert changed == f"{first}  studio  requests_per_minute=default  live_jobs=default  stored_bytes=4096\n"
    used = on_redis("keys", "usage", "--months", "2").out.splitlines()
    assert [line.split()[:2] for line in used[1:]] == [[first, "studio"]] * 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["create", "x", "--account", "0" * 16], 1, "account_not_found"),
        (["create", "x", "--account", "0" * 16, "--live-jobs", "3"], 2, "limits_of_account"),
        (["rotate", "0" * 16], 1, "key_not_found"),
        (["limits", "nobody", "--live-jobs", "3"], 1, "account_not_found"),
        (["limits", "0" * 16, "--stored-bytes", "10"], 2, "invalid_limit"),
    ],
)
def test_refusals_about_accounts(on_redis: Call, arguments: list[str], code: int, said: str) -> None:
    ended = on_redis("keys", *arguments)
    assert (ended.code, ended.err.split(": ")[1]) == (code, said)
    assert len(ended.err.splitlines()) == 1


def test_a_revoked_key_is_not_rotated(on_redis: Call) -> None:
    key_id = KEY.findall(on_redis("keys", "create", "studio").out)[0].split("_")[1]
    assert on_redis("keys", "revoke", key_id).code == 0
    ended = on_redis("keys", "rotate", key_id)
    assert (ended.code, ended.err.startswith("error: key_revoked: ")) == (1, True)
