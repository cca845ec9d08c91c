"""The promise: whether a request is served in steps of the engine or by its connection's task makes no difference that
anybody can see: not to the upstream, not to the client, not in the log, not in the counters, not in what is left.

Each scenario runs both ways, as the second request of a connection, and the transcripts are compared. A limit of requests
that nobody reaches is what makes it the task's (`Worker.steps`).
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import pytest
import trio
import trio.lowlevel
import trio.testing

from relay.exchange.prepared import MOST
from tests.harness import LIMIT, RawPeer, Relay, Upstream, chunked, route_to, running, scene, settle

WAYS = {"steps": "", "task": '[limits]\nrequest_rate = "1000000/s"\nrequest_burst = 1000000\n'}
BODY = b"a body"
PLAIN = (
    b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: 6\r\n\r\n" + BODY
)
GET = b"GET /second?q=1 HTTP/1.1\r\nHost: relay.test\r\nCookie: a=b\r\n\r\n"
CLOSE, RESET = object(), object()  # what an upstream may do besides sending bytes
Script = tuple[object, ...]

REQUESTS = {
    "GET": GET,
    "again in the same bytes": GET,
    "with a query that is strange": b"GET /a%20b;c?x=%zz HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute": b"GET http://other.test/x HTTP/1.1\r\nHost: relay.test\r\n\r\n",
    "HEAD": b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    "DELETE": b"DELETE /x HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS": b"OPTIONS /x HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS for the server": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS that goes no further": b"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n",
    "POST without a body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "POST with a key": b"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: 1\r\nContent-Length: 0\r\n\r\n",
    "POST": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    "closing": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    "traced": b"GET / HTTP/1.1\r\nHost: a\r\n"
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n",
    "lying": b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nX-Real-IP: 9\r\nForwarded: for=x\r\n\r\n",
    "hop by hop": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x-secret, te\r\nX-Secret: 1\r\nTE: trailers\r\n\r\n",
    "an odd name": b"GET / HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 1.2.3.4\r\n\r\n",
    "an upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "wanting events": b"GET / HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n",
    "been here": b"GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 relay\r\n\r\n",
    "dots": b"GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "a bare LF": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "two lengths": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "CONNECT": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "an empty line before": b"\r\n" + GET,
    "a path of nobody": b"GET /nobody HTTP/1.1\r\nHost: a\r\n\r\n",
}
ANSWERS: dict[str, tuple[Script, ...]] = {
    "plain": ((PLAIN,),),
    "undated": ((b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n" + BODY,),),
    "empty": ((b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",),),
    "204": ((b"HTTP/1.1 204 No Content\r\n\r\n",),),
    "204 with a length": ((b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n",),),
    "304": ((b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 99\r\n\r\n',),),
    "404": ((b"HTTP/1.1 404 Nowhere\r\nContent-Length: 2\r\n\r\nno",),),
    "503": ((b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\nContent-Length: 2\r\n\r\nno",), (PLAIN,)),
    "401": ((b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nno",),),
    "a place": ((b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n",),),
    "closing": (
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\n" + BODY, CLOSE),
    ),
    "closed behind it": ((PLAIN, CLOSE),),
    "hop by hop": (
        (
            b"HTTP/1.1 200 OK\r\nConnection: x-in\r\nX-In: 1\r\nKeep-Alive: 5\r\nContent-Length: 6\r\n\r\n"
            + BODY,
        ),
    ),
    "HTTP/1.0": ((b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\n" + BODY, CLOSE),),
    "chunked": (
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(BODY) + b"0\r\n\r\n",),
    ),
    "until the end": ((b"HTTP/1.1 200 OK\r\n\r\n" + BODY, CLOSE),),
    "in two heads": ((PLAIN[:20], PLAIN[20:]),),
    "head and body": ((PLAIN[:-6], PLAIN[-6:]),),
    "byte by byte": (tuple(PLAIN[at : at + 1] for at in range(len(PLAIN))),),
    "early hints": ((b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + PLAIN,),),
    "something behind it": ((PLAIN + b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!", CLOSE),),
    "a stream": (
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\ndata: x\n\n",
        ),
    ),
    "a stream of an error": (
        (
            b"HTTP/1.1 500 No\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\ndata: x\n\n",
        ),
    ),
    "half a body": ((PLAIN[:-2], CLOSE),),
    "half a head": ((PLAIN[:30], CLOSE),),
    "nonsense": ((b"what\r\n\r\n", CLOSE),),
    "two framings": (
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            CLOSE,
        ),
    ),
    "a switch": ((b"HTTP/1.1 101 Hm\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", CLOSE),),
    "an end instead": ((CLOSE,), (PLAIN,)),
    "a reset instead": ((RESET,), (PLAIN,)),
    "cookies": (
        (b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n",),
    ),
    "an odd name": ((b"HTTP/1.1 200 OK\r\nContent_Length: 4\r\nContent-Length: 0\r\n\r\n",),),
}
ROUTES = {
    "plain": "",
    "edited": 'response_headers = { X-Own = "1", Via = "me", Set-Cookie = "" }\n'
    'request_headers = { X-Key = "k", Cookie = "" }\n',
    "retrying": 'retries = 1\nretry_on = ["refused", "503"]\n',
    "rewritten": 'upstream_path = "/v2/{rest}"\n',
    "cors": 'cors = { origins = ["https://a"] }\n',
    "hidden": 'unavailable = "retry-event"\n',
    "half-closed": 'half_close = "keep"\n',
}


class Transcript(NamedTuple):
    """What anybody could see."""

    upstream: list[bytes]
    client: bytes
    log: list[dict[str, object]]
    counters: dict[str, tuple[dict[str, int], int, int, int]]


class Player:
    """An upstream that answers one request after the other from a list, whatever connection they come on."""

    def __init__(self, scripts: list[Script]) -> None:
        self.scripts = scripts
        self.seen: list[bytes] = []

    async def run(self, up: Upstream) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self._serve, RawPeer(await up.next_stream()))

    async def _serve(self, peer: RawPeer) -> None:
        try:
            while True:
                head = await self._head(peer)
                self.seen.append(head)
                if length := re.search(rb"(?i)\r\ncontent-length: (\d+)", head):
                    self.seen.append(await peer.exactly(int(length[1])))
                for deed in self.scripts.pop(0) if self.scripts else (PLAIN,):
                    if deed is CLOSE or deed is RESET:
                        peer.close() if deed is CLOSE else peer.reset()
                        return
                    assert isinstance(deed, bytes)
                    await peer.stream.send_all(deed)
                    await trio.testing.wait_all_tasks_blocked(0.0005)
        except (AssertionError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it is over
        finally:
            peer.close()

    async def _head(self, peer: RawPeer) -> bytes:
        """However long it takes: a connection may be idle."""
        while b"\r\n\r\n" not in peer.buffer:
            data = await peer.stream.receive_some(65536)
            assert data
            peer.buffer += data
        return await peer.head()


@asynccontextmanager
async def prepared(
    way: str, route: str = "", scripts: list[Script] | None = None, more: str = ""
) -> AsyncIterator[tuple[Relay, Player, RawPeer]]:
    """A connection that has served a request, and an upstream connection that idles."""
    up = await Upstream.open()
    config = route_to(up, route, more=WAYS[way] + more)
    player = Player([(PLAIN,), *(scripts or [])])
    async with running(config) as relay, trio.open_nursery() as nursery:
        nursery.start_soon(player.run, up)
        client = await relay.get("/first")
        await client.until(BODY)
        await relay.line()
        await settle(lambda: waits(relay))
        player.seen.clear()
        yield relay, player, client
        nursery.cancel_scope.cancel()
    up.close()


def waits(relay: Relay) -> bool:
    """Whether the client's connection waits for its next request, and the upstream's idles in the pool."""
    [origin] = [origin for group in relay.worker.groups for origin in group.origins]
    return len(origin.idle) == 1 and not origin.streams


def same(data: bytes) -> bytes:
    """Without what is different each time."""
    data = re.sub(rb"(?i)(\r\nx-request-id: )[0-9a-f]{16}", rb"\1ID", data)
    data = re.sub(rb"\r\ndate: (?!Thu, 01 Jan 2026)[^\r]*", rb"\r\ndate: NOW", data)
    data = re.sub(rb"retry: \d+", b"retry: SOON", data)
    return re.sub(rb"127\.0\.0\.1:\d+|relay-[0-9a-f]{12}", b"PLACE", data)


DIFFERENT = ("time", "id", "ttfb_ms", "duration_ms", "upstream")


async def transcript(
    way: str, request: bytes, scripts: tuple[Script, ...], route: str
) -> Transcript:
    async with prepared(way, route, list(scripts)) as (relay, player, client):
        await client.send(request)
        log = [await relay.line()]
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await client.send(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        got = await client.rest()
        with trio.move_on_after(0 if b"x-request-id" not in got[-2000:] else LIMIT):
            if got.count(b"HTTP/1.1 ") - got.count(b"HTTP/1.1 103") > 1:
                log.append(await relay.line())
        client.close()
        # Each was counted once, whichever way it went.
        await settle(lambda: relay.worker.counters.connections == 0)
        counted = {
            name: (
                {cause.value: count for cause, count in route.endings.items()},
                route.bytes_in,
                route.bytes_out,
                sum(route.first_byte.counts),
            )
            for name, route in relay.worker.counters.routes.items()
        }
        left = relay.inventory()
        assert (left.connections, left.streams, left.transfers) == (0, 0, 0)
        for line in log:
            assert line.pop("id")
            for key in DIFFERENT:
                line.pop(key, None)
        return Transcript([same(head) for head in player.seen], same(got), log, counted)


async def both_ways(request: bytes, scripts: tuple[Script, ...], route: str = "") -> None:
    stepped = await transcript("steps", request, scripts, route)
    assert stepped == await transcript("task", request, scripts, route)
    assert stepped.client


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_every_kind_of_request(request_: bytes) -> None:
    await both_ways(request_, ((PLAIN,),))


@pytest.mark.parametrize("scripts", ANSWERS.values(), ids=ANSWERS)
async def test_every_kind_of_answer(scripts: tuple[Script, ...]) -> None:
    await both_ways(GET, scripts)


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
@pytest.mark.parametrize(
    "kind", ["plain", "503", "a place", "cookies", "an end instead", "a stream"]
)
async def test_every_kind_of_route(kind: str, route: str) -> None:
    await both_ways(GET, ANSWERS[kind], route)


@pytest.mark.parametrize("way", WAYS)
async def test_requests_in_one_write_are_answered_in_order(way: str) -> None:
    async with prepared(way) as (_, player, client):
        await client.send(GET * 3)
        for _ in range(3):
            await client.until(BODY)
        assert len(player.seen) == 3


async def test_no_task_is_woken() -> None:
    """What the steps are for: the second request does not schedule the connection's task."""

    class Watcher(trio.abc.Instrument):
        woken = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.woken += task.name.endswith("Server._serve")

    async with prepared("steps") as (relay, player, client):
        watcher = Watcher()
        trio.lowlevel.add_instrument(watcher)
        for number in range(5):
            await client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
            await client.until(BODY)
        await relay.lines(5)
        trio.lowlevel.remove_instrument(watcher)
        assert len(player.seen) == 5
        assert watcher.woken == 0


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_leaves_ends_its_request(way: str) -> None:
    """1. The second request is out. 2. The client closes. 3. The upstream's connection is closed; the line says so."""
    async with scene(more=WAYS[way]) as (relay, up):
        client = await relay.get("/first")
        peer, _ = await up.request()
        await peer.send(PLAIN)
        await client.until(BODY)
        await relay.line()
        await settle(lambda: waits(relay))
        await client.send(GET)
        await peer.head()
        client.close()
        await peer.ended()
        line = await relay.line()
        assert (line["ending"], line["phase"], line["status"]) == ("client_left", "request", 499)
        await settle(lambda: not relay.worker.counters.connections)
        assert relay.inventory().streams == 0
        assert sum(relay.worker.counters.cancel_delay.counts) == 1


