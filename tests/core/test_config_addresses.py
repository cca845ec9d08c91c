"""Addresses and urls: read, refused with a hint, and never echoed in a reason."""

from __future__ import annotations

import pytest

from relay.config.reading.addresses import parse_address, parse_url
from relay.config.values import Address, Url


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", Address("tcp", "127.0.0.1", 8000)),
        ("localhost:0", Address("tcp", "localhost", 0)),
        ("0.0.0.0:80", Address("tcp", "0.0.0.0", 80)),
        ("[::1]:8000", Address("tcp", "::1", 8000)),
        ("[::]:8000", Address("tcp", "::", 8000)),
        ("unix:/run/relay.sock", Address("unix", path="/run/relay.sock")),
        ("unix:/run/r.sock?mode=660", Address("unix", path="/run/r.sock", mode=0o660)),
        ("unix:/run/r.sock?mode=0600", Address("unix", path="/run/r.sock", mode=0o600)),
        ("fd:3", Address("fd", fd=3)),
        ("fd:web", Address("fd", name="web")),
    ],
)
def test_address(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(parse_address(text)) == text.partition("?")[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the host is missing"),
        ("localhost", "the port is missing"),
        ("8000", 'a host is needed: "127.0.0.1:PORT", or "0.0.0.0:PORT" for every interface'),
        (":8000", 'for every interface write "0.0.0.0:PORT" or "[::]:PORT"'),
        ("*:8000", 'for every interface write "0.0.0.0:PORT" or "[::]:PORT"'),
        ("http://x:80", "a listener is no url: leave the scheme out"),
        ("::1:8000", 'an IPv6 address is written in brackets: "[::1]:PORT"'),
        ("[::1]8000", 'an IPv6 address is written "[::1]:PORT"'),
        ("[::1", 'an IPv6 address is written "[::1]:PORT"'),
        ("[x]:1", "there is no IPv6 address in the brackets"),
        ("[::1]", "the port is missing"),
        ("x:", "a port is a number up to 65535"),
        ("x:65536", "a port is a number up to 65535"),
        ("x:-1", "a port is a number up to 65535"),
        ("x:٣", "a port is a number up to 65535"),
        ("a b:1", "that is no host name"),
        ("-a:1", "that is no host name"),
        ("bücher:1", "write an international host name in its xn-- form"),
        ("unix:run/x", '"unix:" is followed by an absolute path'),
        ("unix:/run/x?mod=1", 'the only option of "unix:" is "?mode=660"'),
        ("unix:/run/x?mode=9", "a mode is three octal digits, such as 660"),
        ("unix:/" + "x" * 107, "a socket's path has at most 107 bytes"),
        (
            "fd:",
            '"fd:" is followed by the number or the LISTEN_FDNAMES name of a descriptor',
        ),
        (
            "fd:3x",
            '"fd:" is followed by the number or the LISTEN_FDNAMES name of a descriptor',
        ),
    ],
)
def test_no_address(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse_address(text)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("text", "url", "authority"),
    [
        ("http://x", Url("http", "x", 80), b"x"),
        ("http://x/", Url("http", "x", 80), b"x"),
        ("http://x:80/", Url("http", "x", 80), b"x"),
        ("https://x", Url("https", "x", 443), b"x"),
        ("https://x:8443/base/", Url("https", "x", 8443, "/base"), b"x:8443"),
        ("http://[::1]:9000/a/b", Url("http", "::1", 9000, "/a/b"), b"[::1]:9000"),
        ("http://x/a%20b", Url("http", "x", 80, "/a%20b"), b"x"),
        ("unix:/run/x", Url("http", "localhost", 80, unix="/run/x"), b"localhost"),
        ("unix:///run/x", Url("http", "localhost", 80, unix="/run/x"), b"localhost"),
    ],
)
def test_url(text: str, url: Url, authority: bytes) -> None:
    assert parse_url(text) == url
    assert parse_url(text).authority == authority


_USER = (
    "user and password do not belong in a url: set request_headers = "
    '{ Authorization = "Basic ${CREDENTIALS}" }'
)
_QUERY = "a query or fragment does not belong here: put it in the upstream_path of a route"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it starts with http://, https:// or unix:/"),
        ("x:80", "it starts with http://, https:// or unix:/"),
        ("ftp://x", "it starts with http://, https:// or unix:/"),
        ("HTTP://x", "it starts with http://, https:// or unix:/"),
        ("http://", "the host is missing"),
        ("http:///x", "the host is missing"),
        ("http://user:pa55@x/", _USER),
        ("http://pa55@x/", _USER),
        ("http://x/?k=pa55", _QUERY),
        ("http://x/#f", _QUERY),
        ("http://x:0/", "port 0 cannot be called"),
        ("http://x:99999/", "a port is a number up to 65535"),
        ("http://a b/", "that is no host name"),
        ("http://x/a b", "its path has a character that must be percent-encoded"),
        ("http://x/é", "its path has a character that must be percent-encoded"),
        ("http://x/{id}", "its path has a character that must be percent-encoded"),
        ("http://x/a/../b", "a dot segment is refused"),
        ("unix:x", '"unix:" is followed by an absolute path'),
        ("unix:/x?y", "a socket's path has no NUL, ? or #"),
    ],
)
def test_no_url(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse_url(text)
    assert str(caught.value) == reason
    assert "pa55" not in reason
