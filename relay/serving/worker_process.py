"""One of several workers, as the supervisor's child.

    told over the slot:   configure ─► reload · drain ─► end with all the others · quit ─► at once
    on its own:           SIGTERM ─► say LEAVING; the supervisor answers SIGUSR1 ─► drain alone, as
                          another takes this place
    lifeline at its end:  the supervisor is dead ─► drain, as nobody would pass on signals any more
    says on its report:   READY, LEAVING, ALIVE: one byte each

Rule: listeners are the supervisor's. A worker that drains alone puts them down, and its successor
finds their queues; only when all drain, or a reload removes a listener, is its queue emptied here.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from socket import socket
from typing import Any

import trio

from relay.config import ConfigError, loads
from relay.config.values import Config
from relay.exchange.worker import Worker
from relay.serving.control import RemoteControl, answer, handlers
from relay.serving.listeners import Listener
from relay.serving.reload import Refused, open_log
from relay.serving.server import Server

logger = logging.getLogger("relay")

READY, LEAVING, ALIVE = b"R", b"L", b"A"


@dataclass(slots=True)
class Seat:
    """What the supervisor gives a worker. The descriptors are the worker's own copies."""

    number: int
    config: Config
    listeners: list[Listener]
    control: socket  # the worker's end of its slot
    lifeline: int  # readable: the supervisor is gone
    generation: int = 0  # of `config`
    report: int = -1  # where READY, LEAVING and ALIVE go
    beat: float = inf  # seconds between two ALIVE
    ours: set[Listener] = field(default_factory=set)  # the supervisor's own, not passed to it


def worker_main(seat: Seat) -> int:
    """Serve in this process. Returns: the exit code."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"relay: worker {seat.number}: %(levelname)s: %(message)s",
        force=True,
    )
    try:
        log_fd = open_log(seat.config)
    except Refused as error:
        logger.error("%s", error)
        return 1
    seat.ours = {listener for listener in seat.listeners if not listener.passed}
    for listener in seat.ours:
        listener.passed = True
    return trio.run(_Member(seat, log_fd).run)


class _Member:
    def __init__(self, seat: Seat, log_fd: int | None) -> None:
        self._seat = seat
        self._server = Server(Worker(seat.config, log_fd), seat.listeners)
        self._scope = trio.CancelScope()
        self._listening = trio.CancelScope()  # to the slot
        self._configure, self._configured = trio.open_memory_channel[tuple[Any, list[int]]](inf)

    async def run(self) -> int:
        with self._scope:
            async with trio.open_nursery() as nursery:
                with trio.open_signal_receiver(signal.SIGTERM, signal.SIGUSR1) as signals:
                    nursery.start_soon(self._obey, signals)
                    nursery.start_soon(self._listen)
                    nursery.start_soon(self._reload)
                    nursery.start_soon(self._on_orphaned)
                    nursery.start_soon(self._beat)
                    nursery.start_soon(self._serve)
                    await trio.sleep_forever()
        return 0

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._server.run)
            self._say(READY)
        self._scope.cancel()

    def _say(self, word: bytes) -> None:
        try:
            os.write(self._seat.report, word)
        except OSError:
            pass  # the supervisor is gone; the lifeline tells the same

    async def _beat(self) -> None:
        while True:
            await trio.sleep(self._seat.beat)
            self._say(ALIVE)

    # -- ends ------------------------------------------------------------------------------------

    async def _obey(self, signals: Any) -> None:
        async for number in signals:
            if number == signal.SIGTERM:
                self._say(LEAVING)  # if it reached the whole group, the supervisor knows better
            else:
                self._listening.cancel()  # the slot is the successor's
                self._server.stop()

    async def _on_orphaned(self) -> None:
        await trio.lowlevel.wait_readable(self._seat.lifeline)
        if not self._server.draining:
            logger.error("the supervisor is gone: draining")
        self._drain()

    def _drain(self) -> None:
        """Drain together with all the others: nobody comes after us."""
        for listener in self._seat.ours:
            listener.passed = False
        self._server.stop()

    # -- the slot --------------------------------------------------------------------------------

    async def _listen(self) -> None:
        heard = handlers(self._server, time.time())
        heard["configure"] = lambda request, fds: self._configure.send_nowait((request, list(fds)))
        heard["drain"] = lambda request, fds: self._drain()
        heard["quit"] = lambda request, fds: self._scope.cancel()
        with self._listening:
            await answer(self._seat.control, heard)

    async def _reload(self) -> None:
        async for request, fds in self._configured:
            await self._take(request, fds)

    async def _take(self, request: Mapping[str, Any], fds: Sequence[int]) -> None:
        """A configuration that the supervisor has checked; its text is the first descriptor."""
        if request["generation"] <= self._seat.generation:
            for fd in fds:  # meant for the worker that died here
                os.close(fd)
            return
        text_fd, *socket_fds = fds
        with open(text_fd, "rb") as file:  # noqa: ASYNC230 - it is in memory
            text = file.read().decode()
        sockets = [socket(fileno=fd) for fd in socket_fds]
        server, ours = self._server, self._seat.ours
        try:
            config = await trio.to_thread.run_sync(
                lambda: loads(text, os.environ, path=request["path"]),
                limiter=server.worker.threads.configuration,
            )
            log_fd = open_log(config)
        except (ConfigError, Refused) as error:
            # It was good a moment ago: a secret's file is gone, or the log's folder.
            logger.error("the new configuration is refused here, nothing changes: %s", error)
            for sock in sockets:
                sock.close()
            return
        server.configure(config, log_fd)
        by_name = {address.text: address for address in config.server.listen}
        for (name, passed), sock in zip(request["opened"], sockets, strict=True):
            listener = Listener(sock, by_name[name], passed=True)
            if not passed:
                ours.add(listener)
            server.open(listener)
        for listener in server.listeners:
            if listener.place in request["closed"]:
                listener.passed = listener not in ours
                server.shut(listener)


def admin_main(sock: socket, config: Config, askers: Sequence[socket], lifeline: int) -> int:
    """Serve the admin listener in this process, until the supervisor is gone."""
    trio.run(_serve_admin, sock, config, askers, lifeline)
    return 0


async def _serve_admin(
    sock: socket, config: Config, askers: Sequence[socket], lifeline: int
) -> None:
    from relay.serving.admin import serve_admin  # no worker needs it

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_admin, sock, config, RemoteControl(askers))
        await trio.lowlevel.wait_readable(lifeline)
        nursery.cancel_scope.cancel()
