"""Dialling: every cause has its name, addresses are raced, and no way out leaves a descriptor."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from relay.config.values import Url
from relay.upstreams.dial import DialError, dial, interleave, race
from relay.wires.connecting import Connecting
from relay.wires.engine import Engine
from relay.wires.socket_wire import SocketWire
from tests.io.upstreams_setup import (
    Blackhole,
    data_plane,
    descriptors,
    http,
    listener,
    origin,
    refusing_port,
    until,
    upstream,
)

INET, INET6 = socket.AF_INET, socket.AF_INET6


class Names(trio.abc.HostnameResolver):
    """A resolver whose names are the test's; a name it does not know does not exist."""

    def __init__(self, **known: list[tuple[Any, Any]]) -> None:
        self.known = known
        self.asked: list[str] = []

    async def getaddrinfo(
        self, host: bytes | None, port: object, *_: object
    ) -> list[tuple[Any, Any, int, str, Any]]:
        await trio.lowlevel.checkpoint()
        name = (host or b"").decode()
        self.asked.append(name)
        if name not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(family, 0, 6, "", where) for family, where in self.known[name]]

    async def getnameinfo(self, *_: object) -> tuple[str, str]:
        raise NotImplementedError


@pytest.fixture
def blackhole() -> Iterator[Blackhole]:
    hole = Blackhole()
    yield hole
    hole.close()


async def test_a_wire_to_a_literal_address_without_the_resolver() -> None:
    names = Names()
    trio.socket.set_custom_hostname_resolver(names)
    async with data_plane() as plane:
        for host in ("127.0.0.1", "::1"):
            with listener(host=host) as server:
                wire = await dial(
                    http(server.getsockname()[1], host), upstream(), plane.engine, plane.alarms
                )
                peer, _ = server.accept()
                assert wire.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                await wire.send(b"hello")
                assert peer.recv(100) == b"hello"
                wire.close()
                peer.close()
    assert names.asked == []


async def test_refused_then_recovers() -> None:
    """1. Nobody listens: refused, the url is left alone. 2. A listener comes: it works."""
    async with data_plane() as plane:
        port = refusing_port()
        url = origin(plane, http(port))
        before = descriptors()
        with pytest.raises(DialError) as caught:
            await dial(url.url, url.upstream, plane.engine, plane.alarms)
        assert caught.value.cause == "refused"
        assert caught.value.message == f"http://127.0.0.1:{port}: connection refused"
        assert descriptors() == before
        url.failed(caught.value.cause)
        assert not url.available(trio.current_time())

        with socket.create_server(("127.0.0.1", port)):
            wire = await dial(url.url, url.upstream, plane.engine, plane.alarms)
            url.worked()
            assert url.available(trio.current_time())
            wire.close()


async def test_an_unknown_name() -> None:
    trio.socket.set_custom_hostname_resolver(Names())
    async with data_plane() as plane:
        for host in ("gone.test", "a" * 64 + ".test"):
            with pytest.raises(DialError) as caught:
                await dial(http(80, host), upstream(), plane.engine, plane.alarms)
            assert caught.value.cause == "dns"
            assert "name not resolved" in caught.value.message


async def test_an_address_that_answers_nothing_is_the_callers_deadline(
    blackhole: Blackhole,
) -> None:
    async with data_plane() as plane:
        before = descriptors()
        with trio.move_on_after(0.05) as deadline:
            await dial(http(blackhole.port), upstream(), plane.engine, plane.alarms)
        assert deadline.cancelled_caught
        assert descriptors() == before
        assert len(plane.engine) == 0


# -- happy eyeballs --------------------------------------------------------------------------------


async def test_a_name_whose_first_address_refuses() -> None:
    with listener() as server:
        port = server.getsockname()[1]
        names = Names(**{"two.test": [(INET6, ("::1", port, 0, 0)), (INET, ("127.0.0.1", port))]})
        trio.socket.set_custom_hostname_resolver(names)
        async with data_plane() as plane:
            before = descriptors()
            wire = await dial(http(port, "two.test"), upstream(), plane.engine, plane.alarms)
            assert wire.sock.getpeername() == ("127.0.0.1", port)
            wire.close()
            assert descriptors() == before
            assert names.asked == ["two.test"]


async def test_a_first_address_that_answers_nothing_is_overtaken(blackhole: Blackhole) -> None:
    before = descriptors()
    with listener() as server:
        where = server.getsockname()
        hole = (INET, ("127.0.0.1", blackhole.port))
        async with data_plane() as plane:
            winner, errors = await race([hole, (INET, where)], plane.engine)
        assert winner is not None
        assert winner.getpeername() == where
        assert errors == []
        winner.close()
    assert descriptors() == before


