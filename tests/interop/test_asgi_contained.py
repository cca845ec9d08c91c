"""The promise of `relay.asgi.serve` and `python -m relay.asgi`: what one connection sends ends that connection alone.

Each message below ends all of Hypercorn 0.18, every connection and every worker (docs/technical-notes/hypercorn.md).
They are sent to a server in which somebody else reads a stream: it goes on, and the next one is served.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import pytest

from tests.interop.asgi_front import Front, H2Client, start_front
from tests.interop.processes import ROOT, Server, start, start_hypercorn, wait_until
from tests.io.test_fuzz import mutated

CONFIG = """
[upstreams.origin]
url = "{origin}"
[[routes]]
path = "/{{rest...}}"
upstream = "origin"
"""
Headers = list[tuple[bytes, bytes]]


class Attacker:
    """One HTTP/2 connection on which anything can be said."""

    def __init__(self, front: Front) -> None:
        context = front.verified()
        context.set_alpn_protocols(["h2"])
        sock = socket.create_connection(("127.0.0.1", front.server.port), timeout=20)
        self._socket = context.wrap_socket(sock, server_hostname="127.0.0.1")
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._h2.initiate_connection()
        self.statuses: dict[int, bytes] = {}
        self.over: set[int] = set()

    def begin(self, fields: Headers, *, end: bool = True) -> int:
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, fields, end_stream=end)
        self._flush()
        return stream

    def data(self, stream: int) -> None:
        self._h2.send_data(stream, b"x")
        self._flush()

    def hear(self, condition: Callable[[], bool]) -> None:
        """Until `condition`, or the end of the connection."""
        try:
            while not condition() and (data := self._socket.recv(65536)):
                for event in self._h2.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived):
                        self.statuses[event.stream_id] = dict(event.headers)[b":status"]
                    elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                        self.over.add(event.stream_id)
                self._flush()
        except (ConnectionError, ssl.SSLError):
            pass

    def _flush(self) -> None:
        self._socket.sendall(self._h2.data_to_send())

    def close(self) -> None:
        self._socket.close()


def fields(method: bytes, path: bytes, *more: tuple[bytes, bytes]) -> Headers:
    return [
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", b"x"),
        (b":path", path),
        *more,
    ]


def says(headers: Headers) -> Callable[[Front], None]:
    def attack(front: Front) -> None:
        with closing(Attacker(front)) as attacker:
            attacker.begin(headers)
            attacker.hear(lambda: False)

    return attack


EXTENDED = fields(
    b"CONNECT", b"/ws", (b":protocol", b"websocket"), (b"sec-websocket-version", b"13")
)


def data_behind_a_refused_websocket(front: Front) -> None:
    with closing(Attacker(front)) as attacker:
        stream = attacker.begin(EXTENDED, end=False)
        attacker.hear(lambda: stream in attacker.over)
        assert attacker.statuses[stream] == b"501"
        attacker.data(stream)
        attacker.hear(lambda: False)


def a_byte_behind_a_websocket_handshake(front: Front) -> None:
    sock = socket.create_connection(("127.0.0.1", front.server.port), timeout=20)
    with front.verified().wrap_socket(sock, server_hostname="127.0.0.1") as peer:
        peer.sendall(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nx"
        )
        try:
            while peer.recv(65536):
                pass
        except (ConnectionError, ssl.SSLError):
            pass


ATTACKS: dict[str, Callable[[Front], None]] = {
    "a path that is not ASCII": says(fields(b"GET", b"/\xff")),
    "a method that is not ASCII": says(fields(b"G\xff", b"/")),
    "CONNECT": says([(b":method", b"CONNECT"), (b":authority", b"x:443")]),
    "data behind a WebSocket that was refused": data_behind_a_refused_websocket,
    "a byte behind a WebSocket's handshake": a_byte_behind_a_websocket_handshake,
    "a path of a WebSocket that is not ASCII": says(
        [(name, b"/\xff" if name == b":path" else value) for name, value in EXTENDED]
    ),
}


@pytest.fixture(scope="module")
def origin() -> Iterator[Server]:
    with start_hypercorn("tests.interop.origin:app") as server:
        yield server


@pytest.fixture(scope="module", params=["0", "2"], ids=["no workers", "2 workers"])
def front(origin: Server, request: pytest.FixtureRequest) -> Iterator[Front]:
    options = ("--workers", request.param)
    with start_front(CONFIG.format(origin=origin.url), *options, module="relay.asgi") as running:
        yield running


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_costs_one_connection(front: Front, attack: str) -> None:
    readers = [H2Client(front) for _ in range(4)]  # on either worker
    streams = [reader.request("/events?every=10") for reader in readers]
    for _ in range(3):
        ATTACKS[attack](front)
    for reader, stream in zip(readers, streams, strict=True):
        reader.bodies[stream] = b""
        reader.read_until(
            lambda reader=reader, stream=stream: reader.bodies[stream].count(b"\n\n") > 5  # type: ignore[misc]
        )
        reader.close()
    with closing(H2Client(front)) as next_one:
        stream = next_one.request("/hello")
        next_one.read_until(lambda: stream in next_one.ended)
        assert next_one.bodies[stream] == b"hello\n"
    assert front.server.process.poll() is None
    assert "Traceback" not in front.server.stderr.text


SEEDS = [
    b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    b"POST /digest HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /digest HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


def frames() -> Iterator[bytes]:
    """What a client of HTTP/2 says: requests of all kinds, data, resets, priorities."""
    for end in (True, False):
        for wanted in (fields(b"GET", b"/hello"), fields(b"POST", b"/digest"), EXTENDED):
            peer = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
            peer.initiate_connection()
            peer.send_headers(1, wanted, end_stream=end)
            if not end:
                peer.send_data(1, b"x" * 100)
                peer.prioritize(3, weight=10, depends_on=1)
                peer.increment_flow_control_window(1000, 1)
                peer.reset_stream(1)
            yield peer.data_to_send()


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_nor_do_any_bytes(front: Front, protocol: str) -> None:
    dice = random.Random(7)
    seeds = list(frames()) if protocol == "h2" else SEEDS
    context = front.verified()
    context.set_alpn_protocols([protocol])
    reader = H2Client(front)
    stream = reader.request("/events?every=10")
    for _ in range(150):
        sock = socket.create_connection(("127.0.0.1", front.server.port), timeout=20)
        with context.wrap_socket(sock, server_hostname="127.0.0.1") as peer, suppress(OSError):
            peer.sendall(mutated(dice.choice(seeds), dice))
            peer.settimeout(0.02)
            peer.recv(65536)
    reader.bodies[stream] = b""
    reader.read_until(lambda: reader.bodies[stream].count(b"\n\n") > 5)
    reader.close()
    assert front.server.process.poll() is None


@pytest.mark.parametrize("attack", list(ATTACKS)[:5])
def test_bare_hypercorn_ends(origin: Server, attack: str) -> None:
    """When this fails Hypercorn has mended it, and the note on its faults is out of date."""
    with start_front(CONFIG.format(origin=origin.url)) as front:
        ATTACKS[attack](front)
        wait_until("it ends", lambda: front.server.process.poll() is not None)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_sigterm_to_all_its_processes_drains(origin: Server, workers: str) -> None:
    """As systemd sends it, and a terminal's Ctrl-C."""
    options = ("--workers", workers, "--graceful-timeout", "5")
    with start_front(CONFIG.format(origin=origin.url), *options, module="relay.asgi") as front:
        body = b""
        with front.client("2") as client, client.stream("GET", "/events") as response:
            for piece in response.iter_raw():
                if not body:
                    front.server.signal(signal.SIGTERM)
                body += piece
        assert b"\n\nretry: " in body
        assert front.server.process.wait(20) == 0


