"""Reading request bodies in constant memory, under limits of size and of silence."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
from starlette.requests import Request

from jobs.errors import ServiceError


async def body_chunks(request: Request, max_bytes: int, idle_s: float) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises body_too_large before the first byte where the length is announced, and
    request_timeout when nothing arrived for idle_s. A client that leaves raises ClientDisconnect."""
    announced = request.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > max_bytes:
        raise too_large(max_bytes, "body")
    received = 0
    stream = request.stream()
    while True:
        try:
            with anyio.fail_after(idle_s):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            message = f"No byte of the body arrived for {idle_s:.0f} s, after {received} bytes."
            raise ServiceError("request_timeout", message) from None
        received += len(chunk)
        if received > max_bytes:
            raise too_large(max_bytes, "body")
        if chunk:
            yield chunk


async def read_body(request: Request, max_bytes: int, idle_s: float) -> bytes:
    """A small body, whole."""
    return b"".join([chunk async for chunk in body_chunks(request, max_bytes, idle_s)])


def too_large(max_bytes: int, what: str) -> ServiceError:
    return ServiceError("body_too_large", f"The {what} is larger than the limit of {max_bytes} bytes.")
