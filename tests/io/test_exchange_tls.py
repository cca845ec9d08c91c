"""Exchanges whose upstream speaks TLS: the same promises, over records instead of segments."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trustme

from tests.harness import EVENT_HEAD, LIMIT, Relay, Upstream, chunked, route_to, running, settle

AUTHORITY = trustme.CA()
LAST = b"0\r\n\r\n"


class SecurePeer:
    """The upstream's end of a TLS connection."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, data: bytes) -> None:
        with trio.fail_after(LIMIT):
            await self.stream.send_all(data)

    async def until(self, marker: bytes) -> bytes:
        with trio.fail_after(LIMIT):
            while marker not in self.buffer:
                data = await self.stream.receive_some(65536)
                assert data
                self.buffer += bytes(data)
        end = self.buffer.index(marker) + len(marker)
        found, self.buffer = self.buffer[:end], self.buffer[end:]
        return found

    async def ended(self) -> None:
        with trio.fail_after(LIMIT):
            try:
                while await self.stream.receive_some(65536):
                    pass
            except trio.BrokenResourceError:
                pass

    def cut(self) -> None:
        """End the connection below TLS: no close_notify."""
        self.stream.transport_stream.socket.close()


class Secured:
    """A relay in front of a TLS upstream."""

    def __init__(self, relay: Relay, up: Upstream) -> None:
        self.relay = relay
        self._up = up
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        AUTHORITY.issue_cert("127.0.0.1").configure_cert(self._context)
        self._peers: list[SecurePeer] = []

    async def request(self) -> tuple[SecurePeer, bytes]:
        raw = await self._up.accept()
        stream = trio.SSLStream(raw.stream, self._context, server_side=True, https_compatible=True)
        peer = SecurePeer(stream)
        with trio.fail_after(LIMIT):
            await stream.do_handshake()
        return peer, await peer.until(b"\r\n\r\n")


@asynccontextmanager
async def secured(tmp_path: Path, route: str = "", more: str = "") -> AsyncIterator[Secured]:
    ca = tmp_path / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(ca))
    up = await Upstream.open()
    url = up.url.replace("http:", "https:")
    config = route_to(url, route, more=more, upstream_keys=f'tls_ca = "{ca}"')
    try:
        async with running(config) as relay:
            yield Secured(relay, up)
    finally:
        up.close()


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_large_body(tmp_path: Path, framing: str) -> None:
    """Records hide behind each other in one read of the kernel: all of them must come out."""
    size = 3_000_000
    async with secured(tmp_path) as scene, trio.open_nursery() as nursery:
        client = await scene.relay.get()
        peer, _ = await scene.request()
        if framing == "length":
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            nursery.start_soon(peer.send, b"x" * size)
        else:
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            nursery.start_soon(peer.send, chunked(*[b"x" * 10_000] * (size // 10_000)) + LAST)
        await client.head()
        body = await (client.exactly(size) if framing == "length" else client.until(LAST))
        assert body.count(b"x") == size
        assert (await scene.relay.line())["ending"] == "complete"


async def test_a_large_body_for_a_slow_reader(tmp_path: Path) -> None:
    """1. The client reads nothing, the upstream is held. 2. It reads on: nothing was lost."""
    size = 20_000_000
    async with secured(tmp_path) as scene, trio.open_nursery() as nursery:
        client = await scene.relay.get()
        peer, _ = await scene.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        nursery.start_soon(peer.stream.send_all, b"x" * size)
        await settle(lambda: any(transfer.paused for transfer in scene.relay.worker.registry))
        await client.head()
        assert (await client.exactly(size)).count(b"x") == size
        assert (await scene.relay.line())["ending"] == "complete"


async def test_an_upload(tmp_path: Path) -> None:
    size = 3_000_000
    async with secured(tmp_path) as scene, trio.open_nursery() as nursery:
        client = await scene.relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        nursery.start_soon(client.stream.send_all, b"x" * (size - 1) + b"!")
        peer, _ = await scene.request()
        assert len(await peer.until(b"!")) == size
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")


async def test_events_one_by_one(tmp_path: Path) -> None:
    async with secured(tmp_path) as scene:
        client = await scene.relay.get()
        peer, _ = await scene.request()
        await peer.send(EVENT_HEAD)
        await client.head()
        for n in range(50):
            await peer.send(chunked(b"data: %d\n\n" % n))
            await client.until(chunked(b"data: %d\n\n" % n))
        await peer.send(LAST)
        await client.until(LAST)


async def test_the_client_leaves(tmp_path: Path) -> None:
    async with secured(tmp_path) as scene:
        client = await scene.relay.get()
        peer, _ = await scene.request()
        await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
        await client.until(b"data: 1\n\n\r\n")
        client.close()
        await peer.ended()
        assert (await scene.relay.line())["ending"] == "client_left"


@pytest.mark.parametrize("clean", [False, True], ids=["cut", "close_notify"])
async def test_an_end_without_close_notify_is_a_cut(tmp_path: Path, clean: bool) -> None:
    """On a body without framing nothing else tells a cut from an end (RFC 9112 §9.8)."""
    async with secured(tmp_path) as scene:
        client = await scene.relay.get()
        peer, _ = await scene.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nsome")
        await client.until(b"some\r\n")
        if clean:
            with suppress(trio.BrokenResourceError):  # relay closes without waiting for words
                await peer.stream.unwrap()
        else:
            peer.cut()
        line = await scene.relay.line()
        assert line["ending"] == ("complete" if clean else "upstream_broke")
        client.half_close()
        assert await client.rest() == (LAST if clean else b"")


async def test_a_kept_alive_connection_is_used_again(tmp_path: Path) -> None:
    async with secured(tmp_path) as scene:
        client = await scene.relay.get()
        peer, _ = await scene.request()
        for _ in range(3):
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await client.until(b"ok")
            await client.send(b"GET /again HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await peer.until(b"\r\n\r\n")).startswith(b"GET /again ")
