"""What becomes of fields on their way upstream and back."""

from __future__ import annotations

import pytest

from relay.http.bodies import Fields
from relay.http.fields import (
    client_view,
    interim_fields,
    request_fields,
    response_fields,
    response_late,
)
from relay.http.heads import RequestHead, ResponseHead, parse_request, parse_response

Pairs = tuple[tuple[bytes, bytes], ...]


def request_head(*lines: bytes, first: bytes = b"GET / HTTP/1.1") -> RequestHead:
    data = b"\r\n".join([first, b"Host: app.example", *lines, b"", b""])
    parsed = parse_request(data, 16384)
    assert parsed is not None
    return parsed[0]


def response_head(*lines: bytes, status: int = 200, method: bytes = b"GET") -> ResponseHead:
    data = b"\r\n".join([b"HTTP/1.1 %d X" % status, *lines, b"", b""])
    parsed = parse_response(data, method, 16384)
    assert parsed is not None
    return parsed[0]


def upstream(
    head: RequestHead,
    set_fields: Pairs = (),
    remove: frozenset[bytes] = frozenset(),
    event_stream: bool = True,
    expects_events: bool = False,
) -> Fields:
    return request_fields(
        head,
        authority=b"backend:8080",
        client=client_view(head, "192.0.2.7", ()),
        via=b"relay",
        request_id=b"id-1",
        request_id_header=b"x-request-id",
        set_fields=set_fields,
        remove=remove,
        event_stream=event_stream,
        expects_events=expects_events,
    )


def downstream(
    head: ResponseHead | Fields,
    set_fields: Pairs = (),
    remove: frozenset[bytes] = frozenset(),
    event_stream: bool = False,
    rewritten: bool = False,
) -> Fields:
    return response_fields(
        head,
        via=b"relay",
        request_id=b"id-1",
        request_id_header=b"x-request-id",
        set_fields=set_fields,
        remove=remove,
        event_stream=event_stream,
        rewritten=rewritten,
    )


def values(fields: Fields, name: bytes) -> list[bytes]:
    return [value for found, value in fields if found == name]


ADDED = [
    (b"via", b"1.1 relay"),
    (b"x-forwarded-for", b"192.0.2.7"),
    (b"x-forwarded-proto", b"http"),
    (b"x-forwarded-host", b"app.example"),
    (b"forwarded", b"for=192.0.2.7;host=app.example;proto=http"),
    (b"x-request-id", b"id-1"),
]


def test_nothing_is_invented() -> None:
    assert upstream(request_head()) == [(b"host", b"backend:8080"), *ADDED]


def test_end_to_end_fields_keep_their_order_and_bytes() -> None:
    head = request_head(b"Cookie: a=\xe4", b"X-B: 1", b"Last-Event-ID: \xe2\x82\xac", b"x-b: 2")
    assert upstream(head) == [
        (b"host", b"backend:8080"),
        (b"cookie", b"a=\xe4"),
        (b"x-b", b"1"),
        (b"last-event-id", b"\xe2\x82\xac"),
        (b"x-b", b"2"),
        *ADDED,
    ]


@pytest.mark.parametrize(
    "lines",
    [
        [b"Connection: close"],
        [b"Connection:"],
        [b"Keep-Alive: timeout=5"],
        [b"Proxy-Connection: keep-alive"],
        [b"Proxy-Authorization: Basic eDp5"],
        [b"TE: gzip"],
        [b"TE:"],
        [b"Trailer: X-Sum"],
        [b"Upgrade: websocket"],
        [b"HTTP2-Settings: AAMAAABkAAQAAP__"],
        [b"Connection: X-A, x-b", b"X-A: 1", b"X-B: 2", b"x-a: 3"],
        [b"Connection: x-a", b"Connection: x-b", b"X-B: 2", b"X-A: 1"],
        [b"X-A: 1", b"Connection: close, X-A"],
        [b"Proxy: http://evil"],
        [b"X-Forwarded-For: 127.0.0.1"],
        [b"X-Forwarded-For: 127.0.0.1", b"X-Forwarded-For: 127.0.0.2"],
        [b"X-Forwarded-Proto: https"],
        [b"X-Forwarded-Host: evil"],
        [b"X-Forwarded-Port: 1"],
        [b"X-Forwarded-Prefix: /x"],
        [b"X-Forwarded-Client-Cert: Hash=1"],
        [b"X-Forwarded: for=127.0.0.1"],
        [b"Forwarded: for=127.0.0.1"],
        [b"X-Real-IP: 127.0.0.1"],
        [b"True-Client-IP: 127.0.0.1"],
        [b"X-Original-URL: /admin"],
        [b"X-Request-ID: spoofed"],
        [b"Connection: host, via, forwarded, x-forwarded-for, x-request-id"],
    ],
)
def test_does_not_reach_the_upstream(lines: list[bytes]) -> None:
    assert upstream(request_head(*lines)) == [(b"host", b"backend:8080"), *ADDED]


