"""One process that serves: accept, drain, reload.

listeners ─► a slot ─► accept ─► Connection (one task each)
SIGTERM/SIGINT ─► drain ─► stop · SIGHUP ─► reload
"""

from __future__ import annotations

import errno
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from random import uniform

import trio

from relay.config.values import Config
from relay.exchange.connection import Connection
from relay.exchange.transfer import Transfer
from relay.exchange.worker import Worker
from relay.flows.event_flow import EventFlow
from relay.observing.ending import Cause
from relay.wires.acceptor import Acceptor
from relay.wires.socket_wire import SocketWire

logger = logging.getLogger("relay")

_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RETRY_ACCEPT = 0.1  # seconds
_TICK = 0.05  # seconds between looks at what drains
_ERRANDS = 1.0  # seconds a drain waits for errands behind the last exchange
_SPREAD = 0.8  # of the drain time: over so much of it farewells are spread, the rest is for the last to end


class Server:
    """One process's listeners and connections. `run` returns when it has drained."""

    def __init__(self, worker: Worker, sockets: Sequence[socket.socket]) -> None:
        self.worker = worker
        self._acceptors = [Acceptor(sock, worker.engine) for sock in sockets]
        self._slots = trio.Semaphore(worker.config.limits.connections)
        self._connections: set[Connection] = set()
        self._stopping = trio.Event()
        self._out_of_descriptors = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop`, then drain."""
        async with trio.open_nursery() as plane:
            plane.start_soon(self.worker.run)
            async with trio.open_nursery() as nursery:
                for acceptor in self._acceptors:
                    nursery.start_soon(self._accept, acceptor, nursery)
                task_status.started()
                await self._stopping.wait()
                await self._drain(nursery)
            with trio.move_on_after(_ERRANDS):
                await self.worker.errands.done()
            if self.worker.log is not None:
                self.worker.log.flush()
            plane.cancel_scope.cancel()

    def stop(self) -> None:
        """Begin to drain."""
        self._stopping.set()

    # -- accepting -------------------------------------------------------------------------------------------

    async def _accept(self, acceptor: Acceptor, nursery: trio.Nursery) -> None:
        while True:
            await self._slots.acquire()  # before accept: what cannot be served waits in the kernel
            if acceptor.closed:
                return
            try:
                sock, peer = await acceptor.accept()
            except OSError as error:
                self._slots.release()
                if acceptor.closed:
                    return
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                if not self._out_of_descriptors:
                    self._out_of_descriptors = True
                    logger.error("out of descriptors or memory: accepting again as soon as it can")
                await trio.sleep(_RETRY_ACCEPT)
                continue
            self._out_of_descriptors = False
            wire = SocketWire(sock, self.worker.engine, self.worker.alarms)
            nursery.start_soon(self._serve, Connection(self.worker, wire, peer))

    async def _serve(self, connection: Connection) -> None:
        counters = self.worker.counters
        counters.connections += 1
        counters.connections_total += 1
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            counters.connections -= 1
            self._slots.release()

    # -- the end ---------------------------------------------------------------------------------------------

    async def _drain(self, nursery: trio.Nursery) -> None:
        """No new connections, idle ones end, busy ones have the drain time, event streams say farewell."""
        worker = self.worker
        worker.draining = True
        for acceptor in self._acceptors:
            acceptor.close()
        seconds = worker.config.timeouts.drain
        started = trio.current_time()
        for connection in list(self._connections):
            connection.drain()
        farewells: dict[Transfer, float] = {}
        while self._connections and trio.current_time() < started + seconds:
            now = trio.current_time()
            for transfer in worker.registry:
                if not isinstance(transfer.flow, EventFlow):
                    continue
                at = farewells.setdefault(
                    transfer, uniform(now, max(now, started + seconds * _SPREAD))
                )
                if now >= at:
                    transfer.ask(Cause.DRAINED)
            await trio.sleep(min(_TICK, max(0.001, started + seconds - now)))
        nursery.cancel_scope.cancel()


async def until_signal(
    server: Server, hard_stop: Callable[[], None], reload: Callable[[], None]
) -> None:
    """SIGTERM or SIGINT drain, a second one stops at once, SIGHUP reloads."""
    asked = False
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGHUP:
                reload()
            elif asked:
                hard_stop()
            else:
                asked = True
                server.stop()


def new_worker(config: Config, log_fd: int | None) -> Worker:
    return Worker(config, log_fd)
