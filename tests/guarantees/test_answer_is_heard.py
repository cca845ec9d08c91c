"""The promise: an answer that came is heard, whatever becomes of the rest of the request; and a request that was answered
is not sent again.
"""

from __future__ import annotations

import json
import socket
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trustme

from relay.config.values import Url
from relay.upstreams.dial import dial
from relay.wires.wire import Gone
from tests.guarantees.event_setup import dechunked, read
from tests.harness import LIMIT, RawPeer, route_to, running, scene
from tests.io.upstreams_setup import data_plane, upstream

REFUSAL = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge"
JSON = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 17\r\n\r\n{"response":"hi"}'
LARGE = 1024 * 1024 - 1000  # of a body that a unix socket does not take at once
AUTHORITY = trustme.CA()


class Listener:
    """An upstream whose connections the test takes one by one; how many there were is what is asked in the end."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.kind = kind
        self.folder = folder
        self.taken = 0
        self.sock = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        self.sock.bind(str(folder / "up.sock") if kind == "unix" else ("127.0.0.1", 0))
        self.sock.listen()
        self.sock.setblocking(False)
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # The server's last flight is the handshake's last: what it says then comes with it.
        self.context.maximum_version = ssl.TLSVersion.TLSv1_2
        AUTHORITY.issue_cert("127.0.0.1").configure_cert(self.context)
        AUTHORITY.cert_pem.write_to_path(str(folder / "ca.pem"))

    @property
    def url(self) -> Url:
        if self.kind == "unix":
            return Url("http", "localhost", 80, unix=str(self.folder / "up.sock"))
        return Url(
            "https" if self.kind == "tls" else "http", "127.0.0.1", self.sock.getsockname()[1]
        )

    async def accept(self) -> socket.socket:
        with trio.fail_after(LIMIT):
            await trio.lowlevel.wait_readable(self.sock)
        sock, _ = self.sock.accept()
        self.taken += 1
        return sock

    def nobody_else(self) -> bool:
        with suppress(BlockingIOError):
            self.sock.accept()[0].close()
            return False
        return True


async def read_some(sock: socket.socket, wanted: bytes) -> bytes:
    """What comes until `wanted` is in it."""
    sock.setblocking(False)
    got = b""
    with trio.fail_after(LIMIT):
        while wanted not in got:
            await trio.lowlevel.wait_readable(sock)
            got += sock.recv(4096)
    return got


# -- the wire --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
async def test_a_wire_that_cannot_be_written_to_is_read_to_its_end(
    kind: str, tmp_path: Path
) -> None:
    """1. The upstream answers and closes with bytes unread: a reset follows the answer. 2. Writes fail. 3. The answer
    is there."""
    listener = Listener(tmp_path, kind)

    def answer(sock: socket.socket) -> None:
        sock.setblocking(True)
        if kind == "tls":
            sock = listener.context.wrap_socket(sock, server_side=True)
        assert sock.recv(100)
        sock.sendall(REFUSAL)
        sock.close()

    async with data_plane() as plane:
        settings = {"tls_ca": str(tmp_path / "ca.pem")} if kind == "tls" else {}
        to = upstream(listener.url, **settings)
        async with trio.open_nursery() as nursery:
            done = trio.Event()

            async def serve() -> None:
                sock = await listener.accept()
                await trio.to_thread.run_sync(answer, sock)
                done.set()

            nursery.start_soon(serve)
            wire = await dial(listener.url, to, plane.engine, plane.alarms)
            with suppress(Gone):  # perhaps in the middle of it
                await wire.send(bytes(50_000))
            await done.wait()
        with suppress(Gone):
            for _ in range(100):
                await wire.send(bytes(50_000))
        assert wire.torn, "nobody takes five megabytes after a reset"
        got = b""
        with suppress(Gone):
            while data := await wire.receive():
                got += data
        assert got == REFUSAL
        wire.close()
        listener.sock.close()


# -- the client's own request ----------------------------------------------------------------------


async def test_tls_an_answer_that_comes_with_the_end_of_the_handshake(tmp_path: Path) -> None:
    """1. The upstream is full: it answers and closes at once. 2. Of a large request it takes one record, then resets.
    3. The client gets the answer, and the POST is sent to nobody else."""
    listener = Listener(tmp_path, "tls")
    config = route_to(
        str(listener.url), "retries = 3", upstream_keys=f'tls_ca = "{tmp_path / "ca.pem"}"'
    )
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = listener.context.wrap_bio(incoming, outgoing, server_side=True)
    async with running(config) as relay:
        client = await relay.client()
        await client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n" + bytes(60_000)
        )
        sock = await listener.accept()
        sock.setblocking(False)
        while True:
            try:
                server.do_handshake()
                break
            except ssl.SSLWantReadError:
                if outgoing.pending:
                    sock.sendall(outgoing.read())
                with trio.fail_after(LIMIT):
                    await trio.lowlevel.wait_readable(sock)
                incoming.write(sock.recv(65536))
        server.write(REFUSAL)
        sock.sendall(outgoing.read())
        sock.close()
        assert (await client.head()).startswith(b"HTTP/1.1 413 ")
        assert await client.exactly(5) == b"large"
        assert (await relay.line())["ending"] == "complete"
        assert listener.nobody_else()
    listener.sock.close()


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
async def test_a_refusal_in_a_race_with_the_upload(kind: str, tmp_path: Path) -> None:
    """An upstream in a thread of its own reads the head, answers, and closes with the rest unread. Whatever of the upload
    is out then, the answer is the client's."""
    listener = Listener(tmp_path, kind)
    listener.context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
    listener.sock.settimeout(LIMIT)

    def refuse() -> None:
        sock, _ = listener.sock.accept()
        # Nagle would keep the answer back behind the session tickets, and the reset drop it
        if kind != "unix":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if kind == "tls":
            sock = listener.context.wrap_socket(sock, server_side=True)
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(1000)
        sock.sendall(REFUSAL)
        sock.close()

    async def upload(client: RawPeer, size: int) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
            await client.stream.send_all(head + bytes(size))

    keys = f'tls_ca = "{tmp_path / "ca.pem"}"' if kind == "tls" else ""
    async with running(route_to(str(listener.url), upstream_keys=keys)) as relay:
        for size in (20_000, 60_000, 300_000, 2_000_000) * 10:
            client = await relay.client()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, refuse)
                nursery.start_soon(upload, client, size)
                assert (await client.head()).startswith(b"HTTP/1.1 413 ")
                assert await client.exactly(5) == b"large"
                client.close()
    listener.sock.close()


