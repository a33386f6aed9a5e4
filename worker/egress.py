"""HTTP to addresses that strangers named: inputs to fetch, webhooks to deliver.

The check and the connection are one step: a name is resolved, every address it gives is checked, and the socket is
opened to the checked address itself. A name that answers differently a second later (DNS rebinding) gains nothing. TLS
still verifies the name. httpcore's network backend is its public seat for this (encode.io/httpcore/network-backends),
and, unlike a whole client, httpcore reads no proxy from the environment.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpcore
import httpx

from jobs.egress import HostTimeoutError, HostUnknownError, check_url, resolve_checked

USER_AGENT = "Retalking/1"
RATE_WINDOW_S = 10.0
# How often whoever waits for a silent peer is asked whether to go on.
POLL_S = 1.0
# A name and a port to checked addresses; what else a pair holds is of no interest here.
Resolve = Callable[[str, int], Sequence[tuple[Any, str]]]


class UnreachableError(Exception):
    """The address does not answer as HTTP. The message says why, without the address."""


class TooSlowError(UnreachableError):
    """A body, of the answer or a streamed one of the request, passes more slowly than `Egress.min_bytes_per_s`."""


@dataclass(frozen=True)
class Egress:
    """Limits of an exchange.

    allow: private hosts that may be reached. idle_s: longest silence, and longest time until the head of the answer is
    complete. total_s: longest exchange, the lookup of the name included. min_bytes_per_s: slowest body, averaged over
    `rate_window_s`; 0: any. owner: on whose behalf names are looked up. poll: called while a peer is silent, every
    POLL_S; it may raise.
    """

    allow: tuple[str, ...]
    idle_s: float
    total_s: float
    min_bytes_per_s: int = 0
    rate_window_s: float = RATE_WINDOW_S
    owner: str = ""
    poll: Callable[[], None] = lambda: None

    @contextmanager
    def exchange(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        content: bytes | Iterator[bytes] | None = None,
    ) -> Iterator[httpcore.Response]:
        """One request; the body of the answer is still to be read. Redirects are the caller's business.

        content: a body in chunks may take until total_s, and is held to the pace as well; what it raises is passed on.

        Raises ServiceError(url_not_allowed), UnreachableError and TooSlowError, also while the body is read inside the
        block.
        """
        ends_at = time.monotonic() + self.total_s

        def resolve(host: str, port: int) -> Sequence[tuple[Any, str]]:
            return resolve_checked(host, port, self.allow, self.owner, ends_at - time.monotonic())

        is_streamed = content is not None and not isinstance(content, bytes)
        backend = GuardedBackend(resolve, self.total_s if is_streamed else min(self.idle_s, self.total_s), self.poll)
        if is_streamed:
            backend.write_pace = Pace(self.min_bytes_per_s, self.rate_window_s)
        fields = [("User-Agent", USER_AGENT), ("Accept-Encoding", "identity"), *(headers or {}).items()]
        limits = dict.fromkeys(("connect", "read", "write", "pool"), self.idle_s)
        try:
            check_url(url, self.allow, self.owner, self.total_s)
            with (
                httpcore.ConnectionPool(tls_context(), network_backend=backend, max_connections=1) as pool,
                pool.stream(
                    method, _target(url), headers=fields, content=content, extensions={"timeout": limits}
                ) as answer,
            ):
                backend.deadline = ends_at
                backend.pace = Pace(self.min_bytes_per_s, self.rate_window_s)
                yield answer
        except HostTimeoutError:
            raise UnreachableError("its name was not resolved in time") from None
        except HostUnknownError:
            raise UnreachableError("its name is not known") from None
        except httpcore.TimeoutException:
            raise UnreachableError("it did not answer in time") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as fault:
            raise UnreachableError(_reason(fault)) from fault


class Pace:
    """Raises TooSlowError where a peer sends or takes fewer than `min_bytes_per_s`, averaged over `window_s` of waiting
    for it. The time in which nobody waits for the peer, because a disk is slow, does not count."""

    def __init__(self, min_bytes_per_s: int, window_s: float) -> None:
        self._min_bytes_per_s = min_bytes_per_s
        self._window_s = window_s
        self._waited_s = 0.0
        self._passed_bytes = 0

    def note(self, passed_bytes: int, waited_s: float) -> None:
        self._passed_bytes += passed_bytes
        self._waited_s += waited_s
        if self._waited_s < self._window_s:
            return
        if self._passed_bytes < self._min_bytes_per_s * self._waited_s:
            raise TooSlowError(f"fewer than {self._min_bytes_per_s} bytes a second pass")
        self._waited_s, self._passed_bytes = 0.0, 0


@cache
def tls_context() -> ssl.SSLContext:
    """One for the process: reading the certificates of all authorities takes longer than most exchanges."""
    return httpcore.default_ssl_context()


class GuardedBackend(httpcore.NetworkBackend):
    """Connects only to addresses that `resolve` lets through.

    deadline: moment (time.monotonic) at which everything ends, at first `total_s` after it was made. pace: of what is
    read; None: any. write_pace: of what is written. All may be replaced while a connection is open. poll: as in Egress.
    """

    def __init__(self, resolve: Resolve, total_s: float, poll: Callable[[], None] = lambda: None) -> None:
        self._resolve = resolve
        self._backend = httpcore.SyncBackend()
        self.deadline = time.monotonic() + total_s
        self.pace: Pace | None = None
        self.write_pace: Pace | None = None
        self.poll = poll

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        fault: httpcore.NetworkError | httpcore.TimeoutException = httpcore.ConnectError("the name has no address")
        for _family, address in self._resolve(host, port):
            left = remaining(self.deadline, timeout, httpcore.ConnectTimeout)
            try:
                stream = self._backend.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore.NetworkError, httpcore.ConnectTimeout) as refused:
                fault = refused
            else:
                return TimedStream(stream, self)
        raise fault

    def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        raise httpcore.UnsupportedProtocol("local sockets are not reached")


class TimedStream(httpcore.NetworkStream):
    """A stream under the deadline and the pace of its backend. The pace counts what arrives at the socket: a peer that
    drips into the framing of a chunk, which is no body yet, is noticed as well."""

    def __init__(self, stream: httpcore.NetworkStream, limits: GuardedBackend) -> None:
        self._stream = stream
        self._limits = limits

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        began = time.monotonic()
        received = self._read(max_bytes, remaining(self._limits.deadline, timeout, httpcore.ReadTimeout))
        if self._limits.pace is not None:
            self._limits.pace.note(len(received), time.monotonic() - began)
        return received

    def _read(self, max_bytes: int, limit_s: float) -> bytes:
        """In short waits, so that a silent peer does not keep whoever waits from ending."""
        ends_at = time.monotonic() + limit_s
        while (left_s := ends_at - time.monotonic()) > POLL_S:
            with suppress(httpcore.ReadTimeout):
                return self._stream.read(max_bytes, POLL_S)
            self._limits.poll()
        return self._stream.read(max_bytes, max(left_s, 0.001))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        began = time.monotonic()
        self._stream.write(buffer, remaining(self._limits.deadline, timeout, httpcore.WriteTimeout))
        if self._limits.write_pace is not None:
            self._limits.write_pace.note(len(buffer), time.monotonic() - began)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = remaining(self._limits.deadline, timeout, httpcore.ConnectTimeout)
        return TimedStream(self._stream.start_tls(ssl_context, server_hostname, left), self._limits)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def remaining(deadline: float, timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
    """Seconds for the next step: `timeout`, or less when the deadline is near. Raises `late` when it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise late("the exchange took too long")
    return left if timeout is None else min(left, timeout)


def _target(url: str) -> httpcore.URL:
    """httpx knows international names and escapes; httpcore wants plain bytes."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        raise UnreachableError("it is not a valid address") from None
    return httpcore.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path)


def _reason(fault: Exception) -> str:
    if isinstance(fault.__cause__ or fault, ssl.SSLError) or "CERTIFICATE" in str(fault):
        return "its TLS certificate was not accepted"
    if isinstance(fault, httpcore.ConnectError):
        return "the connection was refused"
    return "the connection broke off"
