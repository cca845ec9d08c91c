"""An early head: 200 and heartbeats while the source is still at work (`commit = "after 5s"`, and sources of several
steps).

The price: a failure after it is a terminal event instead of a status. The gain: no intermediary, and no reader, gives
up on a stream whose model thinks for a minute.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import trio

from relay.config.values import Enqueue
from relay.exchange.client_head import event_framing, send_event_head
from relay.http.bodies import chunk
from relay.http.framing import CHUNKED
from relay.sse.dialects import HEARTBEAT
from relay.wires.wire import Expired, Gone

if TYPE_CHECKING:
    from relay.exchange.exchange import Exchange


class Commitment:
    """Sends the head of an event stream after a while, then heartbeats, until the source has come back."""

    __slots__ = ("_after", "_exchange", "_finished", "_waiting")

    def __init__(self, exchange: Exchange, after: float) -> None:
        self._exchange = exchange
        self._after = after
        self._waiting = trio.CancelScope()
        self._finished = trio.Event()

    @classmethod
    def begin(cls, exchange: Exchange) -> Commitment | None:
        """Start one where the route asks for it; the source of several steps commits at once."""
        after = 0.0 if isinstance(exchange.route.source, Enqueue) else exchange.route.commit_after
        if after == inf:
            return None
        assert exchange.nursery is not None
        commitment = cls(exchange, after)
        exchange.nursery.start_soon(commitment._run)
        return commitment

    async def settle(self) -> None:
        """The source has come back: send nothing more. Afterwards `exchange.head_out` tells what happened.

        Not cancelled in the middle of a write, so what follows starts between two chunks.
        """
        self._waiting.cancel()
        await self._finished.wait()

    async def _run(self) -> None:
        exchange = self._exchange
        try:
            with self._waiting:
                await trio.sleep(self._after)
            if self._waiting.cancelled_caught:
                return
            chunked = event_framing(exchange) == CHUNKED
            heartbeat = chunk(HEARTBEAT) if chunked else HEARTBEAT
            await send_event_head(exchange)
            while not self._waiting.cancel_called:
                with self._waiting:
                    await trio.sleep(exchange.route.heartbeat)
                if not self._waiting.cancel_called:
                    await exchange.wire.send(heartbeat)
        except (Gone, Expired):
            exchange.client_left()
        finally:
            self._finished.set()