@pytest.mark.parametrize(
    ("lines", "tail"),
    [
        ([b"Content-Length: 0"], [(b"content-length", b"0")]),
        ([b"Content-Length: 12"], [(b"content-length", b"12")]),
        ([b"Transfer-Encoding: Chunked"], [(b"transfer-encoding", b"chunked")]),
        (
            [b"Transfer-Encoding: chunked", b"Trailer: X-Sum"],
            [(b"trailer", b"X-Sum"), (b"transfer-encoding", b"chunked")],
        ),
        (
            [b"Expect: 100-continue", b"Content-Length: 2", b"Trailer: X-Sum"],
            [(b"expect", b"100-continue"), (b"content-length", b"2")],
        ),
        (
            [b"Connection: content-length", b"Content-Length: 12"],
            [(b"content-length", b"12")],
        ),
        (
            [b"Connection: transfer-encoding", b"Transfer-Encoding: chunked"],
            [(b"transfer-encoding", b"chunked")],
        ),
        (
            [b"TE: deflate, trailers;q=0.5", b"Connection: TE"],
            [(b"connection", b"te"), (b"te", b"trailers")],
        ),
        (
            [b"Connection: Upgrade, X-A", b"Upgrade: websocket", b"X-A: 1"],
            [(b"connection", b"upgrade"), (b"upgrade", b"websocket")],
        ),
        (
            [b"Connection: Upgrade, TE", b"Upgrade: websocket", b"TE: trailers"],
            [(b"connection", b"upgrade, te"), (b"upgrade", b"websocket"), (b"te", b"trailers")],
        ),
    ],
)
def test_written_by_relay(lines: list[bytes], tail: Fields) -> None:
    head = request_head(*lines, first=b"PUT / HTTP/1.1")
    assert upstream(head) == [(b"host", b"backend:8080"), *ADDED, *tail]


def test_an_http_1_0_request_goes_on_as_1_1() -> None:
    head = request_head(b"Expect: 100-continue", b"Content-Length: 1", first=b"PUT / HTTP/1.0")
    fields = upstream(head)
    assert values(fields, b"via") == [b"1.0 relay"]
    assert values(fields, b"expect") == []


def test_via_is_appended() -> None:
    fields = upstream(request_head(b"Via: 1.0 fred, 1.1 p.example", b"Via: 1.1 near"))
    assert values(fields, b"via") == [b"1.0 fred, 1.1 p.example", b"1.1 near", b"1.1 relay"]


@pytest.mark.parametrize(
    ("accept", "event_stream", "expects", "expected"),
    [
        (b"text/event-stream", True, False, [b"identity"]),
        (b"text/event-stream", False, True, [b"gzip, br"]),
        (b"text/html", True, False, [b"gzip, br"]),
        (b"text/html", True, True, [b"identity"]),
    ],
)
def test_event_streams_are_asked_for_uncompressed(
    accept: bytes, event_stream: bool, expects: bool, expected: list[bytes]
) -> None:
    head = request_head(b"Accept: " + accept, b"Accept-Encoding: gzip, br")
    fields = upstream(head, event_stream=event_stream, expects_events=expects)
    assert values(fields, b"accept-encoding") == expected


def test_operators_edits() -> None:
    head = request_head(b"Authorization: Basic eDp5", b"Cookie: a=1", b"authorization: x")
    edits = ((b"authorization", b"Bearer t"), (b"x-new", b"1"))
    fields = upstream(head, set_fields=edits, remove=frozenset((b"cookie",)))
    assert fields == [(b"host", b"backend:8080"), *ADDED, *edits]


def test_operators_edits_win_over_relays_own_fields_and_over_connection() -> None:
    head = request_head(b"Connection: authorization, host")
    edits = ((b"host", b"virtual"), (b"authorization", b"Bearer t"))
    fields = upstream(head, set_fields=edits, remove=frozenset((b"forwarded", b"via")))
    assert values(fields, b"host") == [b"virtual"]
    assert values(fields, b"authorization") == [b"Bearer t"]
    assert values(fields, b"forwarded") == []
    assert values(fields, b"via") == []


def test_heads_are_not_changed() -> None:
    head = request_head(b"Cookie: a=1", b"Connection: x")
    before = list(head.fields)
    upstream(head, set_fields=((b"cookie", b"b"),))
    assert head.fields == before
    answer = response_head(b"Content-Length: 3", b"Cache-Control: max-age=1")
    before = list(answer.fields)
    downstream(answer, event_stream=True)
    assert answer.fields == before


