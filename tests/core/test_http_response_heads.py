"""Response heads that are accepted, final and interim, and what relay understands of them."""

from __future__ import annotations

import pytest

from relay.http.fault import Fault
from relay.http.framing import CHUNKED, UNTIL_CLOSE
from relay.http.heads import ResponseHead, parse_response
from tests.core.http_feeding import MORE, outcome


def head_of(data: bytes, method: bytes = b"GET") -> ResponseHead:
    def parse(part: bytes) -> tuple[ResponseHead, int] | None:
        return parse_response(part, method, 1024)

    assert outcome(parse, data)[0] == "value"
    parsed = parse(data)
    assert parsed is not None
    head, used = parsed
    assert used == len(data)
    return head


def response(line: bytes = b"HTTP/1.1 200 OK", *fields: bytes) -> bytes:
    return b"\r\n".join([line, *fields, b"", b""])


def test_an_ordinary_one() -> None:
    head = head_of(
        response(
            b"HTTP/1.1 200 All is well",
            b"Content-Type:  Text/Event-Stream ; charset=utf-8",
            b"Set-Cookie: a=1",
            b"set-cookie: b=\xe4",
            b"Content-Length: 12",
        )
    )
    assert (head.status, head.reason, head.version) == (200, b"All is well", b"1.1")
    assert head.media_type == b"text/event-stream"
    assert head.fields[1:3] == [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=\xe4")]
    assert head.framing == 12
    assert head.keep_alive
    assert not head.bodiless


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"HTTP/1.1 200 OK", b"OK"),
        (b"HTTP/1.1 200 ", b""),
        (b"HTTP/1.1 200", b""),
        (b"HTTP/1.1 299 caf\xe9", b"caf\xe9"),
        (b"HTTP/1.1 999 X", b"X"),
    ],
)
def test_reasons(line: bytes, reason: bytes) -> None:
    assert head_of(response(line)).reason == reason


CODED = b"Transfer-Encoding: chunked"
LONG = b"Content-Length: 7"
EMPTY = b"Content-Length: 0"


@pytest.mark.parametrize(
    ("method", "line", "fields", "framing", "keep_alive"),
    [
        (b"GET", b"HTTP/1.1 200 OK", [LONG], 7, True),
        (b"GET", b"HTTP/1.1 200 OK", [EMPTY], 0, True),
        (b"GET", b"HTTP/1.1 200 OK", [CODED], CHUNKED, True),
        (b"GET", b"HTTP/1.1 200 OK", [], UNTIL_CLOSE, False),
        (b"GET", b"HTTP/1.1 200 OK", [LONG, b"Connection: close"], 7, False),
        (b"GET", b"HTTP/1.0 200 OK", [LONG], 7, False),
        (b"GET", b"HTTP/1.0 200 OK", [LONG, b"Connection: keep-alive"], 7, True),
        (b"GET", b"HTTP/1.0 200 OK", [b"Connection: keep-alive"], UNTIL_CLOSE, False),
        (b"POST", b"HTTP/1.1 500 No", [LONG], 7, True),
        (b"HEAD", b"HTTP/1.1 200 OK", [LONG], 0, True),
        (b"HEAD", b"HTTP/1.1 200 OK", [CODED], 0, True),
        (b"HEAD", b"HTTP/1.1 200 OK", [], 0, True),
        (b"GET", b"HTTP/1.1 304 Not Modified", [LONG], 0, True),
        (b"GET", b"HTTP/1.1 304 Not Modified", [], 0, True),
        (b"GET", b"HTTP/1.1 204 No Content", [], 0, True),
        (b"GET", b"HTTP/1.1 204 No Content", [EMPTY], 0, True),
        # It may send what it announced, and that would be read as the next response.
        (b"GET", b"HTTP/1.1 204 No Content", [LONG], 0, False),
        (b"GET", b"HTTP/1.1 204 No Content", [CODED], 0, False),
    ],
)
def test_framing(
    method: bytes, line: bytes, fields: list[bytes], framing: int, keep_alive: bool
) -> None:
    head = head_of(response(line, *fields), method)
    assert (head.framing, head.keep_alive) == (framing, keep_alive)


