"""The promise: an upstream connection on which an exchange left something behind, or on which something came before its
time, never serves another one.
"""

from __future__ import annotations

import json

import pytest

from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, running, scene, settle

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
KEPT = 'keepalive_idle = "60s"'  # what goes back into the pool stays there
LARGE = 600_000  # bytes of a body that passes unseen, in several steps
# What is asked, what the upstream says, and the status that the client gets.
BEHIND = {
    "an answer behind the answer": (GET, OK + OK, 200),
    "a byte behind the answer": (GET, OK + b"\n", 200),
    "a body behind 204": (GET, b"HTTP/1.1 204 No Content\r\n\r\nbody", 204),
    "a length on 204": (GET, b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n", 204),
    "a body behind 304": (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nbody", 304),
    "a body behind HEAD": (HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", 200),
    "chunks behind HEAD": (HEAD, EVENT_HEAD + chunked(b"data: 1\n\n"), 200),
    "an answer behind the last chunk": (
        GET,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunked(b"ok")
        + b"0\r\n\r\n"
        + OK,
        200,
    ),
    "an answer behind a stream": (
        GET,
        EVENT_HEAD + chunked(b"data: 1\n\n") + b"0\r\n\r\n" + OK,
        200,
    ),
    "an answer behind a large body": (
        GET,
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE + bytes(LARGE) + OK,
        200,
    ),
    "another protocol": (GET, SWITCHED, 502),
    "another protocol than was offered": (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: talk\r\n\r\n",
        SWITCHED,
        502,
    ),
    "another protocol for a body that is not whole": (
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: chat\r\n"
        b"Content-Length: 5\r\n\r\n123",
        SWITCHED,
        502,
    ),
    "interim answers without end": (GET, b"HTTP/1.1 102 Processing\r\n\r\n" * 2_600, 502),
    "an answer to a part of the request": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n123",
        OK,
        200,
    ),
}


def pooled(relay: Relay) -> int:
    origins = [origin for group in relay.worker.groups for origin in group.origins]
    return sum(len(origin.idle) for origin in origins)


async def serves_no_more(relay: Relay, up: Upstream, peer: RawPeer) -> None:
    """The connection ends, and the next request comes on another one."""
    await settle(lambda: pooled(relay) == 0)
    await peer.rest()
    client = await relay.get("/next")
    other, head = await up.request()
    assert head.startswith(b"GET /next ")
    await other.send(OK)
    assert (await client.until(b"ok")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("case", BEHIND)
async def test_behind_an_answer(case: str) -> None:
    asked, said, status = BEHIND[case]
    async with scene(upstream_keys=KEPT) as (relay, up):
        client = await relay.client()
        await client.send(asked)
        peer, _ = await up.request()
        await peer.send(said)
        head = await client.head()
        while head.startswith(b"HTTP/1.1 102 "):
            head = await client.head()
        assert head.startswith(b"HTTP/1.1 %d " % status)
        client.half_close()
        await client.rest()
        await relay.line()
        await serves_no_more(relay, up, peer)


@pytest.mark.parametrize("body", [b"ok", b""])
async def test_an_answer_that_nobody_asked_for(body: bytes) -> None:
    """It comes between two requests: the connection ends in the step that hears of it."""
    async with scene(upstream_keys=KEPT) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(OK)
        await client.until(b"ok")
        await settle(lambda: pooled(relay) == 1)
        await peer.send(
            b"HTTP/1.1 408 Request Timeout\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await serves_no_more(relay, up, peer)


# -- requests of relay's own -----------------------------------------------------------------------

OWN = """
[upstreams.backend]
url = "{url}"
{kept}
[[routes]]
path = "/next"
upstream = "backend"
[[routes]]
path = "/answer"
source = "answer"
[routes.answer]
upstream = "backend"
path = "/asked"
text = "response"
[[routes]]
path = "/job"
source = "enqueue"
after_error = "close"
[routes.enqueue]
upstream = "backend"
path = "/asked"
[routes.follow]
upstream = "backend"
path = "/followed"
[routes.cancel]
upstream = "backend"
path = "/cancelled"
"""
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}"


async def asks(relay: Relay, path: str) -> RawPeer:
    client = await relay.client()
    body = json.dumps({"query": "why?"}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    await client.send(head.encode() + body)
    return client


@pytest.mark.parametrize(("path", "which"), [("/answer", 1), ("/job", 1), ("/job", 2), ("/job", 3)])
async def test_another_protocol_for_a_request_of_relays_own(path: str, which: int) -> None:
    """Relay offers none: 1. Each request up to this one is answered. 2. This one is told that the protocol is another
    now. 3. The next client's request does not travel on that connection."""
    up = await Upstream.open()
    async with running(OWN.format(url=up.url, kept=KEPT)) as relay:
        client = await asks(relay, path)
        peer, _ = await up.request()
        for step in range(1, which):
            if step == 1:
                await peer.send(ACCEPTED)
            else:  # the stream breaks, so the job is cancelled
                await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
                await client.until(b"data: 1\n\n")
                peer.close()
                peer = await up.accept()
            head = await peer.head()
            assert (b"/followed " if step == 1 else b"/cancelled ") in head
        await peer.send(SWITCHED)
        if path == "/job" and which < 3:  # nobody knows of the job, so it is cancelled
            told, head = await up.request()
            assert b"/cancelled " in head
            await told.send(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await client.until(b"0\r\n\r\n")
        await relay.line()
        await settle(lambda: not len(relay.worker.background))
        await serves_no_more(relay, up, peer)
    up.close()
