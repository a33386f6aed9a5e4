"""Writes what is made from tables in the code: docs/configuration.md, docs/errors.md and api/metric_table.json, with
`make docs-reference`.

A test calls `pages()` and compares, so the two can not fall behind.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from jobs.errors import ERROR_CODES, ErrorCode
from jobs.settings import Settings
from retalking_core.evaluation.metric import Metric
from retalking_core.evaluation.metrics import METRICS

DOCS = Path(__file__).parent
METRIC_TABLE = DOCS.parent / "api" / "metric_table.json"
_NOTE = "<!-- Made by docs/reference.py from the code: change it there, then run `make docs-reference`. -->\n\n"

_CONFIGURATION = """# Configuration

Every process reads the same table once, when it starts: from the environment, or from a file `.env` in the folder
that it starts in (the environment wins). Durations are in seconds, sizes in bytes. `retalking up` hands all of it on to
the processes that it starts.

| variable | default | what it does |
|---|---|---|
"""

_ERRORS = """# Error codes

Every refusal is [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem JSON with a stable `code`; a failed job has
the same code in `error.code`. Messages are for people and may change, codes do not. `GET /errors` serves this table.
"Again" says whether the same call may succeed later.

| code | HTTP | meaning | what to do | again |
|---|---|---|---|---|
"""


def pages() -> dict[Path, str]:
    """What each generated file must hold."""
    settings = (_setting_row(name, field) for name, field in Settings.model_fields.items())
    errors = (_error_row(row) for row in ERROR_CODES.values())
    return {
        DOCS / "configuration.md": "".join([_NOTE, _CONFIGURATION, *settings]),
        DOCS / "errors.md": "".join([_NOTE, _ERRORS, *errors]),
        METRIC_TABLE: json.dumps({name: _metric_row(row) for name, row in METRICS.items()}, indent=2) + "\n",
    }


def _metric_row(row: Metric) -> dict[str, Any]:
    """As `api.service.MetricInfo`: the API explains metrics without importing what computes them."""
    return {
        "description": row.description,
        "unit": row.unit,
        "better": row.better,
        "lowest": row.range[0],
        "highest": row.range[1],
        "source": row.source,
        "checkpoints": list(row.checkpoints),
    }


def _error_row(row: ErrorCode) -> str:
    again = "yes" if row.retryable else ""
    return f"| `{row.code}` | {row.status} | {_cell(row.title)} | {_cell(row.advice)} | {again} |\n"


def _setting_row(name: str, field: FieldInfo) -> str:
    default = _default(field.get_default(call_default_factory=True))
    return f"| `RETALKING_{name.upper()}` | {default} | {_text(field)} |\n"


def _text(field: FieldInfo) -> str:
    """The description, and the bounds that the value is checked against."""
    signs = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = [
        f"{words} {getattr(rule, sign):g}"
        for rule in field.metadata
        for sign, words in signs.items()
        if hasattr(rule, sign)
    ]
    return _cell(field.description or "") + (f" ({', '.join(bounds)})" if bounds else "")


def _default(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value in (None, "", []):
        return "(empty)"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