async def test_a_race_of_two_that_answer_leaves_one_connection() -> None:
    before = descriptors()
    with listener() as one, listener() as two:
        both = [(INET, one.getsockname()), (INET, two.getsockname())]
        async with data_plane() as plane:
            winner, _ = await race(both, plane.engine)
        assert winner is not None
        assert winner.getpeername() == one.getsockname()
        winner.close()
    assert descriptors() == before


async def test_a_race_that_is_cancelled_leaves_nothing(blackhole: Blackhole) -> None:
    before = descriptors()
    hole = (INET, ("127.0.0.1", blackhole.port))
    async with data_plane() as plane:
        with trio.move_on_after(0.35) as deadline:  # both attempts are under way
            await race([hole, hole], plane.engine)
        assert deadline.cancelled_caught
        assert len(plane.engine) == 0
    assert descriptors() == before


async def test_a_connect_that_begins_when_all_is_over_is_cancelled() -> None:
    """The engine may have ended earlier in the same turn: its epoll is closed."""
    engine = Engine()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        scope.cancel()
        with socket.socket() as sock:
            await Connecting(sock, (INET, ("", 0)), engine).wait()
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("first", "second", "cause"),
    [("refuses", "refuses", "refused"), ("refuses", "no route", "unreachable")],
)
async def test_when_every_address_fails(first: str, second: str, cause: str) -> None:
    refuses = (INET, ("127.0.0.1", refusing_port()))
    no_route = (INET, ("255.255.255.255", 9))  # EACCES or ENETUNREACH, at once, on any machine
    kinds = {"refuses": refuses, "no route": no_route}
    trio.socket.set_custom_hostname_resolver(Names(**{"bad.test": [kinds[first], kinds[second]]}))
    async with data_plane() as plane:
        before = descriptors()
        with pytest.raises(DialError) as caught:
            await dial(http(9, "bad.test"), upstream(), plane.engine, plane.alarms)
        assert caught.value.cause == cause
        assert descriptors() == before


def test_families_take_turns() -> None:
    a, b, c = (INET6, ("a", 1)), (INET6, ("b", 1)), (INET6, ("c", 1))
    x, y = (INET, ("x", 1)), (INET, ("y", 1))
    assert interleave([a, b, c, x, y]) == [a, x, b, y, c]
    assert interleave([x, a]) == [x, a]
    assert interleave([x, y]) == [x, y]


# -- unix sockets ----------------------------------------------------------------------------------


def unix(path: Path) -> Url:
    return Url("http", "localhost", 80, unix=str(path))


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "backend.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        async with data_plane() as plane:
            wire = await dial(unix(path), upstream(), plane.engine, plane.alarms)
            peer, _ = server.accept()
            await wire.send(b"hello")
            assert peer.recv(100) == b"hello"
            wire.close()
            peer.close()


async def test_a_unix_socket_without_a_listener(tmp_path: Path) -> None:
    path = tmp_path / "backend.sock"
    async with data_plane() as plane:
        for _ in ("no file", "a file nobody listens on"):
            with pytest.raises(DialError) as caught:
                await dial(unix(path), upstream(), plane.engine, plane.alarms)
            assert caught.value.cause == "refused"
            assert caught.value.message.startswith(f"unix:{path}: ")
            with socket.socket(socket.AF_UNIX) as stale:
                if not path.exists():
                    stale.bind(str(path))


async def test_a_unix_listener_with_a_full_backlog_is_waited_for(tmp_path: Path) -> None:
    """1. The backlog is full. 2. The dial waits. 3. The server accepts: the dial connects."""
    path = tmp_path / "backend.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(0)
        fillers = []
        while True:
            filler = socket.socket(socket.AF_UNIX)
            filler.setblocking(False)
            fillers.append(filler)
            if filler.connect_ex(str(path)) == errno.EAGAIN:
                break
        async with data_plane() as plane:
            dialled: list[SocketWire] = []

            async def connect() -> None:
                dialled.append(await dial(unix(path), upstream(), plane.engine, plane.alarms))

            plane.nursery.start_soon(connect)
            await trio.testing.wait_all_tasks_blocked()
            assert dialled == []
            accepted = [server.accept()[0] for _ in fillers[:-1]]
            await until(lambda: dialled)
            dialled[0].close()
            for sock in fillers + accepted:
                sock.close()


# -- our own lack ----------------------------------------------------------------------------------


async def test_out_of_descriptors_is_told_apart() -> None:
    async with data_plane() as plane:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        highest = max(map(int, os.listdir("/proc/self/fd")))
        ballast = []
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
            with suppress(OSError):
                while True:
                    ballast.append(os.open("/dev/null", os.O_RDONLY))
            with pytest.raises(DialError) as caught:
                await dial(http(1), upstream(), plane.engine, plane.alarms)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in ballast:
                os.close(fd)
        assert caught.value.cause == "exhausted"
