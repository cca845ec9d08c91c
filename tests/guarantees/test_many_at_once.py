"""The promise: a crowd at the door does not stop the streams that run. It gets in a few at a time."""

from __future__ import annotations

import socket

import trio

from relay.wires.acceptor import AT_ONCE
from tests.harness import EVENT_HEAD, chunked, scene, settle


class Turns(trio.abc.Instrument):
    """How many clients came in between two looks of Trio at the kernel."""

    def __init__(self, counters: object) -> None:
        self._counters = counters
        self._before = 0
        self.most = 0

    def before_io_wait(self, timeout: float) -> None:
        now = self._counters.connections_total  # type: ignore[attr-defined]
        self.most = max(self.most, now - self._before)
        self._before = now


async def test_a_crowd_comes_in_by_and_by() -> None:
    """1. A stream runs. 2. Hundreds connect, before relay has its next turn. 3. No turn takes more than a few of them,
    and the stream's next event is there before all of them are."""
    async with scene() as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
        await client.until(b"data: 1\n\n\r\n")
        counters = relay.worker.counters
        turns = Turns(counters)
        trio.lowlevel.add_instrument(turns)
        turns.before_io_wait(0.0)
        turns.most = 0
        crowd = [socket.socket() for _ in range(500)]
        try:
            for each in crowd:
                each.setblocking(False)
                each.connect_ex(("127.0.0.1", relay.port))
            await peer.send(chunked(b"data: 2\n\n"))
            await client.until(b"data: 2\n\n\r\n")
            assert counters.connections < len(crowd)
            await settle(lambda: counters.connections == len(crowd) + 1)
            assert turns.most <= AT_ONCE
        finally:
            trio.lowlevel.remove_instrument(turns)
            for each in crowd:
                each.close()
