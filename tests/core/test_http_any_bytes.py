"""Any bytes give a head, a wait or a Fault; what relay forwards is read the same way behind it."""

from __future__ import annotations

import h11
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.http import heads
from relay.http.fault import Fault
from relay.http.fields import client_view, request_fields, response_fields
from relay.http.framing import CHUNKED
from relay.http.heads import RequestHead, parse_request, parse_response
from relay.http.serialise import request_bytes, response_bytes
from tests.core.http_feeding import outcome

# Fragments a head is made of, right and wrong ones: far more of their mixtures get deep into the
# parser than of random bytes.
LINES = st.sampled_from(
    [
        b"GET / HTTP/1.1",
        b"POST /a/b?c HTTP/1.1",
        b"PUT http://b:1/c HTTP/1.1",
        b"GET / HTTP/1.0",
        b"OPTIONS * HTTP/1.1",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 103 Early Hints",
        b"HTTP/1.1 101 Switching Protocols",
        b"HTTP/1.1 304 Not Modified",
        b"HTTP/1.0 200",
    ]
)
FIELDS = st.sampled_from(
    [
        b"Host: a",
        b"Host: a:80",
        b"Content-Length: 5",
        b"Content-Length: 05",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip",
        b"Connection: close, x-a, te",
        b"Connection: upgrade",
        b"Upgrade: websocket",
        b"Expect: 100-continue",
        b"TE: trailers",
        b"Trailer: x-sum",
        b"X-A: 1",
        b"X-Forwarded-For: 1.1.1.1, 10.0.0.1",
        b'Forwarded: for="[::1]";host=a, for=_x',
        b"X: \xff\xfe",
        b"X:",
        b" folded",
        b"Accept: text/event-stream",
        b"Accept-Encoding: gzip",
        b"Via: 1.1 x",
        b"Content_Length: 1",
    ]
) | st.binary(max_size=8)
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"\r\n\r\n", b""])
HEADS = st.builds(
    lambda line, end, fields, behind: b"".join(
        [line, end, *[part for pair in fields for part in pair], b"\r\n", behind]
    ),
    LINES,
    ENDS,
    st.lists(st.tuples(FIELDS, ENDS), max_size=6),
    st.binary(max_size=4),
)
ANYTHING = HEADS | st.binary(max_size=60)
STATUSES = {400, 405, 414, 431, 501, 505}


@settings(max_examples=600, deadline=None)
@given(ANYTHING)
def test_any_request(data: bytes) -> None:
    found = outcome(lambda part: parse_request(part, 200, 5), data)
    if found[0] == "fault":
        assert found[1] == "client"
        assert found[2] in STATUSES


@settings(max_examples=600, deadline=None)
@given(ANYTHING, st.sampled_from([b"GET", b"HEAD"]))
def test_any_response(data: bytes, method: bytes) -> None:
    found = outcome(lambda part: parse_response(part, method, 200), data)
    if found[0] == "fault":
        assert found[1:3] == ("upstream", 502)


GOOD_FIELDS = st.lists(
    st.sampled_from(
        [
            b"Content-Length: 5",
            b"Transfer-Encoding: chunked",
            b"Connection: close, x-a, te, content-length, transfer-encoding",
            b"Connection: upgrade, host",
            b"Upgrade: websocket",
            b"Expect: 100-continue",
            b"TE: trailers",
            b"Trailer: x-sum",
            b"X-A: 1",
            b"X-B:",
            b"Cookie: \xff",
            b"X-Forwarded-For: 1.1.1.1",
            b"Accept: text/event-stream",
        ]
    ),
    max_size=6,
    unique=True,
)


@settings(max_examples=400, deadline=None)
@given(GOOD_FIELDS, st.sampled_from([b"GET /a%2F?b=c HTTP/1.1", b"POST http://x HTTP/1.0"]))
def test_a_forwarded_request_is_read_the_same_way(lines: list[bytes], first: bytes) -> None:
    data = b"\r\n".join([first, b"Host: a", *lines, b"", b""])
    try:
        parsed = parse_request(data, 4096)
    except Fault:
        return
    assert parsed is not None
    head = parsed[0]
    fields = request_fields(
        head,
        authority=b"backend",
        client=client_view(head, "192.0.2.7", ()),
        via=b"relay",
        request_id=b"1",
        request_id_header=b"x-request-id",
    )
    sent = request_bytes(head.method, head.target, fields)

    connection = h11.Connection(h11.SERVER)
    connection.receive_data(sent)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (head.method, head.target)
    assert list(event.headers) == fields
    assert _framing(event) == head.framing

    again = parse_request(sent, 4096)
    assert again is not None
    assert isinstance(again[0], RequestHead)
    assert (again[0].framing, again[0].upgrade) == (head.framing, head.upgrade)
    assert again[0].expects_continue == head.expects_continue
    assert again[0].keep_alive


@settings(max_examples=200, deadline=None)
@given(GOOD_FIELDS, st.sampled_from([200, 204, 304, 404]))
def test_a_forwarded_response_is_read_the_same_way(lines: list[bytes], status: int) -> None:
    data = b"\r\n".join([b"HTTP/1.1 %d X" % status, *lines, b"", b""])
    try:
        parsed = parse_response(data, b"GET", 4096)
    except Fault:
        return
    assert parsed is not None
    head = parsed[0]
    fields = response_fields(head, via=b"relay", request_id=b"1", request_id_header=b"x-request-id")
    connection = h11.Connection(h11.CLIENT)
    connection.receive_data(response_bytes(head.status, head.reason, fields))
    event = connection.next_event()
    assert isinstance(event, h11.Response)
    assert (event.status_code, event.reason) == (head.status, head.reason)
    assert list(event.headers) == fields


def _framing(event: h11.Request) -> int:
    found = dict(event.headers)
    if b"transfer-encoding" in found:
        assert b"content-length" not in found
        return CHUNKED
    return int(found.get(b"content-length", b"0"))


@settings(max_examples=600, deadline=None)
@given(st.lists(ANYTHING, max_size=4), ANYTHING)
def test_what_was_parsed_before_changes_nothing(before: list[bytes], data: bytes) -> None:
    """A head that was parsed before is the same value: no other head may be taken for it."""

    def read(data: bytes) -> list[object]:
        return [
            outcome(lambda part: parse_request(part, 200, 5), data),
            outcome(lambda part: parse_response(part, b"GET", 200), data),
        ]

    def forget() -> None:
        heads.requests_seen.clear()
        heads.responses_seen.clear()

    forget()
    fresh = read(data)
    forget()
    for earlier in before:
        read(earlier)
    assert read(data) == fresh
