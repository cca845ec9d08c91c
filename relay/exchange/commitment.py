"""An early head: 200 and heartbeats while the source is still at work (`commit = "after 5s"`, and
sources of several steps, which say when).

The price: a failure after it is a terminal event instead of a status. The gain: no intermediary,
and no reader, gives up on a stream whose model thinks for a minute.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import trio

from relay.config.values import Enqueue
from relay.exchange.client_head import event_framing, send_event_head
from relay.http.bodies import chunk
from relay.http.framing import CHUNKED
from relay.observing.ending import Cause
from relay.sources.reply import Reply
from relay.sse.dialects import HEARTBEAT, HEARTBEAT_LINE
from relay.wires.wire import Expired, Gone

if TYPE_CHECKING:
    from relay.exchange.exchange import Exchange


class Commitment:
    """Sends the head of an event stream, then heartbeats, until the source has come back."""

    __slots__ = ("_exchange", "_finished", "_settled", "_writing", "refusal")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        exchange.wire.write_within = exchange.route.timeouts.write
        # There was no place for another stream: nothing was sent, the source was ended.
        self.refusal: Reply | None = None
        self._settled = trio.Event()
        self._finished = trio.Event()
        self._writing = trio.Lock()  # of this task and an interim response, so on no hot path

    @classmethod
    def begin(cls, exchange: Exchange) -> Commitment | None:
        """Start one where the route asks for it; the source of several steps does so itself."""
        after = exchange.route.commit_after
        if (
            after == inf
            or exchange.head.method == b"HEAD"
            or isinstance(exchange.route.source, Enqueue)
        ):
            return None
        assert exchange.nursery is not None
        commitment = cls(exchange)
        exchange.nursery.start_soon(commitment._run, after)
        return commitment

    @classmethod
    async def at_once(cls, exchange: Exchange) -> Commitment:
        """One whose head is out when this returns. Raises: Gone, Expired."""
        assert exchange.nursery is not None
        commitment = cls(exchange)
        await send_event_head(exchange)
        exchange.nursery.start_soon(commitment._run)
        return commitment

    async def interim(self, head: bytes) -> None:
        """Send an interim response, unless it is too late for one. Raises: Gone, Expired."""
        async with self._writing:
            if not self._exchange.head_out:
                await self._exchange.wire.send(head)

    async def settle(self) -> None:
        """The source has come back: send nothing more. `exchange.head_out` tells what happened.

        Not cancelled in the middle of a write, so what follows starts between two chunks.
        """
        self._settled.set()
        await self._finished.wait()

    async def _run(self, after: float = inf) -> None:
        exchange = self._exchange
        try:
            if not exchange.head_out:
                if await self._settled_within(after):
                    return
                refusal = exchange.take_place()
                if refusal is not None:
                    self._refuse(refusal)
                    return
                async with self._writing:
                    await send_event_head(exchange)
            chunked = event_framing(exchange) == CHUNKED
            heartbeat = HEARTBEAT if exchange.route.resume is None else HEARTBEAT_LINE
            heartbeat = chunk(heartbeat) if chunked else heartbeat
            while not await self._settled_within(exchange.route.heartbeat):
                await exchange.wire.send(heartbeat)
        except Gone:
            exchange.client_left()
        except Expired:
            exchange.client_left(Cause.STALLED)
        finally:
            self._finished.set()

    def _refuse(self, refusal: Reply) -> None:
        nursery = self._exchange.nursery
        assert nursery is not None
        self.refusal = refusal
        nursery.cancel_scope.cancel()

    async def _settled_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self._settled.wait()
        return self._settled.is_set()
