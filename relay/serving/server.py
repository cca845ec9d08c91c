"""One process that serves: accept, reload, drain.

    Listener ─► Door: a slot ─► accept ─► Connection (one task each)
    configure ─► new exchanges, new limits · open / shut ─► a listener more / less
    stop ─► drain: doors shut, idle connections end, streams say farewell ─► `run` returns

Rules
  * A slot is taken before accept: what cannot be served waits in the kernel.
  * There are no more slots than descriptors for a client and its upstream each, so that no dial fails for those who are
    connected. The last descriptors are not for clients at all (see `wires.descriptors`).
  * A door that shuts takes everyone who stands in it: see `handover`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from random import uniform
from socket import socket
from typing import TYPE_CHECKING

import trio

from relay.config.values import Config
from relay.exchange.connection import Connection
from relay.exchange.transfer import Transfer
from relay.exchange.worker import Worker
from relay.feeds.viewer import Viewer
from relay.flows.event_flow import EventFlow
from relay.observing.ending import Cause
from relay.serving import handover
from relay.serving.connection_slots import ConnectionSlots
from relay.serving.listeners import Listener
from relay.wires.acceptor import Acceptor
from relay.wires.dead_links import watch_client
from relay.wires.descriptors import in_reserve, is_lack, open_now, room_for_clients
from relay.wires.socket_wire import SocketWire

if TYPE_CHECKING:  # loaded when a figure is asked for
    from relay.observing.exposition import Row, Snapshot

logger = logging.getLogger("relay")

_RETRY_ACCEPT = 0.1  # seconds
_QUIET = 60.0  # seconds between two lines that say so
_TRIES_ACCEPT = 10  # at the end of a listener: what waits then is lost with it
_TICK = 0.05  # seconds between looks at what drains
# Seconds a drain waits for background tasks behind the last exchange: a job that is being posted, and its cancel.
# With _SPANS it must stay below the supervisor's grace, and both with the default drain below systemd's TimeoutStopSec.
_BACKGROUND = 6.0
_SPANS = 2.0  # seconds a drain waits for a collector to take the last spans
_SPREAD = 0.8  # of the drain time: farewells are spread over it, the rest is for the last to end
# Seconds over which the viewers of runs that others can read are sent to those others, at most and of the drain time.
_VIEWERS_WITHIN = 2.0
_VIEWERS_SPREAD = 0.2


class Door:
    """A listener as it is served. `scope` ends its accepting task."""

    __slots__ = ("acceptor", "in_reserve", "listener", "scope")

    def __init__(self, listener: Listener, worker: Worker) -> None:
        self.listener = listener
        watch_client(listener.sock, worker.config.timeouts.write)
        self.acceptor = Acceptor(listener.sock, worker.engine)
        self.in_reserve = False  # the connection accepted last took one of the last descriptors
        self.scope = trio.CancelScope()


class Server:
    """One process's listeners and connections. `run` returns when it has drained."""

    def __init__(self, worker: Worker, listeners: Sequence[Listener | socket]) -> None:
        """`listeners`: served from the start; a bare socket stays its opener's."""
        self.worker = worker
        # A host that accepts for us (the ASGI form) has bounds of its own.
        self._opened = open_now() if listeners else None
        self._bound_by_descriptors = False  # and not by `limits.connections`
        self._slots = ConnectionSlots(self._places(worker.config))
        self.connections: set[Connection] = set()
        self._stopping = trio.Event()
        self._say_lack_at = 0.0  # when the log may be told again of a lack
        self._nursery: trio.Nursery | None = None
        self._doors = [
            Door(each if isinstance(each, Listener) else Listener(each, passed=True), worker)
            for each in listeners
        ]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop`, then drain."""
        async with trio.open_nursery() as plane:
            plane.start_soon(self.worker.run)
            try:
                async with trio.open_nursery() as self._nursery:
                    for door in self._doors:
                        self._nursery.start_soon(self._accept, door)
                    task_status.started()
                    await self._stopping.wait()
                    await self._drain()
                    self._nursery.cancel_scope.cancel()
                with trio.move_on_after(_BACKGROUND):
                    # They may leave a background task: a job that nobody follows any more
                    await self.worker.feeds.end()
                    await self.worker.background.done()
                if self.worker.tracing.mode == "otel":
                    with trio.move_on_after(_SPANS):
                        flush = self.worker.tracing.flush
                        await trio.to_thread.run_sync(
                            flush, _SPANS, abandon_on_cancel=True, limiter=self.worker.threads.spans
                        )
            finally:
                self.worker.close_log()
            plane.cancel_scope.cancel()

    def _places(self, config: Config) -> int:
        """How many clients may be connected at a time."""
        wanted = config.limits.connections
        if self._opened is None:
            return wanted
        resumed = any(route.resume is not None for route in config.routes)
        runs = config.streams.unwatched if resumed else 0
        # A run in a directory has a file open
        each = 2 if self.worker.feeds.elsewhere is None else 3
        room = room_for_clients(self._opened, runs, each)
        self._bound_by_descriptors = wanted > room
        if self._bound_by_descriptors:
            logger.info(
                "ulimit -n leaves room for %d clients and their upstreams: fewer than limits.connections = %d",
                room,
                wanted,
            )
        return min(wanted, room)

    def stop(self) -> None:
        """Begin to drain."""
        self._stopping.set()

    # -- for the admin listener ------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        return self._stopping.is_set()

    def snapshot(self) -> Snapshot:
        """The figures of this process; JSON can carry them."""
        from relay.observing.exposition import snapshot

        return snapshot(self.worker)

    def streams(self) -> list[Row]:
        """The bodies under way; the columns are `exposition.COLUMNS`."""
        from relay.observing.exposition import rows

        return rows(self.worker, trio.current_time())

    def stop_stream(self, exchange_id: str) -> bool:
        """End one stream with its terminal event, or a run with all its viewers; False: it is not here."""
        return self.worker.registry.stop(exchange_id) or self.worker.feeds.stop(exchange_id)

    # -- reload ----------------------------------------------------------------------------------

    @property
    def listeners(self) -> list[Listener]:
        return [door.listener for door in self._doors]

    def configure(self, config: Config, log_fd: int | None) -> None:
        """Take `config` and the access log's descriptor for what starts from now on."""
        self.worker.configure(config)
        self._slots.resize(self._places(config))
        for door in self._doors:
            watch_client(door.listener.sock, config.timeouts.write)
        self.worker.log_to(log_fd)

    def open(self, listener: Listener) -> None:
        """Serve one listener more."""
        assert self._nursery is not None, "the server runs"
        door = Door(listener, self.worker)
        self._doors.append(door)
        self._nursery.start_soon(self._accept, door)

    def shut(self, listener: Listener) -> None:
        """Serve one listener less; its connections go on."""
        assert self._nursery is not None, "the server runs"
        [door] = [door for door in self._doors if door.listener is listener]
        self._doors.remove(door)
        self._nursery.start_soon(self._close, door)

    # -- accepting -------------------------------------------------------------------------------

    async def _accept(self, door: Door) -> None:
        with door.scope:
            while True:
                if self._slots.full and self._bound_by_descriptors:
                    self._say_lack()
                await self._slots.acquire()
                try:
                    await door.acceptor.accept(partial(self._admit, door))
                except OSError as error:
                    self._slots.release()
                    if not is_lack(error):
                        raise
                    await self._wait_for_descriptors()
                except trio.Cancelled:
                    self._slots.release()
                    raise
                else:
                    if door.in_reserve:
                        await self._wait_for_descriptors()

    def _admit(self, door: Door, sock: socket, peer: str | None) -> bool:
        """Serve a connection accepted at `door`, for which a slot was taken. Returns: whether one was taken for the next."""
        door.in_reserve = in_reserve(sock.fileno())
        self._begin(sock, peer)
        if door.in_reserve or self._slots.full:
            return False
        self._slots.take()
        return True

    def _say_lack(self) -> None:
        """Tell the log that descriptors are lacking, at most once in _QUIET seconds: where clients come and go, the lack
        ends and begins again many times a second."""
        now = trio.current_time()
        if now >= self._say_lack_at:
            self._say_lack_at = now + _QUIET
            logger.error("out of descriptors or memory: accepting again as soon as it can")

    async def _wait_for_descriptors(self) -> None:
        """Accept nobody for a moment; what is only kept for later is given up."""
        self._say_lack()
        self.worker.engine.on_lack()
        await trio.sleep(_RETRY_ACCEPT)

    def _begin(self, sock: socket, peer: str | None) -> None:
        """Serve an accepted connection, for which a slot was taken. Its first request may be under way afterwards."""
        wire = SocketWire(sock, self.worker.engine, self.worker.alarms)
        wire.unread_within = self.worker.config.timeouts.write  # inherited from the listener
        connection = Connection(self.worker, wire, peer)
        if not connection.has_preamble():
            connection.wait_in_steps(just_accepted=True)  # most clients have asked already
        self._start(connection)

    def _start(self, connection: Connection) -> None:
        assert self._nursery is not None, "the server runs"
        counters = self.worker.counters
        counters.connections += 1
        counters.connections_total += 1
        self.connections.add(connection)
        self._nursery.start_soon(self._serve, connection)

    def serve(self, connection: Connection) -> bool:
        """Serve a connection that came by another way than a listener (the ASGI form).

        Returns: whether it is: not without a slot, nor after the drain.
        """
        assert self._nursery is not None, "the server runs"
        if self._slots.full or self._nursery.cancel_scope.cancel_called:
            return False
        self._slots.take()
        self._start(connection)
        return True

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)
            self.worker.counters.connections -= 1
            if connection.background:
                connection.freed = self._slots.release
            else:
                self._slots.release()

    # -- the end ---------------------------------------------------------------------------------

    async def _close(self, door: Door) -> None:
        """End one listener, and lose nobody."""
        listener, acceptor = door.listener, door.acceptor
        if listener.passed:  # whoever opened it keeps its queue for a successor
            door.scope.cancel()
            acceptor.close()
            await trio.lowlevel.checkpoint()
            return
        listener.remove_file()
        if listener.is_tcp:
            handover.turn_away(listener.sock)
            await trio.sleep(handover.HANDSHAKES)
        door.scope.cancel()
        tries = _TRIES_ACCEPT
        while True:
            try:
                accepted = acceptor.accept_nowait()
            except OSError as error:
                if not is_lack(error) or not (tries := tries - 1):
                    logger.error("connections were lost with a listener: %s", error)
                    break
                await self._wait_for_descriptors()
                continue
            if accepted is None:
                break
            self._slots.take()
            self._begin(*accepted)
            await trio.lowlevel.checkpoint()  # they are a crowd like any other
        acceptor.close()
        await trio.lowlevel.checkpoint()

    async def _drain(self) -> None:
        """No new connections; idle ones end, busy ones have the drain time, streams a farewell."""
        worker = self.worker
        worker.draining = True
        seconds = worker.config.timeouts.drain
        started = trio.current_time()
        for connection in list(self.connections):
            connection.drain()
        async with trio.open_nursery() as closing:
            for door in self._doors:
                closing.start_soon(self._close, door)
        farewells: dict[Transfer | Viewer, float] = {}
        end = started + seconds
        # Of runs in memory the viewers finish first. What others can read they read there at once, while it goes on here.
        shared = worker.feeds.book.draining = worker.feeds.elsewhere is not None
        viewers_by = started + min(_VIEWERS_WITHIN, seconds * _VIEWERS_SPREAD)
        while self.connections or (shared and len(worker.feeds)):
            now = trio.current_time()
            for transfer in worker.registry:
                viewer = isinstance(transfer, Viewer)
                if not (shared if viewer else isinstance(transfer.flow, EventFlow)):
                    continue  # bytes, and viewers that finish first
                last = viewers_by if viewer else started + seconds * _SPREAD
                at = farewells.setdefault(transfer, uniform(now, max(now, last)))
                if now >= min(at, end):  # whatever held this up, nobody is cut without a word
                    transfer.ask(Cause.DRAINED)
            if now >= end:
                worker.feeds.lose()
                return
            await trio.sleep(min(_TICK, max(0.001, end - now)))
