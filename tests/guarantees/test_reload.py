"""The promise: a reload cuts nothing. New exchanges take the new file, running ones keep theirs;
listeners that stay are never closed; a file with a mistake changes nothing."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import trio

from tests.guarantees.relay_processes import children_of, stream, upstream
from tests.harness import LIMIT, RawPeer, chunked
from tests.interop.processes import Server, free_port, start, start_relay

STREAMS = 500

FILE = """
[server]
listen = [{listen}]
workers = {workers}
access_log = "{log}"
[timeouts]
drain = "1s"
[limits]
connections = {connections}
[upstreams.backend]
url = "{url}"
[[routes]]
path = "/{{rest...}}"
upstream = "backend"
response_headers = {{ X-File = "{number}" }}
[[routes]]
path = "/file"
source = "local"
[routes.local]
body = "{number}"
"""


class File:
    """A configuration that changes."""

    def __init__(self, folder: Path, url: str, workers: int = 1) -> None:
        self.path = folder / "relay.toml"
        self.values = {
            "listen": '"127.0.0.1:0"',
            "workers": workers,
            "log": "stdout",
            "connections": 10_000,
            "url": url,
            "number": 0,
        }
        self.write()

    def write(self, **changes: object) -> None:
        self.values.update(changes)
        self.values["number"] = int(str(self.values["number"])) + 1
        self.path.write_text(FILE.format(**self.values))

    @contextmanager
    def served(self) -> Iterator[Server]:
        with start_relay(self.path) as server:
            yield server


def text_of(url: str, uds: str | None = None) -> str:
    """What a new connection gets."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=uds)) as client:
        return client.get(url).text


def reload(server: Server, says: str = "reloaded") -> None:
    """SIGHUP, and wait until it says what came of it."""
    before = server.stderr.text.count(says)
    server.process.send_signal(signal.SIGHUP)
    wait_for_count(server, says, before + 1)


def wait_for_count(server: Server, text: str, count: int) -> None:
    found = 0

    def enough(line: str) -> bool:
        nonlocal found
        found += text in line
        return found >= count

    server.stderr.wait_for(enough)


async def until_number(server: Server, number: int) -> None:
    """Until every worker has taken the file (each new connection may meet another one)."""
    with trio.fail_after(10):
        while True:
            seen = {text_of(f"{server.url}/file") for _ in range(16)}
            if seen == {str(number)}:
                return
            await trio.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
async def test_five_hundred_streams_live_through_three_reloads(
    tmp_path: Path, workers: int
) -> None:
    async with upstream() as up:
        file = File(tmp_path, up.url, workers)
        with file.served() as server:
            streams = [await stream(server, up) for _ in range(STREAMS)]
            for round_number in (2, 3, 4):
                file.write()
                reload(server)
                await until_number(server, round_number)
                for client, peer in streams:
                    await peer.send(chunked(b"data: %d\n\n" % round_number))
                    await client.until(b"data: %d\n\n\r\n" % round_number)
            for client, peer in streams:
                await peer.send(b"0\r\n\r\n")
                await client.until(b"0\r\n\r\n")


async def test_a_running_exchange_keeps_the_file_it_started_with(tmp_path: Path) -> None:
    """1. A request waits for its answer. 2. The file changes. 3. The answer comes: the old file's
    field is on it. 4. The next request on the same connection has the new file's."""
    async with upstream() as up:
        file = File(tmp_path, up.url)
        with file.served() as server:
            client = await RawPeer.connect(server.port)
            for number in (b"1", b"2"):
                await client.send(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
                peer, _ = await up.request()
                if number == b"1":
                    file.write()
                    reload(server)
                await peer.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
                assert b"x-file: " + number in (await client.head()).lower()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"url": "ftp://x"}, "upstreams.backend.url (line 11): "),
        ({"log": "/no/where/log"}, "the access log /no/where/log cannot be opened"),
        ({"listen": '"127.0.0.1:0", "192.0.2.1:80"'}, "cannot listen on 192.0.2.1:80"),
        ({"listen": '"127.0.0.1:0", "fd:77"'}, "cannot listen on fd:77"),
    ],
)
async def test_a_mistake_changes_nothing(
    tmp_path: Path, workers: int, changes: dict[str, object], reason: str
) -> None:
    async with upstream() as up:
        file = File(tmp_path, up.url, workers)
        with file.served() as server:
            client, peer = await stream(server, up)
            file.write(**changes)
            reload(server, "is refused, nothing changes")
            server.stderr.wait_for(reason)
            assert text_of(f"{server.url}/file") == "1"
            await peer.send(chunked(b"data: 1\n\n"))
            await client.until(b"data: 1\n\n\r\n")


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_reload_leaves_a_descriptor_behind(tmp_path: Path, workers: int) -> None:
    """Refused for any reason, late or early, or taken and taken back: all processes hold what they
    held."""
    free, sock_file, fifo = free_port(), tmp_path / "r.sock", tmp_path / "fifo"
    os.mkfifo(fifo)
    log = tmp_path / "access.log"
    (tmp_path / "secret").write_text("x")
    with socket.create_server(("127.0.0.1", 0), reuse_port=False) as taken:
        here = f'"127.0.0.1:0", "127.0.0.1:{free}", "unix:{sock_file}"'
        there = f'"127.0.0.1:{taken.getsockname()[1]}"'
        refused: list[dict[str, object]] = [
            {"listen": f"{here}, {there}", "log": log},
            {"listen": f"{here}, {there}", "log": fifo},
            {"listen": f"{here}, {there}", "log": "stderr"},
            {"listen": f'{here}, "fd:77"', "log": log},
            {"listen": here, "log": "/no/where"},
            {"listen": here, "log": log, "url": "ftp://x"},
            {"listen": here, "log": log, "url": "{file:./none}"},
        ]
        taken_and_back: list[dict[str, object]] = [{"listen": here, "log": log}, {"log": fifo}]
        async with upstream() as up:
            file = File(tmp_path, up.url, workers)
            with file.served() as server:
                good = dict(file.values)
                await until_number(server, 1)
                before = descriptors_of(server)
                for _ in range(4):
                    for changes in refused:
                        file.write(**{**good, **changes})
                        reload(server, "is refused, nothing changes")
                    for changes in (*taken_and_back, {}):
                        file.write(**{**good, **changes})
                        reload(server)
                        await until_number(server, int(str(file.values["number"])))
                # A connection that is just being closed may be among those before, and a listener
                # lingers for a moment among those after.
                with trio.move_on_after(LIMIT):
                    while more_than(before, descriptors_of(server)):  # noqa: ASYNC110
                        await trio.sleep(0.01)
                assert not more_than(before, descriptors_of(server))


