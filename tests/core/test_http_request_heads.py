"""Request heads that are accepted, and what relay understands of them."""

from __future__ import annotations

import pytest

from relay.http import heads
from relay.http.fault import Fault
from relay.http.framing import CHUNKED
from relay.http.heads import MEMO_HEADS, RequestHead, parse_request
from tests.core.http_feeding import MORE, feed, forget_heads, outcome

LIMIT = 1024


def parse(data: bytes) -> tuple[RequestHead, int] | None:
    return parse_request(data, LIMIT)


def head_of(data: bytes) -> RequestHead:
    assert outcome(parse, data)[0] == "value"
    parsed = parse(data)
    assert parsed is not None
    head, used = parsed
    assert used == len(data)
    return head


def request(line: bytes = b"GET / HTTP/1.1", *fields: bytes, host: bytes = b"Host: a") -> bytes:
    return b"\r\n".join([line, *([host] if host else []), *fields, b"", b""])


def test_a_browsers_get() -> None:
    head = head_of(
        request(
            b"GET /a%2Fb/c?x=1&y=%20 HTTP/1.1",
            b"User-Agent: Mozilla/5.0",
            b"ACCEPT: text/html, Text/Event-Stream;q=0.9",
            b"Connection: keep-alive",
            b"Cookie: a=1; b=\xe4",
            host=b"Host: app.example:8080",
        )
    )
    assert (head.method, head.target) == (b"GET", b"/a%2Fb/c?x=1&y=%20")
    assert (head.path, head.query, head.version) == (b"/a%2Fb/c", b"x=1&y=%20", b"1.1")
    assert head.host == b"app.example:8080"
    assert head.fields[0] == (b"host", b"app.example:8080")
    assert head.fields[-1] == (b"cookie", b"a=1; b=\xe4")
    assert head.framing == 0
    assert head.keep_alive
    assert head.wants_events
    assert head.upgrade is None
    assert head.connection == frozenset()


@pytest.mark.parametrize(
    ("method", "target", "forwarded", "host"),
    [
        (b"GET", b"/", (b"/", b"/", b""), b"a"),
        (b"GET", b"/?", (b"/?", b"/", b""), b"a"),
        (b"GET", b"/a?b?c", (b"/a?b?c", b"/a", b"b?c"), b"a"),
        (b"GET", b"//x/y", (b"//x/y", b"//x/y", b""), b"a"),
        (b"GET", b"/a/.../b", (b"/a/.../b", b"/a/.../b", b""), b"a"),
        (b"GET", b"/.well-known/x", (b"/.well-known/x", b"/.well-known/x", b""), b"a"),
        (b"GET", b"/a..b/c.", (b"/a..b/c.", b"/a..b/c.", b""), b"a"),
        (b"GET", b"/a?../..", (b"/a?../..", b"/a", b"../.."), b"a"),
        (b"GET", b'/a|b"<>{}^`', (b'/a|b"<>{}^`', b'/a|b"<>{}^`', b""), b"a"),
        (b"OPTIONS", b"*", (b"*", b"*", b""), b"a"),
        (b"OPTIONS", b"http://b", (b"*", b"*", b""), b"b"),
        (b"GET", b"http://b/c?d", (b"/c?d", b"/c", b"d"), b"b"),
        (b"GET", b"HTTP://B:80", (b"/", b"/", b""), b"B:80"),
        (b"GET", b"https://[::1]:1?q", (b"/?q", b"/", b"q"), b"[::1]:1"),
        (b"PURGE", b"/x", (b"/x", b"/x", b""), b"a"),
    ],
)
def test_targets(
    method: bytes, target: bytes, forwarded: tuple[bytes, bytes, bytes], host: bytes
) -> None:
    head = head_of(request(method + b" " + target + b" HTTP/1.1"))
    assert (head.target, head.path, head.query) == forwarded
    assert (head.method, head.host) == (method, host)


@pytest.mark.parametrize(
    ("data", "framing"),
    [
        (request(b"POST / HTTP/1.1"), 0),
        (request(b"POST / HTTP/1.1", b"Content-Length: 0"), 0),
        (request(b"POST / HTTP/1.1", b"content-LENGTH:  15\t"), 15),
        (request(b"POST / HTTP/1.1", b"Content-Length: 9223372036854775807"), 2**63 - 1),
        (request(b"POST / HTTP/1.1", b"Transfer-Encoding: Chunked"), CHUNKED),
        (request(b"GET / HTTP/1.1", b"Content-Length: 3"), 3),
        (request(b"POST / HTTP/1.0", b"Content-Length: 3"), 3),
    ],
)
def test_framing(data: bytes, framing: int) -> None:
    assert head_of(data).framing == framing


