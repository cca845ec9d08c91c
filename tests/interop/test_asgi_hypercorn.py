"""relay inside a real Hypercorn: TLS, HTTP/1.1 and HTTP/2, and what a client really sees."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import pytest
import trio
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.interop import origin as bytes_of
from tests.interop.asgi_front import Broken, Front, H2Client, connections, start_front
from tests.interop.processes import Server, start, start_hypercorn, wait_until
from tests.interop.reading import calls, came_one_by_one, events_of

AT_ONCE = 20
CONFIG = """
[server]
access_log = "stdout"
[upstreams.origin]
url = "{origin}"
[upstreams.broken]
url = "{broken}"
[[routes]]
path = "/{{rest...}}"
upstream = "origin"
[[routes]]
path = "/impatient/{{rest...}}"
upstream = "origin"
upstream_path = "/{{rest}}"
timeouts = {{ write = "300ms" }}
[[routes]]
path = "/bounded/{{rest...}}"
upstream = "origin"
upstream_path = "/{{rest}}"
timeouts = {{ write = "300ms" }}
[[routes]]
path = "/patient/{{rest...}}"
upstream = "origin"
upstream_path = "/{{rest}}"
timeouts = {{ write = "3s" }}
[[routes]]
path = "/broken/{{rest...}}"
upstream = "broken"
upstream_path = "/{{rest}}"
"""
HEAD = b"HTTP/1.1 200 OK\r\n"
BROKEN = {
    b"/events": HEAD
    + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"11\r\ndata: 1\n\ndata: ha\r\n",
    b"/length": HEAD + b"Content-Length: 10\r\n\r\nhalf",
    b"/chunked": HEAD + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    b"/whole": HEAD + b"Content-Length: 4\r\n\r\nhalf",
}
both = pytest.mark.parametrize("version", ["1.1", "2"])


@pytest.fixture(scope="module")
def origin() -> Iterator[Server]:
    with start_hypercorn("tests.interop.origin:app") as server:
        yield server


@pytest.fixture(scope="module")
def config(origin: Server) -> Iterator[str]:
    broken = Broken(BROKEN)
    yield CONFIG.format(origin=origin.url, broken=broken.url)
    broken.close()


@pytest.fixture(scope="module")
def front(config: str) -> Iterator[Front]:
    with start_front(config) as running:
        yield running


@pytest.fixture
def client(front: Front, version: str) -> Iterator[httpx.Client]:
    with front.client(version) as found:
        yield found


def stopped(origin: Server, path: str) -> None:
    """Wait until nothing runs for `path`."""
    wait_until(
        f"{path} is stopped",
        lambda: all(call["state"] != "running" for call in calls(origin, path)),
    )


@both
def test_plain_requests(client: httpx.Client, version: str) -> None:
    for _ in range(3):
        answer = client.get("/hello")
        assert (answer.status_code, answer.content) == (200, b"hello\n")
        assert answer.http_version == f"HTTP/{version}"
        assert answer.headers.get_list("x-odd") == ["one", "two"]
        assert "x-odd-hop" not in answer.headers
        assert len(answer.headers.get_list("date")) == 1
    assert client.head("/big?6").headers["content-length"] == "6"
    assert client.get("/status/404").status_code == 404
    told = {name: value for name, value in client.get("/fields").json().items() if "for" in name}
    assert told["x-forwarded-for"] == "127.0.0.1"
    assert told["x-forwarded-proto"] == "https"


@both
def test_events_come_one_by_one(client: httpx.Client) -> None:
    with client.stream("GET", "/events?count=20&every=50") as response:
        arrivals = list(events_of(response))
    assert [arrival.json()["number"] for arrival in arrivals] == list(range(20))
    assert came_one_by_one(arrivals)


@both
def test_a_client_that_leaves_stops_the_upstream(
    front: Front, origin: Server, version: str
) -> None:
    with (
        front.client(version) as client,
        client.stream("GET", "/events?every=10") as response,
    ):
        assert next(events_of(response)).json()["number"] == 0
    stopped(origin, "/events")


def test_leaving_one_stream_of_a_connection(front: Front, origin: Server) -> None:
    """What a browser sends when an EventSource is closed, or a fetch aborted."""
    with closing(H2Client(front)) as client:
        left, stays = client.request("/events?every=10"), client.request("/events?every=20")
        client.read_until(lambda: all(body.count(b"\n\n") > 2 for body in client.bodies.values()))
        client.reset(left)
        wait_until("one is stopped", lambda: _states(origin).count("running") == 1)
        client.bodies[stays] = b""
        client.read_until(lambda: client.bodies[stays].count(b"\n\n") > 2)
    stopped(origin, "/events")


def _states(origin: Server) -> list[str]:
    return [call["state"] for call in calls(origin, "/events")]


@both
def test_a_client_that_leaves_before_the_answer(front: Front, origin: Server, version: str) -> None:
    with front.client(version) as client, pytest.raises(httpx.ReadTimeout):
        client.get("/never", timeout=0.5)
    stopped(origin, "/never")


async def test_twenty_streams_on_one_connection(front: Front) -> None:
    ports: set[int] = set()
    seen: list[int] = []
    async with httpx.AsyncClient(base_url=front.url, verify=front.verified(), http2=True) as client:

        async def read() -> None:
            async with client.stream("GET", "/events?count=20&every=100") as response:
                assert response.http_version == "HTTP/2"
                stream = response.extensions["network_stream"]
                ports.add(stream.get_extra_info("client_addr")[1])
                seen.append(sum([piece.count(b"\n\n") async for piece in response.aiter_raw()]))

        await client.get("/hello")
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(read)
    assert len(ports) == 1
    assert seen == [20] * AT_ONCE


# -- endings ---------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("path", ["/broken/events", "/broken/length", "/broken/chunked"])
def test_a_cut_response_is_an_error_for_the_client(client: httpx.Client, path: str) -> None:
    got = b""
    with (  # noqa: PT012 - what came before the error counts
        pytest.raises(httpx.RemoteProtocolError),
        client.stream("GET", path) as response,
    ):
        assert response.status_code == 200
        for piece in response.iter_raw():
            got += piece
    if path == "/broken/events":
        assert got.startswith(b'data: 1\n\ndata: {"type":"error","code":"upstream_broke"')
        assert got.endswith(b"}\n\n")
    else:
        assert got == b"half"
    assert client.get("/broken/whole").content == b"half"  # and nothing else is harmed


@both
def test_a_cut_leaves_nothing_behind(front: Front, client: httpx.Client) -> None:
    for _ in range(20):
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/broken/chunked")
    assert client.get("/hello").content == b"hello\n"
    assert "Error in ASGI" not in front.server.stderr.text


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_a_shutdown_says_farewell(config: str, origin: Server, version: str) -> None:
    """Hypercorn tells its applications when all is over; relay knows before.

    With `--workers 0` Hypercorn would not drain at all.
    """
    with start_front(config, "--workers", "1") as front, front.client(version) as client:
        body = b""
        with client.stream("GET", "/events") as response:
            for piece in response.iter_raw():
                if not body:
                    os.kill(front.server.pid, signal.SIGTERM)
                body += piece
        assert b"\n\nretry: " in body
        assert front.server.process.wait(20) == 0
        assert front.wait_for_record(at="end", ending="drained")
        assert "Traceback" not in front.server.stderr.text
    stopped(origin, "/events")


# -- bodies ----------------------------------------------------------------------------------------


@both
def test_an_upload_comes_back_while_it_goes_up(front: Front, client: httpx.Client) -> None:
    size = 5_000_000
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        for block in bytes_of.big(size):
            sent += len(block)
            yield block

    told = client.post("/digest", content=body()).json()
    assert told["sha256"] == bytes_of.digest(size)
    assert (sent, told["size"], told["coding"]) == (size, size, "chunked")
    told = client.post("/digest", content=bytes_of.BLOCK).json()
    assert (told["size"], told["length"]) == (65536, "65536")


@both
def test_a_large_answer(client: httpx.Client) -> None:
    size = 20_000_000
    for query in (f"{size}", f"{size}&chunked"):
        with client.stream("GET", f"/big?{query}") as response:
            pieces = response.iter_raw()
            got = sum(len(piece) for piece in pieces)
        assert got == size


@both
def test_an_answer_before_the_upload_has_ended(front: Front, version: str) -> None:
    """Hypercorn 0.18 would end its process here: see relay/asgi/answering.py."""

    def body() -> Iterator[bytes]:
        yield from bytes_of.big(3_000_000)

    for _ in range(3):
        with front.client(version) as client:
            answer = client.post("/early", content=body())
            assert (answer.status_code, answer.content) == (413, b"too much\n")
    with front.client(version) as client:
        assert client.get("/hello").status_code == 200


def test_a_stream_that_is_cut_is_reset(front: Front) -> None:
    with closing(H2Client(front)) as client:
        for path in ("/broken/events", "/broken/length", "/broken/chunked"):
            stream = client.request(path)
            client.read_until(lambda stream=stream: stream in client.resets)  # type: ignore[misc]
            assert client.resets[stream] == 2  # INTERNAL_ERROR
            assert stream not in client.ended
            assert client.bodies[stream].startswith((b"data: 1\n\ndata: {", b"half"))


def test_an_upload_that_is_cut_does_not_end_the_server(front: Front) -> None:
    """Hypercorn 0.18 must have been told of the reset before its own books forget the stream."""
    with closing(H2Client(front)) as client:
        stream = client.request("/broken/chunked", "POST")
        client.upload(stream, b"some")
        client.read_until(lambda: stream in client.resets)
        other = client.request("/hello")
        client.read_until(lambda: other in client.ended)
        assert client.bodies[other] == b"hello\n"


def test_a_client_that_gives_its_upload_up(front: Front, origin: Server) -> None:
    class GivenUp(Exception):
        pass

    def body() -> Iterator[bytes]:
        yield b"some"
        raise GivenUp

    for version in ("1.1", "2"):
        with front.client(version) as client, pytest.raises(GivenUp):
            client.post("/digest", content=body())
        with front.client(version) as client:
            assert client.get("/hello").status_code == 200
    assert front.wait_for_record(at="end", method="POST", ending="client_left")


def test_the_upstream_of_a_client_that_does_not_read(front: Front) -> None:
    """Hypercorn's write has no deadline and cannot be cancelled; the upstream's end does not wait."""
    path, query = "/impatient/big", "?200000000"
    sock = socket.create_connection(("127.0.0.1", front.server.port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with front.verified().wrap_socket(sock, server_hostname="127.0.0.1") as peer:
        peer.sendall(f"GET {path}{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert front.wait_for_record(at="end", ending="client_stalled", path=path)


def test_a_connection_of_a_client_that_does_not_read_ends(config: str) -> None:
    """Also where relay has nothing more to say: its part was done when the server took the last message."""
    with start_front(config) as front:
        sock = socket.create_connection(("127.0.0.1", front.server.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with front.verified().wrap_socket(sock, server_hostname="127.0.0.1") as peer:
            peer.sendall(b"GET /impatient/big?200000000 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert front.wait_for_record(at="end", ending="client_stalled")
            wait_until("the connection ends", lambda: not connections(front.server))


SLOWLY = 8.0  # seconds; the route's `write` is three: a busy machine may stand still for one
SIZE = 8_000_000  # more than the kernel's buffers


def test_a_slow_reader_that_goes_on_is_no_stalled_one_over_http_1(front: Front) -> None:
    """Some 15 kB a second: one message, 64 KiB, takes longer than `write`, and the kernel asks for more only when a third of
    megabytes is free."""
    path = "/patient/big"
    sock = socket.create_connection(("127.0.0.1", front.server.port))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    with front.verified().wrap_socket(sock, server_hostname="127.0.0.1") as peer:
        head = f"GET {path}?{SIZE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        peer.sendall(head.encode())
        until = time.monotonic() + SLOWLY
        while time.monotonic() < until:
            assert peer.recv(1024)
            time.sleep(0.06)
    # Until it left it was served: the rest would take a minute through so small a window.
    assert front.wait_for_record(at="end", path=path)["ending"] == "client_left"


def test_a_slow_reader_that_goes_on_is_no_stalled_one_over_http_2(front: Front) -> None:
    path = "/patient/big"
    with closing(H2Client(front)) as client:
        stream = client.request(f"{path}?{SIZE}&chunked")
        until = time.monotonic() + SLOWLY
        while time.monotonic() < until:
            had = len(client.bodies[stream])
            client.read_until(lambda had=had: len(client.bodies[stream]) > had, 1024)  # type: ignore[misc]
            time.sleep(0.06)
        assert stream not in client.resets
        client.read_until(lambda: stream in client.ended)
        assert len(client.bodies[stream]) == SIZE


@both
def test_who_waits_when_the_drain_is_over_is_answered(
    config: str, origin: Server, version: str
) -> None:
    """By relay, and not by Hypercorn's empty 500."""
    with start_front(config, "--workers", "1", "--graceful-timeout", "2") as front:
        with front.client(version) as client, ThreadPoolExecutor() as pool:
            asked = pool.submit(client.get, "/never")
            wait_until(
                "it waits", lambda: any(c["state"] == "running" for c in calls(origin, "/never"))
            )
            os.kill(front.server.pid, signal.SIGTERM)
            answer = asked.result()
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "shutting_down"
        assert answer.headers["x-request-id"]
        assert front.server.process.wait(20) == 0
        assert front.wait_for_record(at="end", ending="drained")["status"] == 503


