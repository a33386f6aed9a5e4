"""One trace from the request to the webhook, and one request id in the logs of every process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.api.running import run_api
from tests.services import wait_until
from tests.worker.conftest import Clips, WorkerProcess, make_stack, running
from tests.worker.receiver import receiving

pytestmark = pytest.mark.e2e
REQUEST_ID = "look-for-this-one"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


@dataclass
class Collector:
    """Takes OTLP over HTTP, as a collector does."""

    url: str = ""
    spans: list[tuple[str, Any]] = field(default_factory=list)

    def named(self, name: str) -> Any:
        return next((span for _, span in self.spans if span.name == name), None)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            for told in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = {each.key: each.value.string_value for each in told.resource.attributes}["service.name"]
                collector.spans += [(service, span) for scope in told.scope_spans for span in scope.spans]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()


def test_one_trace_and_one_request_id(redis_url: str, tmp_path: Path, clips: Clips) -> None:
    with collecting() as collector, receiving() as receiver:
        traced = {"RETALKING_TRACES_ENDPOINT": collector.url}
        stack = make_stack(redis_url, tmp_path, clips, **traced)
        settings = {name.removeprefix("RETALKING_"): value for name, value in stack.environment.items()}
        url = settings.pop("REDIS_URL")
        with (
            run_api(tmp_path / "api", url, **settings) as api,
            running("tests.worker.scripted_app", stack, tmp_path / "render.log") as render,
        ):
            webhooks = WorkerProcess("worker.webhooks", stack, tmp_path / "webhooks.log")
            try:
                submit(api.client, clips, receiver.url)
                wait_until(lambda: receiver.calls, 60, what="the webhook")
                wait_until(lambda: collector.named("deliver webhook"), 20, what="its span")
                wait_until(lambda: collector.named("publish"), 20, what="the last stage's span")
            finally:
                webhooks.stop()
        check_spans(collector)
        check_lines(render, webhooks, api.log)


def submit(client: Any, clips: Clips, webhook_url: str) -> None:
    headers = {"X-Request-Id": REQUEST_ID, "traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}
    files = {"video": ("a.mp4", clips.video.read_bytes()), "audio": ("a.wav", clips.audio.read_bytes())}
    fields = {"webhook_url": webhook_url, "evaluate": "[]"}
    answer = client.post("/jobs", files=files, data=fields, headers=headers)
    assert answer.status_code == 202, answer.text


def check_spans(collector: Collector) -> None:
    ours = {span.name: (service, span) for service, span in collector.spans if span.trace_id.hex() == TRACE_ID}
    for name, service in {
        "POST /jobs": "retalking-api",
        "send": "retalking-api",
        "render": "retalking-render-worker",
        "fetch": "retalking-render-worker",
        "synthesize": "retalking-render-worker",
        "publish": "retalking-render-worker",
        "deliver webhook": "retalking-webhook-worker",
    }.items():
        assert name in ours, sorted(ours)
        assert ours[name][0] == service
    request, render = ours["POST /jobs"][1], ours["render"][1]
    assert request.parent_span_id.hex() == "b7ad6b7169203331"
    assert render.parent_span_id == ours["deliver webhook"][1].parent_span_id == request.span_id
    assert ours["fetch"][1].parent_span_id == ours["publish"][1].parent_span_id == render.span_id
    assert ours["fetch"][1].end_time_unix_nano <= ours["publish"][1].start_time_unix_nano
    assert render.end_time_unix_nano >= ours["publish"][1].end_time_unix_nano
    assert "hook" not in str([span.attributes for _, span in collector.spans]), "no addresses"


def check_lines(render: WorkerProcess, webhooks: WorkerProcess, api_log: Path) -> None:
    lines = [json.loads(line) for line in api_log.read_text().splitlines() if line.startswith("{")]
    assert [line for line in lines if line.get("request") == REQUEST_ID and "POST /jobs 202" in line["message"]]
    (ended,) = [line for line in render.lines if line["message"] == "succeeded"]
    assert ended["request"] == REQUEST_ID
    assert ended["job"].startswith("job_")
    told = [line for line in webhooks.lines if line["message"] == "webhook delivered"]
    assert {line["request"] for line in told} == {REQUEST_ID}
