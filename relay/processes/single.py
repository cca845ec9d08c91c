"""workers = 1: one process without a supervisor.

SIGTERM, SIGINT ─► drain, a second one ─► end at once · SIGHUP ─► reload · SIGUSR1 ─► open the access log's file anew
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

import trio

from relay.admin.control import Control, LocalControl
from relay.config.values import Config
from relay.exchange.worker import Worker
from relay.processes.messages import announce, tell_refused, tell_reloaded
from relay.processes.setup import Setup
from relay.serving import reload
from relay.serving.listeners import Listener
from relay.serving.reload import Change, Planning, Refused
from relay.serving.server import Server

logger = logging.getLogger("relay")


class Single:
    """The one process. `run` returns the exit code."""

    def __init__(self, setup: Setup) -> None:
        self._config = setup.config
        self._opened = setup.listeners
        self._admin = setup.admin
        self._passed = setup.passed
        self._notifier = setup.notifier
        self._standard = setup.standard

    async def run(self) -> int:
        """Serve until a signal, then drain. Raises: Refused: there is no access log."""
        log_fd = reload.open_log(self._config)
        server = Server(Worker(self._config, log_fd, self._standard.err), self._opened)
        names = [listener.name for listener in self._opened]
        # One wish is kept while another is granted: what it would read is read then.
        ask, asked = trio.open_memory_channel[None](1)
        try:
            numbers = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1
            with trio.open_signal_receiver(*numbers) as signals:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._obey, signals, server, nursery.cancel_scope, ask)
                    nursery.start_soon(self._reload_when_asked, server, asked)
                    await nursery.start(_run_then_cancel, server, nursery.cancel_scope)
                    if self._admin:
                        control = LocalControl(server, time.time())
                        nursery.start_soon(_admin, self._admin, self._config, control)
                    nursery.start_soon(self._tell_that_it_lives)
                    announce(names)
                    self._notifier.ready(f"listening on {', '.join(names)}")
                    await trio.sleep_forever()
        finally:
            for listener in server.listeners:
                listener.remove_file()
        return 0

    async def _obey(
        self,
        signals: AsyncIterator[int],
        server: Server,
        scope: trio.CancelScope,
        ask: trio.MemorySendChannel[None],
    ) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                with suppress(trio.WouldBlock):
                    ask.send_nowait(None)
            elif number == signal.SIGUSR1:
                server.worker.reopen_log()
            elif server.draining:
                scope.cancel()
            else:
                logger.info("%s: draining", signal.Signals(number).name)
                self._notifier.stopping()
                self._passed.close()
                server.stop()

    async def _reload_when_asked(
        self, server: Server, asked: trio.MemoryReceiveChannel[None]
    ) -> None:
        async for _ in asked:
            if not server.draining:
                self._notifier.reloading()
                await self._reload(server)
            if not server.draining:
                self._notifier.ready()

    async def _reload(self, server: Server) -> None:
        """Take the file as it is now, or refuse it and change nothing."""
        bound = [each.address for each in server.listeners if each.address is not None]
        token, done = trio.lowlevel.current_trio_token(), trio.Event()

        def tell() -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

        planning = Planning(
            partial(reload.plan, self._config, bound, self._passed, os.environ), tell
        )
        try:
            with trio.move_on_after(reload.PATIENCE):
                await done.wait()
            if not server.draining:
                self._take(server, planning.take())
        except Refused as refused:
            tell_refused(refused)
        finally:
            planning.close()

    def _take(self, server: Server, change: Change) -> None:
        self._config = change.config
        os.close(change.text)
        server.configure(change.config, change.log_fd)
        for listener in change.opened:
            server.open(listener)
        for listener in server.listeners:
            if listener.address in change.closed:
                server.shut(listener)
        tell_reloaded(change)

    async def _tell_that_it_lives(self) -> None:
        while True:
            self._notifier.alive()
            await trio.sleep(self._notifier.watchdog)


async def _admin(listeners: list[Listener], config: Config, control: Control) -> None:
    from relay.admin.listener import serve_admin  # not loaded where it is off

    await serve_admin([listener.sock for listener in listeners], config, control)


async def _run_then_cancel(
    server: Server,
    scope: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    await server.run(task_status=task_status)
    scope.cancel()