@pytest.mark.parametrize(
    ("line", "fields", "keep_alive", "tokens"),
    [
        (b"GET / HTTP/1.1", [], True, set()),
        (b"GET / HTTP/1.1", [b"Connection: close"], False, set()),
        (b"GET / HTTP/1.1", [b"Connection: Keep-Alive, CLOSE"], False, set()),
        (b"GET / HTTP/1.1", [b"Connection: a , b", b"Connection:,c,,"], True, {b"a", b"b", b"c"}),
        (b"GET / HTTP/1.1", [b"Connection:"], True, set()),
        (b"GET / HTTP/1.0", [], False, set()),
        (b"GET / HTTP/1.0", [b"Connection: keep-alive"], True, set()),
        (b"GET / HTTP/1.0", [b"Connection: keep-alive, close"], False, set()),
    ],
)
def test_connection(line: bytes, fields: list[bytes], keep_alive: bool, tokens: set[bytes]) -> None:
    head = head_of(request(line, *fields))
    assert head.keep_alive is keep_alive
    assert head.connection == tokens


@pytest.mark.parametrize(
    ("line", "fields", "upgrade"),
    [
        (b"GET / HTTP/1.1", [b"Connection: Upgrade", b"Upgrade: websocket"], b"websocket"),
        (b"GET / HTTP/1.1", [b"Connection: upgrade", b"Upgrade: a/1, b"], b"a/1, b"),
        (b"GET / HTTP/1.1", [b"Connection: upgrade", b"Upgrade: a", b"Upgrade: b"], b"a, b"),
        (b"GET / HTTP/1.1", [b"Upgrade: websocket"], None),
        (b"GET / HTTP/1.1", [b"Connection: upgrade"], None),
        (b"GET / HTTP/1.0", [b"Connection: upgrade", b"Upgrade: websocket"], None),
        (b"GET / HTTP/1.1", [b"Connection: upgrade, http2-settings", b"Upgrade: h2c"], None),
        (b"GET / HTTP/1.1", [b"Connection: upgrade", b"Upgrade: websocket, H2C"], None),
        (b"GET / HTTP/1.1", [b"Connection: upgrade", b"Upgrade: @"], None),
    ],
)
def test_upgrade(line: bytes, fields: list[bytes], upgrade: bytes | None) -> None:
    assert head_of(request(line, *fields)).upgrade == upgrade


@pytest.mark.parametrize(
    ("line", "fields", "expects"),
    [
        (b"PUT / HTTP/1.1", [b"Content-Length: 3", b"Expect: 100-Continue"], True),
        (b"PUT / HTTP/1.1", [b"Transfer-Encoding: chunked", b"Expect: 100-continue"], True),
        (b"PUT / HTTP/1.1", [b"Content-Length: 0", b"Expect: 100-continue"], False),
        (b"PUT / HTTP/1.1", [b"Expect: 100-continue"], False),
        (b"PUT / HTTP/1.0", [b"Content-Length: 3", b"Expect: 100-continue"], False),
        (b"PUT / HTTP/1.1", [b"Content-Length: 3", b"Expect: cake"], False),
    ],
)
def test_expect(line: bytes, fields: list[bytes], expects: bool) -> None:
    assert head_of(request(line, *fields)).expects_continue is expects


@pytest.mark.parametrize(
    "host",
    [
        b"a=b",
        b"a;b",
        b"a+b",
        b"a!b",
        b"a$b",
        b"a&b",
        b"a'b",
        b"a(b)",
        b"a*b",
        b"*",
        b"a~b",
        b"_dns.a",
        b"a=b:80",
        b"caf%C3%A9",
        b"%61",
        b"a%2Db",
        b"%7E",
        b"a%3Bb",
        b"a:",
        b"[::1]:80",
        b"1.2.3.4",
        b"a" * 255,
    ],
)
def test_any_host_that_is_a_name(host: bytes) -> None:
    """RFC 3986 §3.2.2: unreserved, escapes and sub-delims, but for the comma."""
    assert head_of(request(host=b"Host: " + host)).host == host
    absolute = head_of(request(b"GET http://" + host + b"/x HTTP/1.1"))
    assert (absolute.host, absolute.target) == (host, b"/x")