@pytest.mark.parametrize("way", WAYS)
async def test_an_upstream_that_is_silent_is_too_late(way: str) -> None:
    async with prepared(way, "[routes.timeouts]\nresponse_head = '50ms'\n", [()]) as (
        relay,
        _,
        client,
    ):
        await client.send(GET)
        assert b" 504 " in await client.head()
        line = await relay.line()
        assert (line["ending"], line["side"]) == ("upstream_silent", "upstream")


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_does_not_ask_again_is_let_go(way: str) -> None:
    async with prepared(way, more='[timeouts]\nkeep_alive = "30ms"\n') as (_, _, client):
        await client.ended()


@pytest.mark.parametrize("way", WAYS)
async def test_a_head_that_stays_unfinished_is_refused(way: str) -> None:
    async with prepared(way, more='[timeouts]\nrequest_head = "50ms"\n') as (relay, _, client):
        await client.send(GET[:-2])
        assert b" 408 " in await client.head()
        assert (await relay.line())["ending"] == "client_stalled"


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(way: str) -> None:
    """1. The client reads nothing, and asks until its answers fill every buffer. 2. It reads: all of them are whole."""
    size = 60_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    count = 200
    async with prepared(way, scripts=[(answer,)] * count) as (relay, player, client):
        asked = 0

        async def ask() -> None:
            nonlocal asked
            for _ in range(count):
                await client.stream.send_all(GET)
                asked += 1
                await relay_has_answered_or_stands(relay, player, asked)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            for _ in range(count):
                await client.head()
                assert await client.exactly(size) == b"x" * size
        assert {line["ending"] for line in await relay.lines(count)} == {"complete"}


