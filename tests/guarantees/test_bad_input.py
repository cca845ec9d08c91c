"""The promise: every way in which a request or a response can go wrong has the status, the code
and the
ending that docs/reference/errors.md gives it. The tables there are read, and each row is played.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from relay.exchange.worker import TOKEN
from relay.observing.ending import Cause
from tests.core.coded import coded
from tests.guarantees.descriptor_setup import no_descriptors_left
from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, route_to, running, settle
from tests.io.upstreams_setup import Blackhole, refusing_port

PAGE = Path(__file__).parents[2] / "docs/reference/errors.md"
Play = Callable[[Relay, Upstream], Awaitable[RawPeer]]


class Case(NamedTuple):
    """How a row is played: the relay's configuration, and what both sides do."""

    play: Play
    route: str = ""
    more: str = ""
    url: Callable[[Upstream], str] | None = None
    path: str = "/{rest...}"


def rows(columns: int) -> list[list[str]]:
    """The rows of the table with so many columns."""
    found = []
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [re.sub("`", "", cell).strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == columns and not set(cells[0]) <= {"-"}:
            found.append(cells)
    return found[1:]


def says(data: bytes) -> Play:
    """The client sends this, and waits."""

    async def play(relay: Relay, _: Upstream) -> RawPeer:
        client = await relay.client()
        await client.send(data)
        return client

    return play


def posts(head: bytes, body: bytes = b"") -> Play:
    """The client posts; the upstream only listens."""
    return says(b"POST / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n" + body)


def answered(data: bytes, end: Callable[[RawPeer], None] | None = None, fields: str = "") -> Play:
    """The upstream answers a GET with this, and perhaps ends its connection."""

    async def play(relay: Relay, up: Upstream) -> RawPeer:
        client = await relay.get("/", fields)
        peer, _ = await up.request()
        if data:
            await peer.send(data)
        if end is not None:
            end(peer)
        return client

    return play


def uploads(body: bytes) -> Play:
    """The client sends this body in chunks, behind a head that has reached the upstream."""

    async def play(relay: Relay, up: Upstream) -> RawPeer:
        client = await posts(CODED)(relay, up)
        await up.request()
        await client.send(body)
        return client

    return play


get = says(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
CODED = b"Transfer-Encoding: chunked\r\n"
GZIPPED = EVENT_HEAD[:-2] + b"Content-Encoding: gzip\r\n\r\n"
SMALL_HEAD = '[limits]\nrequest_head = "1KiB"'
SMALL_BODY = '[limits]\nrequest_body = "5B"'
NO_TLS = b"HTTP/1.1 400 Bad Request\r\n\r\n"


SHORT_DRAIN = '[timeouts]\ndrain = "50ms"'


async def waits_to_the_end(relay: Relay, up: Upstream) -> RawPeer:
    """The upstream does not answer until relay has drained; the client perhaps has an early head."""
    client = await relay.get()
    await up.request()
    if relay.worker.config.routes[0].commit_after < 1:
        await client.head()
    relay.server.stop()
    return client


HOLES: list[Blackhole] = []


def no_answer() -> str:
    """The url of a port that answers no SYN; closed with the case."""
    HOLES.append(Blackhole())
    return f"http://127.0.0.1:{HOLES[-1].port}"


async def not_tls(relay: Relay, up: Upstream) -> RawPeer:
    client = await relay.get()
    peer = await up.accept()
    await peer.exactly(1)
    await peer.send(NO_TLS)
    return client


async def slow_body(relay: Relay, up: Upstream) -> RawPeer:
    client = await relay.client()
    await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
    await up.request()
    with trio.move_on_after(5.2):  # the grace of a slow start
        while True:
            await client.stream.send_all(b"x")
            await trio.sleep(0.1)
    return client


async def lacks_descriptors(relay: Relay, _: Upstream) -> RawPeer:
    """The request comes while nothing can be opened; the answer is there when it can again."""
    client = await relay.client()
    await settle(lambda: relay.inventory().connections == 1)
    with no_descriptors_left():
        await client.send(b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n")
        client.buffer = await client.until(b"}}")
    return client


BEFORE_THE_HEAD: dict[str, Case] = {
    "the request is not HTTP": Case(says(b"nonsense\r\n\r\n")),
    "a field line is malformed": Case(says(b"GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n")),
    "the Host field is missing": Case(says(b"GET / HTTP/1.1\r\n\r\n")),
    "the length of the body is given in two ways": Case(posts(CODED + b"Content-Length: 5\r\n")),
    "the request target is not a path": Case(says(b"GET x HTTP/1.1\r\nHost: a\r\n\r\n")),
    "the path has a dot segment": Case(says(b"GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n")),
    "the client speaks TLS to a plain port": Case(says(b"\x16\x03\x01\x02\x00\x01\x00")),
    "the transfer coding is unknown": Case(posts(b"Transfer-Encoding: gzip\r\n")),
    "the version is not HTTP/1": Case(says(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
    "the request line is over limits.request_head": Case(
        says(b"GET /" + b"x" * 1024), "", SMALL_HEAD
    ),
    "the head is over limits.request_head": Case(
        says(b"GET / HTTP/1.1\r\nX: " + b"x" * 1024), "", SMALL_HEAD
    ),
    "the head has more than limits.header_count fields": Case(
        says(b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n"), "", "[limits]\nheader_count = 1"
    ),
    "the head is not there within timeouts.request_head": Case(
        says(b"GET / HTTP/1.1\r\n"), "", '[timeouts]\nrequest_head = "20ms"'
    ),
    "the method is CONNECT or TRACE": Case(says(b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n")),
    "no route matches the path": Case(get, path="/elsewhere"),
    "the path can be read as one of another route": Case(
        says(b"GET /internal%2Fx HTTP/1.1\r\nHost: a\r\n\r\n"),
        '[[routes]]\npath = "/internal/{rest...}"\nsource = "local"',
    ),
    "the route does not take the method": Case(
        posts(b"Content-Length: 0\r\n"), 'methods = ["GET"]'
    ),
    "the body's length is over limits.request_body": Case(
        posts(b"Content-Length: 6\r\n"), "", SMALL_BODY
    ),
    "the body turns out to be over limits.request_body": Case(
        uploads(chunked(b"123456")), "", SMALL_BODY
    ),
    "a chunk of the body is malformed": Case(uploads(b"x\r\n")),
    "no byte of the body came within timeouts.request_body_idle": Case(
        posts(b"Content-Length: 5\r\n"), "", '[timeouts]\nrequest_body_idle = "20ms"'
    ),
    "the body is slower than limits.request_body_rate": Case(
        slow_body, "", '[limits]\nrequest_body_rate = "1KiB/s"'
    ),
    "the upstream refuses the connection": Case(
        get, url=lambda _: f"http://127.0.0.1:{refusing_port()}"
    ),
    "the connection is not there within timeouts.connect": Case(
        get, "", '[timeouts]\nconnect = "20ms"', url=lambda _: no_answer()
    ),
    "the request has been through this relay before": Case(
        says(b"GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 relay" + TOKEN + b"\r\n\r\n")
    ),
    "relay is out of descriptors for the connection": Case(lacks_descriptors),
    "the TLS handshake fails": Case(not_tls, url=lambda up: up.url.replace("http:", "https:")),
    "the upstream closes before it answers": Case(answered(b"", RawPeer.close)),
    "the upstream resets before it answers": Case(answered(b"", RawPeer.reset)),
    "the upstream closes in the middle of its head": Case(
        answered(b"HTTP/1.1 200 OK\r\nX", RawPeer.close)
    ),
    "the upstream does not speak HTTP": Case(answered(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")),
    "the upstream gives the length of its body in two ways": Case(
        answered(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + CODED + b"\r\n")
    ),
    "the upstream's head is over limits.response_head": Case(
        answered(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1024), "", '[limits]\nresponse_head = "1KiB"'
    ),
    "the stream to translate is in a coding that relay does not read": Case(
        answered(GZIPPED.replace(b"gzip", b"br")), 'translate = "t"', "[translations.t.message]"
    ),
    "the upstream switches to a protocol nobody asked for": Case(
        answered(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: b\r\n\r\n",
            fields="Connection: upgrade\r\nUpgrade: a\r\n",
        )
    ),
    "relay shuts down before the upstream has answered": Case(waits_to_the_end, more=SHORT_DRAIN),
    "the upstream's head is not there within timeouts.response_head": Case(
        answered(b""), "", '[timeouts]\nresponse_head = "20ms"'
    ),
    "the first event is not there in time, and no url is left": Case(
        answered(EVENT_HEAD), 'first_event = "20ms"'
    ),
}


@asynccontextmanager
async def staged(case: Case) -> AsyncIterator[tuple[Relay, Upstream]]:
    up = await Upstream.open()
    url = case.url(up) if case.url is not None else up.url
    config = route_to(url, case.route, more=case.more).replace("/{rest...}", case.path)
    try:
        async with running(config) as relay:
            yield relay, up
    finally:
        up.close()
        while HOLES:
            HOLES.pop().close()


@pytest.mark.parametrize("row", rows(6), ids=lambda row: row[0])
async def test_before_the_head_is_out(row: list[str]) -> None:
    what, status, code, ending, side, phase = row
    case = BEFORE_THE_HEAD[what]
    async with staged(case) as (relay, up):
        client = await case.play(relay, up)
        head = await client.head()
        line = await relay.line()
        client.half_close()
        body = await client.rest()
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert (line["ending"], line["side"], line["phase"]) == (ending, side, phase)
    assert line["status"] == int(status)
    if code:
        error = json.loads(body)["error"]
        assert error["code"] == code
        assert error["message"]
        assert b"content-type: application/json\r\n" in head
    if status == "405" and side == "client" and phase == "route":
        assert b"allow: GET, HEAD\r\n" in head
    elif status == "405":
        assert b"allow: DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT\r\n" in head


async def stopped(relay: Relay, up: Upstream) -> RawPeer:
    client = await answered(EVENT_HEAD + chunked(b"data: 1\n\n"))(relay, up)
    await client.until(b"data: 1\n\n\r\n")
    [row] = relay.worker.registry
    assert relay.server.stop_stream(row.record.id)
    return client


async def shut_down(relay: Relay, up: Upstream) -> RawPeer:
    client = await posted(relay, up)
    relay.server.stop()
    return client


async def posted(relay: Relay, up: Upstream) -> RawPeer:
    client = await posts(b"Content-Length: 0\r\n")(relay, up)
    peer, _ = await up.request()
    await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
    await client.until(b"data: 1\n\n\r\n")
    return client


def committed(data: bytes) -> Play:
    async def play(relay: Relay, up: Upstream) -> RawPeer:
        client = await relay.get()
        peer, _ = await up.request()
        await client.head()
        if data:
            await peer.send(data)
        else:
            peer.close()
        return client

    return play


COMMIT = 'commit = "after 1ms"'
AFTER_THE_HEAD: dict[str, Case] = {
    "the upstream closes or resets in the middle of the stream": Case(
        answered(EVENT_HEAD, RawPeer.close)
    ),
    "the framing of the stream is malformed": Case(answered(EVENT_HEAD + b"x\r\n")),
    "the stream's content coding is malformed": Case(
        answered(GZIPPED + chunked(b"data: 1\n\n")),
    ),
    "the stream ended before its content coding did": Case(
        answered(GZIPPED + chunked(coded(b"data: 1\n\n")[:-1]) + b"0\r\n\r\n"),
    ),
    "a translated event is longer than limits.max_event": Case(
        answered(EVENT_HEAD + chunked(b"data: " + b"x" * 200)),
        'translate = "t"',
        '[limits]\nmax_event = "100B"\n[translations.t.message]',
    ),
    "no byte came within timeouts.idle": Case(
        answered(EVENT_HEAD), "", '[timeouts]\nidle = "20ms"'
    ),
    "no event came within event_idle": Case(
        answered(EVENT_HEAD + chunked(b"data: 1\n\n")), 'event_idle = "20ms"'
    ),
    "no first event came within first_event": Case(answered(EVENT_HEAD), 'first_event = "20ms"'),
    "the stream ended without the marker of complete_when": Case(
        answered(EVENT_HEAD + b"0\r\n\r\n"), 'complete_when = "[DONE]"'
    ),
    "an operator ended the stream": Case(stopped),
    "relay shuts down, and the request was not a GET": Case(
        shut_down, "", '[timeouts]\ndrain = "200ms"'
    ),
    "the stream reached max_age, and the request was not a GET": Case(posted, 'max_age = "50ms"'),
    "relay shuts down before the upstream has answered, after an early commitment": Case(
        waits_to_the_end, COMMIT, SHORT_DRAIN
    ),
    "the upstream fails after an early commitment": Case(committed(b""), COMMIT),
    "the upstream answers an early commitment with an error": Case(
        committed(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"), COMMIT
    ),
}


@pytest.mark.parametrize("row", rows(4), ids=lambda row: row[0])
async def test_after_the_head_is_out(row: list[str]) -> None:
    what, code, ending, side = row
    case = AFTER_THE_HEAD[what]
    async with staged(case) as (relay, up):
        client = await case.play(relay, up)
        line = await relay.line()
        client.half_close()
        rest = await client.rest()
    assert (line["ending"], line["side"], line["status"]) == (ending, side, 200)
    [event] = re.findall(rb'data: (\{"type":"error".*\})\n\n', rest)
    said = json.loads(event)
    assert said["code"] == code
    assert said["message"]
    assert not rest.endswith(b"0\r\n\r\n")


def test_the_codes_of_features_are_those_of_the_code() -> None:
    """1. A reader looks a code up that relay sent. 2. It is on the page; what is on the page is sent."""
    root = Path(__file__).parents[2] / "relay"
    files = [
        *root.glob("exchange/*.py"),
        *root.glob("sources/*.py"),
        *root.glob("feeds/*.py"),
        *root.glob("sse/*.py"),
    ]
    source = "\n".join(path.read_text("utf-8") for path in files)
    named = {code for code, _, _ in rows(3)} | {cause.value for cause in Cause}
    assert all(f'"{code}"' in source for code in named - {cause.value for cause in Cause})
    sent = set(
        re.findall(r'(?:"client", \d+|code=|_refused\(|refuse\(\s*\d+),?\s*"([a-z_]+)"', source)
    )
    assert len(sent) > 10
    assert sent - named - {row[2] for row in rows(6)} == set()


def test_the_tables_name_real_endings_and_every_case() -> None:
    assert {row[0] for row in rows(6)} == set(BEFORE_THE_HEAD)
    assert {row[0] for row in rows(4)} == set(AFTER_THE_HEAD)
    endings = {row[3] for row in rows(6)} | {row[2] for row in rows(4)}
    assert endings <= {cause.value for cause in Cause}
