"""Names that never resolve delay their owner alone. The name server is real: it receives queries and never answers."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jobs import egress
from jobs.egress import QUEUE_LIMIT, HostTimeoutError, LookupTimeoutError, Resolver, check_url, check_url_async
from tests.services import silent_name_server, wait_until

PUBLIC = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 80))]


@pytest.fixture
def lookup() -> Iterator[Any]:
    """Like getaddrinfo: `*.silent.example` queries the silent server and times out after 10 s, other names resolve."""
    with silent_name_server() as ask:

        def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
            if host.endswith(".silent.example"):
                ask(host)
            return PUBLIC

        yield getaddrinfo


def test_silent_names_of_one_owner_do_not_delay_another(lookup: Any) -> None:
    resolver = Resolver(slots=8, per_owner=3, deadline_s=1.0, lookup=lookup)
    with ThreadPoolExecutor(40) as pool:
        hostile = [pool.submit(resolver.resolve, f"n{number}.silent.example", 80, "hostile") for number in range(40)]
        wait_until(lambda: resolver.busy("hostile") == 3)
        began = time.monotonic()
        assert all(resolver.resolve("good.example", 80, "other") == PUBLIC for _ in range(50))
        assert time.monotonic() - began < 1.0, "less than one deadline"
        for each in hostile:
            with pytest.raises(LookupTimeoutError):
                each.result(20)
    assert resolver.busy("hostile") == 3, "getaddrinfo cannot be canceled: what waits was dropped, no more was started"


def test_the_callers_limit_is_shorter_than_the_deadline(lookup: Any) -> None:
    resolver = Resolver(deadline_s=30.0, lookup=lookup)
    with pytest.raises(LookupTimeoutError):
        resolver.resolve("n.silent.example", 80, "one", limit_s=0.1)


def test_the_queue_of_an_owner_is_bounded(lookup: Any) -> None:
    resolver = Resolver(slots=1, per_owner=1, deadline_s=20.0, lookup=lookup)
    for number in range(QUEUE_LIMIT + 1):
        resolver._ask(f"n{number}.silent.example", 80, "hostile")
    with pytest.raises(LookupTimeoutError):
        resolver.resolve("one-more.silent.example", 80, "hostile")


def test_owners_take_turns() -> None:
    order: list[str] = []
    gate = threading.Event()

    def lookup(host: str, *_: object, **__: object) -> list[Any]:
        gate.wait(10)
        order.append(host)
        return PUBLIC

    resolver = Resolver(slots=1, per_owner=1, lookup=lookup)
    futures = [resolver._ask(host, 80, owner) for host, owner in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"))]
    gate.set()
    for future in futures:
        future.result(10)
    assert order.index("b1") <= 2
    assert [host for host in order if host[0] == "a"] == ["a1", "a2", "a3"]


def test_a_failed_lookup_frees_its_slot() -> None:
    def lookup(*_: object, **__: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    resolver = Resolver(slots=1, per_owner=1, lookup=lookup)
    for _ in range(5):
        with pytest.raises(socket.gaierror):
            resolver.resolve("x.example", 80, "one")
    wait_until(lambda: resolver.busy("one") == 0)


def test_the_guard_reports_it(lookup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sync and async; an IP address that needs no lookup passes meanwhile."""
    monkeypatch.setattr(egress, "RESOLVER", Resolver(slots=2, per_owner=2, deadline_s=0.2, lookup=lookup))
    for _ in range(3):
        with pytest.raises(HostTimeoutError) as refused:
            check_url("http://a.silent.example/", [], "hostile")
        assert refused.value.code == "host_unresolved"
    with pytest.raises(HostTimeoutError):
        asyncio.run(check_url_async("http://a.silent.example/", [], "hostile"))
    asyncio.run(check_url_async("http://93.184.216.34/", [], "hostile"))


def test_without_owners_each_domain_has_a_queue(lookup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "RESOLVER", Resolver(slots=4, per_owner=2, deadline_s=0.3, lookup=lookup))
    for number in range(4):
        with pytest.raises(HostTimeoutError):
            check_url(f"http://n{number}.silent.example/", [])
    check_url("http://www.good.org/", [])
