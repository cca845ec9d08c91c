"""The promise: a relay listens where it says, on every address of a name, and where somebody else does it says so and
ends; what somebody else listens on is shared when that is asked for, and then nobody is refused."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from relay.config import parse_address
from relay.serving.activation import Passed
from relay.serving.listeners import BindError, bind, open_listeners
from tests.guarantees.relay_processes import local
from tests.interop.processes import ROOT, Server, free_port, start_relay, wait_until


def relay(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A relay that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "relay", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def get(address: tuple[str, int] | str) -> str:
    """The answer to a request over TCP, or over a unix socket."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    family = socket.AF_INET6 if ":" in address[0] else family
    with socket.socket(family) as sock:
        sock.settimeout(10)
        sock.connect(address)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := sock.recv(4096):
            answer += data
    return answer.rpartition(b"\r\n\r\n")[2].decode()


# -- a port that is taken --------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_relay_is_refused(workers: int, tmp_path: Path) -> None:
    """Started by mistake, in whatever form: it says why, ends with 1, and the first one goes on."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    file = tmp_path / "relay.toml"
    file.write_text(local(address, workers))
    with start_relay(file) as first:
        seconds = {
            "serve": relay("serve", str(file)),
            "forward": relay("forward", "http://127.0.0.1:9", "--listen", address),
            "demo": relay("demo", "--listen", address),
        }
        for name, second in seconds.items():
            assert second.returncode == 1, name
            assert f"cannot listen on {address}: Address already in use" in second.stderr, name
            assert "Traceback" not in second.stderr
            assert len(second.stderr.splitlines()) == 1, name
        assert "relay serve --takeover" in seconds["serve"].stderr
        assert "another address is chosen with --listen" in seconds["forward"].stderr
        assert "another address is chosen with --listen" in seconds["demo"].stderr
        assert get(("127.0.0.1", port)) == "here"
        assert first.process.poll() is None


def test_where_every_interface_is_taken_each_one_is() -> None:
    port = free_port()
    with start_relay(local(f"0.0.0.0:{port}")):
        assert (
            relay("forward", "http://127.0.0.1:9", "--listen", f"127.0.0.1:{port}").returncode == 1
        )


def test_who_does_not_share_is_not_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    with socket.create_server(("127.0.0.1", 0)) as other:
        file.write_text(local(f"127.0.0.1:{other.getsockname()[1]}"))
        done = relay("serve", str(file), "--takeover")
    assert done.returncode == 1
    assert "does not share it" in done.stderr
    assert "--takeover" not in done.stderr


def test_a_third_relay_is_refused_while_two_share() -> None:
    port = free_port()
    config = local(f"127.0.0.1:{port}")
    with start_relay(config) as first, start_relay(config, None, "--takeover"):
        third = relay("forward", "http://127.0.0.1:9", "--listen", f"127.0.0.1:{port}")
        assert third.returncode == 1
        assert first.stop() == 0
        third = relay("forward", "http://127.0.0.1:9", "--listen", f"127.0.0.1:{port}")
        assert third.returncode == 1


def test_nobody_is_there_to_be_taken_over() -> None:
    """A unit file may always say --takeover."""
    with start_relay(local("127.0.0.1:0", 2), None, "--takeover") as server:
        assert get(("127.0.0.1", server.port)) == "here"


def test_a_reload_that_names_a_taken_port(tmp_path: Path) -> None:
    """It is refused, and nothing changes."""
    file = tmp_path / "relay.toml"
    taken = free_port()
    with start_relay(local(f"127.0.0.1:{taken}", 1)):
        file.write_text(local("127.0.0.1:0", 2))
        with start_relay(file) as server:
            file.write_text(local("127.0.0.1:0", 2).replace('"]', f'", "127.0.0.1:{taken}"]'))
            os.kill(server.pid, signal.SIGHUP)
            server.stderr.wait_for(f"cannot listen on 127.0.0.1:{taken}: Address already in use")
            assert get(("127.0.0.1", server.port)) == "here"


# -- names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_name_is_listened_on_at_all_its_addresses(workers: int, tmp_path: Path) -> None:
    """localhost is ::1 and 127.0.0.1, and clients try either first. Port 0 is one port for both. A reload that no longer
    has the name closes both."""
    file = tmp_path / "relay.toml"
    text = local("localhost:0", workers).replace("workers", 'admin = "localhost:0"\nworkers')
    file.write_text(text)
    with start_relay(file) as server:
        places = said(server, "listening on", 2)
        assert {place[0] for place in places} == {"127.0.0.1", "::1"}
        assert len({place[1] for place in places}) == 1
        for _ in range(2 * workers):
            for place in places:
                assert get(place) == "here"
        for place in said(server, "admin on", 2):
            with socket.create_connection(place, 10) as sock:
                sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
        file.write_text(text.replace('["localhost:0"]', '["127.0.0.1:0"]'))
        os.kill(server.pid, signal.SIGHUP)
        [*_, new] = said(server, "listening on", 3)
        assert get(new) == "here"
        for place in places:
            wait_until(f"{place} is closed", partial(is_refused, place))


def said(server: Server, what: str, count: int) -> list[tuple[str, int]]:
    """The addresses in the first lines with `what`."""

    def found() -> list[str]:
        return [line.partition(f"{what} ")[2] for line in server.stderr.lines if what in line]

    wait_until(f"{count} lines with {what}", lambda: len(found()) >= count)
    hosts = [address.rpartition(":") for address in found()]
    return [(host.strip("[]"), int(port)) for host, _, port in hosts]


def is_refused(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, 0.2).close()
    except OSError:
        return True
    return False


def test_a_name_of_which_one_address_is_taken() -> None:
    """Nothing is left open of the other one."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        before = os.listdir("/proc/self/fd")
        with pytest.raises(BindError) as caught:
            bind(parse_address(f"localhost:{port}"))
        assert caught.value.taken
        assert os.listdir("/proc/self/fd") == before


