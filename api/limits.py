"""Limits of what callers send: size and pace of bodies, free JSON and text, and requests that stay open."""

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
from starlette.types import Receive, Scope, Send

from api.problems import FieldError, say
from jobs.errors import ServiceError


@dataclass(frozen=True)
class Pace:
    """How slow a body may be. idle_s: without a byte; after as long, min_bytes_per_s on average (0: no limit)."""

    idle_s: float
    min_bytes_per_s: int = 0

    def patience_s(self, received: int, waited_s: float) -> float:
        """How long the next bytes may take."""
        if not self.min_bytes_per_s:
            return self.idle_s
        return min(self.idle_s, self.idle_s + received / self.min_bytes_per_s - waited_s)


async def body_chunks(request: Request, max_bytes: int, pace: Pace) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises body_too_large before the first byte where the length is announced, and
    request_timeout when it is slower than the pace. A client that leaves raises ClientDisconnect.

    Only waiting for the client counts: what this service takes to store the bytes does not.
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
    """A small body, whole."""
    return b"".join([chunk async for chunk in body_chunks(request, max_bytes, pace)])


def too_large(max_bytes: int, what: str) -> ServiceError:
    return ServiceError("body_too_large", f"The {what} is larger than the limit of {max_bytes} bytes.")


# Objects and arrays inside each other. The parser's own limit: what is deeper is read by nobody.
MAX_JSON_DEPTH = 200
# Names and values of one document. The largest submission that means something has about 1,200.
MAX_JSON_VALUES = 20_000
MAX_METADATA_BYTES = 16 * 1024
MAX_METADATA_DEPTH = 16
MAX_METADATA_VALUES = 1000
MAX_NAME_CHARS = 255
# Whatever reads metadata back: a 64-bit integer is the largest that most languages and stores hold
MAX_INTEGER = 2**63 - 1
# C0, DEL and C1: databases refuse NUL, and terminals obey escape sequences
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_IN_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def read_json(text: str | bytes, what: str) -> Any:
    """RFC 8259 JSON. Raises malformed_json, also for what the parser would take and nobody else: NaN, Infinity, numbers
    beyond a double, half a surrogate pair, and nesting over MAX_JSON_DEPTH; value_out_of_bounds for too many values."""
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
        if count > MAX_JSON_VALUES:
            raise ServiceError("value_out_of_bounds", f"{what} has more than {MAX_JSON_VALUES} names and values.")
        if isinstance(item, str) and _SURROGATE.search(item):
            raise ServiceError("malformed_json", f"{what} holds half of a surrogate pair, which is no character.")
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
        raise _out_of_bounds(slot, f"Its file name holds the control character {_name_of(found)}")


def _check_scalar(item: object) -> None:
    if isinstance(item, str) and (found := _CONTROL_IN_TEXT.search(item)):
        message = f"It holds the control character {_name_of(found)}; of these only tabs and line ends are kept"
        raise _out_of_bounds("metadata", message)
    if isinstance(item, int) and abs(item) > MAX_INTEGER:
        raise _out_of_bounds("metadata", f"It holds an integer beyond {MAX_INTEGER}; send it as a string")
    if isinstance(item, float) and not math.isfinite(item):
        raise _out_of_bounds("metadata", "It holds a number that is not finite")


def _walk(value: object) -> Iterator[tuple[object, int, int]]:
    """Every value and every name, with its depth (containers count themselves) and how many were met so far.

    A container comes before its content, so that whoever finds it too large or too deep stops there. Not recursive,
    because its input may be deeper than the stack.
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
    return ServiceError("value_out_of_bounds", say(errors), errors=errors)


RETRY_AFTER_S = 2


class Places:
    """what: for the message. most_each: of one owner; of callers without a key most_total alone holds."""

    def __init__(self, what: str, most_each: int, most_total: int) -> None:
        self._what, self._most_each, self._most_total = what, most_each, most_total
        self._taken: Counter[str] = Counter()

    @contextmanager
    def take(self, owner: str) -> Iterator[None]:
        """Raises too_many_open."""
        if owner and self._taken[owner] >= self._most_each:
            raise self._refusal(f"This key has {self._most_each} {self._what} open, and may have no more at a time.")
        if self._taken.total() >= self._most_total:
            raise self._refusal(f"{self._most_total} {self._what} are open, and the service takes no more at a time.")
        self._taken[owner] += 1
        try:
            yield
        finally:
            self._taken[owner] -= 1
            if not self._taken[owner]:
                del self._taken[owner]

    def _refusal(self, message: str) -> ServiceError:
        return ServiceError("too_many_open", message, headers={"Retry-After": str(RETRY_AFTER_S)})


class HoldsPlace:
    """Mixed into a response: it holds a place for as long as it is being sent. A refusal comes before its first byte,
    so it is answered as one."""

    def hold(self, places: Places, owner: str) -> Self:
        self._places, self._owner = places, owner
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._places.take(self._owner):
            await super().__call__(scope, receive, send)