async def relay_has_answered_or_stands(relay: Relay, player: Player, asked: int) -> None:
    """The next request comes by itself, not behind another one: else the task has it."""
    with trio.move_on_after(0.02):
        while len(player.seen) < asked:
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("way", WAYS)
async def test_a_drain_answers_what_is_asked_and_ends_what_is_idle(way: str) -> None:
    """1. One client waits for an answer, one is idle. 2. The relay drains. 3. The first gets its answer, and is told
    that the connection ends; the second one is closed after the grace."""
    async with scene(more=WAYS[way] + '[timeouts]\ndrain = "5s"\n') as (relay, up):
        clients = []
        peers = []
        for _ in range(2):
            client = await relay.get("/first")
            peer, _ = await up.request()
            clients.append(client)
            peers.append(peer)
        for client, peer in zip(clients, peers, strict=True):
            await peer.send(PLAIN)
            await client.until(BODY)
        await relay.lines(2)
        await clients[0].send(GET)
        with trio.fail_after(LIMIT):
            seen = trio.Event()
            asked: list[RawPeer] = []

            async def look(peer: RawPeer) -> None:
                await peer.head()
                asked.append(peer)
                seen.set()

            async with trio.open_nursery() as nursery:
                for peer in peers:
                    nursery.start_soon(look, peer)
                await seen.wait()
                nursery.cancel_scope.cancel()
        relay.server.stop()
        await settle(lambda: relay.worker.draining)
        await asked[0].send(PLAIN)
        head = await clients[0].until(BODY)
        assert b"connection: close" in head.lower()
        await clients[1].ended()
        with trio.fail_after(LIMIT):
            await relay.stopped.wait()