def test_a_name_and_one_of_its_addresses() -> None:
    """It is not said that somebody else is there."""
    port = free_port()
    names = [parse_address(f"{host}:{port}") for host in ("127.0.0.1", "localhost")]
    with pytest.raises(BindError, match="another address here has that port already"):
        open_listeners(names, Passed())


def test_beside_each_address_of_a_name_comes_one_more() -> None:
    """As workers and successors have them: the same address and port, not every address anew."""
    listeners = open_listeners([parse_address("localhost:0")], Passed())
    beside = [each.beside() for each in listeners]
    try:
        assert [each.name for each in beside] == [each.name for each in listeners]
        assert len(listeners) == 2
    finally:
        for listener in (*listeners, *beside):
            listener.close()


# -- unix sockets ----------------------------------------------------------------------------------


@contextmanager
def loop(path: str) -> Iterator[list[str]]:
    """Requests one after the other; whatever is not answered is in the list."""
    failures: list[str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                if get(path) != "here":
                    failures.append("another answer")
            except OSError as error:
                failures.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield failures
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_unix_socket_is_taken_over(workers: int, tmp_path: Path) -> None:
    """Five times: a successor puts its socket in the place of the other's file, which then drains. Nobody is refused, and
    the file that is there is the successor's."""
    path = str(tmp_path / "relay.sock")
    config = local(f"unix:{path}?mode=600", workers)
    with ExitStack() as stack:
        serving = stack.enter_context(start_relay(config))
        with loop(path) as failures:
            for _ in range(5):
                successor = stack.enter_context(start_relay(config, None, "--takeover"))
                serving.process.send_signal(signal.SIGTERM)
                assert serving.process.wait(20) == 0
                assert get(path) == "here"
                serving = successor
        assert failures == []
        assert os.listdir(tmp_path) == ["relay.sock"]
        assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == []


def test_a_living_unix_socket_is_refused_without_being_asked(tmp_path: Path) -> None:
    path = f"unix:{tmp_path}/relay.sock"
    with start_relay(local(path)):
        done = relay("forward", "http://127.0.0.1:9", "--listen", path)
        assert done.returncode == 1
        assert "Address already in use" in done.stderr
        assert get(f"{tmp_path}/relay.sock") == "here"


def test_what_takes_no_probe_is_not_dead(tmp_path: Path) -> None:
    """A queue that is full is somebody's."""
    path = str(tmp_path / "full.sock")
    with socket.socket(socket.AF_UNIX) as busy, ExitStack() as stack:
        busy.bind(path)
        busy.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            waiting.connect_ex(path)
        with pytest.raises(BindError):
            bind(parse_address(f"unix:{path}"))
        assert os.path.exists(path)