def test_http_1_0_needs_no_host() -> None:
    head = head_of(request(b"GET / HTTP/1.0", host=b""))
    assert (head.host, head.version) == (b"", b"1.0")


def test_empty_lines_before_the_request_line_are_skipped() -> None:
    blank = b"\r\n" * 8
    head = head_of(blank + request())
    assert head.method == b"GET"
    assert outcome(parse, blank + b"\r\n" + request())[:3] == ("fault", "client", 400)


@pytest.mark.parametrize(
    "data", [b"", b"\r", b"\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n", b"PRI * HTT"]
)
def test_waits_for_more(data: bytes) -> None:
    assert outcome(parse, data) == MORE


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"GET /" + b"a" * LIMIT + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "request_line_too_long"),
        (b"a" * LIMIT, 414, "request_line_too_long"),
        (request(b"GET / HTTP/1.1", b"X: " + b"a" * LIMIT), 431, "request_head_too_large"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * LIMIT, 431, "request_head_too_large"),
        (request(b"GET / HTTP/1.1", *[b"a: b"] * 100), 431, "too_many_fields"),
    ],
)
def test_limits(data: bytes, status: int, code: str) -> None:
    assert outcome(parse, data) == ("fault", "client", status, code)


def test_the_limit_is_exact() -> None:
    head = request(b"GET / HTTP/1.1", b"X: " + b"a" * 100)
    for blank in (b"", b"\r\n"):
        data = blank + head
        fits = outcome(lambda part: parse_request(part, len(head)), data)
        assert fits[0] == "value"
        over = outcome(lambda part: parse_request(part, len(head) - 1), data)
        assert over[:3] == ("fault", "client", 431)


def test_100_fields_are_accepted_and_the_limit_counts_for_known_heads_too() -> None:
    data = request(b"GET / HTTP/1.1", *[b"a: b"] * 99)
    assert len(head_of(data).fields) == 100
    with pytest.raises(Fault):
        parse_request(data, LIMIT, 99)


def test_what_is_wrong_is_reported_without_waiting_for_the_end() -> None:
    for data in (
        b"\x16\x03\x01",  # TLS
        b"\n",
        b"GET / HTTP/1.1\n",
        b"GET / HTTP/1.1\r\nHost: a\n",
        b"GET /\x00",
        b"GET / HTTP/1.1\r\rH",
        b"PRI * HTTP/2.0",
    ):
        assert outcome(parse, data)[0] == "fault", data


@pytest.mark.parametrize(
    ("data", "status", "hint"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "TLS"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/2"),
        (request(b"GET / HTTP/1.2"), 505, "HTTP/1.1"),
        (request(b"CONNECT a:443 HTTP/1.1"), 405, "CONNECT"),
        (request(b"TRACE / HTTP/1.1"), 405, "TRACE"),
    ],
)
def test_the_message_says_what_it_is(data: bytes, status: int, hint: str) -> None:
    with pytest.raises(Fault) as caught:
        parse(data)
    assert caught.value.status == status
    assert hint in caught.value.message


def test_messages_quote_nothing() -> None:
    secret = b"hunter2"
    for data in (
        request(b"GET /" + secret + b" \t HTTP/1.1"),
        request(b"GET / HTTP/1.1", secret + b" bad: 1"),
        request(b"GET / HTTP/1.1", b"X: " + secret + b"\x01"),
        request(b"GET / HTTP/1.1", host=b"Host: " + secret + b"@a"),
        request(b"POST / HTTP/1.1", b"Content-Length: " + secret),
        request(b"POST / HTTP/1.1", b"Transfer-Encoding: " + secret),
    ):
        with pytest.raises(Fault) as caught:
            parse(data)
        assert "hunter2" not in str(caught.value)


def test_a_known_head_is_not_parsed_again_and_the_memo_is_bounded() -> None:
    forget_heads()
    first = parse(request())
    assert first is not None
    again = parse(request() + b"behind")
    assert again is not None
    assert again[0] is first[0]
    for number in range(2 * MEMO_HEADS):
        parse(request(b"GET /%d HTTP/1.1" % number))
    assert len(heads.requests_seen) == MEMO_HEADS
    forget_heads()
    parse_request(request(b"GET / HTTP/1.1", b"X: " + b"a" * heads.MEMO_BYTES), 8192)
    assert not heads.requests_seen


def test_a_fault_stays_a_fault() -> None:
    data = request(b"GET / HTTP/1.1", b"Content-Length: 1", b"Content-Length: 1")
    assert feed(parse, data, [len(data)]) == feed(parse, data, [len(data)])
