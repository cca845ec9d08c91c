"""Heads as bytes, and relay's own error responses."""

from __future__ import annotations

import json

import pytest

from relay.http.serialise import error_response, request_bytes, response_bytes


def test_request() -> None:
    assert (
        request_bytes(b"POST", b"/a%2Fb?c", [(b"host", b"a"), (b"x", b"\xe4"), (b"y", b"")])
        == b"POST /a%2Fb?c HTTP/1.1\r\nhost: a\r\nx: \xe4\r\ny: \r\n\r\n"
    )
    assert request_bytes(b"GET", b"/", []) == b"GET / HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        (200, b"", b"HTTP/1.1 200 OK\r\n"),
        (200, b"Fine", b"HTTP/1.1 200 Fine\r\n"),
        (103, b"", b"HTTP/1.1 103 Early Hints\r\n"),
        (499, b"", b"HTTP/1.1 499 \r\n"),
    ],
)
def test_response(status: int, reason: bytes, line: bytes) -> None:
    assert response_bytes(status, reason, []) == line + b"\r\n"


@pytest.mark.parametrize("value", [b"a\r\nX: y", b"a\nX: y", b"a\r", b"\n"])
def test_a_value_cannot_end_the_head(value: bytes) -> None:
    with pytest.raises(ValueError, match="line end"):
        request_bytes(b"GET", b"/", [(b"x", value)])
    with pytest.raises(ValueError, match="line end"):
        request_bytes(b"GET", b"/" + value, [])
    with pytest.raises(ValueError, match="line end"):
        response_bytes(200, value, [])
    with pytest.raises(ValueError, match="line end"):
        response_bytes(200, b"", [(value, b"x")])


def test_error_response() -> None:
    data = error_response(
        405, "method_not_allowed", 'not "this"', request_id=b"1", allow=(b"GET", b"HEAD")
    )
    head, _, body = data.partition(b"\r\n\r\n")
    assert json.loads(body) == {"error": {"code": "method_not_allowed", "message": 'not "this"'}}
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 405 Method Not Allowed",
        b"content-type: application/json",
        b"cache-control: no-store",
        b"content-length: %d" % len(body),
        b"x-request-id: 1",
        b"allow: GET, HEAD",
        b"connection: close",
    ]


def test_error_response_to_head_on_a_connection_that_stays() -> None:
    whole = error_response(404, "not_found", "no route", close=False)
    data = error_response(404, "not_found", "no route", close=False, head_only=True)
    assert whole.startswith(data)
    assert data.endswith(b"\r\n\r\n")
    assert b"connection" not in data
