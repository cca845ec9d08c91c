"""From a configuration to a running process with an exit code (design §7)."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence

import trio

from relay.config.values import Config
from relay.exchange.worker import Worker
from relay.serving.listeners import BindError, bind, name_of
from relay.serving.server import Server, until_signal

FAULT = 1
USAGE = 2


def serve(config: Config) -> int:
    """Bind, announce, serve until a signal; the exit code."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="relay: %(levelname)s: %(message)s"
    )
    try:
        sockets = [bind(address) for address in config.server.listen]
    except BindError as error:
        print(f"relay: {error}", file=sys.stderr)
        return FAULT
    names = [name_of(a, s) for a, s in zip(config.server.listen, sockets, strict=True)]
    return trio.run(_serve, config, sockets, names)


async def _serve(config: Config, sockets: Sequence[socket.socket], names: Sequence[str]) -> int:
    worker = Worker(config, log_descriptor(config))
    server = Server(worker, sockets)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(until_signal, server, nursery.cancel_scope.cancel, lambda: None)
        await nursery.start(_run, server, nursery)
        for name in names:
            print(f"relay: listening on {name}", file=sys.stderr, flush=True)
    return 0


async def _run(
    server: Server,
    nursery: trio.Nursery,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    await server.run(task_status=task_status)
    nursery.cancel_scope.cancel()


def log_descriptor(config: Config) -> int | None:
    """Where the access log goes: a descriptor, or None for off."""
    where = config.server.access_log
    if where == "off":
        return None
    if where == "stdout":
        return 1
    if where == "stderr":
        return 2
    return os.open(where, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
