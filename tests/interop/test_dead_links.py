"""The promise: a client whose link dies without a word does not keep its upstream running: it is noticed within
`write` and 15 seconds. A veth pair between two network namespaces, one end of which goes down."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from relay.wires import dead_links
from tests.harness import EVENT_HEAD, chunked, scene, settle
from tests.interop.processes import ROOT, require

WRITE = 1.0  # seconds; in the configuration of dead_link.py
SCRIPT = Path(__file__).parent / "dead_link.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("route", "every"),
    [('heartbeat = "off"', 0.2), ('heartbeat = "500ms"', 0.0), ('heartbeat = "off"', 0.0)],
    ids=["tokens trickle", "heartbeats alone", "silence"],
)
def test_a_client_whose_link_dies(route: str, every: float) -> None:
    require("ip")
    namespace = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-Urn"]
    ran = subprocess.run(
        [*namespace, sys.executable, str(SCRIPT), route, str(every)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "Operation not permitted" in ran.stderr and os.environ.get("RELAY_CI") != "1":
        pytest.skip("no network namespace may be made here")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["seconds"] <= WRITE + 15
    assert (found["record"]["ending"], found["record"]["side"]) == ("client_left", "client")


def options(sock: socket.socket) -> tuple[int, int, int, int]:
    tcp = socket.IPPROTO_TCP
    return (
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        sock.getsockopt(tcp, socket.TCP_KEEPIDLE),
        sock.getsockopt(tcp, socket.TCP_KEEPINTVL),
        sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT),
    )


async def test_what_the_kernel_is_told() -> None:
    """A client's socket has the limit of its route's `write`, an upstream's none: it may take its time to read."""
    more = """
        [timeouts]
        write = "20s"
        [[routes]]
        path = "/long"
        upstream = "backend"
        [routes.timeouts]
        write = "off"
        """
    async with scene('timeouts = { write = "2s" }', more=more) as (relay, up):
        client = await relay.client()
        seen = []
        for path in ("/", "/long", "/"):
            await client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            peer, _ = await up.request()
            await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
            await client.until(b"data: 1")
            [connection] = relay.server.connections
            seen.append(options(connection.wire.sock))  # type: ignore[union-attr]
            await peer.send(b"0\r\n\r\n")
            await client.until(b"0\r\n\r\n")
            peer.close()
        probes = (1, dead_links.QUIET, dead_links.BETWEEN)
        assert seen == [(*probes, 7000), (*probes, 0), (*probes, 7000)]

        other = await relay.client()
        await other.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        peer, _ = await up.request()
        [origin] = [origin for group in relay.worker.groups for origin in group.origins]
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await other.head()
        [wire] = origin.idle
        assert options(wire.sock) == (*probes, 0)


async def test_what_is_accepted_inherits() -> None:
    """Linux gives an accepted socket what its listener has; nothing is set for each connection."""
    async with scene(more='[timeouts]\nwrite = "20s"') as (relay, _):
        await relay.client()
        await settle(lambda: len(relay.server.connections) == 1)
        [connection] = relay.server.connections
        assert options(connection.wire.sock)[3] == 25_000  # type: ignore[union-attr]
