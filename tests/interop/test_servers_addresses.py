"""Where relay listens and where it dials: unix sockets, IPv6, an inherited descriptor, a name."""

from __future__ import annotations

import hashlib
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop import origin as bytes_of
from tests.interop.curl import curl
from tests.interop.processes import ROOT, Server, start, start_hypercorn, start_relay, wait_until
from tests.interop.reading import last_call

APP = "tests.interop.origin:app"


@pytest.fixture(scope="module")
def origin() -> Iterator[Server]:
    with start_hypercorn(APP) as server:
        yield server


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="relay-") as name:  # a unix path is 107 bytes at most
        yield Path(name)


def config(listen: str, url: str) -> str:
    return f"""
[server]
listen = ["{listen}"]
[upstreams.origin]
url = "{url}"
[[routes]]
path = "/{{rest...}}"
upstream = "origin"
"""


def test_a_unix_socket_to_listen_on(origin: Server, folder: Path, tmp_path: Path) -> None:
    path = folder / "relay.sock"
    with start_relay(config(f"unix:{path}?mode=600", origin.url)) as relay:
        assert relay.address == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o600
        answer = curl(tmp_path, "http://any.test/hello", "--unix-socket", str(path))
        assert answer.body == b"hello\n"
        record = relay.wait_for_record(lambda line: line["at"] == "end")
        assert record["ending"] == "complete"
    assert not path.exists()


def test_a_unix_socket_to_dial(folder: Path, tmp_path: Path) -> None:
    path = folder / "origin.sock"
    command = [sys.executable, "-m", "hypercorn", "-k", "trio", "--workers", "0"]
    with start([*command, "--bind", f"unix:{path}", APP], says="Running on "):
        wait_until("the socket is there", path.exists)
        with start_relay(config("127.0.0.1:0", f"unix:{path}")) as relay:
            for _ in range(2):
                answer = curl(tmp_path, f"{relay.url}/big?3000000")
                found = hashlib.sha256(answer.body).hexdigest()
                assert found == bytes_of.digest(3_000_000)


def test_ipv6_on_both_sides(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no ::1")
    command = [sys.executable, "-m", "hypercorn", "-k", "trio", "--workers", "0"]
    with start([*command, "--bind", "[::1]:0", APP], says="Running on ") as origin:
        url = origin.stderr.wait_for("Running on ").split("Running on ")[1].split()[0]
        port = url.rpartition(":")[2]
        with start_relay(config("[::1]:0", f"http://[::1]:{port}")) as relay:
            assert relay.address.startswith("[::1]:")
            answer = curl(tmp_path, f"http://{relay.address}/fields")
            assert answer.status == 200
            assert f'"host": "[::1]:{port}"' in answer.body.decode()


def test_a_name_with_several_addresses(origin: Server, tmp_path: Path) -> None:
    """`localhost` may be ::1 first, where nobody listens."""
    url = f"http://localhost:{origin.port}"
    with start_relay(config("127.0.0.1:0", url)) as relay:
        answer = curl(tmp_path, f"{relay.url}/events?count=3&every=1")
        assert answer.body.count(b"data: ") == 3


def test_an_inherited_descriptor(origin: Server, tmp_path: Path, folder: Path) -> None:
    """As a supervisor hands it over: it listens already, and nothing that came before is lost."""
    (folder / "relay.toml").write_text(config("fd:3", origin.url), encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        early = socket.create_connection(("127.0.0.1", port))
        early.sendall(b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        descriptor = listener.fileno()
        script = f'exec "$@" 3<&{descriptor}'
        command = ["bash", "-c", script, "bash", sys.executable, "-m", "relay", "serve"]
        relay = Server([*command, str(folder / "relay.toml")], cwd=ROOT, pass_fds=(descriptor,))
        try:
            relay.wait_for_line("relay: listening on ")
            with early:
                early.settimeout(10)
                answer = b""
                while piece := early.recv(65536):
                    answer += piece
            assert answer.endswith(b"hello\n")
            assert curl(tmp_path, f"http://127.0.0.1:{port}/hello").body == b"hello\n"
        finally:
            assert relay.stop() == 0


def test_leaving_by_a_unix_socket_stops_the_backend(
    origin: Server, folder: Path, tmp_path: Path
) -> None:
    path = folder / "relay.sock"
    with start_relay(config(f"unix:{path}", origin.url)):
        client = socket.socket(socket.AF_UNIX)
        with client:
            client.settimeout(10)
            client.connect(str(path))
            client.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while b"data: " not in received:
                received += client.recv(65536)
            assert last_call(origin)["state"] == "running"
        wait_until("it is stopped", lambda: last_call(origin)["state"] == "stopped")
