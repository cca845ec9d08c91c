"""When an upstream connection may serve again, each law by itself. What nobody has said to be so is not so."""

from __future__ import annotations

import socket

import pytest
import trio

from relay.http.heads import parse_response
from relay.upstreams.lease import Lease
from relay.upstreams.origin import Origin
from relay.wires.wire import Gone
from tests.io.upstreams_setup import data_plane, origin, until, wire_pair

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
MEGABYTES = 8 * 1024 * 1024  # more than a socket takes unread


class Exchange:
    """A lease, and the upstream's end of its connection, played step by step."""

    def __init__(self, lease: Lease, peer: socket.socket, pool: Origin) -> None:
        self.lease = lease
        self.peer = peer
        self.pool = pool

    def request(self) -> None:
        self.lease.wire.post(REQUEST)
        self.lease.request_sent()

    def taken(self) -> None:
        assert self.peer.recv(65536) == REQUEST

    def answer(self, head: bytes = OK) -> None:
        self.peer.send(head)
        self.read(head)

    def read(self, head: bytes = OK) -> None:
        data = self.lease.wire.recv_nowait()
        assert data is not None
        parsed = parse_response(data, b"GET", 65536)
        assert parsed is not None
        self.lease.answered(parsed[0])

    def whole(self) -> None:
        self.lease.answer_whole()


ORDER = ("request", "taken", "answer", "whole")


@pytest.mark.parametrize("left_out", ["", *ORDER])
async def test_every_step_is_needed(left_out: str) -> None:
    """1. Without the last byte of the request. 2. With the upstream still to read it. 3. Without a head. 4. Without the
    end of the answer. Only with all of them does the connection serve again."""
    async with data_plane() as plane:
        pool = origin(plane)
        wire, peer = wire_pair(plane)
        exchange = Exchange(Lease(pool, wire, reused=False), peer, pool)
        for step in ORDER:
            if step == left_out == "request":
                wire.post(REQUEST)  # it goes out, and nobody says that it was all
            elif step != left_out:
                getattr(exchange, step)()
        exchange.lease.release()
        assert wire.closed is bool(left_out)
        assert pool.idle == (() if left_out else (wire,))
        pool.close_idle()
        peer.close()


async def test_an_answer_that_came_before_the_request_was_sent() -> None:
    async with data_plane() as plane:
        pool = origin(plane)
        wire, peer = wire_pair(plane)
        lease = Lease(pool, wire, reused=False)
        peer.send(OK)
        assert lease.unasked() == OK
        assert lease.heard
        exchange = Exchange(lease, peer, pool)
        exchange.request()
        exchange.taken()
        parsed = parse_response(OK, b"GET", 65536)
        assert parsed is not None
        lease.answered(parsed[0])
        exchange.whole()
        lease.release()
        assert wire.closed
        peer.close()


async def test_an_answer_that_came_before_the_request_was_whole() -> None:
    """The rest is sent and read later: too late."""
    async with data_plane() as plane:
        pool = origin(plane)
        wire, peer = wire_pair(plane)
        exchange = Exchange(Lease(pool, wire, reused=False), peer, pool)
        wire.post(REQUEST)
        exchange.taken()
        exchange.answer()
        exchange.request()
        exchange.taken()
        exchange.whole()
        exchange.lease.release()
        assert wire.closed
        peer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the close",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_an_answer_that_does_not_let_it(head: bytes) -> None:
    async with data_plane() as plane:
        pool = origin(plane)
        wire, peer = wire_pair(plane)
        exchange = Exchange(Lease(pool, wire, reused=False), peer, pool)
        exchange.request()
        exchange.taken()
        exchange.answer(head)
        exchange.whole()
        exchange.lease.release()
        assert wire.closed
        peer.close()


async def test_bytes_that_came_behind_the_answer() -> None:
    async with data_plane() as plane:
        pool = origin(plane)
        wire, peer = wire_pair(plane)
        exchange = Exchange(Lease(pool, wire, reused=False), peer, pool)
        exchange.request()
        exchange.taken()
        exchange.answer()
        exchange.whole()
        peer.send(OK)
        await until(lambda: wire.readable)
        exchange.lease.release()
        assert wire.closed
        peer.close()


# -- a write that is halfway -----------------------------------------------------------------------


async def test_what_was_posted_goes_out_beside_everything_else() -> None:
    async with data_plane() as plane:
        wire, peer = wire_pair(plane)
        payload = bytes(range(256)) * (MEGABYTES // 256)
        wire.post(payload)
        assert wire.torn
        peer.setblocking(False)
        got = bytearray()
        while len(got) < len(payload):
            await trio.lowlevel.wait_readable(peer)
            got += peer.recv(len(payload))
        assert got == payload
        await wire.flushed()
        assert not wire.torn
        await wire.send(b"and more")
        assert peer.recv(100) == b"and more"
        wire.close()
        peer.close()


async def test_a_send_that_is_cancelled_leaves_a_torn_wire() -> None:
    async with data_plane() as plane:
        pool = origin(plane)
        wire, peer = wire_pair(plane)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wire.send, bytes(MEGABYTES))
                await until(lambda: wire.wants_write)
                scope.cancel()
        assert wire.torn
        with pytest.raises(Gone):
            await wire.send(b"more")
        pool.put(wire)
        assert wire.closed
        peer.close()
