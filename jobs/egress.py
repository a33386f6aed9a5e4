"""Guard against server-side request forgery (OWASP): URLs of callers may lead to public addresses only.

Checked twice: check_url() at submission, and resolve_checked() when connecting, which must use exactly the returned
addresses. A name whose answer changes in between (DNS rebinding) gains nothing.

Names are looked up with a deadline, and fairly among callers. `getaddrinfo` can neither be bounded nor canceled: a name
whose servers never answer blocks its thread until the system resolver times out (5 to 40 s). So each lookup has a
daemon thread of its own, at most `slots` at a time and `per_owner` for one owner; further lookups wait in a queue per
owner, and owners take turns.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import threading
import urllib.parse
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

from jobs.errors import ServiceError

LOOKUP_S = 5.0
SLOTS = 32
PER_OWNER = 4
# Queued lookups of one owner; a submission makes one after the other.
QUEUE_LIMIT = 256

Rows = list[Any]


class LookupTimeoutError(Exception):
    """The name was not resolved in time."""


@dataclass(frozen=True)
class _Lookup:
    host: str
    port: int
    future: Future[Rows]


class Resolver:
    """Thread-safe. lookup: replaces socket.getaddrinfo, whose OSError and UnicodeError are passed on."""

    def __init__(
        self,
        *,
        slots: int = SLOTS,
        per_owner: int = PER_OWNER,
        deadline_s: float = LOOKUP_S,
        lookup: Callable[..., Rows] | None = None,
    ) -> None:
        self._slots = slots
        self._per_owner = per_owner
        self._deadline_s = deadline_s
        self._lookup = lookup
        self._lock = threading.Lock()
        self._queues: dict[str, deque[_Lookup]] = {}
        self._busy: Counter[str] = Counter()

    def resolve(self, host: str, port: int, owner: str, limit_s: float | None = None) -> Rows:
        """Blocks for at most min(limit_s, the deadline). Raises LookupTimeoutError."""
        future = self._ask(host, port, owner)
        try:
            return future.result(self._deadline_s if limit_s is None else max(0.0, min(limit_s, self._deadline_s)))
        except FutureTimeoutError:
            raise LookupTimeoutError(host) from None
        finally:
            future.cancel()

    async def resolve_async(self, host: str, port: int, owner: str) -> Rows:
        """resolve() without blocking a thread of the caller."""
        future = self._ask(host, port, owner)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._deadline_s)
        except TimeoutError:
            raise LookupTimeoutError(host) from None

    def busy(self, owner: str) -> int:
        """Running lookups of an owner, including those whose caller gave up."""
        with self._lock:
            return self._busy.get(owner, 0)

    def _ask(self, host: str, port: int, owner: str) -> Future[Rows]:
        lookup = _Lookup(host, port, Future())
        with self._lock:
            queue = self._queues.setdefault(owner, deque())
            if len(queue) >= QUEUE_LIMIT:
                raise LookupTimeoutError(host)
            queue.append(lookup)
            self._start_waiting()
        return lookup.future

    def _start_waiting(self) -> None:
        """Start the first lookup of each queue while slots are free, owners in turn. The lock is held."""
        started = True
        while started:
            started = False
            for owner in list(self._queues):
                if sum(self._busy.values()) >= self._slots:
                    return
                lookup = self._next_of(owner)
                if lookup is not None:
                    self._busy[owner] += 1
                    threading.Thread(target=self._run, args=(owner, lookup), name="lookup", daemon=True).start()
                    started = True

    def _next_of(self, owner: str) -> _Lookup | None:
        """Moves the owner's queue behind the others. Lookups whose caller gave up are dropped."""
        queue = self._queues.pop(owner)
        while queue and queue[0].future.cancelled():
            queue.popleft()
        lookup = queue.popleft() if queue and self._busy.get(owner, 0) < self._per_owner else None
        if queue:
            self._queues[owner] = queue
        return lookup

    def _run(self, owner: str, lookup: _Lookup) -> None:
        try:
            if lookup.future.set_running_or_notify_cancel():
                resolve = self._lookup or socket.getaddrinfo
                lookup.future.set_result(resolve(lookup.host, lookup.port, type=socket.SOCK_STREAM))
        except BaseException as fault:
            lookup.future.set_exception(fault)
        finally:
            with self._lock:
                self._busy[owner] -= 1
                if not self._busy[owner]:
                    del self._busy[owner]
                self._start_waiting()


Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_URL_CHARS = 2048
DEFAULT_PORTS = {"http": 80, "https": 443}
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

# IANA special-purpose registry, complete: is_private differs between Python versions
_REFUSED_V4 = [
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network, unspecified
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; also a cloud's metadata at 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's host agent, on an address that looks public
        "169.254.0.0/16",  # link-local; metadata at 169.254.169.254
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
]
# Only global unicast is allowed, without its tunnels and reserved blocks
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = [
    ipaddress.IPv6Network(block)
    for block in (
        "2001::/23",  # protocol assignments, Teredo (carries an IPv4 address)
        "2001:db8::/32",
        "2002::/16",  # 6to4 (carries an IPv4 address)
        "3fff::/20",
    )
]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class UrlNotAllowedError(ServiceError):
    """Code url_not_allowed. The message never reveals what a name resolved to."""

    def __init__(self, message: str, **details: object) -> None:
        super().__init__("url_not_allowed", message, **details)


class HostUnknownError(UrlNotAllowedError):
    """The name has no address now. Callers see url_not_allowed; a worker may retry."""


class HostTimeoutError(HostUnknownError):
    """Code host_unresolved: the name servers of the host did not answer in time."""

    def __init__(self, host: str) -> None:
        ServiceError.__init__(self, "host_unresolved", f"{host} was not resolved to an IP address in time.", host=host)


