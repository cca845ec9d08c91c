"""Relay as real processes, with clients and upstream in the test's own loop; and what /proc tells
of them: who serves whom, and who is still there."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import trio

from tests.harness import EVENT_HEAD, LIMIT, RawPeer, Upstream, chunked, route_to
from tests.interop.processes import Server, start_relay, wait_until

LOCAL = """
[server]
listen = [{listen}]
workers = {workers}
[timeouts]
drain = "5s"
[[routes]]
path = "/"
source = "local"
[routes.local]
body = "here"
"""


def local(listen: str, workers: int = 1) -> str:
    """A relay that answers by itself."""
    return LOCAL.format(listen=f'"{listen}"', workers=workers)


@contextmanager
def relay(upstream: Upstream, *, workers: int = 1, route: str = "") -> Iterator[Server]:
    """`relay serve` with one catch-all route to `upstream`."""
    more = f'[server]\nlisten = "${{LISTEN}}"\nworkers = {workers}\n'
    more += '[timeouts]\ndrain = "2s"\n'
    with start_relay(route_to(upstream, route, more=more)) as running:
        yield running


@asynccontextmanager
async def upstream() -> AsyncIterator[Upstream]:
    """An upstream played by hand. At the end every peer of the test is closed."""
    up = await Upstream.open()
    try:
        yield up
    finally:
        up.close()
        for peer in list(RawPeer.everyone):
            peer.close()


async def stream(server: Server, up: Upstream, path: str = "/s") -> tuple[RawPeer, RawPeer]:
    """An event stream under way: its client, and its upstream end."""
    client = await RawPeer.connect(server.port)
    await client.send(f"GET {path} HTTP/1.1\r\nHost: relay.test\r\n\r\n".encode())
    peer, _ = await up.request()
    await peer.send(EVENT_HEAD + chunked(b"data: 0\n\n"))
    await client.until(b"data: 0\n\n\r\n")
    return client, peer


def children_of(pid: int) -> list[int]:
    """The child processes, oldest first."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [child for child in map(int, text.split()) if not is_gone(child)]


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def stop(pid: int) -> None:
    """SIGSTOP, and wait until it stands still: the signal alone only asks for that."""
    os.kill(pid, signal.SIGSTOP)
    stat = Path(f"/proc/{pid}/stat")
    wait_until("it stands still", lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")


async def wait_gone(pid: int) -> None:
    with trio.fail_after(LIMIT):
        while not is_gone(pid):  # noqa: ASYNC110 - it is not our child
            await trio.sleep(0.005)


def owner_of(pids: list[int], client: RawPeer) -> int:
    """Which process holds relay's end of a client's connection."""
    sock = client.stream.socket
    here, there = sock.getsockname()[1], sock.getpeername()[1]
    inode = _inode_of(local=there, remote=here)
    for pid in pids:
        if f"socket:[{inode}]" in {_link(path) for path in Path(f"/proc/{pid}/fd").iterdir()}:
            return pid
    raise LookupError(f"nobody has the connection from port {here}")


def is_owner(pid: int, client: RawPeer) -> bool:
    """Whether a process is the one that serves a client."""
    try:
        return owner_of([pid], client) == pid
    except LookupError:
        return False


def _inode_of(local: int, remote: int) -> str:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if [int(fields[n].rpartition(":")[2], 16) for n in (1, 2)] == [local, remote]:
            return fields[9]
    raise LookupError(f"no connection from port {remote} to port {local}")


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""
