"""The promise: without descriptors relay waits, says so once, and goes on as soon as there are
some."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from tests.harness import RawPeer, scene, settle


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """This process can open nothing more, until the block ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


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
            assert (await client.head()).startswith(b"HTTP/1.1 502 ")
        await client.until(b"}}")
        [group] = relay.worker.groups
        assert group.origins[0].failures == 0
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
