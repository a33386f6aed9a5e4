"""The OpenAPI document: FastAPI's own, completed with what it cannot derive."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from api.forms import NESTED_FIELDS
from api.middleware import REQUEST_ID_HEADER
from api.problems import Problem
from api.submission import JobSubmission
from jobs.models import JobEvent
from retalking_core.vocabulary.containers import ACCEPTED

DESCRIPTION = """Audio-driven lip-sync as an asynchronous service: a talking-face video and a speech track in, a job id
back, the lip-synced video and its evaluation when the job is done. Poll the job, follow its events, or give it a
`webhook_url`. Results of the engine `preview` are previews: a landmark warp, not the neural method."""
TAGS = [
    {"name": "jobs", "description": "Submit, follow, cancel and delete"},
    {"name": "results", "description": "Video and evaluation of a finished job"},
    {"name": "events", "description": "Server-Sent Events"},
    {"name": "webhooks", "description": "Standard Webhooks; the body's `data` is the JobView"},
    {"name": "uploads", "description": "Files that are sent before their job"},
    {"name": "service", "description": "Current offer and error codes"},
    {"name": "operations", "description": "For probes and scrapers"},
]
_REF = "#/components/schemas/"
_FILE_ENCODING = {
    "spec": {"contentType": "application/json"},
    **{slot: {"contentType": ", ".join(kind.content_type for kind in ACCEPTED[slot])} for slot in ("video", "audio")},
}
_BINARY = {"type": "string", "format": "binary"}


def install_openapi(app: FastAPI) -> None:
    """Replace app.openapi with one that builds the complete document on first use."""

    def build() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build_document(app)
        return app.openapi_schema

    app.openapi = build  # type: ignore[method-assign]


def build_document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=TAGS
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    _, shapes = models_json_schema(
        [(JobSubmission, "validation"), (Problem, "serialization"), (JobEvent, "serialization")],
        ref_template=_REF + "{model}",
    )
    for name, shape in shapes["$defs"].items():
        schemas.setdefault(name, shape)
    fields = schemas.pop("JobSubmission")
    schemas["JobSpec"] = fields | {"title": "JobSpec", "description": "All fields of a submission except files"}
    schemas["JobSubmission"] = fields | {"allOf": [_one_source("video"), _one_source("audio")]}
    schemas["JobForm"] = _form_schema(fields)
    components["headers"] = {"RequestId": {"description": "Id of this request", "schema": {"type": "string"}}}
    components["parameters"] = {
        "RequestId": {
            "name": REQUEST_ID_HEADER,
            "in": "header",
            "required": False,
            "description": "Id to log this request under; generated if it is absent or unsafe to log",
            "schema": {"type": "string"},
        }
    }
    submit = document["paths"]["/jobs"]["post"]
    submit["requestBody"] = _job_body()
    submit["responses"]["202"]["links"] = {
        operation["operationId"]: {
            "operationId": operation["operationId"],
            "parameters": {"job_id": "$response.body#/id"},
        }
        for path, operations in document["paths"].items()
        if path.startswith("/jobs/{job_id}")
        for operation in operations.values()
    }
    document["paths"]["/uploads"]["post"]["responses"]["201"]["links"] = {
        "submitJob": {
            "operationId": "submitJob",
            "description": "After the file was put to the link; a video with sound serves as both inputs",
            "requestBody": dict.fromkeys(("video_upload_id", "audio_upload_id"), "$response.body#/id"),
        }
    }
    for operation in _operations(document):
        for parameter in operation.get("parameters", ()):
            parameter["schema"] = _without_null(parameter["schema"])
        operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/RequestId"})
        if not app.state.parts.settings.require_keys:
            operation.pop("security", None)
        for response in operation["responses"].values():
            response.setdefault("headers", {})[REQUEST_ID_HEADER] = {"$ref": "#/components/headers/RequestId"}
    return document


def _operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def _one_source(slot: str) -> dict[str, Any]:
    """Exactly one of the two references of an input is not null."""
    ways = (f"{slot}_url", f"{slot}_upload_id")
    return {"oneOf": [{"required": [way], "properties": {way: {"type": "string"}}} for way in ways]}


def _form_schema(submission: dict[str, Any]) -> dict[str, Any]:
    """The fields of the JSON body as text, and the files. Forms have no null: a field is either present or not."""
    fields = {name: _without_null(shape) for name, shape in submission["properties"].items()}
    fields["expression"] = {
        "anyOf": [fields["expression"], _BINARY],
        "description": "A template's name, or a picture as a file",
    }
    files = {
        "video": _BINARY | {"description": "The video or still image with the face"},
        "audio": _BINARY | {"description": "The speech, or a video file with it"},
    }
    spec = {"$ref": _REF + "JobSpec"}
    nested = "|".join(sorted(NESTED_FIELDS))
    return {
        "type": "object",
        "description": "Each input once: as a file, by address or by upload id. The options as fields (nested ones as "
        "JSON text, or their members by dotted names such as `output.crf`), or all of them in one `spec` part instead. "
        "An empty field counts as not sent.",
        "properties": files | fields | {"spec": spec},
        "patternProperties": {rf"^({nested})\.[a-z_]+$": {"type": "string"}},
        "additionalProperties": False,
        "allOf": [_one_given("video"), _one_given("audio")],
    }


def _one_given(slot: str) -> dict[str, Any]:
    return {"anyOf": [{"required": [way]} for way in (slot, f"{slot}_url", f"{slot}_upload_id", "spec")]}


def _without_null(shape: dict[str, Any]) -> dict[str, Any]:
    """A schema without its null variant: parameters and form fields are either present or not."""
    arms = [arm for arm in shape.get("anyOf", ()) if arm != {"type": "null"}]
    if not arms:
        return shape
    rest = {key: value for key, value in shape.items() if key != "anyOf"}
    return {**rest, **arms[0]} if len(arms) == 1 else {**rest, "anyOf": arms}


def _job_body() -> dict[str, Any]:
    by_reference = {
        "video_url": "https://example.com/face.mp4",
        "audio_url": "https://example.com/speech.wav",
        "output": {"crf": 20},
        "metadata": {"order": 7},
    }
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {"$ref": _REF + "JobForm"}, "encoding": _FILE_ENCODING},
            "application/json": {
                "schema": {"$ref": _REF + "JobSubmission"},
                "examples": {"by-reference": {"summary": "Inputs by address", "value": by_reference}},
            },
        },
    }
