"""An early head: 200 and heartbeats while the source is still at work (`commit = "after 5s"`, and sources of several
steps, which say when).

The price: a failure after it is a terminal event instead of a status. The gain: no intermediary, and no reader, gives up
on a stream whose model thinks for a minute.
"""

from __future__ import annotations

from math import inf
from typing import Protocol

import trio

from relay.config.values import Route
from relay.http.bodies import chunk
from relay.observing.ending import Cause
from relay.sources.reply import Reply
from relay.sse.dialects import HEARTBEAT, HEARTBEAT_LINE
from relay.wires.client_wire import ClientWire
from relay.wires.wire import Expired, Gone


class Waiting(Protocol):
    """A client that waits for its source, as far as an early head goes."""

    wire: ClientWire
    head_out: bool

    @property
    def route(self) -> Route:
        """The route whose heartbeats the client gets."""

    def open_early(self) -> bytes:
        """The head of an event stream of relay's own, which goes out now."""

    def take_place(self) -> Reply | None:
        """Count the client's stream; the refusal where it is one too many."""

    def client_left(self, cause: Cause = Cause.LEFT) -> None:
        """The client hung up, or stopped reading."""


class EarlyHead:
    """Sends the head of an event stream, then heartbeats, until the source has come back.

    Attributes:
        refusal: there was no place for another stream: nothing was sent, and the source was ended.
    """

    __slots__ = (
        "_client",
        "_finished",
        "_heartbeat",
        "_nursery",
        "_settled",
        "_writing",
        "refusal",
    )

    def __init__(self, client: Waiting, nursery: trio.Nursery, *, chunked: bool) -> None:
        """nursery: the exchange's, where the heartbeats are sent from; cancelled where there is no place."""
        self._client = client
        self._nursery = nursery
        heartbeat = HEARTBEAT if client.route.resume is None else HEARTBEAT_LINE
        self._heartbeat = chunk(heartbeat) if chunked else heartbeat
        client.wire.write_within = client.route.timeouts.write
        self.refusal: Reply | None = None
        self._settled = trio.Event()
        self._finished = trio.Event()
        self._writing = trio.Lock()  # of this task and an interim response, so on no hot path

    def begin(self) -> None:
        """Send the head when the source has taken the time that the route gives it."""
        self._nursery.start_soon(self._run, self._client.route.commit_after)

    async def begin_now(self) -> None:
        """The same with the head out when this returns. Raises: Gone, Expired."""
        await self._client.wire.send(self._client.open_early())
        self._nursery.start_soon(self._run)

    async def interim(self, head: bytes) -> None:
        """Send an interim response, unless it is too late for one. Raises: Gone, Expired."""
        async with self._writing:
            if not self._client.head_out:
                await self._client.wire.send(head)

    async def settle(self) -> None:
        """The source has come back: send nothing more. `head_out` of the client tells what happened.

        Not cancelled in the middle of a write, so what follows starts between two chunks.
        """
        self._settled.set()
        await self._finished.wait()

    async def _run(self, after: float = inf) -> None:
        client = self._client
        try:
            if not client.head_out:
                if await self._settled_within(after):
                    return
                self.refusal = client.take_place()
                if self.refusal is not None:
                    self._nursery.cancel_scope.cancel()
                    return
                async with self._writing:
                    await client.wire.send(client.open_early())
            while not await self._settled_within(client.route.heartbeat):
                await client.wire.send(self._heartbeat)
        except Gone:
            client.client_left()
        except Expired:
            client.client_left(Cause.STALLED)
        finally:
            self._finished.set()

    async def _settled_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self._settled.wait()
        return self._settled.is_set()