OWN = [(b"via", b"1.1 relay"), (b"x-request-id", b"id-1")]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([b"Server: x", b"Set-Cookie: a", b"Set-Cookie: b"], None),
        ([b"Content-Length: 3"], []),
        ([b"Transfer-Encoding: chunked"], []),
        ([b"Connection: close, X-A", b"X-A: 1"], []),
        ([b"Connection: X-A", b"Connection: X-B", b"X-B: 1"], []),
        ([b"Keep-Alive: timeout=5", b"Proxy-Connection: x", b"Proxy-Authenticate: Basic"], []),
        ([b"Upgrade: h2c", b"TE: x"], []),
        ([b"Trailer: X-Sum", b"Content-Length: 3"], []),
        ([b"Trailer: X-Sum", b"Transfer-Encoding: chunked"], [(b"trailer", b"X-Sum")]),
        ([b"X-Request-Id: theirs"], []),
    ],
)
def test_responses(lines: list[bytes], expected: Fields | None) -> None:
    head = response_head(*lines)
    assert downstream(head) == [*(head.fields if expected is None else expected), *OWN]


@pytest.mark.parametrize(
    ("method", "status", "kept"),
    [
        (b"GET", 200, []),
        (b"HEAD", 200, [b"3"]),
        (b"GET", 304, [b"3"]),
        (b"GET", 204, []),
        (b"HEAD", 204, []),
    ],
)
def test_a_length_that_describes_no_body_is_kept(
    method: bytes, status: int, kept: list[bytes]
) -> None:
    head = response_head(b"Content-Length: 3", status=status, method=method)
    assert values(downstream(head), b"content-length") == kept


def test_event_stream_fields() -> None:
    head = response_head(
        b"Content-Type: text/event-stream", b"Cache-Control: max-age=5", b"X-Accel-Buffering: yes"
    )
    assert downstream(head, event_stream=True) == [
        (b"content-type", b"text/event-stream"),
        *OWN,
        (b"cache-control", b"no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),
    ]


def test_event_streams_of_relays_own_have_no_via() -> None:
    fields = downstream([(b"content-type", b"text/event-stream")], event_stream=True)
    assert fields == [
        (b"content-type", b"text/event-stream"),
        (b"x-request-id", b"id-1"),
        (b"cache-control", b"no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),
    ]


def test_operators_edits_of_a_response() -> None:
    head = response_head(b"Server: x", b"X-Powered-By: y", b"Cache-Control: max-age=5")
    edits = ((b"cache-control", b"no-store"), (b"server", b"z"))
    fields = downstream(
        head, set_fields=edits, remove=frozenset((b"x-powered-by", b"via")), event_stream=True
    )
    assert fields == [(b"x-request-id", b"id-1"), (b"x-accel-buffering", b"no"), *edits]


def test_interim() -> None:
    hints = response_head(b"Link: </a>", b"Connection: x-a", b"X-A: 1", status=103)
    assert interim_fields(hints, request_id_header=b"x-request-id") == [(b"link", b"</a>")]
    switch = response_head(
        b"Connection: upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Accept: s", status=101
    )
    assert interim_fields(switch, request_id_header=b"x-request-id") == [
        (b"sec-websocket-accept", b"s"),
        (b"connection", b"upgrade"),
        (b"upgrade", b"websocket"),
    ]


def test_what_is_true_of_the_upstreams_bytes_goes_with_them() -> None:
    """Where the events were decoded, or became others: the coding, its length, digests, a validator
    of the very bytes, ranges of them. What is true of every coding stays.
    """
    gone = [
        b"Content-Encoding: gzip",
        b"Content-Length: 99",
        b"Content-Digest: sha-256=:x:",
        b"Repr-Digest: sha-256=:x:",
        b"Digest: sha-256=x",
        b"Content-MD5: x",
        b"Accept-Ranges: bytes",
        b'ETag: "strong"',
    ]
    stays = [b"Vary: Accept-Encoding", b'ETag: W/"weak"', b"X-Digest: 1"]
    for method in (b"GET", b"HEAD"):
        head = response_head(*gone, *stays, method=method)
        fields = downstream(head, event_stream=True, rewritten=True)
        assert fields[:3] == [
            (b"vary", b"Accept-Encoding"),
            (b"etag", b'W/"weak"'),
            (b"x-digest", b"1"),
        ]
        assert values(fields, b"etag") == [b'W/"weak"']
        names = {line.split(b":")[0].lower() for line in gone} - {b"etag"}
        assert not names & {name for name, _ in fields}
        kept = downstream(head, event_stream=True)
        assert (b"content-encoding", b"gzip") in kept
        assert (b"etag", b'"strong"') in kept


def test_the_trailers_of_an_event_stream_say_nothing_about_its_bytes() -> None:
    """A heartbeat may have come between them."""
    head = response_head(b"Transfer-Encoding: chunked", b"Trailer: Content-Digest")
    stream = response_late(head, request_id_header=b"x-request-id", event_stream=True)
    again = response_late(head, request_id_header=b"x-request-id", event_stream=True)
    assert again is stream  # each stream holds it
    for name in (b"content-digest", b"repr-digest", b"digest", b"content-md5", b"etag"):
        assert stream.bars(name)
        assert not response_late(head, request_id_header=b"x-request-id").bars(name)
    assert not stream.bars(b"x-sum")
