"""One of several workers, as the supervisor's child.

    told over the slot:   configure ─► reload · drain ─► end with all the others
                          cover, uncover ─► accept for a worker that is not there, or no longer
    on its own:           SIGTERM ─► say LEAVING; the supervisor answers ALONE ─► drain alone, as
                          another takes this place
                          SIGUSR1 ─► open the access log's file anew; it may have come to all
                          SIGUSR2 ─► at once
    lifeline at its end:  the supervisor is dead ─► drain, as nobody would pass on signals any more
    says on its report:   READY, LEAVING, ALIVE: one byte each

Rule: listeners are the supervisor's. A worker that drains alone puts them down, and its successor
finds their queues; only when all drain, or a reload removes a listener, is its queue emptied here.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from socket import socket
from typing import Any

import trio

from relay.admin.control import RemoteControl, answer, handlers
from relay.config import ConfigError, loads, parse_address
from relay.config.values import Config, Override
from relay.exchange.worker import Worker
from relay.observing.log import LineLog
from relay.serving.listeners import Listener
from relay.serving.reload import Refused, open_log
from relay.serving.server import Server
from relay.stores.store import StoreUnusable

logger = logging.getLogger("relay")

READY, LEAVING, ALIVE = b"R", b"L", b"A"
# None that an operator sends: SIGUSR1 to the whole group is for the log, and would have every worker drain.
ALONE = signal.SIGRTMIN


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
    messages: LineLog | None = None  # this process's own
    ours: set[Listener] = field(default_factory=set)  # the supervisor's own, not passed to it


def worker_main(seat: Seat) -> int:
    """Serve in this process. Returns: the exit code."""
    try:
        log_fd = open_log(seat.config)
    except Refused as error:
        logger.error("%s", error)
        return 1
    seat.ours = {listener for listener in seat.listeners if not listener.passed}
    for listener in seat.ours:
        listener.passed = True
    try:
        member = _Member(seat, log_fd)
    except StoreUnusable as error:
        logger.error("%s", error)
        return 1
    return trio.run(member.run)


class _Member:
    def __init__(self, seat: Seat, log_fd: int | None) -> None:
        self._seat = seat
        self._server = Server(Worker(seat.config, log_fd, seat.messages), seat.listeners)
        self._scope = trio.CancelScope()
        self._listening = trio.CancelScope()  # to the slot
        self._covered: dict[int, list[Listener]] = {}  # by the number of the slot they belong to
        # What changes the listeners is done in its order; there is one request for each signal.
        self._order, self._orders = trio.open_memory_channel[tuple[Any, list[int]]](inf)

    async def run(self) -> int:
        with self._scope:
            numbers = signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, ALONE
            with trio.open_signal_receiver(*numbers) as signals:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._obey, signals)
                    nursery.start_soon(self._listen)
                    nursery.start_soon(self._follow_orders)
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
            elif number == signal.SIGUSR1:
                self._server.worker.reopen_log()
            elif number == signal.SIGUSR2:
                self._scope.cancel()
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
        heard["drain"] = lambda request, fds: self._drain()
        for word in ("configure", "cover", "uncover"):
            heard[word] = lambda request, fds: self._order.send_nowait((request, list(fds)))
        with self._listening:
            await answer(self._seat.control, heard)

    async def _follow_orders(self) -> None:
        async for request, fds in self._orders:
            if self._server.draining or request.get("to", os.getpid()) != os.getpid():
                _close_all(fds)  # the word was to the worker that died here
            elif request["do"] == "configure":
                await self._configure(request, fds)
            elif request["do"] == "cover":
                self._cover(request, fds)
            else:
                self._uncover(request["slot"])

    async def _configure(self, request: Mapping[str, Any], fds: list[int]) -> None:
        """A configuration that the supervisor has checked; its text is the first descriptor."""
        if request["generation"] <= self._seat.generation:
            _close_all(fds)  # meant for the worker that died here
            return
        text, *opened = fds
        sockets = [socket(fileno=fd) for fd in opened]
        try:
            config, log_fd = await trio.to_thread.run_sync(
                _read,
                text,
                request["path"],
                self._seat.config.overrides,
                abandon_on_cancel=True,
                limiter=self._server.worker.threads.configuration,
            )
        except (ConfigError, Refused) as error:
            # It was good a moment ago: a secret's file is gone, or the log's folder. The sockets
            # are in the kernel's choice already: who comes there is served as before.
            logger.error("the new configuration is refused here, the old one stays: %s", error)
        else:
            self._server.configure(config, log_fd)
        server, ours = self._server, self._seat.ours
        for (name, passed), sock in zip(request["opened"], sockets, strict=True):
            listener = Listener(sock, parse_address(name), passed=True)
            if not passed:
                ours.add(listener)
            server.open(listener)
        for listener in server.listeners:
            if listener.place in request["closed"]:
                listener.passed = listener not in ours
                server.shut(listener)

    # -- other workers' queues -------------------------------------------------------------------

    def _cover(self, request: Mapping[str, Any], fds: list[int]) -> None:
        """Accept from the sockets of a slot that has no worker, instead of those it had before."""
        self._uncover(request["slot"])
        covered = self._covered[request["slot"]] = [
            Listener(socket(fileno=fd), parse_address(address), passed=True)
            for fd, address in zip(fds, request["addresses"], strict=True)
        ]
        for listener in covered:
            self._seat.ours.add(listener)
            self._server.open(listener)

    def _uncover(self, number: int) -> None:
        for listener in self._covered.pop(number, ()):
            self._seat.ours.discard(listener)
            if listener in self._server.listeners:  # a reload has not closed it since
                self._server.shut(listener)


def _read(text: int, path: str, overrides: Sequence[Override]) -> tuple[Config, int | None]:
    """The configuration in the file `text`, which is closed, and its access log.

    Raises: ConfigError, Refused.
    """
    try:
        data = os.pread(text, os.fstat(text).st_size, 0)  # the workers share its position
    finally:
        os.close(text)
    config = loads(data.decode(), os.environ, path=path, overrides=overrides)
    return config, open_log(config)


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def admin_main(
    socks: Sequence[socket], config: Config, askers: Sequence[socket], lifeline: int
) -> int:
    """Serve the admin listener in this process, until the supervisor is gone."""
    trio.run(_serve_admin, socks, config, askers, lifeline)
    return 0


async def _serve_admin(
    socks: Sequence[socket], config: Config, askers: Sequence[socket], lifeline: int
) -> None:
    from relay.admin.listener import serve_admin  # no worker needs it

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_admin, socks, config, RemoteControl(askers))
        await trio.lowlevel.wait_readable(lifeline)
        nursery.cancel_scope.cancel()
