"""The promise: nothing outlives its exchange. A thousand exchanges, aborted in assorted phases by
either
side, leave the relay with the tasks, sockets and descriptors it had before.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Awaitable, Callable

import pytest
import trio

from tests.harness import EVENT_HEAD, LIMIT, RawPeer, Relay, Upstream, chunked, scene

ABORTS = 1000
AT_ONCE = 20  # exchanges under way at a time
Way = Callable[[RawPeer, RawPeer], Awaitable[None]]

REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n12345",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"12345"),
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
    b"GET / HTTP/1.1\r\nHo",
    b"nonsense\r\n\r\n",
]
ANSWERS = [
    b"",
    b"HTTP/1.1 200 OK\r\nConte",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the close",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"part"),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    EVENT_HEAD,
    EVENT_HEAD + chunked(b"data: 1\n\ndata: half"),
    EVENT_HEAD + chunked(b"data: 1\n\n") + b"0\r\n\r\n",
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello",
    b"nonsense\r\n\r\n",
]
ENDS = [RawPeer.close, RawPeer.reset, RawPeer.half_close]


class Crowd:
    """Exchanges whose course is drawn, and an upstream that plays along."""

    def __init__(self, relay: Relay, up: Upstream, seed: int) -> None:
        self.relay = relay
        self.up = up
        self.dice = random.Random(seed)
        self.done = 0

    async def clients(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(self._client)

    async def _client(self) -> None:
        dice = self.dice
        while self.done < ABORTS:
            self.done += 1
            client = await RawPeer.connect(self.relay.port)
            try:
                await client.stream.send_all(dice.choice(REQUESTS))
                if dice.random() < 0.7:  # else it leaves at once
                    await self._some(client, dice.choice([0.001, 0.005, 0.02]))
                dice.choice(ENDS)(client)
                await self._some(client, 0.02)
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                pass
            finally:
                client.close()

    async def upstream(self) -> None:
        """Answer whatever comes with whatever the dice say."""
        async with trio.open_nursery() as nursery:
            while True:
                stream = await self.up.next_stream()
                nursery.start_soon(self._answer, RawPeer(stream))
                del stream

    async def _answer(self, peer: RawPeer) -> None:
        dice = self.dice
        try:
            await self._some(peer, 0.05)
            await peer.stream.send_all(dice.choice(ANSWERS))
            await self._some(peer, dice.choice([0.001, 0.01, 0.05]))
            dice.choice(ENDS)(peer)
            await self._some(peer, 0.1)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass
        finally:
            peer.close()

    async def _some(self, peer: RawPeer, seconds: float) -> None:
        """Read what there is, for so long at most."""
        with trio.move_on_after(seconds):
            await peer.stream.receive_some(65536)


ROUTES = {
    "plain": "",
    "keeps half-closes": 'half_close = "keep"',
    "commits early": 'commit = "after 1ms"\nheartbeat = "5ms"',
    "retries": 'retries = 1\nfirst_event = "10ms"',
    "ends properly": 'after_error = "close"\nunavailable = "retry-event"',
}


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
async def test_a_thousand_aborted_exchanges(route: str) -> None:
    times = '[timeouts]\nidle = "200ms"\nresponse_head = "200ms"\nrequest_body_idle = "200ms"'
    async with scene(route, more=times) as (relay, up):
        gc.collect()
        before = relay.inventory()
        async with trio.open_nursery() as nursery:
            crowd = Crowd(relay, up, seed=len(route))
            nursery.start_soon(crowd.upstream)
            with trio.fail_after(LIMIT * 3):
                await crowd.clients()
            nursery.cancel_scope.cancel()
        await relay.nothing_left(before)
        [group] = relay.worker.groups
        for origin in group.origins:
            assert origin.streams == 0
            assert all(not wire.closed for wire in origin.idle)
