"""ASGI's messages as HTTP/1.1 bytes, and back. No I/O: tables."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.asgi.request import Request
from relay.asgi.response import ResponseReader
from relay.http.fault import Fault


def scope(
    method: str = "GET",
    fields: list[tuple[bytes, bytes]] | None = None,
    version: str = "2",
    **more: Any,
) -> dict[str, Any]:
    return {
        "method": method,
        "http_version": version,
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"host", b"h")] if fields is None else fields,
        **more,
    }


def message(body: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


HOST = (b"host", b"h")
HEADS = {
    "GET of HTTP/2": (scope(), message(), b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"),
    "GET with a body of HTTP/2": (
        scope(),
        message(b"abc"),
        b"GET / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\n",
    ),
    "DELETE whose body goes on": (
        scope("DELETE"),
        message(b"abc", more=True),
        b"DELETE / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n",
    ),
    "POST of HTTP/2 without a length": (
        scope("POST"),
        None,
        b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n",
    ),
    "POST with a length": (
        scope("POST", [HOST, (b"content-length", b"12")]),
        None,
        b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 12\r\n\r\n",
    ),
    "POST of HTTP/1.1 without a body": (
        scope("POST", version="1.1"),
        None,
        b"POST / HTTP/1.1\r\nhost: h\r\n\r\n",
    ),
    "chunked HTTP/1.1": (
        scope("POST", [HOST, (b"transfer-encoding", b"chunked")], "1.1"),
        None,
        b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n",
    ),
    "raw bytes of the path, and the query": (
        scope(path="/a/b", raw_path=b"/a%2Fb", query_string=b"q=%20&r", version="1.1"),
        None,
        b"GET /a%2Fb?q=%20&r HTTP/1.1\r\nhost: h\r\n\r\n",
    ),
    "a server that keeps no raw path": (
        scope(path="/ä b", raw_path=None, version="1.1"),
        None,
        b"GET /%C3%A4%20b HTTP/1.1\r\nhost: h\r\n\r\n",
    ),
    "cookies in pieces": (
        scope(fields=[HOST, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2")], version="1.1"),
        None,
        b"GET / HTTP/1.1\r\nhost: h\r\nx: y\r\ncookie: a=1; b=2\r\n\r\n",
    ),
    "what ends at the ASGI server": (
        scope(
            "POST",
            [
                (b"Host", b"h"),
                (b"connection", b"Upgrade, HTTP2-Settings, te"),
                (b"upgrade", b"h2c"),
                (b"http2-settings", b"AAMA"),
                (b"te", b"trailers"),
                (b"expect", b"100-continue"),
                (b"content-length", b"1"),
            ],
            "1.1",
        ),
        None,
        b"POST / HTTP/1.1\r\nhost: h\r\nconnection: Upgrade, HTTP2-Settings, te\r\n"
        b"content-length: 1\r\n\r\n",
    ),
    "HTTP/1.0 without a Host": (
        scope(fields=[], version="1.0", server=("::1", 8000)),
        None,
        b"GET / HTTP/1.1\r\nhost: [::1]:8000\r\n\r\n",
    ),
    "HTTP/1.0 on a unix socket": (
        scope(fields=[], version="1.0", server=None),
        None,
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ),
    "two lengths, for relay to refuse": (
        scope("POST", [HOST, (b"content-length", b"1"), (b"content-length", b"2")], "1.1"),
        None,
        b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    ),
    "length and chunked, for relay to refuse": (
        scope(
            "POST", [HOST, (b"content-length", b"+1"), (b"transfer-encoding", b"chunked")], "1.1"
        ),
        None,
        b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: +1\r\n\r\n",
    ),
}


@pytest.mark.parametrize(("asked", "first", "head"), HEADS.values(), ids=HEADS)
def test_head(asked: dict[str, Any], first: dict[str, Any] | None, head: bytes) -> None:
    request = Request(asked)
    assert (request.framing is None) == (first is not None)
    assert request.head(first) == head


@pytest.mark.parametrize(
    "broken",
    [
        scope(fields=[HOST, (b"x", b"1\r\nevil: 2")], version="1.1"),
        scope(raw_path=b"/ HTTP/1.1\r\nevil: 2\r\n", version="1.1"),
        scope(query_string=b"a\nb", version="1.1"),
        scope(method="GET / HTTP/1.1\r\nevil: 2\r\nx:", version="1.1"),
        scope(fields=[HOST, (b"x\r\nevil", b"2")], version="1.1"),
    ],
)
def test_no_line_end_gets_into_a_head(broken: dict[str, Any]) -> None:
    with pytest.raises(Fault) as caught:
        Request(broken).head()
    assert (caught.value.side, caught.value.status) == ("client", 400)


LENGTH = scope("POST", [HOST, (b"content-length", b"4")])
BODIES = {
    "chunked": (scope("POST"), [b"ab", b"", b"c"], [b"2\r\nab\r\n", b"", b"1\r\nc\r\n0\r\n\r\n"]),
    "of a length": (LENGTH, [b"ab", b"cd"], [b"ab", b"cd"]),
    "too short": (LENGTH, [b"ab", b"c"], [b"ab", None]),
    "too long": (LENGTH, [b"abc", b"de"], [b"abc", None]),
    "none": (scope("POST", version="1.1"), [b""], [b""]),
    "where none was said": (scope("POST", version="1.1"), [b"x"], [None]),
}


@pytest.mark.parametrize(("asked", "parts", "framed"), BODIES.values(), ids=BODIES)
def test_body(asked: dict[str, Any], parts: list[bytes], framed: list[bytes | None]) -> None:
    request = Request(asked)
    request.head()
    last = len(parts) - 1
    assert [request.body(message(p, more=n < last)) for n, p in enumerate(parts)] == framed


RESPONSES = {
    "of a length": (b"GET", b"content-length: 3\r\n\r\n", b"abc", b"abc"),
    "chunked": (b"GET", b"transfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"abc"),
    "empty": (b"GET", b"content-length: 0\r\n\r\n", b"", b""),
    "to HEAD": (b"HEAD", b"content-length: 3\r\n\r\n", b"", b""),
    "with trailers": (b"GET", b"transfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n0\r\nx: y\r\n\r\n", b"a"),
}  # fmt: skip


@pytest.mark.parametrize(("method", "fields", "body", "payload"), RESPONSES.values(), ids=RESPONSES)
@given(data=st.data())
def test_response(
    method: bytes, fields: bytes, body: bytes, payload: bytes, data: st.DataObject
) -> None:
    wire = (
        b"HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\nHTTP/1.1 200 OK\r\nx: y\r\n" + fields + body
    )
    cuts = sorted(data.draw(st.sets(st.integers(1, len(wire) - 1))))
    reader = ResponseReader(method)
    got = b""
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        assert not reader.done
        got += reader.feed(wire[start:end])
    assert got == payload
    assert reader.done
    assert reader.eof()
    assert reader.head is not None
    assert reader.head.status == 200
    assert [head.status for head in reader.interim] == [103]
    kept = [(b"x", b"y")]
    if b"length" in fields:
        kept.append((b"content-length", fields.split()[1]))
    assert reader.fields == kept


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n",
    ],
)
def test_a_part_of_a_response_is_not_whole(part: bytes) -> None:
    reader = ResponseReader(b"GET")
    reader.feed(part)
    assert not reader.done
    assert not reader.eof()
