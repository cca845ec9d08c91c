"""The promise: what came from outside the file (`${NAME}`, `{file:…}`) is in nothing that relay prints,
wherever it stands in the configuration: log, metrics, live lists, `relay check`, errors, what a client sees.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import EVENT_HEAD, chunked
from tests.interop.processes import ROOT, Server, start_relay

MARK = "s3cr3t"
CONFIG = """
[server]
listen = ["127.0.0.1:0", "unix:${DIR}/relay.sock"]
admin = "unix:${DIR}/admin.sock"
admin_token = "${ADMIN_TOKEN}"
workers = %d
[timeouts]
connect = "1s"
[upstreams.good]
url = "http://127.0.0.1:${PORT}/${BASE}"
request_headers = { X-Key = "${KEY}" }
[upstreams.good.health]
path = "/${HEALTH}"
interval = "50ms"
[upstreams.refused]
url = "http://127.0.0.1:${DEAD}/${BASE}"
health = { path = "/${HEALTH}", interval = "50ms", fall = 1 }
[upstreams.unix]
url = "unix:${DIR}/nobody.sock"
[upstreams.named]
url = "http://${HOST}/"
[[routes]]
path = "/${HOOK}/{id}"
upstream = "good"
upstream_path = "/${BASE}/{id}?key=${KEY}"
[[routes]]
name = "${LABEL}"
path = "/labelled"
upstream = "good"
[[routes]]
path = "/refused"
upstream = "refused"
[[routes]]
path = "/unix"
upstream = "unix"
[[routes]]
path = "/named"
upstream = "named"
[[routes]]
path = "/answer"
methods = ["POST"]
source = "answer"
answer = { upstream = "refused", path = "/${BASE}", text = "x", require = ["${MEMBER}"] }
[[routes]]
path = "/enqueue/{id}"
methods = ["POST"]
source = "enqueue"
enqueue = { upstream = "good", path = "/${BASE}?{body.${MEMBER}}=1" }
follow = { upstream = "good", path = "/${BASE}" }
[[routes]]
path = "/translated"
upstream = "good"
translate = "${MODULE}:change"
[[routes]]
path = "/files/{rest...}"
source = "files"
files = { directory = "${DIR}/files" }
[[routes]]
path = "/{rest...}"
source = "local"
local = { status = 404 }
"""
MODULE = "def change(event):\n    raise ValueError(event.data)\n"


class Origin:
    """Answers every request with one event, and keeps `/live` open."""

    def __init__(self) -> None:
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port = self._sock.getsockname()[1]
        self.heads: list[bytes] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._sock.accept()
                threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                more = peer.recv(65536)
                if not more:
                    return
                head += more
            self.heads.append(head)
            peer.sendall(EVENT_HEAD + chunked(b"data: 1\n\n"))
            if b"/live" in head.partition(b"\r\n")[0]:
                peer.recv(1)  # until the other end closes
            else:
                peer.sendall(b"0\r\n\r\n")

    def close(self) -> None:
        self._sock.close()


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def asked(
    connection: http.client.HTTPConnection, method: str, path: str, body: str = "", **fields: str
) -> str:
    """The whole answer as text."""
    with contextlib.closing(connection):
        connection.request(method, path, body or None, fields)
        answer = connection.getresponse()
        try:
            read = answer.read().decode()
        except http.client.IncompleteRead as cut:
            read = cut.partial.decode()
        return f"{answer.status} {answer.getheaders()} {read}"


@pytest.fixture
def origin() -> Iterator[Origin]:
    origin = Origin()
    yield origin
    origin.close()


@pytest.fixture
def environ(tmp_path: Path, origin: Origin) -> dict[str, str]:
    folder = tmp_path / f"{MARK}-dir"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "index.html").write_text("page")
    (folder / f"{MARK}_module.py").write_text(MODULE)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        dead = probe.getsockname()[1]
    names = ("ADMIN_TOKEN", "BASE", "KEY", "HEALTH", "HOOK", "LABEL", "MEMBER")
    return {
        **{name: f"{MARK}-{name.lower()}" for name in names},
        "HOST": f"{MARK}-host.invalid",
        "MODULE": f"{MARK}_module",
        "DIR": str(folder),
        "PORT": str(origin.port),
        "DEAD": str(dead),
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
    }


def traffic(server: Server, origin: Origin, environ: dict[str, str]) -> str:
    """Requests of every kind, and what their clients see."""
    token = {"Authorization": f"Bearer {environ['ADMIN_TOKEN']}"}
    admin = Path(environ["DIR"]) / "admin.sock"
    hook = environ["HOOK"]

    def client() -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)

    live = client()
    live.request("GET", f"/{hook}/live")
    assert live.getresponse().read(9) == b"data: 1\n\n"
    told = [asked(UnixConnection(admin), "GET", "/streams", **token)]
    assert "/***/live" in told[0]
    live.close()
    requests = [
        ("GET", f"/{hook}/1", ""), ("GET", f"/{hook}", ""), ("GET", f"//{hook}/1", ""),
        ("GET", f"/%73{hook[1:]}/1", ""), ("GET", f"/{hook}%2F1", ""), ("DELETE", f"/{hook}/x/y", ""),
        ("GET", "/labelled", ""), ("GET", "/refused", ""), ("GET", "/unix", ""), ("GET", "/named", ""),
        ("POST", "/answer", "{}"), ("POST", "/answer", "nonsense"), ("POST", "/enqueue/1", "{}"),
        ("GET", "/translated", ""), ("GET", "/files/", ""), ("GET", "/files/nothing", ""),
    ]  # fmt: skip
    told += [asked(client(), *request) for request in requests]
    told.append(asked(UnixConnection(Path(environ["DIR"]) / "relay.sock"), "GET", f"/{hook}/2"))
    told += [
        asked(UnixConnection(admin), "GET", path, **token) for path in ("/metrics", "/readyz", "/")
    ]
    assert any(head.startswith(f"GET /{environ['BASE']}/".encode()) for head in origin.heads)
    assert any(b"x-key: s3cr3t-key" in head for head in origin.heads)
    return "\n".join(told)


@pytest.mark.parametrize("workers", [1, 2])
def test_everything_that_relay_prints(
    workers: int, origin: Origin, environ: dict[str, str], tmp_path: Path
) -> None:
    """1. Secrets in every place. 2. Requests that are answered, refused, and fail in each way. 3. A reload, a
    refused one, a drain.
    """
    path = tmp_path / "relay.toml"
    path.write_text(CONFIG % workers)
    with start_relay(path, environ) as server:
        told = traffic(server, origin, environ)
        server.stderr.wait_for("upstream http://127.0.0.1:${DEAD}/${BASE} is down")
        server.signal(signal.SIGHUP) if workers == 1 else os.kill(server.pid, signal.SIGHUP)
        server.stderr.wait_for("reloaded")
        path.write_text(
            CONFIG.replace("unix:${DIR}/relay.sock", "unix:${DIR}/no/such/relay.sock") % workers
        )
        os.kill(server.pid, signal.SIGHUP)
        server.stderr.wait_for("is refused, nothing changes")
        assert server.stop() == 0
        told += server.stdout.text + server.stderr.text
    assert "upstream_unreachable" in told
    assert "unix:${DIR}/relay.sock" in told
    assert MARK not in told, [line for line in told.splitlines() if MARK in line]


def test_check(environ: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    for text in (
        CONFIG % 1,
        (CONFIG % 1).replace("{id}?key", "{nobody}?key").replace('"${LABEL}"', "3"),
        (CONFIG % 1).replace('"/labelled"', '"/${HOOK}/{other}"'),
        (CONFIG % 1).replace(":change", ":nothing"),
    ):
        path.write_text(text)
        command = [sys.executable, "-m", "relay", "check", str(path)]
        result = subprocess.run(
            command,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.stdout + result.stderr
        assert MARK not in result.stdout + result.stderr
    assert result.returncode == 2


def test_the_name_that_a_certificate_does_not_have() -> None:
    """Python's message quotes the name that was asked for."""
    import ssl

    from relay.upstreams.dial import tls_reason

    error = ssl.SSLCertVerificationError(1, "")
    error.verify_message = f"Hostname mismatch, certificate is not valid for '{MARK}.example'."
    assert tls_reason(error) == "certificate refused: Hostname mismatch"
