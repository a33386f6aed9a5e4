"""The HTTP reference: every operation of the OpenAPI document, as the running service serves it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from api.main import create_app
from docs.making.schema_words import cell, row_of, say_type
from jobs.local_objects import LocalObjectStore
from jobs.messages import make_celery
from jobs.opening import open_store
from jobs.settings import Settings

Json = dict[str, Any]


def describe_http() -> str:
    document = read_document()
    schemas = document["components"]["schemas"]
    parts = []
    for tag in document["tags"]:
        calls = [
            _operation(path, method, operation, document)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if method != "parameters" and operation.get("tags", [""])[0] == tag["name"]
        ]
        if calls:
            parts += [f"## {tag['name'].capitalize()}\n\n{tag['description']}.\n", *calls]
    parts.append("## Shapes\n")
    parts += [_shape(name, schema, schemas) for name, schema in sorted(schemas.items()) if schema.get("properties")]
    return "\n".join(parts)


def read_document() -> Json:
    """The document of an app that talks to nothing: clients connect at their first call, and none is made."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(_env_file=None, data_dir=Path(folder))
        app = create_app(settings, open_store(settings), LocalObjectStore(Path(folder)), make_celery(settings))
        return app.openapi()


def _operation(path: str, method: str, operation: Json, document: Json) -> str:
    schemas = document["components"]["schemas"]
    lines = [f"### `{method.upper()} {path}`", "", f"**{operation['summary']}**", ""]
    if operation.get("description"):
        lines += [operation["description"], ""]
    if operation.get("parameters"):
        lines += ["| parameter | in | type | |", "|---|---|---|---|"]
        for parameter in (_resolve(parameter, document) for parameter in operation["parameters"]):
            said = cell(parameter.get("description", ""))
            must = " **required**" if parameter.get("required") else ""
            kind = say_type(parameter["schema"], schemas)
            lines.append(f"| `{parameter['name']}` | {parameter['in']} | {kind} | {said}{must} |")
        lines.append("")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        lines += [f"Body `{kind}`: {say_type(content.get('schema', {}), schemas)}", ""]
    lines += ["| answer | |", "|---|---|"]
    answers = sorted(operation["responses"].items())
    lines += [_answer(status, _resolve(answer, document), schemas) for status, answer in answers]
    return "\n".join([*lines, ""])


def _resolve(part: Json, document: Json) -> Json:
    """What a `$ref` of the document stands for; anything else as it is."""
    if "$ref" not in part:
        return part
    found = document
    for name in part["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def _answer(status: str, answer: Json, schemas: Json) -> str:
    kinds = [
        f"`{kind}` {say_type(content['schema'], schemas)}" if content.get("schema") else f"`{kind}`"
        for kind, content in answer.get("content", {}).items()
        if kind != "application/problem+json"
    ]
    return f"| {status} | {cell(' · '.join([answer.get('description', ''), *kinds]))} |"


def _shape(name: str, schema: Json, schemas: Json) -> str:
    needed = schema.get("required", [])
    rows = [row_of(field, inner, field in needed, schemas) for field, inner in schema["properties"].items()]
    said = f"{schema['description'].strip()}\n\n" if schema.get("description") else ""
    head = "| field | type | |\n|---|---|---|\n"
    return f"### {name} {{#shape-{name.lower()}}}\n\n{said}{head}" + "\n".join(rows) + "\n"
