"""The promise: clients that are slow on purpose end by their deadlines, in bounded memory, while a
stream beside them goes on. slowhttptest plays them: heads, bodies and reads without end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.guarantees.relay_processes import upstream
from tests.harness import EVENT_HEAD, RawPeer, Upstream, chunked
from tests.interop.processes import Server, require, start_relay

ATTACKERS = 200
GROWTH = 32 * 1024 * 1024  # bytes that 200 attackers may cost: 160 KiB each, sockets' buffers apart
SECONDS = 6  # that an attack lasts; each deadline below is shorter

CONFIG = """
[server]
listen = "${{LISTEN}}"
[timeouts]
request_head = "1s"
request_body_idle = "1s"
write = "1s"
drain = "1s"
[upstreams.stream]
url = "{stream}"
[upstreams.victim]
url = "{victim}"
[[routes]]
path = "/stream"
upstream = "stream"
[[routes]]
path = "/{{rest...}}"
upstream = "victim"
"""
# mode → options of slowhttptest
MODES = {
    "heads": ["-H", "-i", "2", "-x", "24"],
    "bodies": ["-B", "-i", "2", "-s", "8192", "-x", "10", "-t", "POST"],
    "reads": ["-X", "-n", "1", "-z", "32", "-w", "512", "-y", "1024", "-k", "1"],
}


async def victim(stream: trio.SocketStream) -> None:
    """Takes every body, and answers a GET with more than any buffer holds."""
    try:
        head = await stream.receive_some(65536)
        if head.startswith(b"GET "):
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
            await stream.send_all(bytes(100_000_000))
        while await stream.receive_some(65536):
            pass
    except trio.BrokenResourceError:
        pass
    finally:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def attacked() -> AsyncIterator[tuple[Server, Upstream]]:
    async with upstream() as up, trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, victim, 0, host="127.0.0.1")
        [listener] = await nursery.start(serve)
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        with start_relay(CONFIG.format(stream=up.url, victim=url)) as server:
            yield server, up
        nursery.cancel_scope.cancel()


def resident(server: Server) -> int:
    """The process's memory, in bytes."""
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise LookupError("no VmRSS")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
async def test_slow_clients_end_by_their_deadlines(mode: str, tmp_path: Path) -> None:
    program = require("slowhttptest")
    async with attacked() as (server, up):
        client = await RawPeer.connect(server.port)
        await client.send(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD + chunked(b"data: 0\n\n"))
        await client.until(b"data: 0\n\n\r\n")
        before = resident(server)
        most = before
        count = ["-c", str(ATTACKERS), "-r", str(ATTACKERS), "-l", str(SECONDS), "-p", "5"]
        command = [program, *MODES[mode], *count, "-u", f"{server.url}/up"]
        async with trio.open_nursery() as nursery:

            async def attack() -> None:
                await trio.run_process(command, check=False, capture_stdout=True)
                over.set()

            over = trio.Event()
            nursery.start_soon(attack)
            number = 0
            while not over.is_set():
                number += 1
                await peer.send(chunked(b"data: %d\n\n" % number))
                await client.until(b"data: %d\n\n\r\n" % number)
                most = max(most, resident(server))
                await trio.sleep(0.02)  # events of an ordinary stream: 50 a second
        ended = [each for each in server.records if each["at"] == "end"]
        assert {each["ending"] for each in ended} <= {"client_stalled", "client_left"}
        stalled = [each for each in ended if each["ending"] == "client_stalled"]
        # The others came so late, on busy cores, that the attack was over before their deadline.
        assert len(stalled) >= ATTACKERS / 2
        assert most - before < GROWTH
        client.close()
        peer.close()
