"""What the tests of upstreams stand on: a data plane, loopback listeners, counted descriptors."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import trio

from relay.config.values import Address, Config, Limits, Server, Timeouts, Upstream, Url
from relay.upstreams.origin import Origin
from relay.wires.alarms import Alarms
from relay.wires.engine import Engine
from relay.wires.socket_wire import SocketWire

PATIENCE = 5.0  # seconds until a test that hangs is a failure


class Plane(NamedTuple):
    engine: Engine
    alarms: Alarms
    nursery: trio.Nursery


@asynccontextmanager
async def data_plane() -> AsyncIterator[Plane]:
    """An engine and its alarms, running."""
    engine = Engine()
    alarms = Alarms(engine)
    with trio.fail_after(PATIENCE * 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            nursery.start_soon(alarms.run)
            yield Plane(engine, alarms, nursery)
            nursery.cancel_scope.cancel()


def listener(backlog: int = 16, host: str = "127.0.0.1") -> socket.socket:
    """A listening socket on a free port; connections wait in its backlog unless accepted."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.bind((host, 0))
    sock.listen(backlog)
    return sock


def refusing_port() -> int:
    """A port on which nobody listens."""
    sock = listener()
    port: int = sock.getsockname()[1]
    sock.close()
    return port


class Blackhole:
    """A port that answers no attempt: its backlog is full, so the kernel drops every SYN."""

    def __init__(self) -> None:
        self._listener = listener(0)
        self.port: int = self._listener.getsockname()[1]
        self._fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)

    def close(self) -> None:
        for sock in (*self._fillers, self._listener):
            sock.close()


def http(port: int, host: str = "127.0.0.1") -> Url:
    return Url("http", host, port)


def upstream(*urls: Url, **settings: object) -> Upstream:
    return Upstream("backend", urls or (http(1),), **settings)  # type: ignore[arg-type]


def config(*upstreams: Upstream) -> Config:
    return Config(
        Server((Address("tcp", "127.0.0.1", 0),)),
        Limits(),
        Timeouts(),
        {one.name: one for one in upstreams},
        (),
    )


def origin(plane: Plane, url: Url | None = None, **settings: object) -> Origin:
    url = url or http(1)
    return Origin(url, upstream(url, **settings), plane.alarms)


def wire_pair(plane: Plane) -> tuple[SocketWire, socket.socket]:
    """A wire, and the other end as a plain socket."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return SocketWire(ours, plane.engine, plane.alarms), theirs


def descriptors() -> set[str]:
    """What is open in this process, as /proc tells it; the directory's own descriptor excluded."""
    open_now = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            open_now.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            pass
    return open_now


def sockets() -> int:
    """How many sockets are open in this process."""
    return sum("socket:" in name for name in descriptors())


async def until(condition: Callable[[], object]) -> None:
    """Let the other tasks and the kernel do their work until `condition` holds."""
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.lowlevel.checkpoint()