RETRIES = 'retries = 3\nretry_on = ["refused", "timeout", "502"]'


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nConte", b"HTTP/1.1 102 Processing\r\n\r\n", b"nonsense\r\n\r\n"]
)
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_what_was_answered_in_part_is_not_sent_again(answer: bytes, method: str) -> None:
    """Where doing it twice is doing it once (RFC 9110 §9.2.2), it may be."""
    async with scene(RETRIES) as (relay, up):
        client = await relay.client()
        await client.send(f"{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi".encode())
        for n in range(4 if method == "PUT" else 1):
            peer, _ = await up.request()
            assert await peer.exactly(2) == b"hi", n
            await peer.send(answer)
            peer.close()
        head = await client.head()
        if head.startswith(b"HTTP/1.1 102 "):
            while head.startswith(b"HTTP/1.1 102 "):
                head = await client.head()
        assert head.startswith(b"HTTP/1.1 502 ")


# -- requests of relay's own -----------------------------------------------------------------------

ASK = """
[upstreams.backend]
url = "unix:{path}"
[[routes]]
path = "/ask"
source = "answer"
[routes.answer]
upstream = "backend"
path = "/"
text = "response"
retries = 2
"""
JOB = """
[upstreams.backend]
url = "unix:{path}"
[[routes]]
path = "/ask"
source = "enqueue"
[routes.enqueue]
upstream = "backend"
path = "/"
[routes.follow]
upstream = "backend"
path = "/stream"
"""


async def asks(client: RawPeer) -> None:
    body = json.dumps({"query": "x" * LARGE}).encode()
    head = b"POST /ask HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    await client.stream.send_all(head + body)


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "closes"])
async def test_an_answer_to_a_question_that_is_not_read(stays: bool, tmp_path: Path) -> None:
    """1. The backend answers a large question without reading it, and closes, or does nothing more. 2. That is the
    answer; nobody is asked a second time."""
    listener = Listener(tmp_path, "unix")
    async with running(ASK.format(path=tmp_path / "up.sock")) as relay:
        client = await relay.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asks, client)
            sock = await listener.accept()
            await read_some(sock, b"\r\n\r\n")
            sock.send(JSON)
            if not stays:
                sock.close()
            with trio.fail_after(LIMIT):
                head, body = await client.head(), await client.until(b"0\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        kinds = [json.loads(event.data)["type"] for event in read(dechunked(body))]
        assert kinds[0] == "start"
        assert kinds[-1] == "complete"
        assert listener.nobody_else()
        sock.close()
    listener.sock.close()


@pytest.mark.parametrize("stays", [True, False], ids=["stays", "closes"])
async def test_a_refusal_of_a_job_that_is_not_read(stays: bool, tmp_path: Path) -> None:
    listener = Listener(tmp_path, "unix")
    async with running(JOB.format(path=tmp_path / "up.sock")) as relay:
        client = await relay.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asks, client)
            sock = await listener.accept()
            await read_some(sock, b"\r\n\r\n")
            sock.send(REFUSAL)
            if not stays:
                sock.close()
            with trio.fail_after(LIMIT):
                said = await client.until(b"enqueue_refused")
        assert b"HTTP/1.1 200 " in said
        assert (await relay.line())["ending"] == "upstream_failed"
        assert listener.nobody_else()
        sock.close()
    listener.sock.close()