def test_a_stream_that_is_not_read_is_reset(front: Front) -> None:
    """And its connection goes on. What waits for the client is bounded, which is relay's doing:
    Hypercorn 0.18 would have taken all of it into memory.
    """
    with closing(H2Client(front)) as client:
        path = "/bounded/big"
        stream = client.request(f"{path}?100000000&chunked")
        record = front.wait_for_record(at="end", ending="client_stalled", path=path)
        assert record["bytes_out"] < 10_000_000
        other = client.request("/hello")
        client.read_until(lambda: other in client.ended and stream in client.resets)


def test_nothing_is_left_of_clients_that_vanish(front: Front, origin: Server) -> None:
    """Hypercorn 0.18 alone would wait for ever for the window of a client that is gone."""
    for _ in range(10):
        with closing(H2Client(front)) as client:
            for path in ("/events", "/quiet", "/never", "/big?100000000", "/bounded/big?100000"):
                client.request(path)
            upload = client.request("/digest", "POST")
            client.upload(upload, b"some")
            client.read_until(lambda client=client: any(client.bodies.values()))  # type: ignore[misc]
    wait_until("the upstreams are left", lambda: not _running(origin))
    wait_until("the connections are closed", lambda: not connections(front.server))


def _running(origin: Server) -> list[str]:
    return [call["path"] for call in calls(origin) if call["state"] == "running"]


# -- what it does not do ---------------------------------------------------------------------------


def test_a_websocket_is_refused(front: Front) -> None:
    address = front.url.replace("https", "wss") + "/ws"
    with pytest.raises(InvalidStatus) as caught, connect(address, ssl=front.verified()):
        pass
    assert caught.value.response.status_code == 501
    assert json.loads(caught.value.response.body)["error"]["code"] == "not_implemented"


def test_the_wrong_worker_says_so(front: Front) -> None:
    command = [sys.executable, "-m", "hypercorn", "--workers", "0", "--bind", "127.0.0.1:0"]
    with start(
        [*command, "front:app"], env={"PYTHONPATH": str(front.folder)}, cwd=front.folder
    ) as server:
        assert server.process.wait(20) != 0
        server.stop()
        assert "relay needs Trio" in server.stderr.text
