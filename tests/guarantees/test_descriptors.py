"""The promise: without descriptors relay waits, says so once, and goes on as soon as there are
some."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from relay.admin.control import RemoteControl, answer, open_slot, tell
from relay.upstreams.dial import DialError, dial
from relay.wires.descriptors import in_reserve, open_now, reserved, room_for_clients
from tests.guarantees.descriptor_setup import (
    limited,
    no_descriptors_left,
    only_the_reserve_left,
)
from tests.harness import LIMIT, RawPeer, Upstream, scene, settle


async def test_accepting(caplog: pytest.LogCaptureFixture) -> None:
    """1. Clients wait in the queue. 2. Accepting fails, again and again. 3. It is logged once. 4.
    They
    are served."""
    async with scene() as (relay, up):
        sockets = [trio.socket.socket() for _ in range(3)]
        with no_descriptors_left():
            for sock in sockets:
                await sock.connect(("127.0.0.1", relay.port))
            await settle(lambda: "out of descriptors" in caplog.text)
            await trio.sleep(0.3)  # three more attempts
        relay.faults.clear()
        assert caplog.text.count("out of descriptors") == 1
        clients = [RawPeer(trio.SocketStream(sock)) for sock in sockets]
        for client in clients:
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in clients:
            peer, _head = await up.request()
            await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        for client in clients:
            assert (await client.head()).startswith(b"HTTP/1.1 204 ")
            client.close()


async def test_dialling() -> None:
    """The client is told, and the upstream is not blamed: it was not asked."""
    async with scene() as (relay, up):
        client = await relay.client()
        await settle(lambda: relay.inventory().connections == 1)
        with no_descriptors_left():
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            head = await client.head()
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 1\r\n" in head
        await client.until(b"}}")
        [group] = relay.worker.groups
        assert group.origins[0].failures == 0
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")


async def test_what_is_kept_for_later_makes_room() -> None:
    """1. An idle upstream connection is kept. 2. The last descriptor is taken. 3. A request to another upstream: the idle
    one is closed for it."""
    other = await Upstream.open()
    more = f"""
        [upstreams.other]
        url = "{other.url}"
        [[routes]]
        path = "/other"
        upstream = "other"
        """
    try:
        async with scene(more=more) as (relay, up):
            client = await relay.get()
            peer, _ = await up.request()
            await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            await client.head()
            with only_the_reserve_left():
                await client.send(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
                await peer.ended()
            peer, _ = await other.request()
            await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 204 ")
    finally:
        other.close()


async def test_the_last_descriptors_are_not_for_dialling() -> None:
    """The number that comes next is in the reserve: the client is told, and the reserve is whole."""
    async with scene() as (relay, _):
        client = await relay.client()
        await settle(lambda: relay.inventory().connections == 1)
        with only_the_reserve_left():
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 503 ")
            os.close(os.dup(0))  # a control message would find one


async def test_a_name_that_is_not_resolved_for_lack_of_descriptors() -> None:
    """The url is not blamed, although the resolver says that there is no such name."""
    async with scene(upstream_keys='[upstreams.named]\nurl = "http://localhost:1"') as (relay, _):
        [_, named] = relay.worker.groups
        with only_the_reserve_left(), pytest.raises(DialError) as caught:
            await dial(
                replace(named.origins[0].url, host="no.such.name.invalid"),
                named.upstream,
                relay.worker.engine,
                relay.worker.alarms,
            )
        assert caught.value.cause == "exhausted"


async def test_a_control_message_without_its_descriptors(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """1. A worker has no descriptor left. 2. It is asked, and told. 3. The asker sees an end without an answer, the
    handler of what was told is not called, and it is logged once. 4. With descriptors it answers again."""
    asker, end = open_slot()
    heard: list[Sequence[int]] = []

    def hear(request: Mapping[str, object], fds: Sequence[int]) -> None:
        heard.append(fds)
        for fd in fds:
            os.close(fd)

    def told(count: int) -> None:
        fds = [os.dup(0) for _ in range(count)]
        tell(asker, {"do": "configure"}, fds)
        for fd in fds:
            os.close(fd)

    try:
        async with trio.open_nursery() as nursery:
            told(2)
            ours, theirs = socket.socketpair()
            tell(asker, {"do": "state"}, [theirs.fileno()])
            theirs.close()
            told(1)
            with no_descriptors_left():
                answers: Any = {"state": lambda *_: "here", "configure": hear}
                nursery.start_soon(partial(answer, end, answers))
                with trio.fail_after(LIMIT):
                    await trio.lowlevel.wait_readable(ours)
                assert ours.recv(100) == b""
                await trio.testing.wait_all_tasks_blocked()
            ours.close()
            assert not heard
            assert caplog.text.count("out of descriptors") == 2  # of each kind one
            assert await RemoteControl([asker]).snapshot() == {}  # no such handler: a fault, no end
            told(2)
            await settle(lambda: len(heard) == 1)
            assert len(heard[0]) == 2
            nursery.cancel_scope.cancel()
    finally:
        asker.close()
        end.close()


@pytest.mark.parametrize("runs", [0, 100, 1000])
@pytest.mark.parametrize("limit", [64, 100, 256, 1024, 20_000])
def test_the_reserve_and_the_room_for_clients(limit: int, runs: int) -> None:
    """Two descriptors for each client, the reserve, runs without a client, and something beside, are never more than there
    are."""
    with limited(limit):
        opened = open_now()
        room, kept = room_for_clients(opened, runs), reserved()
        assert 8 <= kept <= 128
        assert room == 1 or opened + 2 * room + min(runs, limit // 8) + kept <= limit
        assert room > limit // 6 or limit <= 100
        assert in_reserve(limit - 1)
        assert not in_reserve(limit - kept - 1)


async def test_a_file(tmp_path: Path) -> None:
    """It is not said to be missing, and the reserve stays whole."""
    (tmp_path / "page.txt").write_text("here")
    files = f"""
        [[routes]]
        path = "/files/{{rest...}}"
        source = "files"
        [routes.files]
        directory = "{tmp_path}"
        """
    async with scene(more=files) as (relay, _):
        client = await relay.client()
        await settle(lambda: relay.inventory().connections == 1)
        get = b"GET /files/page.txt HTTP/1.1\r\nHost: a\r\n\r\n"
        for lack in (no_descriptors_left, only_the_reserve_left):
            with lack():
                await client.send(get)
                assert (await client.head()).startswith(b"HTTP/1.1 503 ")
            await client.until(b"}}")
        await client.send(get)
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        await client.until(b"here")
