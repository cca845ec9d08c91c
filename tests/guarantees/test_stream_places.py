"""The promise of `streams_per_address` and of `streams` of a limit by key: however a stream begins, one address, or one key,
has no more of them than that.

Six clients of one address ask at once; two run, four are refused with 429, and their places are free again when the
two have ended.
"""

from __future__ import annotations

import json

import pytest

from tests.harness import (
    EVENT_HEAD,
    RawPeer,
    Relay,
    Upstream,
    chunked,
    route_to,
    running,
    settle,
)

TWO = "[limits]\nstreams_per_address = 2\n"
TWO_BY_KEY = '[limits.by.customer]\nkey = "{header.host}"\nstreams = 2\n'
BODY = json.dumps({"user_id": "ann", "query": "why?"}).encode()
GET = b"GET /s HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY)
ENQUEUE = """
path = "/s"
source = "enqueue"
[routes.enqueue]
upstream = "backend"
path = "/message"
[routes.follow]
upstream = "backend"
path = "/stream?id={reply.id}"
"""
ANSWER = """
path = "/s"
source = "answer"
%s
[routes.answer]
upstream = "backend"
path = "/ask"
text = "text"
"""


def own(up: Upstream, route: str, two: str = TWO) -> str:
    return f'{two}[upstreams.backend]\nurl = "{up.url}"\n[[routes]]{route}'


def forward(up: Upstream, keys: str, two: str = TWO) -> str:
    return route_to(up, keys, more=two)


# How a stream begins: the route, the request, and whether its upstream's head is needed for that.
WAYS = {
    "its head shows it": ("", GET, True),
    "as bytes": ('stream = "bytes"', GET, True),
    "after retries": ("retries = 1", GET, True),
    "an early head": ('commit = "after 1ms"', GET, False),
    "an early head of a POST": ('commit = "after 1ms"', POST + BODY, False),
    "enqueue": (ENQUEUE, POST + BODY, False),
    "answer": (ANSWER % "", POST + BODY, False),
    "answer, early": (ANSWER % 'commit = "after 1ms"', POST + BODY, False),
    "answer, early, before its body": (ANSWER % 'commit = "after 1ms"', POST, False),
}


def _crowded(relay: Relay) -> bool:
    [(tally, key)] = relay.worker.admission.of("127.0.0.1")
    return tally.crowded(key)


async def begin(relay: Relay, up: Upstream, request: bytes, answered: bool) -> RawPeer:
    client = await relay.client()
    await client.send(request)
    if answered:
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD + chunked(b"data: 0\n\n"))
    return client


@pytest.mark.parametrize("two", [TWO, TWO_BY_KEY], ids=["by address", "by key"])
@pytest.mark.parametrize(("route", "request_", "answered"), WAYS.values(), ids=WAYS)
async def test_no_more_run_than_may(route: str, request_: bytes, answered: bool, two: str) -> None:
    up = await Upstream.open()
    try:
        config = own(up, route, two) if "source" in route else forward(up, route, two)
        async with running(config) as relay:
            before = relay.inventory()
            clients = [await begin(relay, up, request_, answered) for _ in range(6)]
            heads = [await client.head() for client in clients]
            assert [b" 200 " in head for head in heads].count(True) == 2, heads
            assert [b" 429 " in head for head in heads].count(True) == 4, heads
            refused = [await relay.line(status=429) for _ in range(4)]
            assert {line["ending"] for line in refused} == {"shed"}
            for client in clients:
                client.close()
            ended = [await relay.line() for _ in range(2)]
            assert {line["status"] for line in ended} == {200}
            await settle(lambda: not _crowded(relay))
            again = await begin(relay, up, request_, answered)
            assert b" 200 " in await again.head()
            again.close()
            await relay.line()
            await relay.nothing_left(before)
    finally:
        up.close()


async def test_all_at_once() -> None:
    """Their upstreams answer in the same moment: who was counted first runs."""
    up = await Upstream.open()
    try:
        async with running(forward(up, "")) as relay:
            clients = []
            peers = []
            for _ in range(6):
                client = await relay.client()
                await client.send(GET)
                peer, _ = await up.request()
                clients.append(client)
                peers.append(peer)
            for peer in peers:
                await peer.send(EVENT_HEAD)
            heads = [await client.head() for client in clients]
            assert [b" 200 " in head for head in heads].count(True) == 2
    finally:
        up.close()


async def test_a_head_request_is_no_stream() -> None:
    up = await Upstream.open()
    try:
        async with running(own(up, ANSWER % "")) as relay:
            for _ in range(3):
                client = await relay.client()
                await client.send(b"HEAD /s HTTP/1.1\r\nHost: a\r\n\r\n")
                assert b" 200 " in await client.head()
    finally:
        up.close()
