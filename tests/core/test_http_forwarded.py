"""Who the client is, through nobody, through trusted proxies, and through liars."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from relay.http.fields import ClientView, client_view, request_fields
from relay.http.forwarded import Trusted
from relay.http.heads import RequestHead, parse_request

TRUSTED: Trusted = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"), None)


def head_with(*lines: bytes, host: bytes = b"app.example", version: bytes = b"1.1") -> RequestHead:
    hosts = [b"Host: " + host] if host else []
    parsed = parse_request(
        b"\r\n".join([b"GET / HTTP/" + version, *hosts, *lines, b"", b""]), 16384
    )
    assert parsed is not None
    return parsed[0]


def chain(view: ClientView) -> tuple[bytes, bytes]:
    return view.address, view.x_forwarded_for


LIES = (
    b"X-Forwarded-For: 127.0.0.1",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-Host: evil",
    b"Forwarded: for=127.0.0.1;proto=https;host=evil",
)


@pytest.mark.parametrize(
    ("peer", "networks"),
    [("192.0.2.7", ()), ("192.0.2.7", TRUSTED), ("10.0.0.1", ()), ("testclient", TRUSTED)],
)
def test_lies_of_a_peer_that_is_not_trusted(peer: str, networks: Trusted) -> None:
    address = peer.encode()
    assert client_view(head_with(*LIES), peer, networks) == ClientView(
        address,
        b"http",
        b"app.example",
        address,
        b"for=" + address + b";host=app.example;proto=http",
    )


V4, V6 = b"192.0.2.7", b"2001:db8::1"


@pytest.mark.parametrize(
    ("peer", "view"),
    [
        (
            "192.0.2.7",
            ClientView(V4, b"http", b"a:80", V4, b'for=192.0.2.7;host="a:80";proto=http'),
        ),
        (
            "2001:db8::1",
            ClientView(V6, b"https", b"a", V6, b'for="[2001:db8::1]";host=a;proto=https'),
        ),
        (
            "::ffff:192.0.2.7",
            ClientView(V4, b"http", b"a", V4, b"for=192.0.2.7;host=a;proto=http"),
        ),
        (
            "fe80::1%eth0",
            ClientView(b"fe80::1", b"http", b"a", b"fe80::1", b'for="[fe80::1]";host=a;proto=http'),
        ),
        (None, ClientView(b"unix", b"http", b"a", b"", b"for=unknown;host=a;proto=http")),
        ("192.0.2.7", ClientView(V4, b"http", b"", V4, b"for=192.0.2.7;proto=http")),
    ],
)
def test_direct(peer: str | None, view: ClientView) -> None:
    head = head_with(host=view.host, version=b"1.1" if view.host else b"1.0")
    assert client_view(head, peer, (), view.scheme) == view


@pytest.mark.parametrize(
    ("lines", "address", "x_forwarded_for"),
    [
        ([], b"10.0.0.1", b"10.0.0.1"),
        ([b"X-Forwarded-For: 192.0.2.7"], b"192.0.2.7", b"192.0.2.7, 10.0.0.1"),
        ([b"X-Forwarded-For: 1.1.1.1, 192.0.2.7"], b"192.0.2.7", b"192.0.2.7, 10.0.0.1"),
        (
            [b"X-Forwarded-For: 1.1.1.1, 192.0.2.7, 10.0.0.2"],
            b"192.0.2.7",
            b"192.0.2.7, 10.0.0.2, 10.0.0.1",
        ),
        (
            [b"X-Forwarded-For: 192.0.2.7", b"X-Forwarded-For: 10.0.0.2"],
            b"192.0.2.7",
            b"192.0.2.7, 10.0.0.2, 10.0.0.1",
        ),
        ([b"X-Forwarded-For: 10.0.0.3,10.0.0.2"], b"10.0.0.3", b"10.0.0.3, 10.0.0.2, 10.0.0.1"),
        ([b"X-Forwarded-For: 192.0.2.7, unknown, 10.0.0.2"], b"10.0.0.2", b"10.0.0.2, 10.0.0.1"),
        ([b"X-Forwarded-For: 192.0.2.7, nonsense"], b"10.0.0.1", b"10.0.0.1"),
        ([b"X-Forwarded-For:"], b"10.0.0.1", b"10.0.0.1"),
        ([b"X-Forwarded-For: 192.0.2.7:5000"], b"192.0.2.7", b"192.0.2.7, 10.0.0.1"),
        ([b"X-Forwarded-For: [2001:DB8::1]:80"], b"2001:db8::1", b"2001:db8::1, 10.0.0.1"),
        ([b"X-Forwarded-For: 2001:db8::1"], b"2001:db8::1", b"2001:db8::1, 10.0.0.1"),
        ([b"X-Forwarded-For: ::ffff:192.0.2.7"], b"192.0.2.7", b"192.0.2.7, 10.0.0.1"),
        ([b"X-Forwarded-For: \xff"], b"10.0.0.1", b"10.0.0.1"),
        ([b"Forwarded: for=192.0.2.7"], b"192.0.2.7", b"192.0.2.7, 10.0.0.1"),
        ([b'Forwarded: For="[2001:db8::1]:4711"'], b"2001:db8::1", b"2001:db8::1, 10.0.0.1"),
        ([b'forwarded: for="\\1.1.1.1" ; by=_x'], b"1.1.1.1", b"1.1.1.1, 10.0.0.1"),
        ([b"Forwarded: for=1.1.1.1, for=192.0.2.7"], b"192.0.2.7", b"192.0.2.7, 10.0.0.1"),
        ([b"Forwarded: for=_hidden, for=10.0.0.2"], b"10.0.0.2", b"10.0.0.2, 10.0.0.1"),
        ([b"Forwarded: for=1.1.1.1, !!, for=10.0.0.2"], b"10.0.0.2", b"10.0.0.2, 10.0.0.1"),
        ([b'Forwarded: for="1.1.1.1, for=10.0.0.2'], b"10.0.0.2", b"10.0.0.2, 10.0.0.1"),
        ([b"Forwarded: for=1.1.1.1 x"], b"10.0.0.1", b"10.0.0.1"),
        # Many proxies write X-Forwarded-For and pass on a Forwarded that they never read.
        (
            [b"Forwarded: for=1.1.1.1", b"X-Forwarded-For: 192.0.2.7"],
            b"192.0.2.7",
            b"192.0.2.7, 10.0.0.1",
        ),
    ],
)
def test_through_a_trusted_peer(lines: list[bytes], address: bytes, x_forwarded_for: bytes) -> None:
    view = client_view(head_with(*lines), "10.0.0.1", TRUSTED)
    assert chain(view) == (address, x_forwarded_for)
    assert view.trusted


@pytest.mark.parametrize(
    ("lines", "scheme", "host"),
    [
        ([], b"http", b"app.example"),
        ([b"X-Forwarded-Proto: https", b"X-Forwarded-Host: x.example:1"], b"https", b"x.example:1"),
        ([b"X-Forwarded-Proto: HTTPS"], b"https", b"app.example"),
        ([b"X-Forwarded-Proto: javascript", b"X-Forwarded-Host: a/b"], b"http", b"app.example"),
        (
            [
                b"X-Forwarded-For: 192.0.2.7, 10.0.0.2",
                b"X-Forwarded-Proto: ftp, https, http",
                b"X-Forwarded-Host: evil, a, b",
            ],
            b"https",
            b"a",
        ),
        ([b'Forwarded: for=192.0.2.7;proto=https;host="x:1"'], b"https", b"x:1"),
        ([b"Forwarded: proto=https"], b"https", b"app.example"),
        ([b"Forwarded: for=1.1.1.1;host=evil, for=192.0.2.7;host=a"], b"http", b"a"),
    ],
)
def test_scheme_and_host(lines: list[bytes], scheme: bytes, host: bytes) -> None:
    view = client_view(head_with(*lines), "10.0.0.1", TRUSTED)
    assert (view.scheme, view.host) == (scheme, host)


def test_forwarded_is_written_for_the_whole_chain() -> None:
    head = head_with(b"X-Forwarded-For: 2001:db8::1, 10.0.0.2", b"X-Forwarded-Proto: https")
    view = client_view(head, "10.0.0.1", TRUSTED)
    assert view.forwarded == (
        b'for="[2001:db8::1]";host=app.example;proto=https, for=10.0.0.2, for=10.0.0.1'
    )


def test_a_trusted_unix_peer() -> None:
    view = client_view(head_with(b"X-Forwarded-For: 192.0.2.7"), None, TRUSTED)
    assert chain(view) == (b"192.0.2.7", b"192.0.2.7")
    nobody = client_view(head_with(b"X-Forwarded-For: 192.0.2.7"), None, TRUSTED[:2])
    assert chain(nobody) == (b"unix", b"")
    alone = client_view(head_with(), None, TRUSTED)
    assert chain(alone) == (b"unix", b"")
    assert alone.forwarded == b"for=unknown;host=app.example;proto=http"


def test_an_endless_chain_is_not_walked() -> None:
    head = head_with(b"X-Forwarded-For: 192.0.2.7" + b", 10.0.0.2" * 100)
    view = client_view(head, "10.0.0.1", TRUSTED)
    assert view.address == b"10.0.0.2"
    assert view.x_forwarded_for.count(b",") == 32


def test_a_new_trust_list_counts_at_once() -> None:
    head = head_with(b"X-Forwarded-For: 192.0.2.7")
    for networks, address in (
        (TRUSTED, b"192.0.2.7"),
        ((ip_network("11.0.0.0/8"),), b"10.0.0.1"),
        (TRUSTED, b"192.0.2.7"),
    ):
        assert client_view(head, "10.0.0.1", networks).address == address


def test_other_claims_of_a_trusted_peer_are_passed_on() -> None:
    head = head_with(
        b"X-Forwarded-Port: 443", b"X-Real-IP: 192.0.2.7", b"X-Forwarded-For: 192.0.2.7"
    )
    for peer, kept in (("10.0.0.1", True), ("192.0.2.9", False)):
        fields = request_fields(
            head,
            authority=b"b",
            client=client_view(head, peer, TRUSTED),
            via=b"relay",
            request_id=b"1",
            request_id_header=b"x-request-id",
        )
        assert ((b"x-forwarded-port", b"443") in fields) is kept
        assert ((b"x-real-ip", b"192.0.2.7") in fields) is kept
        assert len([name for name, _ in fields if name == b"x-forwarded-for"]) == 1


@pytest.mark.parametrize(
    ("host", "forwarded"),
    [
        (b"a=b", b'for=192.0.2.7;host="a=b";proto=http'),
        (b"a(b)", b'for=192.0.2.7;host="a(b)";proto=http'),
        (b"a~b", b"for=192.0.2.7;host=a~b;proto=http"),
        # A reader that splits at every `;` would believe it.
        (b"a;for=127.0.0.1", b"for=192.0.2.7;proto=http"),
        (b"a;proto=https", b"for=192.0.2.7;proto=http"),
    ],
)
def test_a_host_says_nothing_but_the_host(host: bytes, forwarded: bytes) -> None:
    parsed = parse_request(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", 16384)
    assert parsed is not None
    view = client_view(parsed[0], "192.0.2.7", ())
    assert (view.host, view.forwarded) == (host, forwarded)
