"""The promise: a shutdown with a thousand open event streams ends inside its limit, every reader
is told
when to come back, and they are not all told at once.
"""

from __future__ import annotations

import re

import trio

from tests.harness import EVENT_HEAD, LIMIT, RawPeer, Relay, Upstream, chunked, scene

STREAMS = 1000
DRAIN = 2.0  # seconds
AT_ONCE = 50  # clients that connect together


async def open_streams(relay: Relay, up: Upstream, readers: list[RawPeer]) -> None:
    async def serve() -> None:
        while True:
            peer = await up.accept()
            await peer.head()
            await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n"))

    async def reader() -> None:
        client = await relay.get("/", "Connection: close\r\n")
        await client.until(b"data: 1\n\n\r\n")
        readers.append(client)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        for _ in range(STREAMS // AT_ONCE):
            async with trio.open_nursery() as batch:
                for _ in range(AT_ONCE):
                    batch.start_soon(reader)
        nursery.cancel_scope.cancel()


async def test_a_thousand_streams() -> None:
    async with scene(more=f'[timeouts]\ndrain = "{DRAIN:g}s"') as (relay, up):
        readers: list[RawPeer] = []
        await open_streams(relay, up, readers)
        assert len(relay.worker.registry) == STREAMS
        ended_at: list[float] = []
        hints: list[int] = []

        async def read(client: RawPeer) -> None:
            rest = await client.rest()
            ended_at.append(trio.current_time())
            client.close()
            found = re.fullmatch(rb"[0-9a-f]+\r\nretry: (\d+)\n\n\r\n0\r\n\r\n", rest)
            assert found is not None, rest
            hints.append(int(found[1]))

        async with trio.open_nursery() as nursery:
            for client in readers:
                nursery.start_soon(read, client)
            relay.server.stop()
            with trio.fail_after(LIMIT):
                await relay.stopped.wait()
        # Not how long it took, but how it was spread: no quarter of the time between the first end
        # and the last has much more than its share.
        first, last = min(ended_at), max(ended_at)
        quarters = [0, 0, 0, 0]
        for at in ended_at:
            quarters[min(3, int(4 * (at - first) / (last - first)))] += 1
        assert min(quarters) > STREAMS / 16, quarters
        assert max(quarters) < STREAMS / 2, quarters
        assert max(hints) > 2 * min(hints), "the readers' return is spread too"
        assert relay.inventory().streams == 0
