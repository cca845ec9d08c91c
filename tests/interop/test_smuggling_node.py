"""An attack on a stock Node server: the rest of one client's body is read as a request that no route of relay has seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from tests.harness import LIMIT, RawPeer
from tests.interop.processes import Server, free_port, require, start, start_relay

pytestmark = pytest.mark.interop

SERVER = Path(__file__).with_name("early.mjs")
BUSY = 50  # milliseconds until Node refuses; meanwhile relay reads what the client sends
ENDLESS = 32 * 1024 * 1024
DOOR = b"GET /internal/secrets HTTP/1.1\r\nHost: a\r\nX-Api-Key: forged\r\n\r\n"
SEEN = {
    "POST /upload relays-own",
    "POST /open relays-own",
    "nonsense HPE_INVALID_EOF_STATE",  # a refused upload ends with its connection
    "nonsense ECONNRESET",
}
CONFIG = """
[server]
listen = ["${{LISTEN}}"]
[upstreams.node]
url = "{url}"
request_headers = {{ X-Api-Key = "relays-own" }}
[[routes]]
path = "/internal/{{rest...}}"
source = "local"
[routes.local]
status = 403
[[routes]]
path = "/{{rest...}}"
upstream = "node"
"""


@contextmanager
def scene(kind: str, folder: Path) -> Iterator[tuple[Server, Server]]:
    """Relay in front of Node, over TCP or a unix socket."""
    path = folder / "node.sock"
    port = free_port()
    where, url = (path, f"unix:{path}") if kind == "unix" else (port, f"http://127.0.0.1:{port}")
    with (
        start([require("node"), SERVER, str(where), str(BUSY)], says="ready") as node,
        start_relay(CONFIG.format(url=url)) as relay,
    ):
        yield relay, node


async def send(peer: RawPeer, data: bytes) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await peer.stream.send_all(data)


async def upload(relay: Server, size: int) -> int:
    """A refused upload, and how much of it relay had read when the refusal was over."""
    known = len(relay.records)
    peer = await RawPeer.connect(relay.port)
    head = b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, peer, head + bytes(size))
        assert (await peer.head()).startswith(b"HTTP/1.1 401 ")
        assert await peer.exactly(2) == b"no"
        nursery.cancel_scope.cancel()
    peer.close()
    with trio.fail_after(LIMIT):
        while len(relay.records) == known:  # noqa: ASYNC110 - a thread reads them
            await trio.sleep(0.001)
    read = relay.records[known]["bytes_in"]
    assert isinstance(read, int)
    return read


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_the_rest_of_a_body_is_no_request(kind: str, tmp_path: Path) -> None:
    """1. Node answers 401 while a part of the upload is still relay's. 2. The attacker's next body first fills the gap,
    if it comes on the same connection, and then knocks at the guarded door. 3. The door stays shut, and everybody gets
    the answer to his own question."""
    with scene(kind, tmp_path) as (relay, node):
        full = await upload(relay, ENDLESS)
        assert full < ENDLESS
        filler = b"\r\n" * 256 * 1024 + DOOR  # empty lines before a request are skipped
        for size in range(max(full - 256 * 1024, 1024), full + 512 * 1024, 24 * 1024):
            await upload(relay, size)
            attacker = await RawPeer.connect(relay.port)
            head = b"POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(filler)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, attacker, head + filler)
                assert (await attacker.head()).startswith(b"HTTP/1.1 200 ")
                nursery.cancel_scope.cancel()
            attacker.close()
        # What is not one of these was never asked of relay, or made of the pieces of two requests.
        assert set(node.stdout.lines) <= SEEN
