"""TLS terminators in front of relay, each with what `relay terminator` prints for it and for relay: events pass one by
one, the log and the backend know the client, and a client that leaves ends the backend's work.

Only the port is exchanged. The client comes from 127.0.0.7, so that
its address cannot be mistaken for the terminator's.
"""

from __future__ import annotations

import io
import itertools
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trustme

from relay.cli import main
from tests.guarantees.relay_processes import upstream
from tests.harness import EVENT_HEAD, RawPeer, Upstream, chunked
from tests.interop.processes import Server, free_port, require, start, start_relay

CLIENT = "127.0.0.7"
NAME = "app.example"

pytestmark = pytest.mark.interop


@dataclass(frozen=True)
class Terminator:
    """One set-up of `relay terminator`, and what this machine wants otherwise."""

    name: str
    changes: Callable[[int], dict[str, str]]
    """From the port to what is exchanged in the file."""
    options: tuple[str, ...]
    around: str = "{}"
    file: str = "terminator.conf"
    tells_tls: bool = True
    shows_a_cut: bool = True  # Caddy 2.6 ends a response that was cut as if it were whole

    @property
    def program(self) -> str:
        return self.name.partition("-")[0]


NGINX = """
worker_processes 1; daemon off; error_log stderr warn; pid FOLDER/nginx.pid;
events {{ worker_connections 256; }}
http {{
  access_log off; client_body_temp_path FOLDER/body; proxy_temp_path FOLDER/proxy;
  fastcgi_temp_path FOLDER/f; uwsgi_temp_path FOLDER/u; scgi_temp_path FOLDER/s;
  {}
}}
"""
CADDY = """{{
	admin off
	auto_https off
}}
{}"""


def haproxy(port: int) -> dict[str, str]:
    """Of the descriptors of a test machine it gets fewer."""
    return {" :443 ": f" 127.0.0.1:{port} ", "maxconn 20000": "maxconn 100"}


TERMINATORS = [
    Terminator(
        "nginx",
        lambda port: {"listen 443 ": f"listen 127.0.0.1:{port} "},
        ("-e", "stderr", "-c"),
        NGINX,
    ),
    Terminator("haproxy-tcp", haproxy, ("-db", "-f")),
    Terminator("haproxy", haproxy, ("-db", "-f")),
    Terminator(
        "hitch",
        lambda port: {'host = "*"': 'host = "127.0.0.1"', 'port = "443"': f'port = "{port}"'},
        ("--user=nobody", "--config"),
    ),
    Terminator(
        "stunnel",
        lambda port: {"accept = 443": f"accept = 127.0.0.1:{port}"},
        (),
        tells_tls=False,
    ),
    Terminator(
        "caddy",
        lambda port: {f"{NAME} {{": f"https://{NAME}:{port} {{\n\tbind 127.0.0.1"},
        ("run", "--adapter", "caddyfile", "--config"),
        CADDY,
        shows_a_cut=False,
    ),
]
ROUTES = """
[upstreams.backend]
url = "{url}"
[[routes]]
path = "/{{rest...}}"
upstream = "backend"
"""


def printed(*arguments: str) -> str:
    """What `relay terminator` says."""
    said = io.StringIO()
    with redirect_stdout(said):
        assert main(["terminator", *arguments]) == 0
    return said.getvalue()


def relays_half(text: str) -> str:
    """The relay.toml that stands as a comment in such a file."""
    lines = [line[1:] for line in text.splitlines() if line[:1] in ("#", ";")]
    start = lines.index(" relay's half, in its relay.toml:") + 2
    half = itertools.takewhile(lambda line: line.startswith("   ") or not line, lines[start:])
    return "\n".join(line.strip() for line in half)


class TlsPeer(RawPeer):
    """The client's end of a connection by TLS."""

    stream: trio.SSLStream[trio.SocketStream]  # type: ignore[assignment]

    def close(self) -> None:
        self.stream.transport_stream.socket.close()


