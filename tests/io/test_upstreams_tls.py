"""TLS to an upstream: verified, bounded by the caller, honest about its end, never awaited."""

from __future__ import annotations

import gc
import socket
import ssl
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trustme

from relay.config.values import Url
from relay.upstreams.dial import DialError, dial, forget_tls_contexts, tls_context
from relay.upstreams.origin import Origin
from relay.wires.socket_wire import SocketWire
from relay.wires.tls_wire import TlsWire
from relay.wires.wire import Expired, Gone
from tests.io.upstreams_setup import (
    Plane,
    data_plane,
    descriptors,
    listener,
    sockets,
    until,
    upstream,
)

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
Serve = Callable[[trio.SSLStream[trio.SocketStream]], Awaitable[None]]


class Authority(trustme.CA):
    """A CA with its certificate in a file, as `tls_ca` names one."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.file = str(folder / "ca.pem")
        self.cert_pem.write_to_path(self.file)

    def context(
        self, name: str = "localhost", version: ssl.TLSVersion | None = None
    ) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.set_alpn_protocols(["h2", "http/1.1"])
        if version is not None:
            context.minimum_version = context.maximum_version = version
        self.issue_cert(name).configure_cert(context)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    chosen: ssl.TLSVersion = request.param
    return chosen


async def serve_tls(plane: Plane, context: ssl.SSLContext, serve: Serve) -> Url:
    """Serve TLS connections on a free port; what breaks a connection breaks only it."""
    (server,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def handle(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True)  # `aclose` sends close_notify
        try:
            await tls.do_handshake()
            await serve(tls)
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)

    plane.nursery.start_soon(trio.serve_listeners, handle, [server])
    return Url("https", "127.0.0.1", server.socket.getsockname()[1])


async def connect(plane: Plane, url: Url, authority: Authority, **settings: object) -> SocketWire:
    settings = {"tls_ca": authority.file, "tls_server_name": "localhost", **settings}
    return await dial(url, upstream(url, **settings), plane.engine, plane.alarms)


async def nothing(tls: trio.SSLStream[trio.SocketStream]) -> None:
    await tls.receive_some()


async def echo(tls: trio.SSLStream[trio.SocketStream]) -> None:
    async for data in tls:
        await tls.send_all(data)
    await tls.aclose()


# -- verification ----------------------------------------------------------------------------------


async def test_a_good_certificate(authority: Authority, version: ssl.TLSVersion) -> None:
    async with data_plane() as plane:
        url = await serve_tls(plane, authority.context(version=version), echo)
        wire = await connect(plane, url, authority)
        assert isinstance(wire, TlsWire)
        assert wire.tls.selected_alpn_protocol() == "http/1.1"
        assert wire.tls.version() == version.name.replace("_", ".")
        await wire.send(b"hello")
        assert await wire.receive() == b"hello"
        wire.close()


async def test_the_address_of_the_url_is_the_name_by_default(authority: Authority) -> None:
    async with data_plane() as plane:
        url = await serve_tls(plane, authority.context("127.0.0.1"), echo)
        wire = await connect(plane, url, authority, tls_server_name=None)
        wire.close()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"tls_server_name": "other.test"}, "certificate refused: Hostname mismatch"),
        ({"tls_server_name": None}, "certificate refused: IP address mismatch"),
        ({"tls_ca": None}, "certificate refused: unable to get local issuer certificate"),
        ({"tls_ca": "/nowhere/ca.pem"}, "TLS cannot be set up: no such file or directory"),
        ({"tls_ca": "/etc/passwd"}, "TLS handshake failed: NO_CERTIFICATE_OR_CRL_FOUND"),
        ({"tls_server_name": "a..b"}, "the server name is not a host name"),
        ({"tls_server_name": ".test"}, "the server name is not a host name"),
    ],
)
async def test_what_cannot_be_verified_is_refused(
    authority: Authority, settings: dict[str, object], reason: str
) -> None:
    async with data_plane() as plane:
        url = await serve_tls(plane, authority.context(), nothing)
        before = sockets()
        with pytest.raises(DialError) as caught:
            await connect(plane, url, authority, **settings)
        await until(lambda: sockets() == before)  # the server's end goes in its own time
        assert caught.value.cause == "tls"
        assert caught.value.message.startswith(f"{url}: ")
        assert reason in caught.value.message
        assert len(plane.engine) == 0


async def test_a_port_that_speaks_something_else(authority: Authority) -> None:
    async with data_plane() as plane:
        for answer in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b""):
            with listener() as server:

                async def speak(server: socket.socket = server, answer: bytes = answer) -> None:
                    await trio.lowlevel.wait_readable(server)
                    peer, _ = server.accept()
                    peer.sendall(answer)
                    await trio.lowlevel.wait_readable(peer)
                    peer.recv(4096)
                    peer.close()

                plane.nursery.start_soon(speak)
                url = Url("https", "127.0.0.1", server.getsockname()[1])
                with pytest.raises(DialError) as caught:
                    await connect(plane, url, authority)
                assert caught.value.cause == "tls"


async def test_a_connection_that_is_reset_before_the_handshake(authority: Authority) -> None:
    async with data_plane() as plane:
        with listener() as server:
            url = Url("https", "127.0.0.1", server.getsockname()[1])
            tls_context(authority.file)
            before = sockets()

            async def reset() -> None:
                while True:
                    await trio.lowlevel.wait_readable(server)
                    peer, _ = server.accept()
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    peer.close()

            server.setblocking(False)
            plane.nursery.start_soon(reset)
            for _ in range(20):
                with pytest.raises(DialError):
                    await connect(plane, url, authority)
                assert sockets() == before


# -- the caller's deadline -------------------------------------------------------------------------


async def test_a_handshake_that_stalls_is_the_callers_deadline(authority: Authority) -> None:
    """1. The upstream accepts and says nothing. 2. The deadline passes. 3. Nothing is left open."""
    async with data_plane() as plane:
        with listener() as server:  # the backlog accepts, nobody answers
            url = Url("https", "127.0.0.1", server.getsockname()[1])
            tls_context(authority.file)
            before = descriptors()
            with trio.move_on_after(0.05) as deadline:
                await connect(plane, url, authority)
            assert deadline.cancelled_caught
            assert descriptors() == before
            assert len(plane.engine) == 0


async def test_a_handshake_cancelled_by_a_client_that_left(authority: Authority) -> None:
    async with data_plane() as plane:
        with listener() as server:
            url = Url("https", "127.0.0.1", server.getsockname()[1])
            tls_context(authority.file)
            before = descriptors()
            with trio.CancelScope() as exchange:

                async def leave() -> None:
                    await until(lambda: len(plane.engine) == 1)
                    exchange.cancel()

                plane.nursery.start_soon(leave)
                await connect(plane, url, authority)
            assert exchange.cancelled_caught
            assert descriptors() == before
            assert len(plane.engine) == 0


# -- data in both directions -----------------------------------------------------------------------

MEGABYTE = bytes(range(256)) * 4096


async def test_a_megabyte_there_and_back(authority: Authority, version: ssl.TLSVersion) -> None:
    """Larger than every buffer on the way: writes come up short and are resumed, reads too."""
    async with data_plane() as plane:
        url = await serve_tls(plane, authority.context(version=version), echo)
        wire = await connect(plane, url, authority)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.send, MEGABYTE)
            got = bytearray()
            while len(got) < len(MEGABYTE):
                data = await wire.receive()
                assert 0 < len(data) <= 64 * 1024
                got += data
        assert bytes(got) == MEGABYTE
        wire.close()


async def test_a_synchronous_step_sees_every_record(authority: Authority) -> None:
    """The trap: a burst of records, epoll tells of it once, and a short read is no end."""

    async def burst(tls: trio.SSLStream[trio.SocketStream]) -> None:
        await tls.receive_some(1)
        for n in range(50):
            await tls.send_all(b"%02d" % n)
        await trio.sleep_forever()

    async with data_plane() as plane:
        url = await serve_tls(plane, authority.context(), burst)
        wire = await connect(plane, url, authority)
        got = bytearray()

        def step() -> None:
            while wire.readable:
                got.extend(wire.recv_nowait(1) or b"")  # shorter than any record

        wire.on_readable = step
        step()
        await wire.send(b"x")
        await until(lambda: len(got) == 100)
        assert bytes(got) == b"".join(b"%02d" % n for n in range(50))
        wire.close()


async def test_what_openssl_holds_is_pending(authority: Authority) -> None:
    async def one_record(tls: trio.SSLStream[trio.SocketStream]) -> None:
        await tls.send_all(b"0123456789")
        await trio.sleep_forever()

    async with data_plane() as plane:
        url = await serve_tls(plane, authority.context(), one_record)
        wire = await connect(plane, url, authority)
        assert isinstance(wire, TlsWire)
        got: list[bytes | None] = []

        def start() -> bool:
            got.append(wire.recv_nowait(4))
            return got[-1] is not None

        await until(start)
        assert got[-1] == b"0123"
        assert wire.pending() == 6
        assert wire.readable, "a short read is no reason to wait for epoll"
        assert wire.recv_nowait() == b"456789"
        wire.close()


async def test_a_reader_with_a_deadline_sees_expired(authority: Authority) -> None:
    async with data_plane() as plane:
        url = await serve_tls(plane, authority.context(), nothing)
        wire = await connect(plane, url, authority)
        wire.read_by = trio.current_time() + 0.02
        with pytest.raises(Expired):
            await wire.receive()
        wire.close()


async def test_a_writer_to_one_who_stopped_reading_sees_expired(authority: Authority) -> None:
    async with data_plane() as plane:

        async def stop_reading(tls: trio.SSLStream[trio.SocketStream]) -> None:
            await trio.sleep_forever()

        url = await serve_tls(plane, authority.context(), stop_reading)
        wire = await connect(plane, url, authority)
        wire.write_within = 0.05
        with pytest.raises(Expired):
            await wire.send(MEGABYTE * 16)  # more than the kernel's buffers of both ends
        wire.close()


# -- the end ---------------------------------------------------------------------------------------


async def test_close_notify_is_an_end(authority: Authority, version: ssl.TLSVersion) -> None:
    async def finish(tls: trio.SSLStream[trio.SocketStream]) -> None:
        await tls.send_all(b"whole")
        await tls.aclose()

    async with data_plane() as plane:
        url = await serve_tls(plane, authority.context(version=version), finish)
        wire = await connect(plane, url, authority)
        assert await wire.receive() == b"whole"
        assert await wire.receive() == b""
        wire.close()


async def test_an_end_without_close_notify_is_a_truncation(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    async def break_off(tls: trio.SSLStream[trio.SocketStream]) -> None:
        await tls.send_all(b"cut")
        await tls.transport_stream.aclose()

    async with data_plane() as plane:
        url = await serve_tls(plane, authority.context(version=version), break_off)
        wire = await connect(plane, url, authority)
        assert await wire.receive() == b"cut"
        with pytest.raises(Gone):
            await wire.receive()
        wire.close()


async def test_a_hang_up_is_noticed_while_nobody_reads(authority: Authority) -> None:
    async def leave(tls: trio.SSLStream[trio.SocketStream]) -> None:
        await tls.receive_some(1)
        await tls.transport_stream.aclose()

    async with data_plane() as plane:
        url = await serve_tls(plane, authority.context(), leave)
        wire = await connect(plane, url, authority)
        gone: list[bool] = []
        wire.on_gone = lambda: gone.append(True)
        await wire.send(b"x")
        await until(lambda: gone)
        wire.close()


async def test_half_close_leaves_both_directions_open(authority: Authority) -> None:
    async with data_plane() as plane:
        url = await serve_tls(plane, authority.context(), echo)
        wire = await connect(plane, url, authority)
        wire.half_close()
        await wire.send(b"still here")
        assert await wire.receive() == b"still here"
        wire.close()


# -- in the pool -----------------------------------------------------------------------------------


async def test_session_tickets_do_not_end_an_idle_connection(authority: Authority) -> None:
    """TLS 1.3: 1. The handshake ends. 2. The wire is put back unused. 3. The tickets come."""
    async with data_plane() as plane:
        url = await serve_tls(plane, authority.context(version=ssl.TLSVersion.TLSv1_3), echo)
        wire = await connect(plane, url, authority)
        pool = Origin(url, upstream(url), plane.alarms)
        pool.put(wire)
        for _ in range(50):
            await trio.lowlevel.checkpoint()
        assert pool.take() is wire
        await wire.send(b"hello")
        assert await wire.receive() == b"hello"
        pool.put(wire)
        assert pool.take() is wire
        wire.close()


@pytest.mark.parametrize("politely", [True, False])
async def test_an_idle_connection_that_the_peer_ends_is_closed(
    authority: Authority, politely: bool
) -> None:
    async def end(tls: trio.SSLStream[trio.SocketStream]) -> None:
        await tls.receive_some(1)
        if politely:
            await tls.aclose()

    async with data_plane() as plane:
        url = await serve_tls(plane, authority.context(), end)
        wire = await connect(plane, url, authority)
        pool = Origin(url, upstream(url), plane.alarms)
        await wire.send(b"x")
        pool.put(wire)
        await until(lambda: wire.closed)
        assert pool.idle == ()
        assert len(plane.engine) == 0


# -- contexts --------------------------------------------------------------------------------------


def test_one_context_for_one_ca_until_the_reload(authority: Authority) -> None:
    first = tls_context(authority.file)
    assert tls_context(authority.file) is first
    assert first.verify_mode is ssl.CERT_REQUIRED
    assert first.check_hostname
    old = weakref.ref(first)
    del first
    forget_tls_contexts()
    gc.collect()
    assert old() is None
    forget_tls_contexts()


# -- a read that must write ------------------------------------------------------------------------


class Reluctant:
    """Stands for an SSLSocket within a key update: once, the other direction is needed."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.read_wants_write = False
        self.write_wants_read = False

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def pending(self) -> int:
        return 0

    def recv_into(self, buffer: bytearray, limit: int) -> int:
        if self.read_wants_write:
            self.read_wants_write = False
            raise ssl.SSLWantWriteError
        try:
            return self._sock.recv_into(buffer, limit)
        except BlockingIOError:
            raise ssl.SSLWantReadError from None

    def send(self, data: memoryview) -> int:
        if self.write_wants_read:
            self.write_wants_read = False
            raise ssl.SSLWantReadError
        return self._sock.send(data)


async def test_a_read_that_wants_to_write_is_resumed_when_it_can() -> None:
    async with data_plane() as plane:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        reluctant = Reluctant(ours)
        wire = TlsWire(reluctant, plane.engine, plane.alarms)  # type: ignore[arg-type]
        theirs.send(b"hello")
        await until(lambda: wire.readable)
        reluctant.read_wants_write = True
        assert await wire.receive() == b"hello"
        wire.close()
        theirs.close()


async def test_a_write_that_wants_to_read_is_resumed_when_it_can() -> None:
    async with data_plane() as plane:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        reluctant = Reluctant(ours)
        wire = TlsWire(reluctant, plane.engine, plane.alarms)  # type: ignore[arg-type]
        reluctant.write_wants_read = True
        assert wire.send_nowait(b"hello") == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wire.send, b"hello")
            await trio.testing.wait_all_tasks_blocked()
            theirs.send(b"whatever the write was waiting for")
        assert theirs.recv(100) == b"hello"
        wire.close()
        theirs.close()
