"""JSON schema in words, for tables of Markdown."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "maxLength": "at most {} characters",
    "minLength": "at least {} characters",
    "maxItems": "at most {} entries",
    "pattern": "`{}`",
}
_ITEM = "#/components/schemas/"


def say_type(schema: Json, schemas: Json) -> str:
    """One line; a named shape is a link to its table on the HTTP reference."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_ITEM)
        return (
            f"[{name}](http-reference.md#shape-{name.lower()})"
            if schemas[name].get("properties")
            else say_type(schemas[name], schemas)
        )
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(say_type(inner, schemas) for inner in schema[key]))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {say_type(schema.get('items', {}), schemas)}"
    words = {"null": "nothing"}.get(kind, kind)
    if schema.get("format"):
        words += f" ({schema['format']})"
    bounds = [text.format(schema[key]) for key, text in _BOUNDS.items() if key in schema]
    return cell(", ".join([words, *bounds]))


def row_of(name: str, schema: Json, required: bool, schemas: Json) -> str:
    notes = [schema.get("description", "")]
    if required:
        notes.append("**required**")
    elif schema.get("default") not in (None, [], {}):
        notes.append(f"default `{json.dumps(schema['default'])}`")
    return f"| `{name}` | {say_type(schema, schemas)} | {cell('; '.join(filter(None, notes)))} |"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