OWN = """
import sys, trio, hypercorn.config, relay.asgi

config = hypercorn.config.Config()
config.bind = ["127.0.0.1:0"]
config.certfile = config.keyfile = "cert.pem"
trio.run(relay.asgi.serve, relay.asgi.create("relay.toml"), config)
"""


def test_serve_in_a_program_of_ones_own(origin: Server) -> None:
    with start_front(
        CONFIG.format(origin=origin.url)
    ) as other:  # its folder has all that is needed
        command = [sys.executable, "-c", OWN]
        with start(command, cwd=other.folder, says="Running on ") as server:
            line = server.stderr.wait_for("Running on ")
            server.address = line.split("://", 1)[1].split()[0]
            front = Front(server, other.folder, ())
            for attack in ATTACKS.values():
                attack(front)
            with closing(H2Client(front)) as client:
                stream = client.request("/hello")
                client.read_until(lambda: stream in client.ended)


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["wrong:app"], 2, 'relay: wrong.toml: wrokers (line 1): unknown key; did you mean "'),
        (
            ["nowhere:app"],
            2,
            "relay: Cannot load application from 'nowhere:app', module not found.",
        ),
        (["right:ap"], 2, "relay: Cannot load application from 'right:ap', application not found."),
        (
            ["--certfile", "no.pem", "--keyfile", "no-key.pem", "right:app"],
            2,
            "relay: the certificate (no.pem and no-key.pem) cannot be used: No such file",
        ),
        (["--config", "no.toml", "right:app"], 2, "relay: the configuration of Hypercorn cannot"),
        (
            ["--bind", "192.0.2.1:1", "right:app"],
            1,
            "relay: cannot start on 192.0.2.1:1: Cannot assign",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_what_its_user_got_wrong_is_a_sentence(
    words: list[str], code: int, said: str, workers: str, tmp_path: Path
) -> None:
    """1. A mistake in a file, a name, a certificate, an address. 2. It ends, with a sentence and not with 0."""
    (tmp_path / "wrong.toml").write_text("wrokers = 1\n")
    (tmp_path / "right.toml").write_text('[[routes]]\npath = "/"\nsource = "local"\n')
    for name in ("wrong", "right"):
        text = f'import relay.asgi\n\napp = relay.asgi.create("{name}.toml")\n'
        (tmp_path / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "relay.asgi", "--bind", "127.0.0.1:0", "--workers", workers]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [*command, *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert said in ended.stderr.replace("127.0.0.1:0, ", "")
    assert "Traceback" not in ended.stderr
    assert ended.returncode == code
