"""What a client sees of a cut over HTTP/2, through each terminator that speaks it.

docs/how-to/behind-a-terminator.md says this in its table; the versions are those of Debian 12.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest
import trio

from tests.harness import EVENT_HEAD, LIMIT, chunked
from tests.interop.test_terminators import (
    CLIENT,
    NAME,
    TERMINATORS,
    Setup,
    Terminator,
    setup_of,
)

pytestmark = pytest.mark.interop
HTTP2 = [each for each in TERMINATORS if each.name in ("nginx", "haproxy", "caddy")]
each = pytest.mark.parametrize("terminator", HTTP2, ids=lambda terminator: terminator.name)
PLAIN_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
COUNTED_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


class H2Client:
    """One GET over HTTP/2. `ended` says how its response did: "end", "reset" or "short"."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.body = b""
        self.ended = ""

    @classmethod
    async def open(cls, setup: Setup) -> H2Client:
        context = setup.context()
        context.set_alpn_protocols(["h2"])
        tcp = await trio.open_tcp_stream("127.0.0.1", setup.port, local_address=CLIENT)
        stream = trio.SSLStream(tcp, context, server_hostname=NAME, https_compatible=True)
        await stream.do_handshake()
        assert stream.selected_alpn_protocol() == "h2"
        client = cls(stream)
        fields = {":method": "GET", ":path": "/", ":scheme": "https", ":authority": NAME}
        client.h2.initiate_connection()
        client.h2.send_headers(1, list(fields.items()), end_stream=True)
        await stream.send_all(client.h2.data_to_send())
        return client

    async def read(self, until: bytes = b"") -> None:
        """Up to these bytes of the body, or else to the end of the response."""
        with trio.fail_after(LIMIT):
            while not self.ended and not (until and until in self.body):
                data = await self._stream.receive_some(65536)
                assert data, "the connection ended"
                self._take(bytes(data))
                await self._stream.send_all(self.h2.data_to_send())

    def _take(self, data: bytes) -> None:
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.InvalidBodyLengthError:
            self.ended = "short"
            return
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                self.body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, 1)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended = "end"
            elif isinstance(event, h2.events.StreamReset):
                self.ended = "reset"

    def close(self) -> None:
        self._stream.transport_stream.socket.close()


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that a terminator which is not root can read."""
    with tempfile.TemporaryDirectory(prefix="relay-tls-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


async def cut(terminator: Terminator, place: Path, head: bytes, *pieces: bytes) -> H2Client:
    """What a client sees of a response whose upstream breaks behind these pieces."""
    async with setup_of(terminator, place) as setup:
        client = await H2Client.open(setup)
        peer, _ = await setup.upstream.request()
        await peer.send(head)
        for piece in pieces:
            await peer.send(piece)
            if piece is not pieces[-1]:
                await client.read(until=b"data: 0\n\n")
        peer.close()
        await client.read()
        client.close()
        return client


@each
async def test_an_event_stream(terminator: Terminator, place: Path) -> None:
    """The terminal event arrives; only nginx passes the cut on as well."""
    first, half = chunked(b"data: 0\n\n"), chunked(b"data: hal")
    client = await cut(terminator, place, EVENT_HEAD, first, half)
    assert b'"code":"upstream_broke"' in client.body
    assert b"hal" not in client.body
    assert client.ended == ("reset" if terminator.name == "nginx" else "end")


@each
async def test_a_body_of_unknown_length(terminator: Terminator, place: Path) -> None:
    """There is no place for words in it: behind HAProxy and Caddy it looks whole."""
    first, half = chunked(b"data: 0\n\n"), chunked(b"data: hal")
    client = await cut(terminator, place, PLAIN_HEAD, first, half)
    assert client.ended == ("reset" if terminator.name == "nginx" else "end")


@each
async def test_a_body_of_known_length(terminator: Terminator, place: Path) -> None:
    """Its length tells, whatever the terminator does."""
    client = await cut(terminator, place, COUNTED_HEAD, b"data: 0\n\ndata: hal")
    assert client.ended in ("reset", "short")
