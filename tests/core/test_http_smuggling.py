"""Heads that two servers could read in two ways: each is refused, from clients and from upstreams.

Among them everything that h11 0.16 lets through (docs/technical-notes/http.md).
"""

from __future__ import annotations

import pytest

from relay.http.heads import parse_request, parse_response
from tests.core.http_feeding import Outcome, outcome


def request_outcome(data: bytes) -> Outcome:
    return outcome(lambda part: parse_request(part, 4096), data)


def response_outcome(data: bytes) -> Outcome:
    return outcome(lambda part: parse_response(part, b"GET", 4096), data)


# Field lines that are wrong in a request and in a response.
FIELD_LINES = {
    "length and coding": b"Content-Length: 5\r\nTransfer-Encoding: chunked",
    "coding and length": b"Transfer-Encoding: chunked\r\nContent-Length: 5",
    "zero length and coding": b"Content-Length: 0\r\nTransfer-Encoding: chunked",
    "lengths differ": b"Content-Length: 5\r\nContent-Length: 6",
    "length repeated": b"Content-Length: 5\r\nContent-Length: 5",
    "length list, equal": b"Content-Length: 5, 5",
    "length list, different": b"Content-Length: 5, 6",
    "length, leading comma": b"Content-Length: ,5",
    "length, leading zero": b"Content-Length: 05",
    "length, zeros": b"Content-Length: 00",
    "length, plus": b"Content-Length: +5",
    "length, minus": b"Content-Length: -5",
    "length, hexadecimal": b"Content-Length: 0x5",
    "length, underscore": b"Content-Length: 1_0",
    "length, decimal point": b"Content-Length: 5.0",
    "length, space inside": b"Content-Length: 1 0",
    "length, empty": b"Content-Length:",
    "length, non-ASCII digit": b"Content-Length: \xd9\xa3",
    "length, quoted": b'Content-Length: "5"',
    "length, 2^63": b"Content-Length: 9223372036854775808",
    "length, 2^64 + 5": b"Content-Length: 18446744073709551621",
    "length, thirty digits": b"Content-Length: " + b"9" * 30,
    "coding repeated": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "coding twice in one": b"Transfer-Encoding: chunked, chunked",
    "chunked not last": b"Transfer-Encoding: chunked, gzip",
    "coding, empty": b"Transfer-Encoding:",
    "coding, parameters": b"Transfer-Encoding: chunked;q=1",
    "coding, quoted": b'Transfer-Encoding: "chunked"',
    "coding, leading comma": b"Transfer-Encoding: , chunked",
    "coding, vertical tab": b"Transfer-Encoding: \x0bchunked",
    "coding, form feed": b"Transfer-Encoding: chunked\x0c",
    "coding, NUL": b"Transfer-Encoding: chunked\x00",
    "coding on a folded line": b"Transfer-Encoding:\r\n chunked",
    "lookalike coding": b"Transfer_Encoding: chunked",
    "lookalike length": b"Content_Length: 5",
    "lookalike length, upper case": b"CONTENT_LENGTH: 5",
    "lookalike coding, with a dot": b"Transfer.Encoding: chunked",
    "lookalike length, with a tilde": b"content~length: 5",
    "lookalike coding, with a plus": b"transfer+encoding: chunked",
    "lookalike length, with a mark": b"Content!Length: 5",
    "space before the colon": b"Transfer-Encoding : chunked",
    "tab before the colon": b"Content-Length\t: 5",
    "space in a name": b"Content Length: 5",
    "space before a name": b" Content-Length: 5",
    "no name": b": 5",
    "no colon": b"Content-Length 5",
    "NUL in a name": b"Content-Length\x00: 5",
    "quote in a name": b'"Content-Length": 5',
    "non-ASCII in a name": b"Content-Length\xff: 5",
    "folded with a space": b"X: a\r\n b",
    "folded with a tab": b"X: a\r\n\tb",
    "folded and empty": b"X: a\r\n ",
    "bare LF": b"X: a\nContent-Length: 5",
    "bare LF and LF": b"X: a\n\nY: b",
    "bare CR": b"X: a\rContent-Length: 5",
    "CR CR LF": b"X: a\r\r\nY: b",
    "CR at the value's start": b"X:\r a",
    "NUL in a value": b"X: a\x00b",
    "escape in a value": b"X: a\x1bb",
    "delete in a value": b"X: a\x7fb",
    "vertical tab in a value": b"X: a\x0bb",
}


@pytest.mark.parametrize("lines", FIELD_LINES.values(), ids=FIELD_LINES.keys())
def test_field_lines_of_a_request(lines: bytes) -> None:
    for place in (
        b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n",
        b"POST / HTTP/1.1\r\n%b\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\nX-Last: 1\r\n\r\n",
    ):
        assert request_outcome(place % lines)[:3] == ("fault", "client", 400)


