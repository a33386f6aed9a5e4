"""Guard against server-side request forgery."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from jobs import egress
from jobs.egress import UrlNotAllowedError, check_url, is_public, resolve_checked


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Answers of the resolver: name -> addresses. Other names do not resolve."""
    known: dict[str, list[str]] = {}

    def getaddrinfo(host: str, port: int, **_: object) -> list[tuple]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6 if ":" in text else socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port))
            for text in known[host]
        ]

    monkeypatch.setattr(egress.socket, "getaddrinfo", getaddrinfo)
    return known


HOSTILE_HOSTS = [
    # loopback and this host, in every form that some resolver or client understands
    "127.0.0.1", "127.8.9.10", "127.1", "127.0.1", "0", "0.0.0.0", "0.0.0.0.", "127.0.0.1.", "2130706433",
    "017700000001", "0177.0.0.1", "0x7f000001", "0x7f.0.0.1", "0x7f.1", "0X7F.0.0.1", "127.0.0.01", "00.0.0.0", "0x",
    "0300.0250.1.1", "3232235777", "4294967295", "99999999999", "1.2.3.4.5", "256.1.1.1", "1.1.1.0x1",
    "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[::7f00:1]",
    # private, shared, link-local, metadata
    "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.255.254", "169.254.169.254",
    "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "[fd00:ec2::254]", "[fe80::1]", "[fec0::1]",
    "[fc00::1]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]",
    # reserved, documentation, benchmark, multicast, broadcast
    "192.0.2.1", "198.51.100.7", "203.0.113.9", "198.18.0.1", "192.88.99.1", "224.0.0.1", "239.255.255.255",
    "240.0.0.1", "255.255.255.255", "[ff02::1]", "[2001:db8::1]", "[3fff::1]", "[100::1]", "[5f00::1]",
    # IPv4 addresses inside IPv6 ones
    "[64:ff9b::127.0.0.1]", "[64:ff9b::a00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:a00:1::1]",
    "[2001:0:53aa:64c::1]", "[::ffff:0:127.0.0.1]",
    # not hosts
    "[", "[]", "[::1", "[::g]", "[127.0.0.1]", "a..b", ".a", "-a.com", "a b", "a%2eb", "%31%32%37.0.0.1", "a_" * 127,
    "*.example.com", "exa\tmple.com", "127.0.0.1\t", "１２７.0.0.1", "ⓛocalhost", "127。0。0。1",
    "example.com\\@127.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTILE_HOSTS)
def test_hostile_hosts_are_refused(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Independently of the resolver, which answers every name with a public address here."""
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 80))]
    monkeypatch.setattr(egress.socket, "getaddrinfo", lambda *_, **__: answer)
    check_url("http://any-name.example/", [])
    for url in (f"http://{host}/hook", f"https://{host}:8443/"):
        with pytest.raises(UrlNotAllowedError) as refused:
            check_url(url, [])
        assert refused.value.code == "url_not_allowed"
        assert refused.value.message.endswith(".")


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "//example.com", "/etc/passwd", "file:///etc/passwd", "ftp://example.com/", "gopher://example.com",
        "javascript:alert(1)", "http:example.com", "http:/example.com", "http://", "http:///x", "http://?x", "http://:80/",
        "http://example.com:0/", "http://example.com:65536/", "http://example.com:-1/", "http://example.com:a/",
        "http://user@example.com/", "http://user:pw@example.com/", "http://@example.com/", "http://:@example.com/",
        "http://example.com@127.0.0.1/", "http://127.0.0.1#@example.com/", "http://example.com /", " http://example.com/",
        "http://example.com/\r\nHost: x", "http://example.com/\n", "http://exam\x00ple.com/", "http://example.com/ä",
        "http://[::1]@example.com/", "http://[::1].example.com/", "http://example.com\\..\\x",
        "http://example.com/" + "a" * 2048,
    ],
)  # fmt: skip
def test_malformed_addresses_are_refused(names: dict[str, list[str]], url: str) -> None:
    names["example.com"] = ["93.184.216.34"]
    with pytest.raises(UrlNotAllowedError):
        check_url(url, [])


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com", "https://example.com/a?b=c#d", "HTTPS://EXAMPLE.COM./x", "http://example.com:8080/",
        "http://93.184.216.34/", "https://[2606:2800:220:1::1]:443/x", "http://[::ffff:93.184.216.34]/",
        "http://[64:ff9b::93.184.216.34]/", "https://xn--bcher-kva.example.com/%C3%A4",
    ],
)  # fmt: skip
def test_public_addresses_pass(names: dict[str, list[str]], url: str) -> None:
    names["example.com"] = names["xn--bcher-kva.example.com"] = ["93.184.216.34", "2606:2800:220:1::1"]
    check_url(url, [])


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["fe80::1%eth0"], ["::ffff:10.0.0.1"], ["93.184.216.34", "::1"]],
)
def test_a_name_that_resolves_to_a_private_address_is_refused(
    names: dict[str, list[str]], addresses: list[str]
) -> None:
    names["rebind.example.com"] = addresses
    with pytest.raises(UrlNotAllowedError, match="not public") as refused:
        check_url("http://rebind.example.com/", [])
    for address in addresses:
        assert address not in refused.value.message


def test_localhost_is_refused_by_the_real_resolver() -> None:
    with pytest.raises(UrlNotAllowedError, match="not public"):
        check_url("http://localhost:8000/", [])


def test_an_unknown_name_has_its_own_message(names: dict[str, list[str]]) -> None:
    with pytest.raises(UrlNotAllowedError, match="cannot be resolved"):
        check_url("http://no-such-name.example/", [])


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://127.0.0.1:9000/", ["127.0.0.1"]),
        ("http://10.1.2.3/", ["192.168.0.0/16", "10.0.0.0/8"]),
        ("http://[fd00::5]/", ["fd00::/8"]),
        ("http://[fd00::5]/", ["[fd00::5]"]),
        ("http://[::ffff:10.1.2.3]/", ["10.0.0.0/8"]),
        ("http://Receiver.Internal/", ["receiver.internal"]),
        ("http://receiver.internal./", ["RECEIVER.internal."]),
        ("http://receiver.internal/", ["10.0.0.7"]),
    ],
)
def test_allowed_private_hosts_pass(names: dict[str, list[str]], url: str, allowed: list[str]) -> None:
    names["receiver.internal"] = ["10.0.0.7"]
    check_url(url, allowed)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://127.0.0.2/", ["127.0.0.1"]),
        ("http://receiver.internal/", ["internal", "other.internal", "10.0.0.8"]),
        ("http://x.receiver.internal/", ["receiver.internal"]),
        ("http://2130706433/", ["127.0.0.0/8"]),
        ("http://user@127.0.0.1/", ["127.0.0.1"]),
        ("http://10.0.0.7/", ["receiver.internal"]),
    ],
)
def test_other_private_hosts_stay_refused(names: dict[str, list[str]], url: str, allowed: list[str]) -> None:
    names["receiver.internal"] = names["x.receiver.internal"] = ["10.0.0.7"]
    with pytest.raises(UrlNotAllowedError):
        check_url(url, allowed)


def test_resolving_returns_the_addresses_to_connect_to(names: dict[str, list[str]]) -> None:
    names["example.com"] = ["2606:2800:220:1::1", "93.184.216.34", "93.184.216.34"]
    assert resolve_checked("Example.com.", 443, []) == [
        (socket.AF_INET6, "2606:2800:220:1::1"),
        (socket.AF_INET, "93.184.216.34"),
    ]
    assert resolve_checked("93.184.216.34", 80, []) == [(socket.AF_INET, "93.184.216.34")]
    assert resolve_checked("[::1]", 80, ["::1"]) == resolve_checked("::1", 80, ["::1"]) == [(socket.AF_INET6, "::1")]


def test_addresses_that_python_considers_private_are_not_public() -> None:
    """Samples both address spaces and compares with Python's table: ours must never allow more."""
    v4 = (ipaddress.IPv4Address(number << 16 | 0x0101) for number in range(1 << 16))
    v6 = (ipaddress.IPv6Address(number << 112 | 1) for number in range(1 << 16))
    for address in (*v4, *v6):
        if is_public(address):
            assert address.is_global, address
            assert not address.is_multicast, address