# One per process: it limits threads.
RESOLVER = Resolver()


def check_url(url: str, allow_private: Sequence[str], owner: str = "", limit_s: float | None = None) -> None:
    """Raises UrlNotAllowedError unless `url` is a plain http(s) URL that leads to public or allowed addresses.

    owner: whose lookup it is; names of one owner that never resolve do not delay those of another. limit_s: shorter
    deadline of the lookup than the resolver's own.
    """
    host, port = _host_and_port(url)
    resolve_checked(host, port, allow_private, owner, limit_s)


async def check_url_async(url: str, allow_private: Sequence[str], owner: str) -> None:
    """check_url() for an event loop: no thread waits for the lookup."""
    host, port = _host_and_port(url)
    host = _checked_host(host)
    if _literal(host) is None:
        try:
            rows = await RESOLVER.resolve_async(host, port, _queue_of(host, owner))
        except LookupTimeoutError:
            raise HostTimeoutError(host) from None
        except (OSError, UnicodeError):
            rows = []
        addresses = _addresses_of(host, rows)
    else:
        addresses = [ipaddress.ip_address(host)]
    _check_addresses(host, addresses, allow_private)


def receiver_of(url: str) -> str:
    """`host:port` of a URL, normalized, so that URLs of the same server share it; empty if there is none."""
    try:
        host, port = _host_and_port(url)
        return f"{_checked_host(host)}:{port}"
    except UrlNotAllowedError:
        return ""


def resolve_checked(
    host: str, port: int, allow_private: Sequence[str], owner: str = "", limit_s: float | None = None
) -> list[tuple[socket.AddressFamily, str]]:
    """(family, address) pairs to connect to, in the resolver's order; all of them must be allowed.

    host: a name, a dotted IPv4 address, or an IPv6 address with or without brackets. Raises UrlNotAllowedError.
    """
    host = _checked_host(host)
    literal = _literal(host)
    addresses = [literal] if literal is not None else _resolve(host, port, owner, limit_s)
    _check_addresses(host, addresses, allow_private)
    families = {4: socket.AF_INET, 6: socket.AF_INET6}
    return [(families[address.version], str(address)) for address in addresses]


def _check_addresses(host: str, addresses: Sequence[Address], allow_private: Sequence[str]) -> None:
    names, networks = _split_allowed(allow_private)
    if host not in names:
        for address in addresses:
            if not is_public(address) and not any(_unwrapped(address) in network for network in networks):
                raise UrlNotAllowedError(f"{host} leads to an IP address that is not public.", host=host)


def is_public(address: Address) -> bool:
    address = _unwrapped(address)
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in block for block in _REFUSED_V4)
    return address in _GLOBAL_V6 and not any(address in block for block in _REFUSED_V6)


def _unwrapped(address: Address) -> Address:
    """The IPv4 address inside an IPv4-mapped or NAT64 one, which is where the connection ends."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _host_and_port(url: str) -> tuple[str, int]:
    if len(url) > MAX_URL_CHARS:
        raise UrlNotAllowedError(f"The URL has more than {MAX_URL_CHARS} characters.")
    # URL parsers disagree about these; none of them is valid unencoded
    if any(not "!" <= char <= "~" or char == "\\" for char in url):
        raise UrlNotAllowedError("The URL contains a space, control, backslash or non-ASCII character; encode it.")
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UrlNotAllowedError("The URL is not well formed.") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise UrlNotAllowedError("The URL must begin with http:// or https://.")
    if "@" in parts.netloc:
        raise UrlNotAllowedError("The URL contains a user name or password; remove them.")
    if not host or port == 0:
        raise UrlNotAllowedError("The URL has no host, or port 0.")
    return host, port if port is not None else DEFAULT_PORTS[parts.scheme]


def _checked_host(host: str) -> str:
    """Lower case, without brackets and final dot. Refuses everything but a plain name or a plain IP address."""
    host = host.lower().removesuffix(".")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if _literal(host) is not None:
        return host
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise UrlNotAllowedError("The host is neither a plain name nor a plain IP address.")
    # 2130706433, 0x7f.1, 0177.0.0.1, 127.1: resolvers parse these as IPv4 addresses
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        raise UrlNotAllowedError("The host is a number; write an IPv4 address as four decimal numbers.")
    return host


def _literal(host: str) -> Address | None:
    """A plain IP address, else None. Zone ids (fe80::1%eth0) are not plain, and so are refused as names."""
    if "%" in host:
        return None
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _queue_of(host: str, owner: str) -> str:
    """The queue of a lookup: its owner, or the domain if the service requires no keys."""
    return owner or ".".join(host.split(".")[-2:])


def _resolve(host: str, port: int, owner: str, limit_s: float | None) -> list[Address]:
    try:
        rows = RESOLVER.resolve(host, port, _queue_of(host, owner), limit_s)
    except LookupTimeoutError:
        raise HostTimeoutError(host) from None
    except (OSError, UnicodeError):
        rows = []
    return _addresses_of(host, rows)


def _addresses_of(host: str, rows: Sequence[Any]) -> list[Address]:
    # dict: keeps the order, drops repeats. Only link-local addresses have a zone id, and they are refused anyway
    found = dict.fromkeys(str(row[4][0]).partition("%")[0] for row in rows)
    if not found:
        raise HostUnknownError(f"{host} cannot be resolved to an IP address.", host=host)
    return [ipaddress.ip_address(text) for text in found]


def _split_allowed(entries: Sequence[str]) -> tuple[set[str], list[ipaddress.IPv4Network | ipaddress.IPv6Network]]:
    """Names, and addresses and ranges as networks."""
    names, networks = set(), []
    for entry in entries:
        try:
            networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
        except ValueError:
            names.add(entry.lower().removesuffix("."))
    return names, networks
