"""Writes what is made from the code: docs/configuration.md, docs/errors.md, and the exceptions and the synchronous
class of the Python client, with `make docs-reference`.

A test calls `pages()` and compares, so the two cannot fall behind.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from jobs.errors import ERROR_CODES, ErrorCode
from jobs.settings import Settings

DOCS = Path(__file__).parent
CLIENT = DOCS.parent / "retalking_client"
CLIENT_CODES, ASYNC_CLIENT, SYNC_CLIENT = CLIENT / "codes.py", CLIENT / "async_client.py", CLIENT / "client.py"
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

_CODES = '''"""One exception a public error code, made from jobs/errors.py by `make docs-reference`."""

from __future__ import annotations

from retalking_client.models import ApiError


'''


def pages() -> dict[Path, str]:
    """What each generated file must hold."""
    settings = (_setting_row(name, field) for name, field in Settings.model_fields.items())
    errors = (_error_row(row) for row in ERROR_CODES.values())
    return {
        DOCS / "configuration.md": "".join([_NOTE, _CONFIGURATION, *settings]),
        DOCS / "errors.md": "".join([_NOTE, _ERRORS, *errors]),
        CLIENT_CODES: _client_codes(),
        SYNC_CLIENT: _sync_client(),
    }


# What the asyncio client says, and what the synchronous one says in its place
_SYNCHRONOUS = {
    r"^.*\n": '"""The synchronous client, made from async_client.py by `make docs-reference`."""\n',
    r"An async context manager\. Files [^.]*\.": "A context manager; safe to share between threads.",
    r"\basync (?=def|for|with)": "",
    r"\bawait asyncio\.to_thread\(([\w.]+)\)": r"\1()",
    r"\bawait ": "",
    r"\basyncio\b": "time",
    r"\bAsync(?=Client|Generator|Iterator)": "",
    r"\basync(?=contextmanager)": "",
    r"\ba(?=(closing|close|read|iter_bytes)\b)": "",
    r"\b__a(?=enter__|exit__)": "__",
}


def _sync_client() -> str:
    text = ASYNC_CLIENT.read_text("utf-8")
    for said, instead in _SYNCHRONOUS.items():
        text = re.sub(said, instead, text, count=int(said.startswith("^")))
    for command in (("check", "--fix-only", "--unsafe-fixes"), ("format",)):
        ruff = [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename", str(SYNC_CLIENT), "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True, cwd=DOCS.parent).stdout
    return text


def _client_codes() -> str:
    """One exception class a public code, written out so that editors and type checkers see them."""
    classes = (
        f'class {class_name(row.code)}(ApiError):\n    """{row.title}."""\n\n'
        f"    code = {json.dumps(row.code)}\n    advice = {_python_text(row.advice)}\n\n\n"
        for row in ERROR_CODES.values()
    )
    return "".join([_CODES, *classes]).rstrip() + "\n"


def class_name(code: str) -> str:
    """`job_not_found` -> JobNotFoundError, `internal_error` -> InternalError."""
    return "".join(word.capitalize() for word in code.removesuffix("_error").split("_")) + "Error"


def _python_text(text: str) -> str:
    """A string literal in lines that are not too long."""
    literal = json.dumps(text, ensure_ascii=False)
    if len("    advice = " + literal) <= 120:
        return literal
    lines = textwrap.wrap(text, 110, drop_whitespace=False, break_on_hyphens=False)
    inside = "\n".join(f"        {json.dumps(line, ensure_ascii=False)}" for line in lines)
    return f"(\n{inside}\n    )"


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
