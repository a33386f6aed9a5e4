"""The OpenAPI document: FastAPI's own, completed with what it cannot derive."""

from __future__ import annotations

import json
import threading
from typing import Any, cast, get_args

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.account_bodies import AccountChanges, NewKey
from api.forms import JSON_PARTS
from api.middleware import REQUEST_ID_HEADER
from api.paths import VERSION, is_versioned
from api.problems import Problem
from api.segments import PART_NAME
from api.submission import AnalysisSubmission, BatchSubmission, JobSubmission
from jobs.models import BATCH_EVENT, BatchMessage, JobEvent, WebhookEvent, WebhookMessage
from jobs.settings import Settings
from retalking_core.vocabulary.containers import ACCEPTED

Json = dict[str, Any]
DESCRIPTION = """Audio-driven lip-sync as an asynchronous service: a talking-face video and a speech track in, a job id
back, the lip-synced video and its evaluation when the job is done. Poll the job, follow its events, or give it a
`webhook_url`. Results of the engine `preview` are previews: a landmark warp, not the neural method."""
TAGS = [
    {"name": "jobs", "description": "Submit, follow, cancel and delete"},
    {"name": "analyses", "description": "Who is in a video, and who speaks"},
    {"name": "batches", "description": "Many jobs in one request"},
    {"name": "results", "description": "Video and evaluation of a finished job"},
    {"name": "events", "description": "Server-Sent Events"},
    {"name": "webhooks", "description": "Standard Webhooks; the body's `data` is the JobView, or the BatchView"},
    {"name": "uploads", "description": "Files that are sent before their job"},
    {"name": "accounts", "description": "Accounts, their keys, and what they used"},
    {"name": "service", "description": "Current offer and error codes"},
    {"name": "operations", "description": "For probes and scrapers"},
]
_REF = "#/components/schemas/"
_FILE_ENCODING = {
    **{name: {"contentType": "application/json"} for name in sorted(JSON_PARTS)},
    **{slot: {"contentType": ", ".join(kind.content_type for kind in ACCEPTED[slot])} for slot in ("video", "audio")},
}
_BINARY = {"type": "string", "format": "binary"}


def install_openapi(app: FastAPI) -> None:
    """Replace app.openapi with one that builds the complete document once, whichever thread asks first.

    That takes 0.6 s of CPU time: a thread starts it now, since the probes need no document.
    """
    lock = threading.Lock()

    def build() -> dict[str, Any]:
        with lock:
            if app.openapi_schema is None:
                app.openapi_schema = build_document(app)
            return app.openapi_schema

    app.openapi = build  # type: ignore[method-assign]
    threading.Thread(target=build, name="openapi", daemon=True).start()


def build_document(app: FastAPI) -> dict[str, Any]:
    settings: Settings = app.state.parts.settings
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        tags=TAGS,
        servers=[{"url": settings.public_url.rstrip("/") or "/"}],
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    components = document["components"]
    components["schemas"] = _schemas(components["schemas"])
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
    document["paths"] = {
        (VERSION if is_versioned(path) else "") + path: operations for path, operations in document["paths"].items()
    }
    document["webhooks"] = {event: {"post": _webhook(event)} for event in (*get_args(WebhookEvent), BATCH_EVENT)}
    _link_operations(document["paths"])
    for operation in _operations(document):
        _complete(operation, is_open=not settings.require_keys)
    return document


