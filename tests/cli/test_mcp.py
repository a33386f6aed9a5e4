"""`retalking mcp` through the client of the protocol's own package, over stdio, against a running API."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the package mcp is not installed")

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import CallToolResult

from tests.api.running import MP4, ROOT, WAV, RunningApi, run_api
from tests.cli.conftest import clean_environment
from tests.client.conftest import finish
from tests.client.test_batches import play_feeder
from tests.services import first_on_path, own_database

VIDEO = bytes(range(256)) * 500


@pytest.fixture(scope="module")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with run_api(tmp_path_factory.mktemp("mcp-api"), own_database(redis_url)) as running:
        yield running


def talk(url: str, folder: Path, conversation: Callable[[ClientSession], Awaitable[Any]]) -> Any:
    (folder / "face.mp4").write_bytes(MP4)
    (folder / "speech.wav").write_bytes(WAV)
    environment = clean_environment(RETALKING_URL=url, PYTHONPATH=first_on_path(ROOT))
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "retalking_client.cli.main", "mcp"], env=environment, cwd=folder
    )

    async def run() -> Any:
        async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            return await conversation(session)

    return asyncio.run(run())


def text_of(result: CallToolResult) -> str:
    return "\n".join(part.text for part in result.content if part.type == "text")


async def call(session: ClientSession, tool: str, **arguments: Any) -> Any:
    result = await session.call_tool(tool, arguments)
    assert not result.isError, text_of(result)
    return json.loads(text_of(result))


def test_an_agent_makes_a_video(api: RunningApi, tmp_path: Path) -> None:
    def finish_when_there(job_id: str) -> threading.Thread:
        worker = threading.Thread(target=finish, args=(api, job_id, VIDEO))
        worker.start()
        return worker

    async def conversation(session: ClientSession) -> None:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        assert set(tools) == {
            "submit_job", "wait_for_job", "cancel_job", "save_result", "list_jobs",
            "submit_batch", "wait_for_batch", "cancel_batch", "list_batches",
        }  # fmt: skip
        assert set(tools["submit_job"].inputSchema["required"]) == {"video", "audio"}
        made = {"video": "face.mp4", "audio": "speech.wav", "idempotency_key": "agent-1"}
        job = await call(session, "submit_job", **made, options={"metadata": {"scene": 3}})
        again = await call(session, "submit_job", **made, options={"metadata": {"scene": 3}})
        assert again["id"] == job["id"]
        assert (await call(session, "wait_for_job", job_id=job["id"], timeout_s=0.2))["status"] == "queued"
        worker = finish_when_there(job["id"])
        over = await call(session, "wait_for_job", job_id=job["id"])
        worker.join()
        assert (over["status"], over["metadata"]) == ("succeeded", {"scene": 3})
        saved = await call(session, "save_result", job_id=job["id"], path="out.mp4")
        assert saved["path"] == str(tmp_path / "out.mp4")
        refused = await session.call_tool("save_result", {"job_id": job["id"], "path": "out.mp4"})
        assert refused.isError
        assert "file_exists" in text_of(refused)
        listed = await session.call_tool("list_jobs", {"status": "succeeded", "limit": 5})
        assert job["id"] in text_of(listed)

    talk(api.url, tmp_path, conversation)
    assert (tmp_path / "out.mp4").read_bytes() == VIDEO


def test_an_agent_submits_a_batch(api: RunningApi, tmp_path: Path) -> None:
    async def conversation(session: ClientSession) -> None:
        jobs = [{"video": "face.mp4", "audio": "speech.wav", "seed": seed} for seed in range(2)]
        made = {"jobs": jobs, "metadata": {"order": 7}, "idempotency_key": "agent-batch"}
        batch = await call(session, "submit_batch", **made)
        assert (batch["total"], batch["counts"]["waiting"], batch["metadata"]) == (2, 2, {"order": 7})
        assert (await call(session, "submit_batch", **made))["id"] == batch["id"]
        assert (await call(session, "wait_for_batch", batch_id=batch["id"], timeout_s=0))["status"] == "running"
        play_feeder(api, batch["id"])
        over = await call(session, "wait_for_batch", batch_id=batch["id"])
        assert (over["status"], over["counts"]["failed"], over["failures_left_out"]) == ("completed", 2, 0)
        assert [each["code"] for each in over["failures"]] == ["face_not_found"] * 2
        listed = await session.call_tool("list_jobs", {"batch_id": batch["id"]})
        assert all(each["job_id"] in text_of(listed) for each in over["failures"])
        second = await call(session, "submit_batch", jobs=jobs)
        canceled = await call(session, "cancel_batch", batch_id=second["id"])
        assert (canceled["status"], canceled["counts"]["canceled"]) == ("canceled", 2)
        newest = await call(session, "list_batches", limit=1)
        assert newest["id"] == second["id"]
        job = await call(session, "submit_job", video="face.mp4", audio="speech.wav")
        assert (await call(session, "cancel_job", job_id=job["id"]))["status"] == "canceled"

    talk(api.url, tmp_path, conversation)


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("submit_batch", {"jobs": []}, "jobs"),
        ("submit_batch", {"jobs": [{"video": "face.mp4"}]}, "job 1: a job is an object"),
        ("submit_batch", {"jobs": [{"video": "face.mp4", "audio": "speech.wav", "crf": 1}]}, "crf"),
        (
            "submit_batch",
            {"jobs": [{"video": "face.mp4", "audio": "speech.wav", "output": {"crf": 99}}]},
            "#/jobs/0/output/crf",
        ),
        ("wait_for_batch", {"batch_id": "batch_" + "0" * 32}, "batch_not_found"),
        ("submit_job", {"video": "none.mp4", "audio": "speech.wav"}, "file_error: none.mp4"),
        ("submit_job", {"video": "face.mp4", "audio": "speech.wav", "options": {"crf": 1}}, "crf"),
        ("submit_job", {"video": "face.mp4", "audio": "speech.wav", "options": {"fps": 0}}, "invalid_option"),
        ("wait_for_job", {"job_id": "job_" + "0" * 32}, "job_not_found"),
        ("save_result", {"job_id": "job_" + "0" * 32, "path": "x.mp4"}, "job_not_found"),
        ("list_jobs", {"status": "done"}, "status"),
    ],
)
def test_refusals_say_what_to_do(
    api: RunningApi, tmp_path: Path, tool: str, arguments: dict[str, Any], said: str
) -> None:
    async def conversation(session: ClientSession) -> CallToolResult:
        return await session.call_tool(tool, arguments)

    result = talk(api.url, tmp_path, conversation)
    assert result.isError
    assert said in text_of(result)


def test_without_a_service(tmp_path: Path) -> None:
    async def conversation(session: ClientSession) -> CallToolResult:
        return await session.call_tool("list_jobs", {})

    result = talk("http://127.0.0.1:9", tmp_path, conversation)
    assert result.isError
    assert "service_unreachable" in text_of(result)