@pytest.mark.parametrize("lines", FIELD_LINES.values(), ids=FIELD_LINES.keys())
def test_field_lines_of_a_response(lines: bytes) -> None:
    for place in (b"HTTP/1.1 200 OK\r\n%b\r\n\r\n", b"HTTP/1.1 200 OK\r\n%b\r\nX-Last: 1\r\n\r\n"):
        assert response_outcome(place % lines) == ("fault", "upstream", 502, "bad_response")


REQUESTS = {
    "coding in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "unknown coding": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    "unknown coding before chunked": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        501,
    ),
    "nearly chunked": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
    "identity": (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 501),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "Host twice": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "Host twice, HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "HTTP/2": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "HTTP/1.9": (b"GET / HTTP/1.9\r\nHost: a\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/2 without a minor": (b"GET / HTTP/2\r\nHost: a\r\n\r\n", 400),
    "http in lower case": (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    "HTTP/1.10": (b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400),
    "HTTP/01.1": (b"GET / HTTP/01.1\r\nHost: a\r\n\r\n", 400),
    "HTTP /1.1": (b"GET / HTTP /1.1\r\nHost: a\r\n\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two spaces before the version": (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "tab": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space first": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space after empty line": (b"\r\n GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space last": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "space in the target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no method": (b"/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "method with a slash": (b"GE/T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "space before the first field": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "LF LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "LF first": (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "CR first": (b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "CRLF LF": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "LF CRLF": (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    "authority-form": (b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
}


@pytest.mark.parametrize(("data", "status"), REQUESTS.values(), ids=REQUESTS.keys())
def test_requests(data: bytes, status: int) -> None:
    assert request_outcome(data)[:3] == ("fault", "client", status)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"a/b",
        b"a?b",
        b"a#b",
        b"a@b",
        b"user:pass@a",
        b"a,b",
        b"a, b",
        b"a b",
        b"a:b",
        b"a:99999",
        b"a:-1",
        b"a:80:80",
        b":80",
        b"http://a",
        b"a\\b",
        b"[::1",
        b"::1",
        b"[::1]x",
        b"[fe80::1%25eth0]",
        b"a%00",
        b"a%2Fb",
        b"a%2Cb",
        b"a%40b",
        b"a%20",
        b"a%5C",
        b"a%",
        b"a%4",
        b"a%zz",
        b"a%2",
        b"a;b,c",
        b"a<b",
        b"a|b",
        b"a{b}",
        b"a^b",
        b"a`b",
        b'"a"',
        b"\xe4",
        b"a" * 300,
    ],
)
def test_host(host: bytes) -> None:
    for line in (b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"GET http://b/ HTTP/1.1"):
        data = line + b"\r\nHost: " + host + b"\r\n\r\n"
        assert request_outcome(data)[:3] == ("fault", "client", 400), line
    absolute = b"GET http://" + host + b"x/ HTTP/1.1\r\nHost: a\r\n\r\n"
    if host not in (b"", b"a/b", b"a?b", b"http://a"):
        assert request_outcome(absolute)[0] == "fault"


@pytest.mark.parametrize(
    "target",
    [
        b"*",
        b"a",
        b"a/b",
        b"?a",
        b"../a",
        b"\\a",
        b"/a#b",
        b"/#",
        b"http://b/#c",
        b"http://",
        b"http:///a",
        b"http:/a",
        b"http://u@b/",
        b"ftp://b/",
        b"ws://b/",
        b"file:///etc/passwd",
        b"/\x7f",
        b"/\xe4",
        b"/a\tb",
        b"/..",
        b"/.",
        b"/a/..",
        b"/a/../b",
        b"/a/./b",
        b"/a/..?x",
        b"/%2e%2e/b",
        b"/%2E./b",
        b"/.%2e",
        b"/a/%2e/b",
        b"/a%2f..%2fb",
        b"/a%2F%2e%2E",
        b"/a\\..\\b",
        b"/a%5c..%5Cb",
        b"/a/..;x/b",
        b"/a/..%3bx/b",
        b"http://b/a/../c",
        b"http://b/..",
    ],
)
def test_target(target: bytes) -> None:
    data = b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    assert request_outcome(data)[:3] == ("fault", "client", 400)


RESPONSES = {
    "coding in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "no version": b"200 OK\r\n\r\n",
    "another protocol": b"ICY 200 OK\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n",
    "two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "status below 100": b"HTTP/1.1 099 OK\r\n\r\n",
    "one digit": b"HTTP/1.1 1\r\n\r\n",
    "two spaces": b"HTTP/1.1  200 OK\r\n\r\n",
    "control in the reason": b"HTTP/1.1 200 O\x01K\r\n\r\n",
    "CR in the reason": b"HTTP/1.1 200 O\rK\r\n\r\n",
    "LF LF": b"HTTP/1.1 200 OK\nX: y\n\n",
    "empty line first": b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    "nothing but the end": b"\r\n\r\n",
}


@pytest.mark.parametrize("data", RESPONSES.values(), ids=RESPONSES.keys())
def test_responses(data: bytes) -> None:
    assert response_outcome(data) == ("fault", "upstream", 502, "bad_response")