@pytest.mark.parametrize("status", [100, 102, 103, 199])
def test_interim(status: int) -> None:
    head = head_of(response(b"HTTP/1.1 %d Wait" % status, b"Link: </a.css>; rel=preload"))
    assert (head.status, head.framing, head.bodiless) == (status, 0, True)
    assert head.fields == [(b"link", b"</a.css>; rel=preload")]


def test_103_then_200() -> None:
    first = response(b"HTTP/1.1 103 Early Hints", b"Link: </a>")
    data = first + response(b"HTTP/1.1 200 OK", EMPTY)
    parsed = parse_response(data, b"GET", 1024)
    assert parsed is not None
    assert (parsed[0].status, parsed[1]) == (103, len(first))
    parsed = parse_response(data[parsed[1] :], b"GET", 1024)
    assert parsed is not None
    assert parsed[0].status == 200


@pytest.mark.parametrize(
    ("line", "fields", "upgrade"),
    [
        (b"HTTP/1.1 101 X", [b"Connection: Upgrade", b"Upgrade: websocket"], b"websocket"),
        (b"HTTP/1.1 101 X", [b"Upgrade: websocket"], None),
        (b"HTTP/1.1 426 X", [b"Connection: upgrade", b"Upgrade: a", b"Upgrade: b", EMPTY], b"a, b"),
        (b"HTTP/1.1 200 OK", [b"Connection: upgrade", EMPTY], None),
    ],
)
def test_upgrade(line: bytes, fields: list[bytes], upgrade: bytes | None) -> None:
    assert head_of(response(line, *fields)).upgrade == upgrade


def test_connection_tokens() -> None:
    head = head_of(response(b"HTTP/1.1 200 OK", b"Connection: X-A, close", b"Connection: x-b"))
    assert head.connection == {b"x-a", b"x-b"}


@pytest.mark.parametrize(
    ("value", "media_type"),
    [
        (b"text/html", b"text/html"),
        (b"TEXT/HTML;charset=x", b"text/html"),
        (b"", b""),
        (b";", b""),
    ],
)
def test_media_type(value: bytes, media_type: bytes) -> None:
    assert head_of(response(b"HTTP/1.1 200 OK", b"Content-Type: " + value)).media_type == media_type


def test_no_media_type() -> None:
    assert head_of(response()).media_type == b""


@pytest.mark.parametrize(
    "data", [b"", b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX: y\r\n\r"]
)
def test_waits_for_more(data: bytes) -> None:
    assert outcome(lambda part: parse_response(part, b"GET", 1024), data) == MORE


def test_the_limit_is_exact() -> None:
    data = response(b"HTTP/1.1 200 OK", b"X: " + b"a" * 100)
    size = len(data)
    assert outcome(lambda part: parse_response(part, b"GET", size), data)[0] == "value"
    assert outcome(lambda part: parse_response(part, b"GET", size - 1), data) == (
        "fault",
        "upstream",
        502,
        "response_head_too_large",
    )


def test_an_answer_to_head_is_not_taken_for_one_to_get() -> None:
    """The same bytes mean a body or none; the memo must not mix them up, in either order."""
    data = response(b"HTTP/1.1 200 OK", LONG, b"X: head-and-get")
    for method in (b"HEAD", b"GET", b"HEAD", b"GET"):
        parsed = parse_response(data, method, 1024)
        assert parsed is not None
        assert parsed[0].framing == (0 if method == b"HEAD" else 7)
        assert parsed[0].bodiless is (method == b"HEAD")


def test_messages_quote_nothing() -> None:
    for data in (b"hunter2 200\r\n\r\n", response(b"HTTP/1.1 200 OK", b"hunter2 : 1")):
        with pytest.raises(Fault) as caught:
            parse_response(data, b"GET", 1024)
        assert "hunter2" not in str(caught.value)
