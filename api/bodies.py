"""Reading request bodies in constant memory, under limits of size and of silence."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio
from starlette.requests import Request

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
