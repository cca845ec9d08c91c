"""A WebSocket through the tunnel: `websockets` as the client, Hypercorn with wsproto as the server.

Behind them the bare tunnel, with both ends played by hand: who half-closes, who goes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any

import httpx
import pytest
import trio
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.harness import RawPeer, route_to, running, scene
from tests.interop.processes import Server, start_forward, start_hypercorn, wait_until

LIMIT = 10.0  # seconds for one answer


@pytest.fixture(scope="module")
def origin() -> Iterator[Server]:
    with start_hypercorn("tests.interop.origin:app") as server:
        yield server


@pytest.fixture(scope="module")
def relay(origin: Server) -> Iterator[Server]:
    with start_forward(origin.url) as server:
        yield server


def opened(relay: Server, path: str = "/ws", **options: Any) -> ClientConnection:
    url = f"ws://{relay.address}{path}"
    made: ClientConnection = connect(url, open_timeout=LIMIT, max_size=None, **options)
    return made


def closed(origin: Server, path: str) -> bool:
    """Whether the server saw the WebSocket of this path end."""
    return path in httpx.get(f"{origin.url}/closes").json()


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_messages_go_both_ways(relay: Server, compression: str | None) -> None:
    with opened(relay, compression=compression) as socket:
        for message in ("text é", b"bytes \x00\xff", "", "long " * 300_000):
            socket.send(message)
            assert socket.recv(LIMIT) == message


def test_fragments_arrive_as_one_message(relay: Server) -> None:
    with opened(relay) as socket:
        socket.send(["in ", "three ", "pieces"])
        assert socket.recv(LIMIT) == "in three pieces"


def test_a_subprotocol_is_agreed_through_it(relay: Server) -> None:
    with opened(relay, subprotocols=["first", "second"]) as socket:
        assert socket.subprotocol == "second"


def test_ping_and_pong(relay: Server) -> None:
    with opened(relay) as socket:
        pongs = [socket.ping(payload) for payload in ("", "one", b"two")]
        assert all(pong.wait(LIMIT) for pong in pongs)
        socket.send("still here")
        assert socket.recv(LIMIT) == "still here"


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "going"), (4321, "é")])
def test_the_server_closes(relay: Server, code: int, reason: str) -> None:
    with opened(relay) as socket:
        socket.send(f"close {code} {reason}")
        with pytest.raises(ConnectionClosed):
            socket.recv(LIMIT)
        assert (socket.close_code, socket.close_reason) == (code, reason)


@pytest.mark.parametrize("code", [1000, 1001, 4321])
def test_the_client_closes(relay: Server, origin: Server, code: int) -> None:
    path = f"/ws/{code}"
    with opened(relay, path) as socket:
        assert not closed(origin, path)
        socket.close(code, "bye")
        assert socket.close_code == code  # the server's answer came back
    wait_until("the server saw it", lambda: closed(origin, path))
    record = relay.wait_for_record(lambda line: line["path"] == path and line["at"] == "end")
    assert (record["status"], record["phase"], record["ending"]) == (101, "tunnel", "complete")


def test_a_client_that_vanishes_is_noticed(relay: Server, origin: Server) -> None:
    with opened(relay, "/ws/gone") as socket:
        socket.send("here")
        socket.recv(LIMIT)
        socket.socket.shutdown(SHUT_RDWR)
    wait_until("the server saw it go", lambda: closed(origin, "/ws/gone"))


def test_a_refused_handshake_keeps_its_status(relay: Server) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{relay.address}/ws/forbidden", open_timeout=LIMIT)
    assert refused.value.response.status_code == 403


# -- the bare tunnel -------------------------------------------------------------------------------

ASK = b"GET /raw HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: raw/1\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw/1\r\n\r\n"


class Tunnel:
    """Both ends of a tunnel."""

    def __init__(self, client: RawPeer, backend: RawPeer) -> None:
        self.client = client
        self.backend = backend

    async def passes(self, sender: RawPeer, receiver: RawPeer, data: bytes) -> None:
        await sender.send(data)
        assert await receiver.exactly(len(data)) == data


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (ASK, SWITCH.replace(b"raw/1", b"other/1")),
        (ASK, SWITCH.replace(b"Upgrade: raw/1\r\n", b"")),
        (b"GET /raw HTTP/1.1\r\nHost: x\r\n\r\n", SWITCH),
    ],
    ids=["another protocol", "no protocol", "not asked"],
)
async def test_a_switch_nobody_asked_for_is_a_502(ask: bytes, answer: bytes) -> None:
    async with scene() as (relay, upstream):
        client = await relay.client()
        await client.send(ask)
        backend, _ = await upstream.request()
        await backend.send(answer)
        assert (await client.head()).startswith(b"HTTP/1.1 502 ")
        await backend.ended()


@pytest.fixture
async def tunnel() -> AsyncIterator[Tunnel]:
    async with scene() as (relay, upstream):
        client = await relay.client()
        await client.send(ASK)
        backend, head = await upstream.request()
        assert b"upgrade: raw/1" in head.lower()
        await backend.send(SWITCH)
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        made = Tunnel(client, backend)
        await made.passes(client, backend, b"from the client")
        await made.passes(backend, client, b"from the server")
        yield made


async def test_the_client_half_closes_and_still_reads(tunnel: Tunnel) -> None:
    tunnel.client.half_close()
    await tunnel.backend.ended()
    await tunnel.passes(tunnel.backend, tunnel.client, b"the rest")
    tunnel.backend.close()
    await tunnel.client.ended()


async def test_the_server_half_closes_and_still_reads(tunnel: Tunnel) -> None:
    tunnel.backend.half_close()
    await tunnel.client.ended()
    await tunnel.passes(tunnel.client, tunnel.backend, b"the rest")
    tunnel.client.close()
    await tunnel.backend.ended()


async def test_what_was_sent_before_a_half_close_arrives(tunnel: Tunnel) -> None:
    much = bytes(3_000_000)
    for sender, receiver in (
        (tunnel.client, tunnel.backend),
        (tunnel.backend, tunnel.client),
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send, much)
            assert await receiver.exactly(len(much)) == much
        sender.half_close()
        await receiver.ended()


@pytest.mark.parametrize("who", ["client", "backend"])
async def test_a_reset_ends_the_other_side(tunnel: Tunnel, who: str) -> None:
    gone, other = tunnel.client, tunnel.backend
    if who == "backend":
        gone, other = other, gone
    gone.reset()
    await other.ended()


async def test_who_takes_no_more_is_heard_out(tmp_path: Path) -> None:
    """1. The server speaks until nobody takes more, and goes. 2. What the client says then cannot be passed on. 3. The
    client reads on, and hears all of it."""
    path = str(tmp_path / "up.sock")
    server = trio.socket.socket(trio.socket.AF_UNIX)
    await server.bind(path)
    server.listen()
    async with running(route_to(f"unix:{path}")) as relay:
        client = await relay.client()
        await client.send(ASK)
        backend, _ = await server.accept()
        await backend.recv(65536)
        await backend.send(SWITCH)
        await client.head()
        spoken = 0
        while True:
            with trio.move_on_after(0.1) as full:
                spoken += await backend.send(bytes(4096))
            if full.cancelled_caught:
                break
        backend.close()
        await client.send(b"is anybody there?")
        assert len(await client.rest()) == spoken
        assert (await relay.line())["side"] == "upstream"
    server.close()


async def test_what_is_behind_the_body_of_an_upgrade_is_the_tunnels() -> None:
    async with scene() as (relay, upstream):
        client = await relay.client()
        ask = ASK.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\n")
        await client.send(ask + b"body" + b"in the tunnel")
        backend, _ = await upstream.request()
        assert await backend.exactly(4) == b"body"
        await backend.send(SWITCH)
        assert await backend.exactly(13) == b"in the tunnel"
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
