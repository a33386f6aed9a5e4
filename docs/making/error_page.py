"""Troubleshooting by error code: one heading a code, from jobs/errors.py."""

from __future__ import annotations

from jobs.errors import ERROR_CODES, ErrorCode


def describe_errors() -> str:
    return "\n".join(_describe(row) for row in sorted(ERROR_CODES.values(), key=lambda row: row.code))


def _describe(row: ErrorCode) -> str:
    again = "The same call may succeed later." if row.retryable else "The same call will be refused again."
    return f"### `{row.code}` {{#{row.code}}}\n\n{row.title}. {row.advice}\n\nHTTP status {row.status}. {again}\n"
