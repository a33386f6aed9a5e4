"""The options of a job with their meaning, from the shape that the API checks them against, and their pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docs.making.http_page import read_document
from docs.making.schema_words import cell, row_of, say_type

PICTURES = Path(__file__).resolve().parents[1] / "images" / "options"
# What stands under the picture of an option; option_pictures.py makes them.
CAPTIONS = {
    "length_mode": "Which moment of a 2 s video is shown while 5 s of speech run, in each mode.",
    "face": "`face=left_most`, then `face=right_most`, on a picture of two heads: the frame of the widest open mouth.",
    "output": "`output.max_height` 512 (as sent), 256 and 128, shown at their true sizes.",
}


def describe_options() -> str:
    schemas = read_document()["components"]["schemas"]
    return "\n".join(_option(name, schema, schemas) for name, schema in schemas["JobSpec"]["properties"].items())


def _option(name: str, schema: dict[str, Any], schemas: dict[str, Any]) -> str:
    inner = _shape_of(schema, schemas)
    said = schema.get("description") or (inner or {}).get("description", "")
    lines = [f"### `{name}`", "", said.strip().rstrip(".") + ".", ""]
    meanings = schema.get("x-enumDescriptions", {})
    if meanings:
        lines += ["| value | what happens |", "|---|---|"]
        lines += [f"| `{value}` | {cell(text)} |" for value, text in meanings.items()] + [""]
    elif inner:
        lines += ["| field | type | |", "|---|---|---|"]
        lines += [row_of(field, part, False, schemas) for field, part in inner["properties"].items()] + [""]
    else:
        lines += [f"Type: {say_type(schema, schemas)}.", ""]
    if schema.get("default") not in (None, [], {}):
        lines += [f"Default: `{schema['default']}`.", ""]
    if (PICTURES / f"{name}.jpg").exists():
        lines += [f"![{cell(CAPTIONS[name])}](images/options/{name}.jpg)", "", f"*{CAPTIONS[name]}*", ""]
    return "\n".join(lines)


def _shape_of(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any] | None:
    """The shape of an option that is an object of its own."""
    reference = schema.get("$ref") or next((part["$ref"] for part in schema.get("allOf", []) if "$ref" in part), None)
    return schemas[reference.rpartition("/")[2]] if reference else None
