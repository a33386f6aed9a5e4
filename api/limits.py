"""Limits of what callers send: size and rate of request bodies, free JSON and text, and requests that stay open.

Everything from a caller that is stored as it arrived passes through `read_json`, `check_metadata` or `check_filename`.
Other fields need none of them: their types, patterns and ranges (`jobs.models`) already bound them. Headers are bounded
where they are read: the Idempotency-Key by its pattern, the request id by `api.middleware.accepted_id`, the trace
context by its parser.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.problems import FieldError, describe_errors
from jobs.errors import ServiceError

# Nested objects and arrays. The JSON parser's own limit: nothing reads what is deeper.
MAX_JSON_DEPTH = 200
# Names and values of one document. The largest meaningful submission has about 1,200.
MAX_JSON_VALUES = 20_000
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 16
MAX_METADATA_VALUES = 1000
MAX_NAME_CHARS = 255
# The largest integer that most languages and databases can read back (64-bit signed)
MAX_INTEGER = 2**63 - 1
RETRY_AFTER_S = 2
# C0, DEL and C1: databases reject NUL, and terminals obey escape sequences
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_IN_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True)
class Pace:
    """Slowest rate of a body that is accepted.

    idle_s: longest time without a byte. min_bytes_per_s: average rate that the body must keep once idle_s has passed;
    0: no limit.
    """

    idle_s: float
    min_bytes_per_s: int = 0

    def patience_s(self, received: int, waited_s: float) -> float:
        """Longest time that the next bytes may take. received: bytes so far. waited_s: seconds spent waiting so far."""
        if not self.min_bytes_per_s:
            return self.idle_s
        return min(self.idle_s, self.idle_s + received / self.min_bytes_per_s - waited_s)


async def body_chunks(request: Request, max_bytes: int, pace: Pace) -> AsyncIterator[bytes]:
    """The body in chunks as they arrive, in constant memory.

    Raises body_too_large (before the first byte if Content-Length announces it) and request_timeout if the body is
    slower than the pace; ClientDisconnect if the client disconnects. Only time spent waiting for the client counts:
    the time that this service takes to store the bytes does not.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise too_large(max_bytes, "body")
    received, waited_s = 0, 0.0
    stream = request.stream()
    while True:
        patience_s = pace.patience_s(received, waited_s)
        began_s = time.monotonic()
        try:
            with anyio.fail_after(patience_s):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            if patience_s < pace.idle_s:
                slow = f"The body arrives more slowly than {pace.min_bytes_per_s} bytes/s: {received} bytes"
                message = f"{slow} in {waited_s + patience_s:.0f} s."
            else:
                message = f"No byte of the body arrived for {pace.idle_s:.0f} s, after {received} bytes."
            raise ServiceError("request_timeout", message) from None
        waited_s += time.monotonic() - began_s
        received += len(chunk)
        if received > max_bytes:
            raise too_large(max_bytes, "body")
        if chunk:
            yield chunk


async def read_body(request: Request, max_bytes: int, pace: Pace) -> bytes:
    """A small body, read into memory."""
    return b"".join([chunk async for chunk in body_chunks(request, max_bytes, pace)])


def not_storable() -> ServiceError:
    return ServiceError("value_out_of_bounds", "The request cannot be stored and read back unchanged.")


def too_large(max_bytes: int, what: str) -> ServiceError:
    return ServiceError("body_too_large", f"The {what} is larger than the limit of {max_bytes} bytes.")