class Setup:
    """Terminator ─► relay with these upstreams and routes."""

    def __init__(self, terminator: Terminator, folder: Path, routes: str, relay: str = "") -> None:
        """`relay`: where it listens; a unix socket in `folder` by itself."""
        self.terminator = terminator
        self._address = relay or f"unix:{folder}/relay.sock"
        self._routes = routes
        self.upstream: Upstream  # where the test plays it
        self._folder = folder
        self._authority = trustme.CA()
        certificate = self._authority.issue_cert(NAME)
        both = certificate.private_key_and_cert_chain_pem.bytes()
        chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
        key = certificate.private_key_pem.bytes()
        self._both, self._chain, self._key = (
            self._written(name, data)
            for name, data in (("both.pem", both), ("chain.pem", chain), ("key.pem", key))
        )
        self.port = free_port()
        self.relay: Server

    def _written(self, name: str, data: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(data)
        path.chmod(0o644)
        return path

    @contextmanager
    def running(self) -> Iterator[Setup]:
        terminator = self.terminator
        if terminator.program in ("haproxy", "hitch"):
            files = ["--certificate", str(self._both)]
        else:
            files = ["--certificate", str(self._chain), "--key", str(self._key)]
        place = ["--host", NAME, "--relay", self._address]
        text = printed(terminator.name, *place, *files)
        # Its workers are in no group of ours.
        half = relays_half(text).replace("mode=660", "mode=666")
        text = exchanged(text, terminator.changes(self.port))
        text = terminator.around.format(text).replace("FOLDER", str(self._folder))
        path = self._folder / terminator.file
        path.write_text(text)
        program = require(terminator.program)
        with start_relay(half + self._routes) as self.relay:
            home = {"HOME": str(self._folder)}  # Caddy keeps its state there
            with start([program, *terminator.options, path], env=home, port=self.port):
                yield self

    def context(self) -> ssl.SSLContext:
        """For a client that trusts the terminator's certificate."""
        context = ssl.create_default_context()
        self._authority.configure_trust(context)
        return context

    async def client(self) -> TlsPeer:
        context = self.context()
        tcp = await trio.open_tcp_stream("127.0.0.1", self.port, local_address=CLIENT)
        stream = trio.SSLStream(tcp, context, server_hostname=NAME, https_compatible=True)
        return TlsPeer(stream)  # type: ignore[arg-type]


def exchanged(text: str, changes: dict[str, str]) -> str:
    for before, after in changes.items():
        assert before in text, f"{before!r} is not in the file any more"
        text = text.replace(before, after)
    return text


@asynccontextmanager
async def setup_of(terminator: Terminator, folder: Path, relay: str = "") -> AsyncIterator[Setup]:
    async with upstream() as up:
        routes = ROUTES.format(url=up.url)
        with Setup(terminator, folder, routes, relay).running() as built:
            built.upstream = up
            yield built


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's: some terminators leave root behind, and have to get there."""
    with tempfile.TemporaryDirectory(prefix="relay-tls-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


each = pytest.mark.parametrize("terminator", TERMINATORS, ids=lambda terminator: terminator.name)
GET = b"GET /stream HTTP/1.1\r\nHost: app.example\r\n\r\n"


async def begin(setup: Setup) -> tuple[TlsPeer, RawPeer, bytes]:
    """A stream under way: the client, the upstream's end, and the head it got."""
    client = await setup.client()
    await client.send(GET)
    peer, head = await setup.upstream.request()
    await peer.send(EVENT_HEAD + chunked(b"data: 0\n\n"))
    await client.until(b"data: 0\n\n")
    return client, peer, head


@each
async def test_events_pass_one_by_one_and_the_end_is_clean(
    terminator: Terminator, folder: Path
) -> None:
    """Each is sent when the one before has arrived: whoever holds one back stops everything."""
    async with setup_of(terminator, folder) as setup:
        client, peer, _ = await begin(setup)
        for n in range(1, 20):
            await peer.send(chunked(b"data: %d\n\n" % n))
            await client.until(b"data: %d\n\n" % n)
        await peer.send(b"0\r\n\r\n")
        await client.until(b"0\r\n\r\n")
        client.close()


@pytest.mark.parametrize("port", [False, True], ids=["at a socket", "at a port"])
@each
async def test_the_client_is_known(terminator: Terminator, folder: Path, port: bool) -> None:
    async with setup_of(terminator, folder, f"127.0.0.1:{free_port()}" * port) as setup:
        client, peer, head = await begin(setup)
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        assert fields[b"x-forwarded-for"].split(b",")[0] == CLIENT.encode()
        assert fields[b"x-forwarded-host"] == NAME.encode()
        assert fields[b"x-forwarded-proto"] == (b"https" if setup.terminator.tells_tls else b"http")
        assert fields[b"forwarded"].startswith(b"for=127.0.0.7;host=app.example;proto=")
        assert (
            setup.relay.wait_for_record(lambda record: record["at"] == "start")["client"] == CLIENT
        )
        client.close()
        peer.close()


@each
async def test_the_clients_own_claims_do_not_pass(terminator: Terminator, folder: Path) -> None:
    async with setup_of(terminator, folder) as setup:
        client = await setup.client()
        lies = b"X-Forwarded-For: 10.9.9.9\r\nX-Forwarded-Host: evil\r\nForwarded: for=10.9.9.9\r\n\r\n"
        await client.send(GET.replace(b"\r\n\r\n", b"\r\n" + lies))
        peer, head = await setup.upstream.request()
        assert b"10.9.9.9" not in head
        assert b"evil" not in head
        client.close()
        peer.close()


@pytest.mark.parametrize("silent", [True, False], ids=["while it waits", "in mid-stream"])
@each
async def test_a_client_that_leaves_ends_the_backends_work(
    terminator: Terminator, folder: Path, silent: bool
) -> None:
    """Through both: the upstream's connection ends, although nothing more was to be written."""
    async with setup_of(terminator, folder) as setup:
        if silent:
            client = await setup.client()
            await client.send(GET)
            peer, _ = await setup.upstream.request()
        else:
            client, peer, _ = await begin(setup)
        client.close()
        await peer.ended()
        peer.close()  # a tunnel has two ends, and is over when both are
        record = setup.relay.wait_for_record(lambda record: record["at"] == "end")
        assert record["ending"] == "client_left"


@each
async def test_a_cut_stream_says_so(terminator: Terminator, folder: Path) -> None:
    """The upstream dies inside an event: a terminal event arrives, and no clean end behind it."""
    async with setup_of(terminator, folder) as setup:
        client, peer, _ = await begin(setup)
        await peer.send(chunked(b"data: hal"))
        peer.reset()
        seen = await client.until(b"upstream_broke")
        assert b"data: hal\n" not in seen
        if terminator.shows_a_cut:
            assert not (await client.rest()).endswith(b"0\r\n\r\n")
        client.close()


@pytest.mark.parametrize("name", ["nginx", "haproxy", "caddy"])
async def test_a_websocket_passes(name: str, folder: Path) -> None:
    """Through those that speak HTTP, which must be told to pass it."""
    [terminator] = [each for each in TERMINATORS if each.name == name]
    ask = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    ask += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    async with setup_of(terminator, folder) as setup:
        client = await setup.client()
        await client.send(b"GET /socket HTTP/1.1\r\nHost: app.example\r\n" + ask)
        peer, head = await setup.upstream.request()
        assert b"websocket" in head.lower()
        answer = (
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        )
        await peer.send(answer + b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
        await client.until(b"\r\n\r\n")
        await client.send(b"\x81\x82\0\0\0\0up")
        await peer.until(b"up")
        await peer.send(b"\x81\x04down")
        await client.until(b"down")
        client.close()
        await peer.ended()
        peer.close()  # a tunnel has two ends, and is over when both are