@pytest.mark.parametrize("way", WAYS)
async def test_everything_ends_while_an_answer_is_awaited(way: str) -> None:
    """A second signal, or the drain's deadline: who waits gets a 503."""
    async with scene(more=WAYS[way] + '[timeouts]\ndrain = "100ms"\n') as (relay, up):
        client = await relay.get("/first")
        peer, _ = await up.request()
        await peer.send(PLAIN)
        await client.until(BODY)
        await relay.line()
        await settle(lambda: waits(relay))
        await client.send(GET)
        await peer.head()
        relay.server.stop()
        assert b" 503 " in await client.head()
        assert (await relay.line())["ending"] == "drained"


async def test_an_idle_connection_with_unread_bytes_is_not_taken() -> None:
    """1. An upstream says something that nobody asked for, and in the same turn 2. a request comes. 3. What it said is not
    the answer: the request goes out on another connection."""
    async with scene() as (relay, up):
        client = await relay.get("/first")
        peer, _ = await up.request()
        await peer.send(PLAIN)
        await client.until(BODY)
        await settle(lambda: waits(relay))
        lie = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nlie"
        # Both lie in the kernel before relay's loop has a turn: the client's socket may be seen first.
        os.write(client.stream.socket.fileno(), GET)
        os.write(peer.stream.socket.fileno(), lie)
        other, head = await up.request()
        assert b"/second" in head
        await other.send(PLAIN)
        assert b"lie" not in await client.until(BODY)


async def test_what_is_prepared_is_bounded_and_forgotten_by_a_reload() -> None:
    async with prepared("steps") as (relay, player, client):
        for number in range(MOST + 10):
            answer = b"HTTP/1.1 200 OK\r\nETag: %d\r\nContent-Length: 6\r\n\r\n" % number + BODY
            player.scripts.append((answer,))
            await client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
            await client.until(BODY)
        store = relay.worker.prepared
        assert len(store) == 2 * MOST
        relay.server.configure(relay.worker.config, None)
        assert len(relay.worker.prepared) == 0


async def test_each_client_is_named_by_its_own_address() -> None:
    """The same bytes from two addresses: what is prepared for one is not sent for the other."""
    trusting = '[server]\ntrusted_proxies = ["127.0.0.1"]\nproxy_protocol = "on"\n'
    up = await Upstream.open()
    player = Player([])
    async with running(route_to(up, more=trusting)) as relay, trio.open_nursery() as nursery:
        nursery.start_soon(player.run, up)
        for address in ("192.0.2.1", "192.0.2.2"):
            client = await relay.client()
            await client.send(b"PROXY TCP4 %b 127.0.0.1 1 2\r\n" % address.encode())
            for _ in range(3):
                await client.send(GET)
                await client.until(BODY)
                line = await relay.line()
                assert line["client"] == address
        said = [re.search(rb"x-forwarded-for: ([^\r]*)", head) for head in player.seen]
        assert [found[1] for found in said if found] == [b"192.0.2.1"] * 3 + [b"192.0.2.2"] * 3
        nursery.cancel_scope.cancel()
    up.close()
