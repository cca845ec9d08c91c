"""Hypercorn's classes, with an exception on one connection contained to it: see relay.asgi.serving.

    Connection   a TCP connection: its run
    Tasks        what runs beside the datagrams of all QUIC connections
    Quic         the datagrams and timers of one QUIC connection

Rules
  * `Exception`s are contained and noted; a cancellation that comes along with one goes on.
  * What a peer can cause again and again is noted the first, second, fourth … time: the log is not the peer's to fill.
"""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import PurePath
from types import ModuleType
from typing import Any

import trio
from hypercorn.events import Event
from hypercorn.trio import run as hypercorn_run
from hypercorn.trio import udp_server
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer

from relay.wires.alarms import LOOK

logger = logging.getLogger("relay")

plain_worker = hypercorn_run.trio_worker
_noted: Counter[str] = Counter()


def note(group: BaseExceptionGroup[Exception]) -> None:
    """Say what was contained, and where it came from; nothing of what the peer sent."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    what = type(error).__name__
    for frame in traceback.extract_tb(error.__traceback__)[-1:]:
        what += f" in {PurePath(frame.filename).name}, {frame.name}"
    _noted[what] += 1
    count = _noted[what]
    if count & (count - 1) == 0:
        logger.warning("a connection ended by a fault of Hypercorn's: %s (%d)", what, count)


class Connection(TCPServer):
    """One TCP connection."""

    async def run(self) -> None:
        try:
            await super().run()
        except* Exception as failed:
            note(failed)

    async def _idle_timeout(self) -> None:
        """Close a connection that was kept for too long; Hypercorn's own, but for the look. A request that came while the
        process stood still is read in the same turn of Trio, and ends this task.
        """
        with trio.move_on_after(self.config.keep_alive_timeout):
            await self.context.terminated.wait()
        await trio.sleep(LOOK)
        with trio.CancelScope(shield=True):
            await self._initiate_server_close()


class Tasks(TaskGroup):
    """Tasks of many connections: none ends the others."""

    async def __aenter__(self) -> Tasks:
        await super().__aenter__()
        self._nursery: Any = _Nursery(self._nursery)
        return self


class _Nursery:
    """A nursery as Hypercorn uses it."""

    def __init__(self, nursery: Any) -> None:
        self._nursery = nursery

    def start_soon(self, task: Callable[..., Awaitable[None]], *args: Any) -> None:
        self._nursery.start_soon(_contained, task, *args)

    async def start(self, task: Callable[..., Awaitable[None]], *args: Any) -> Any:
        return await self._nursery.start(_contained, task, *args)


async def _contained(task: Callable[..., Awaitable[None]], *args: Any, **status: Any) -> None:
    try:
        await task(*args, **status)
    except* Exception as failed:
        note(failed)


def _contain_quic() -> None:
    """For HTTP/3, where it is installed."""
    try:
        from hypercorn.protocol import quic
    except ImportError:
        return

    class Quic(quic.QuicProtocol):
        """All QUIC connections of one socket."""

        async def handle(self, event: Event) -> None:
            try:
                await super().handle(event)
            except* Exception as failed:
                note(failed)

        async def _handle_events(self, connection: Any, client: Any = None) -> None:
            try:
                await super()._handle_events(connection, client)
            except* Exception as failed:
                note(failed)
                await self._drop(connection)

        async def _drop(self, connection: Any) -> None:
            with suppress(Exception):
                await connection.task.stop()
                connection.quic.close(error_code=_H3_INTERNAL_ERROR)
                await self.send_all(connection)
                await connection.task.stop()  # the timer that was set by it
            for cid in connection.cids:
                self.connections.pop(cid, None)
            connection.cids = set()

    _replace(quic, "QuicProtocol", Quic)


_H3_INTERNAL_ERROR = 0x102  # RFC 9114 §8.1


def contain() -> None:
    """Have Hypercorn use these classes in this process. Idempotent."""
    if getattr(hypercorn_run, "TCPServer", None) is not Connection:
        _replace(hypercorn_run, "TCPServer", Connection)
        _replace(udp_server, "TaskGroup", Tasks)
        _contain_quic()


def _replace(module: ModuleType, name: str, ours: type) -> None:
    """Raises: AttributeError (this Hypercorn has no such class there)."""
    if not isinstance(getattr(module, name), type):
        raise AttributeError(f"{module.__name__}.{name} is no class")
    setattr(module, name, ours)