def read_json(text: str | bytes, what: str, max_values: int = MAX_JSON_VALUES) -> Any:
    """Parse RFC 8259 JSON. what: name of the document, for messages. max_values: names and values that it may have.

    Raises malformed_json, also for what Python's parser accepts and others reject: NaN, Infinity, numbers beyond a
    double, lone surrogates, and nesting deeper than MAX_JSON_DEPTH; value_out_of_bounds for too many values.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_number, parse_float=_finite)
    except RecursionError:
        raise _too_deep(what) from None
    except ValueError as error:
        place = f" at line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ServiceError("malformed_json", f"{what} is not JSON{place}.") from None
    for item, depth, count in _walk(value):
        if depth > MAX_JSON_DEPTH:
            raise _too_deep(what)
        if count > max_values:
            raise ServiceError("value_out_of_bounds", f"{what} has more than {max_values} names and values.")
        if isinstance(item, str) and _SURROGATE.search(item):
            raise ServiceError("malformed_json", f"{what} contains a lone surrogate, which is not a character.")
    return value


def check_metadata(metadata: dict[str, Any]) -> None:
    """Raises body_too_large and value_out_of_bounds; the message states the limit."""
    for item, depth, count in _walk(metadata):
        if depth > MAX_METADATA_DEPTH:
            raise _out_of_bounds("metadata", f"It is nested more than {MAX_METADATA_DEPTH} levels deep")
        if count > MAX_METADATA_VALUES:
            raise _out_of_bounds("metadata", f"It has more than {MAX_METADATA_VALUES} names and values")
        if isinstance(item, dict) and any(len(name) > MAX_NAME_CHARS for name in item):
            raise _out_of_bounds("metadata", f"It has a name of more than {MAX_NAME_CHARS} characters")
        _check_scalar(item)
    size = len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_METADATA_BYTES:
        message = f"The `metadata` is larger than the limit of {MAX_METADATA_BYTES} bytes."
        raise ServiceError("body_too_large", message)


def check_filename(name: str, slot: str) -> None:
    """Raises value_out_of_bounds."""
    if len(name) > MAX_NAME_CHARS:
        raise _out_of_bounds(slot, f"Its file name has more than {MAX_NAME_CHARS} characters")
    if found := _CONTROL.search(name):
        raise _out_of_bounds(slot, f"Its file name contains the control character {_name_of(found)}")


def _check_scalar(item: object) -> None:
    if isinstance(item, str) and (found := _CONTROL_IN_TEXT.search(item)):
        message = f"It contains the control character {_name_of(found)}; only tabs and line breaks are allowed"
        raise _out_of_bounds("metadata", message)
    if isinstance(item, int) and abs(item) > MAX_INTEGER:
        raise _out_of_bounds("metadata", f"It contains an integer beyond {MAX_INTEGER}; send it as a string")
    if isinstance(item, float) and not math.isfinite(item):
        raise _out_of_bounds("metadata", "It contains a number that is not finite")


def _walk(value: object) -> Iterator[tuple[object, int, int]]:
    """Every value and name, with its depth (a container counts itself) and the number of values met so far.

    Containers come before their contents, so the caller can stop at one that is too large or too deep. Iterative,
    because the input may be nested deeper than the stack.
    """
    waiting: list[tuple[object, int]] = [(value, 0)]
    count = 1
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, dict):
            count, depth = count + 2 * len(item), depth + 1
        elif isinstance(item, list):
            count, depth = count + len(item), depth + 1
        yield item, depth, count
        if isinstance(item, dict):
            waiting += ((inner, depth) for pair in item.items() for inner in pair)
        elif isinstance(item, list):
            waiting += ((inner, depth) for inner in item)


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _name_of(found: re.Match[str]) -> str:
    return f"U+{ord(found[0]):04X}"


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is beyond a double")
    return value


def _too_deep(what: str) -> ServiceError:
    return ServiceError("malformed_json", f"{what} is nested more than {MAX_JSON_DEPTH} levels deep.")


def _out_of_bounds(field: str, message: str) -> ServiceError:
    errors = [FieldError(pointer=f"#/{field}", message=message)]
    return ServiceError("value_out_of_bounds", describe_errors(errors), errors=errors)


class ConcurrencyLimit:
    """Limits the requests of one kind that are open at a time, per owner and in total.

    Counted per process, because the memory and file descriptors of the process are the scarce resource; a deployment
    with several API processes allows as many in each. Only the event loop counts, so no lock is needed.

    what: the kind, for messages. per_owner: applies to callers with a key; without one only `total` applies.
    """

    def __init__(self, what: str, per_owner: int, total: int) -> None:
        self._what, self._per_owner, self._total = what, per_owner, total
        self._open: Counter[str] = Counter()

    @contextmanager
    def slot(self, owner: str) -> Iterator[None]:
        """Occupy one slot. Raises too_many_open."""
        if owner and self._open[owner] >= self._per_owner:
            raise self._refusal(f"This account has {self._per_owner} {self._what} open, which is the limit.")
        if self._open.total() >= self._total:
            raise self._refusal(f"{self._total} {self._what} are open, which is the limit of the service.")
        self._open[owner] += 1
        try:
            yield
        finally:
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]

    def _refusal(self, message: str) -> ServiceError:
        return ServiceError("too_many_open", message, headers={"Retry-After": str(RETRY_AFTER_S)})


class LimitedResponse(Response):
    """Mixin for responses that occupy a slot while they are being sent. A refusal comes before the first byte, so the
    caller receives it as a problem response."""

    def limit(self, concurrency: ConcurrencyLimit, owner: str) -> Self:
        self._concurrency, self._owner = concurrency, owner
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._concurrency.slot(self._owner):
            await super().__call__(scope, receive, send)
