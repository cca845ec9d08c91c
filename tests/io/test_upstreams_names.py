"""The addresses of names: asked once for all that wait, a bounded number of times, and a name that hangs holds nobody
else. In virtual time with a fake of the resolver; the last test has threads that really hang."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from relay.upstreams.names import ANEW, THREADS, AddrInfo, look_up
from tests.guarantees.admin_setup import admin
from tests.harness import LIMIT, Upstream, route_to, running

Found = list[tuple[Any, Any, int, str, Any]]


def found(address: str) -> Found:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))]


class Resolver(trio.abc.HostnameResolver):
    """Every look-up waits until the test answers it."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._answers: list[tuple[trio.Event, list[Found | OSError]]] = []
        trio.socket.set_custom_hostname_resolver(self)

    async def getaddrinfo(self, host: bytes | None, *_: object) -> Found:
        answered, answer = trio.Event(), list[Found | OSError]()
        self.asked.append((host or b"").decode())
        self._answers.append((answered, answer))
        await answered.wait()
        if isinstance(answer[0], OSError):
            raise answer[0]
        return answer[0]

    async def getnameinfo(self, *_: object) -> tuple[str, str]:
        raise NotImplementedError

    def answer(self, number: int, answer: Found | OSError) -> None:
        """Let look-up `number`, in the order of asking, end like this."""
        answered, into = self._answers[number]
        into.append(answer)
        answered.set()


class Dials:
    """Tasks that want a name, and what they got."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.got: list[AddrInfo | Exception] = []

    async def start(self, name: str, many: int = 1) -> trio.CancelScope:
        """Returns: the scope of the last one."""
        for _ in range(many):
            scope = trio.CancelScope()
            self._nursery.start_soon(self._dial, name, scope)
        await trio.testing.wait_all_tasks_blocked()
        return scope

    async def _dial(self, name: str, scope: trio.CancelScope) -> None:
        with scope:
            self.got.append(await look_up(name, 80))


async def test_who_wants_a_name_that_is_looked_up_waits_for_that(
    autojump_clock: trio.testing.MockClock,
) -> None:
    resolver = Resolver()
    async with trio.open_nursery() as nursery:
        dials = Dials(nursery)
        await dials.start("a.test", many=100)
        assert resolver.asked == ["a.test"]
        resolver.answer(0, found("192.0.2.1"))
    assert dials.got == [found("192.0.2.1")] * 100
    async with trio.open_nursery() as nursery:  # nothing is kept: addresses change
        await Dials(nursery).start("a.test")
        assert resolver.asked == ["a.test", "a.test"]
        resolver.answer(1, found("192.0.2.2"))


async def test_an_error_is_everybodys(autojump_clock: trio.testing.MockClock) -> None:
    resolver = Resolver()
    error = socket.gaierror(socket.EAI_NONAME, "no such name")
    async with trio.open_nursery() as nursery:
        dials = Dials(nursery)
        await dials.start("a.test", many=3)
        resolver.answer(0, error)
    assert dials.got == [error] * 3


async def test_who_gives_up_takes_the_look_up_from_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """1. The dial that began the look-up is cancelled. 2. The other one gets the answer."""
    resolver = Resolver()
    async with trio.open_nursery() as nursery:
        dials = Dials(nursery)
        first = await dials.start("a.test")
        await dials.start("a.test")
        first.cancel()
        await trio.testing.wait_all_tasks_blocked()
        resolver.answer(0, found("192.0.2.1"))
    assert dials.got == [found("192.0.2.1")]


async def test_a_name_that_hangs_holds_no_other(autojump_clock: trio.testing.MockClock) -> None:
    resolver = Resolver()
    async with trio.open_nursery() as nursery:
        dials = Dials(nursery)
        for number in range(200):
            await dials.start(f"hangs-{number}.test")
        assert trio.current_time() < ANEW
        other = Dials(nursery)
        await other.start("fast.test")
        resolver.answer(200, found("192.0.2.1"))
        await trio.testing.wait_all_tasks_blocked()
        assert other.got == [found("192.0.2.1")]
        assert not dials.got
        nursery.cancel_scope.cancel()


async def test_a_look_up_that_takes_long_gets_another_beside_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """1. Two look-ups hang. 2. The third answers everybody. 3. A name with THREADS look-ups that hang gets no more.
    4. One of them ends at last: the next dial has a look-up again."""
    resolver = Resolver()
    async with trio.open_nursery() as nursery:
        dials = Dials(nursery)
        await dials.start("a.test", many=10)
        await trio.sleep(ANEW * (THREADS - 1) + 0.1)
        assert len(resolver.asked) == THREADS
        resolver.answer(THREADS - 1, found("192.0.2.1"))
        await trio.testing.wait_all_tasks_blocked()
        assert dials.got == [found("192.0.2.1")] * 10

        await dials.start("a.test", many=10)  # at once: what is late is not waited for
        assert len(resolver.asked) == THREADS + 1
        await trio.sleep(ANEW * 10)
        await dials.start("a.test", many=10)
        assert len(resolver.asked) == THREADS + 1
        resolver.answer(0, found("192.0.2.9"))
        await trio.testing.wait_all_tasks_blocked()
        assert dials.got[10:] == [found("192.0.2.9")] * 20
        await dials.start("a.test")
        assert len(resolver.asked) == THREADS + 2
        nursery.cancel_scope.cancel()


async def test_other_names_files_and_figures_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """1. The resolver hangs for one name, with a hundred requests that want it. 2. Another name, a file and the figures
    are answered. 3. No more threads hang than a name may have."""
    really, hangs, let_go = socket.getaddrinfo, list[str](), threading.Event()

    def getaddrinfo(host: Any, *arguments: Any, **more: Any) -> Any:
        if host == "hangs.test":
            hangs.append(host)
            let_go.wait(LIMIT * 2)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return really(host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    (tmp_path / "page.txt").write_text("here")
    more = f"""
        [upstreams.hanging]
        url = "http://hangs.test:1"
        [[routes]]
        path = "/hangs"
        upstream = "hanging"
        [[routes]]
        path = "/files/{{rest...}}"
        source = "files"
        [routes.files]
        directory = "{tmp_path}"
        """
    up = await Upstream.open()
    try:
        config = route_to(f"http://localhost:{up.port}", more=more)
        async with running(config) as relay, admin(relay) as pages:
            for _ in range(100):
                await relay.get("/hangs")
            client = await relay.get("/")
            peer, _ = await up.request()
            await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            assert b" 204 " in await client.head()
            assert b" 200 " in await (await relay.get("/files/page.txt")).head()
            assert (await pages.ask("/metrics")).status == 200
            assert (await pages.ask("/streams")).status == 200
            assert 1 <= len(hangs) <= THREADS
    finally:
        let_go.set()
        up.close()
