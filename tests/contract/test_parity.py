"""The hand-layered clients know what the OpenAPI document says: every operation, and every field with its type."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, TypeAdapter

from docs.making.http_page import read_document
from retalking_client import Client, models, options
from retalking_client.client import RetryPolicy
from retalking_client.errors import RetalkingClientError

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]
DOCUMENT = read_document()
SCHEMAS: Json = DOCUMENT["components"]["schemas"]

# What no client calls, and why
FOR_MONITORING = "programs that watch a service ask without a client"
LEFT_OUT = {
    "getHealth": FOR_MONITORING,
    "getReadiness": FOR_MONITORING,
    "getMetrics": FOR_MONITORING,
    "headResult": "a download checks size and digest, which the job names already",
    "openMedia": "players open the links of getMedia",
    "listErrors": "each client has the table: exceptions made from it, or the code and advice of each refusal",
    "listQuarantine": "operators repair records with curl: docs/operations.md",
    "deleteQuarantined": "operators repair records with curl: docs/operations.md",
}
# Beside these, of TypeScript
FOR_ADMINS = "admins have the Python client, the console, and the generated functions with `service.client`"
LEFT_OUT_OF_TYPESCRIPT = LEFT_OUT | {
    "putUpload": "`upload` sends the file to the link that createUpload answered",
    "listKeys": FOR_ADMINS,
    "createKey": FOR_ADMINS,
    "rotateKey": FOR_ADMINS,
    "revokeKey": FOR_ADMINS,
    "listAccounts": FOR_ADMINS,
    "changeAccount": FOR_ADMINS,
}

LINK, ID = "https://example.org/a", "job_1"
JOB = {"id": ID, "status": "succeeded", "created_at": "2026-01-01T00:00:00Z", "result": {
    "url": "/v1/jobs/job_1/result", "content_type": "video/mp4", "size_bytes": 9, "sha256": "", "duration_s": 1,
    "width": 1, "height": 1, "fps": 25, "frames": 1,
}}  # fmt: skip
BATCH = {"id": "batch_1", "status": "completed", "total": 0, "failures": [], "cancel_requested": False,
    "created_at": "2026-01-01T00:00:00Z", "jobs_url": "/v1/jobs?batch=batch_1",
    "counts": dict.fromkeys(("waiting", "queued", "running", "succeeded", "failed", "canceled"), 0),
}  # fmt: skip
UPLOAD = {"id": "up_1", "url": "/v1/uploads/up_1/content", "expires_at": "2026-01-01T00:00:00Z", "max_bytes": 9}
# What the recorder answers, so that methods get to their last call. Everything else is 404.
ANSWERS = {
    "getJob": (200, JOB),
    "getBatch": (200, BATCH),
    "createUpload": (201, UPLOAD),
    "submitJob": (202, JOB),
    "submitJobFiles": (202, JOB),
    "analyzeVideo": (202, JOB),
}
FILTERS: options.JobFilters = {
    "status": ["queued", "failed"],
    "created_after": datetime(2026, 1, 1, tzinfo=UTC),
    "created_before": "2026-02-01T00:00:00Z",
    "metadata": {"order": 7},
    "webhook": "undelivered",
    "engine": "preview",
    "batch": "batch_1",
}
# Parameters that no method of the Python client sends, and why
UNSENT = {
    "wait": "the client follows the events instead",
    "limit": "pages have the size of the service, except those of jobs",
    "cursor": "taken from the page before",
    "named": "names are in the data",
    "key_id": "the secrets of other accounts are for operators",
    "expires": "in links",
    "signature": "in links",
    "key": "in links",
}
# How each method is called: what it takes besides `self`
CALLS: dict[str, Callable[[Client, Path], object]] = {
    "submit": lambda client, file: (client.submit(LINK, LINK), client.submit(file, LINK)),
    "run": lambda client, file: client.run(LINK, LINK, file.parent / "result.mp4"),
    "analyze": lambda client, file: (client.analyze(LINK), client.analyze(file)),
    "analysis": lambda client, file: client.analysis(ID),
    "submit_batch": lambda client, file: client.submit_batch([{"video": LINK, "audio": LINK}]),
    "batch": lambda client, file: client.batch("batch_1"),
    "batches": lambda client, file: list(client.batches()),
    "wait_batch": lambda client, file: client.wait_batch("batch_1"),
    "cancel_batch": lambda client, file: client.cancel_batch("batch_1"),
    "delete_batch": lambda client, file: client.delete_batch("batch_1"),
    "upload": lambda client, file: client.upload(file),
    "get": lambda client, file: client.get(ID),
    "jobs": lambda client, file: list(client.jobs(**FILTERS)),
    "events": lambda client, file: list(client.events(ID)),
    "wait": lambda client, file: client.wait(ID),
    "download": lambda client, file: client.download(ID, file.parent / "result.mp4"),
    "evaluation": lambda client, file: client.evaluation(ID),
    "media": lambda client, file: client.media(ID),
    "poster": lambda client, file: client.poster(ID),
    "preview": lambda client, file: client.preview(ID),
    "portrait": lambda client, file: client.portrait(ID, "person_1"),
    "retry": lambda client, file: client.retry(ID),
    "cancel": lambda client, file: client.cancel(ID),
    "delete": lambda client, file: client.delete(ID),
    "redeliver": lambda client, file: client.redeliver(ID),
    "undelivered": lambda client, file: list(client.undelivered()),
    "redeliver_event": lambda client, file: client.redeliver_event("whd_1"),
    "webhook_secret": lambda client, file: client.webhook_secret(),
    "rotate_webhook_secret": lambda client, file: client.rotate_webhook_secret(),
    "keys": lambda client, file: list(client.keys(account="1")),
    "create_key": lambda client, file: client.create_key("somebody"),
    "rotate_key": lambda client, file: client.rotate_key("1"),
    "revoke_key": lambda client, file: client.revoke_key("1"),
    "accounts": lambda client, file: list(client.accounts()),
    "change_account": lambda client, file: client.change_account("1", name="Other"),
    "usage": lambda client, file: list(client.usage(account="1")),
    "offer": lambda client, file: client.offer(),
}


def operations() -> dict[str, tuple[str, str]]:
    """Method and path by id."""
    return {
        operation["operationId"]: (method.upper(), path)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
        if method != "parameters"
    }


def operation_of(method: str, path: str) -> str:
    """Literal paths come before templates. Raises LookupError for a call that the document does not have."""
    found = [
        (template.count("{"), name)
        for name, (its_method, template) in operations().items()
        if its_method == method and re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template)), path)
    ]
    if not found:
        raise LookupError(f"{method} {path}")
    return min(found)[1]


def test_every_operation_has_a_method_of_the_python_client(tmp_path: Path) -> None:
    """The asyncio client has the same methods: this one is made from it."""
    called: set[str] = set()
    sent: dict[str, set[str]] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        called.add(operation := operation_of(request.method, request.url.path))
        sent.setdefault(operation, set()).update(request.url.params)
        status, body = ANSWERS.get(operation, (404, {"code": "not_found", "title": "Not found"}))
        return httpx.Response(status, json=body)

    file = tmp_path / "face.mp4"
    file.write_bytes(b"face")
    assert set(CALLS) == {name for name in vars(Client) if not name.startswith("_")} - {"url", "close"}
    with Client(LINK.removesuffix("/a"), retry=RetryPolicy(retries=0)) as client:
        client._http.close()
        client._http = httpx.Client(transport=httpx.MockTransport(answer))
        for name, call in CALLS.items():
            before = set(called)
            called.clear()
            with suppress(RetalkingClientError):  # how it answers is tested elsewhere
                call(client, file)
            assert called, f"{name} called nothing"
            called |= before
    assert called | set(LEFT_OUT) == set(operations())
    assert not called & set(LEFT_OUT)
    for name, names in sent.items():
        assert names - UNSENT.keys() == parameters_of(name) - UNSENT.keys(), name


def parameters_of(name: str) -> set[str]:
    method, path = operations()[name]
    given = DOCUMENT["paths"][path][method.lower()].get("parameters", [])
    return {each["name"] for each in given if each.get("in") == "query"}


def test_every_operation_has_a_method_of_the_typescript_client() -> None:
    """The generator names functions by operation; the compiler checks that they exist (test_generated_clients.py)."""
    source = (ROOT / "clients" / "typescript" / "src" / "index.ts").read_text("utf-8")
    called = set(re.findall(r"\bcalls\.([a-z]\w+)\(", source))
    assert called | set(LEFT_OUT_OF_TYPESCRIPT) == set(operations())
    assert not called & set(LEFT_OUT_OF_TYPESCRIPT)


def accepts(known: Json, sent: Json, schemas: Json, at: str) -> list[str]:
    """Where a client's model does not take what the document says is sent, or knows a field that is never sent.
    schemas: those that `known` refers to."""
    known, sent = resolved(known, schemas), resolved(sent, SCHEMAS)
    if "anyOf" in sent:
        return [fault for each in sent["anyOf"] for fault in accepts(known, each, schemas, at)]
    if "anyOf" in known:
        alternatives = [resolved(each, schemas) for each in known["anyOf"]]
        alternatives = [each for each in alternatives if each.get("type") == sent.get("type")] or alternatives
        return min((accepts(each, sent, schemas, at) for each in alternatives), key=len)
    if "enum" in known or "const" in known:
        unknown = set(values_of(sent)) - set(values_of(known))
        return [f"{at}: {sorted(map(str, unknown))} are unknown to the client"] if unknown else []
    wanted, given = known.get("type"), sent.get("type")
    if wanted is not None and wanted != given and (wanted, given) != ("number", "integer"):
        return [f"{at}: {given} is sent, {wanted} expected"]
    compare = {"array": accepts_array, "object": accepts_object}.get(wanted)
    return compare(known, sent, schemas, at) if compare else []


def values_of(schema: Json) -> list[Any]:
    return schema.get("enum", [schema.get("const")])


def accepts_array(known: Json, sent: Json, schemas: Json, at: str) -> list[str]:
    places = sent.get("prefixItems") or [sent.get("items", {})]
    expected = known.get("prefixItems") or [known.get("items", {})] * len(places)
    if len(places) != len(expected):
        return [f"{at}: {len(places)} items are sent, {len(expected)} expected"]
    return [
        fault
        for mine, theirs in zip(expected, places, strict=True)
        for fault in accepts(mine, theirs, schemas, f"{at}[]")
    ]


def accepts_object(known: Json, sent: Json, schemas: Json, at: str) -> list[str]:
    if "properties" not in known:  # by any names
        values = known.get("additionalProperties")
        theirs = list(sent.get("properties", {}).values()) or [sent.get("additionalProperties")]
        pairs = [(values, each) for each in theirs if isinstance(values, dict) and isinstance(each, dict)]
        return [fault for mine, each in pairs for fault in accepts(mine, each, schemas, f"{at}{{}}")]
    names, theirs = known["properties"], sent.get("properties", {})
    faults = [f"{at}.{name}: unknown to the client" for name in theirs.keys() - names.keys()]
    faults += [f"{at}.{name}: never sent" for name in names.keys() - theirs.keys()]
    faults += [f"{at}.{name}: not always sent" for name in set(known.get("required", ())) - set(sent["required"])]
    for name in names.keys() & theirs.keys():
        faults += accepts(names[name], theirs[name], schemas, f"{at}.{name}")
    return faults


def resolved(schema: Json, schemas: Json) -> Json:
    while "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    return schema


# Models by the schema that they read; those within them are compared where they are met.
READ: Mapping[str, type[BaseModel]] = {
    "JobView": models.Job,
    "JobEvent": models.JobEvent,
    "JobList": models.JobPage,
    "BatchView": models.Batch,
    "BatchList": models.BatchPage,
    "Evaluation": models.Evaluation,
    "VideoAnalysis": models.Analysis,
    "MediaLinks": models.MediaLinks,
    "UploadLink": models.Upload,
    "DeliveryList": models.DeliveryPage,
    "WebhookSecret": models.WebhookSecret,
    "KeyList": models.KeyPage,
    "IssuedKey": models.IssuedKey,
    "AccountList": models.AccountPage,
    "UsageReport": models.UsagePage,
    "JobSucceededMessage": models.WebhookEvent,
    "BatchCompletedMessage": models.WebhookEvent,
}
# Fields that the Python client leaves untyped, on purpose: `model_dump` returns them
UNTYPED = {
    "JobList.links: unknown to the client": "`jobs` follows the cursor",
}


@pytest.mark.parametrize("name", READ)
def test_models_of_the_python_client_have_every_field_and_type(name: str) -> None:
    schema = READ[name].model_json_schema(mode="validation")
    faults = accepts(schema, SCHEMAS[name], schema.get("$defs", {}), name)
    assert set(faults) <= set(UNTYPED), faults


def test_every_answer_is_read_by_a_model() -> None:
    """A new schema of an answer needs a row above, or is part of one that has a row."""
    answers = {
        media["schema"]["$ref"].rpartition("/")[2]
        for path in DOCUMENT["paths"].values()
        for method, operation in path.items()
        if method != "parameters" and operation["operationId"] not in LEFT_OUT
        for status, response in operation["responses"].items()
        if status < "300"
        for kind, media in response.get("content", {}).items()
        if kind == "application/json" and "$ref" in media.get("schema", {})
    }
    parts = {name.rpartition("/")[2] for name in re.findall(r'"(#/components/schemas/\w+)"', json.dumps(
        {name: SCHEMAS[name] for name in READ}
    ))}  # fmt: skip
    untyped = {"Offer"}  # a dict: its options are schemas themselves
    unread = {"UploadedFile"}  # the answer to the last step of an upload
    assert answers - untyped - unread <= set(READ) | parts


REQUESTS = {"JobSubmission": options.SubmitOptions, "AnalysisSubmission": options.AnalyzeOptions}
INPUTS = {"video_url", "video_upload_id", "audio_url", "audio_upload_id", "segments"}


@pytest.mark.parametrize("name", REQUESTS)
def test_every_option_has_an_argument(name: str) -> None:
    known = TypeAdapter(REQUESTS[name]).json_schema()
    assert set(known["properties"]) == set(SCHEMAS[name]["properties"]) - INPUTS
    assert set(TypeAdapter(options.AccountChanges).json_schema()["properties"]) == set(
        SCHEMAS["AccountChanges"]["properties"]
    )