def _schemas(answers: dict[str, Any]) -> dict[str, Any]:
    """All component schemas. answers: those of responses, by name.

    A field of a response is always sent, whereas a request may leave out what has a default, so a model of both has two
    schemas; that of requests is named `...Input`.
    """
    _, sent = models_json_schema(
        [(model, "serialization") for model in (Problem, JobEvent, WebhookMessage, BatchMessage)],
        ref_template=_REF + "{model}",
    )
    answers = {name: _always_sent(shape) for name, shape in (answers | sent["$defs"]).items()}
    answers["Problem"]["required"].remove("errors")
    message = answers.pop("WebhookMessage")
    for event in get_args(WebhookEvent):
        kind = {"type": {"type": "string", "const": event}}
        title = message_name(event)  # generators name classes by titles
        answers[title] = message | {"title": title, "properties": message["properties"] | kind}
    title = message_name(BATCH_EVENT)
    answers[title] = answers.pop("BatchMessage") | {"title": title}
    _, received = models_json_schema(
        [
            (model, "validation")
            for model in (JobSubmission, AnalysisSubmission, BatchSubmission, NewKey, AccountChanges)
        ],
        ref_template=_REF + "{model}",
    )
    asked: Json = received["$defs"]
    for name in [name for name in asked if answers.get(name, asked[name]) != asked[name]]:
        asked = cast(Json, json.loads(json.dumps(asked).replace(f'"{_REF}{name}"', f'"{_REF}{name}Input"')))
        asked[f"{name}Input"] = asked.pop(name) | {"title": f"{name}Input"}
    analysis = asked.pop("AnalysisSubmission")
    asked["AnalysisSpec"] = analysis | {"title": "AnalysisSpec", "description": "All fields except the file"}
    asked["AnalysisSubmission"] = analysis | {"allOf": [_exactly_one(**_references("video"))]}
    asked["AnalysisForm"] = {"title": "AnalysisForm"} | _analysis_form_schema(analysis)
    fields = asked.pop("JobSubmission")
    asked["JobSpec"] = fields | {"title": "JobSpec", "description": "All fields of a submission except files"}
    sources = [
        _exactly_one(**_references(slot), **more) for slot, more in (("video", {}), ("audio", {"segments": "array"}))
    ]
    asked["JobSubmission"] = fields | {"allOf": sources}
    asked["BatchSubmission"] |= {"allOf": [_exactly_one(jobs="array", jobs_upload_id="string")]}
    asked["JobForm"] = {"title": "JobForm"} | _form_schema(fields)
    return answers | asked


def _always_sent(shape: dict[str, Any]) -> dict[str, Any]:
    """The schema of a response: every field is there, and later versions may add some."""
    if "properties" not in shape:
        return shape
    fields = {name: _without_null_default(field) for name, field in shape["properties"].items()}
    rest = {key: value for key, value in shape.items() if key != "additionalProperties"}
    return rest | {"properties": fields, "required": [*fields]}


def _without_null_default(field: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in field.items() if (key, value) != ("default", None)}


def message_name(event: str) -> str:
    """`job.succeeded` -> JobSucceededMessage."""
    return "".join(word.capitalize() for word in event.split(".")) + "Message"


