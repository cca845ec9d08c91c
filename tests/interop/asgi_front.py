"""relay in a real Hypercorn with TLS, and origins that break their answers.

client ──TLS, HTTP/1.1 or HTTP/2──► hypercorn -k trio front:app (relay.asgi) ──► origin
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h2.connection
import h2.events
import httpx
import trustme

from tests.interop.processes import Server, start_hypercorn

FRONT = "import relay.asgi\n\napp = relay.asgi.create('relay.toml')\n"
SETTINGS = "include_date_header = false\ninclude_server_header = false\n"


class Front:
    """A running front. `url` is its https URL."""

    def __init__(self, server: Server, folder: Path, options: Sequence[str]) -> None:
        self.server = server
        self.folder = folder
        self.options = dict(zip(options[::2], options[1::2], strict=True))
        self.url = f"https://{server.address}"

    def verified(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "ca.pem"))

    def client(self, version: str) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            verify=self.verified(),
            http1=version == "1.1",
            http2=version == "2",
            timeout=20,
        )

    def wait_for_record(self, **wanted: object) -> dict[str, Any]:
        """The first line of the access log that is like this."""
        return self.server.wait_for_record(
            lambda record: all(record.get(key) == value for key, value in wanted.items())
        )


@contextlib.contextmanager
def start_front(config: str, *options: str, module: str = "hypercorn") -> Iterator[Front]:
    """Hypercorn with relay in it, for the text of a relay.toml; TLS by a CA of its own."""
    with tempfile.TemporaryDirectory(prefix="relay-asgi-") as name:
        folder = Path(name)
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / "cert.pem")
        (folder / "relay.toml").write_text(config)
        (folder / "front.py").write_text(FRONT)
        (folder / "hypercorn.toml").write_text(SETTINGS)
        files = ["--keyfile", "cert.pem", "--certfile", "cert.pem", "--config", "hypercorn.toml"]
        with start_hypercorn("front:app", *files, *options, cwd=folder, module=module) as server:
            yield Front(server, folder, options)


@contextlib.contextmanager
def start_plain_front(config: str, *options: str, module: str = "hypercorn") -> Iterator[Server]:
    """The same without TLS, and so over HTTP/1.1."""
    with tempfile.TemporaryDirectory(prefix="relay-asgi-") as name:
        folder = Path(name)
        (folder / "relay.toml").write_text(config)
        (folder / "front.py").write_text(FRONT)
        with start_hypercorn("front:app", *options, cwd=folder, module=module) as server:
            yield server


class H2Client:
    """One HTTP/2 connection, frame by frame: what httpx does not do is leave a stream."""

    def __init__(self, front: Front) -> None:
        context = front.verified()
        context.set_alpn_protocols(["h2"])
        sock = socket.create_connection(("127.0.0.1", front.server.port), timeout=20)
        self._socket = context.wrap_socket(sock, server_hostname="127.0.0.1")
        self._connection = h2.connection.H2Connection()
        self._connection.initiate_connection()
        self._flush()
        self.bodies: dict[int, bytes] = {}
        self.resets: dict[int, int] = {}  # error codes
        self.ended: set[int] = set()

    def request(self, path: str, method: str = "GET") -> int:
        """Begin a request; a GET is whole. Returns: its stream."""
        stream = self._connection.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "https"), (":authority", "x"), (":path", path)]
        self._connection.send_headers(stream, fields, end_stream=method == "GET")
        self.bodies[stream] = b""
        self._flush()
        return stream

    def upload(self, stream: int, data: bytes) -> None:
        self._connection.send_data(stream, data)
        self._flush()

    def reset(self, stream: int) -> None:
        """Leave one stream, as a browser does: CANCEL."""
        self._connection.reset_stream(stream, 8)
        self._flush()

    def read_until(self, condition: Callable[[], bool], size: int = 65536) -> None:
        """Take what comes until `condition` holds, so many bytes at a time."""
        while not condition():
            data = self._socket.recv(size)
            assert data, "the connection ended"
            for event in self._connection.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    self.bodies[event.stream_id] += event.data
                    self._connection.acknowledge_received_data(
                        event.flow_controlled_length, event.stream_id
                    )
                elif isinstance(event, h2.events.StreamReset):
                    self.resets[event.stream_id] = event.error_code
                elif isinstance(event, h2.events.StreamEnded):
                    self.ended.add(event.stream_id)
            self._flush()

    def _flush(self) -> None:
        self._socket.sendall(self._connection.data_to_send())

    def close(self) -> None:
        self._socket.close()


class Broken:
    """An origin that answers every request with the same bytes, then closes its connection."""

    def __init__(self, answers: dict[bytes, bytes]) -> None:
        """`answers` by path."""
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://{}:{}".format(*self._listener.getsockname())
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                asked = b""
                while b"\r\n\r\n" not in asked:
                    asked += peer.recv(65536)
                peer.sendall(self._answers[asked.split()[1].partition(b"?")[0]])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def connections(server: Server) -> int:
    """How many connections to its port a process holds, whatever became of their clients."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port, listening, nobody = f":{server.port:04X}", "0A", "0"
    return sum(a[1].endswith(port) and a[3] != listening and a[9] != nobody for a in lines)