def descriptors_of(server: Server) -> list[dict[str, int]]:
    """How many of each kind the supervisor, and each of its children, has."""
    return [kinds_of(pid) for pid in (server.pid, *children_of(server.pid))]


def more_than(before: list[dict[str, int]], now: list[dict[str, int]]) -> list[str]:
    assert len(now) == len(before)
    return [
        f"{kind}: {count}, not {past.get(kind, 0)}"
        for past, present in zip(before, now, strict=True)
        for kind, count in present.items()
        if count > past.get(kind, 0)
    ]


def kinds_of(pid: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            kind = os.readlink(f"/proc/{pid}/fd/{fd}").partition("[")[0]
            found[kind] = found.get(kind, 0) + 1
    return found


async def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    async with upstream() as up:
        file = File(tmp_path, up.url)
        with file.served() as server:
            file.path.unlink()
            reload(server, "is refused, nothing changes")
            assert text_of(f"{server.url}/file") == "1"


@pytest.mark.parametrize("workers", [1, 2])
async def test_listeners_come_stay_and_go(tmp_path: Path, workers: int) -> None:
    """The one that stays serves the same connection throughout; the one that goes is refused, and
    the connections through it go on."""
    stays, goes, comes = free_port(), free_port(), free_port()
    old_socket, new_socket = tmp_path / "old.sock", tmp_path / "new.sock"
    async with upstream() as up:
        file = File(tmp_path, up.url, workers)
        file.write(listen=f'"127.0.0.1:{stays}", "127.0.0.1:{goes}", "unix:{old_socket}"')
        with file.served() as server, ExitStack() as clients:
            one, two = (
                clients.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}"))
                for port in (stays, goes)
            )
            assert one.get("/file").text == two.get("/file").text == "2"
            file.write(listen=f'"127.0.0.1:{comes}", "127.0.0.1:{stays}", "unix:{new_socket}"')
            reload(server)
            await until_port(comes)
            assert one.get("/file").text == "3"
            assert two.get("/file").text == "3"  # its connection was there before
            await until_refused(goes)
            assert not old_socket.exists()
            assert text_of("http://x/file", uds=str(new_socket)) == "3"
            assert server.stderr.text.count(f"listening on 127.0.0.1:{stays}") == 1
            assert server.stderr.text.count(f"listening on 127.0.0.1:{comes}") == 1
        assert not new_socket.exists()


async def until_port(port: int) -> None:
    with trio.fail_after(10):
        while True:
            try:
                assert text_of(f"http://127.0.0.1:{port}/file") == "3"
            except httpx.ConnectError:
                await trio.sleep(0.01)
            else:
                return


async def until_refused(port: int) -> None:
    with trio.fail_after(10):
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), 5):
                    await trio.sleep(0.01)
            except ConnectionRefusedError:
                return


async def test_limits_take_effect_at_once(tmp_path: Path) -> None:
    """1. One connection is allowed, and there. 2. A second one waits. 3. A reload allows two: it
    is served."""
    async with upstream() as up:
        file = File(tmp_path, up.url)
        file.write(connections=1)
        with file.served() as server:
            first, _ = await stream(server, up)
            second = await RawPeer.connect(server.port)
            await second.send(b"GET /file HTTP/1.1\r\nHost: a\r\n\r\n")
            file.write(connections=2)
            reload(server)
            assert b" 200 " in await second.head()
            first.close()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_moved_log_is_opened_anew(tmp_path: Path, workers: int) -> None:
    """What logrotate does: the file is renamed, then SIGHUP."""
    log, old = tmp_path / "access.log", tmp_path / "access.log.1"
    async with upstream() as up:
        file = File(tmp_path, up.url, workers)
        file.write(log=log)
        with file.served() as server:
            text_of(f"{server.url}/file?one")
            os.rename(log, old)
            file.write()
            reload(server)
            await until_number(server, 3)
            before = old.read_text().count('"end"')
            for _ in range(8):
                text_of(f"{server.url}/file")
            with trio.fail_after(10):
                while log.read_text().count('"end"') < 8:  # noqa: ASYNC110 - a file
                    await trio.sleep(0.01)
            assert old.read_text().count('"end"') == before >= 1


def test_forward_has_nothing_to_reload() -> None:
    command = [sys.executable, "-m", "relay", "forward", "http://127.0.0.1:9", "--listen"]
    with start([*command, "127.0.0.1:0"], says="relay: listening on ") as server:
        reload(server, "is refused, nothing changes: there is no file to read again")


async def test_what_only_a_restart_can_change_is_named(tmp_path: Path) -> None:
    async with upstream() as up:
        file = File(tmp_path, up.url)
        with file.served() as server:
            file.write(workers=2)
            reload(server)
            server.stderr.wait_for(
                "server.workers has changed: that takes effect at the next start"
            )