def _webhook(event: str) -> dict[str, Any]:
    headers = {"webhook-id": "The same for all attempts", "webhook-timestamp": "Seconds since 1970 of this attempt"}
    headers["webhook-signature"] = "`v1,` and the signature; several are separated by spaces"
    return {
        "operationId": f"receive{message_name(event)}",
        "summary": f"The event `{event}`",
        "description": "Signed as in Standard Webhooks. Any 2xx status counts as delivered.",
        "tags": ["webhooks"],
        "security": [],
        "parameters": [
            {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": _REF + message_name(event)}}},
        },
        "responses": {
            "200": {"description": "Delivered"},
            "410": {"description": "Not wanted any more: no further attempts"},
        },
    }


def _link_operations(paths: dict[str, Any]) -> None:
    """What to call with the id that an answer names."""

    def followers(prefix: str, parameter: str) -> dict[str, Any]:
        return {
            operation["operationId"]: {
                "operationId": operation["operationId"],
                "parameters": {parameter: "$response.body#/id"},
            }
            for path, operations in paths.items()
            if path.startswith(f"{VERSION}{prefix}/{{{parameter}}}")
            for operation in operations.values()
        }

    for path in ("/jobs", "/jobs/upload", "/videos/analyze", "/videos/analyze/upload"):
        paths[VERSION + path]["post"]["responses"]["202"]["links"] = followers("/jobs", "job_id")
    paths[f"{VERSION}/batches"]["post"]["responses"]["202"]["links"] = followers("/batches", "batch_id")
    paths[f"{VERSION}/uploads"]["post"]["responses"]["201"]["links"] = {
        "submitJob": {
            "operationId": "submitJob",
            "description": "After the file was put to the link; a video with sound serves as both inputs",
            "requestBody": dict.fromkeys(("video_upload_id", "audio_upload_id"), "$response.body#/id"),
        }
    }


def _complete(operation: dict[str, Any], *, is_open: bool) -> None:
    """What every operation has. is_open: the deployment requires no keys."""
    for parameter in operation.get("parameters", ()):
        parameter["schema"] = _without_null(parameter["schema"])
    operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/RequestId"})
    operation["security"] = operation.get("security", []) + ([{}] if is_open and "security" in operation else [])
    for response in operation["responses"].values():
        response.setdefault("headers", {})[REQUEST_ID_HEADER] = {"$ref": "#/components/headers/RequestId"}


def _operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def _references(slot: str) -> dict[str, str]:
    return {f"{slot}_url": "string", f"{slot}_upload_id": "string"}


def _exactly_one(**fields: str) -> dict[str, Any]:
    """Exactly one of the fields is not null. fields: their types."""
    return {"oneOf": [{"required": [name], "properties": {name: {"type": kind}}} for name, kind in fields.items()]}


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
    return {
        "type": "object",
        "description": "Each input once: as a file, by address or by upload id. The options as fields (nested ones as "
        "JSON text, or their members by dotted names such as `output.crf`), or all of them in one `spec` part instead. "
        "An empty field counts as not sent. Files of other names are the speech of `segments`, which name them.",
        "properties": files | fields | {"spec": spec},
        "additionalProperties": _BINARY,
        "propertyNames": {"pattern": f"^{PART_NAME}$"},
        "allOf": [_one_given("video"), _one_given("audio", "segments")],
    }


def _analysis_form_schema(submission: dict[str, Any]) -> dict[str, Any]:
    fields = {name: _without_null(shape) for name, shape in submission["properties"].items()}
    video = {"video": _BINARY | {"description": "The video or still image"}}
    return {
        "type": "object",
        "description": "The video once: as a file, by address or by upload id. The rest as fields, or in one `spec` "
        "part. An empty field counts as not sent.",
        "properties": video | fields | {"spec": {"$ref": _REF + "AnalysisSpec"}},
        "additionalProperties": False,
        "allOf": [_one_given("video")],
    }


def _one_given(slot: str, *others: str) -> dict[str, Any]:
    return {"anyOf": [{"required": [way]} for way in (slot, f"{slot}_url", f"{slot}_upload_id", *others, "spec")]}


def _without_null(shape: dict[str, Any]) -> dict[str, Any]:
    """A schema without its null variant: parameters and form fields are either present or not."""
    arms = [arm for arm in shape.get("anyOf", ()) if arm != {"type": "null"}]
    if not arms:
        return shape
    rest = {key: value for key, value in _without_null_default(shape).items() if key != "anyOf"}
    return {**rest, **arms[0]} if len(arms) == 1 else {**rest, "anyOf": arms}


def json_body(model: type[BaseModel], example: Json) -> Json:
    """The body of a route that reads it by itself, for its `openapi_extra`; `_schemas` has the model."""
    content = {"schema": {"$ref": f"{_REF}{model.__name__}"}, "example": example}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


# Bodies of the two ways to submit, for the `openapi_extra` of their routes
JSON_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": _REF + "JobSubmission"},
                "examples": {
                    "by-reference": {
                        "summary": "Inputs by address",
                        "value": {
                            "video_url": "https://example.com/face.mp4",
                            "audio_url": "https://example.com/speech.wav",
                            "output": {"crf": 20},
                            "metadata": {"order": 7},
                        },
                    },
                    "segments": {
                        "summary": "Two people, a line for each",
                        "value": {
                            "video_url": "https://example.com/interview.mp4",
                            "segments": [
                                {"audio": "https://example.com/anna.wav", "start_s": 0.5, "face": "left_most"},
                                {"audio": "https://example.com/ben.wav", "start_s": 4, "face": "right_most"},
                            ],
                            "sound": {"mix": "over"},
                        },
                    },
                },
            },
        },
    }
}
BATCH_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": _REF + "BatchSubmission"},
                "examples": {
                    "two-jobs": {
                        "summary": "One face, two sentences",
                        "value": {
                            "jobs": [
                                {
                                    "video_url": "https://example.com/face.mp4",
                                    "audio_url": f"https://example.com/{number}.wav",
                                    "metadata": {"line": number},
                                }
                                for number in (1, 2)
                            ],
                            "webhook_url": "https://example.com/hooks",
                        },
                    }
                },
            },
        },
    }
}
FORM_BODY = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": {"$ref": _REF + "JobForm"}, "encoding": _FILE_ENCODING}},
    }
}
ANALYSIS_JSON_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": _REF + "AnalysisSubmission"},
                "examples": {
                    "by-reference": {
                        "summary": "The video by address",
                        "value": {"video_url": "https://example.com/interview.mp4"},
                    }
                },
            },
        },
    }
}
ANALYSIS_FORM_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"$ref": _REF + "AnalysisForm"},
                "encoding": {name: _FILE_ENCODING[name] for name in ("spec", "video")},
            }
        },
    }
}
