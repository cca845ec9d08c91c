"""httpx as a client: streams read, left and left waiting; many at once; bodies both ways."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator

import httpx
import pytest
import trio

from tests.interop import origin as bytes_of
from tests.interop.processes import Server, start_hypercorn, start_relay, wait_until
from tests.interop.reading import calls, events_of

AT_ONCE = 50

# httpx leaves its own async generators to the garbage collector where a stream is cancelled.
cancels = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
CONFIG = """
[server]
listen = ["${{LISTEN}}"]
[upstreams.origin]
url = "{url}"
[[routes]]
path = "/{{rest...}}"
upstream = "origin"
[[routes]]
path = "/impatient/{{rest...}}"
upstream = "origin"
upstream_path = "/{{rest}}"
timeouts = {{ response_head = "200ms", idle = "200ms" }}
"""


@pytest.fixture(scope="module")
def origin() -> Iterator[Server]:
    with start_hypercorn("tests.interop.origin:app") as server:
        yield server


@pytest.fixture(scope="module")
def relay(origin: Server) -> Iterator[Server]:
    with start_relay(CONFIG.format(url=origin.url)) as server:
        yield server


def running(origin: Server) -> list[str]:
    return [call["path"] for call in calls(origin) if call["state"] == "running"]


async def all_stopped(origin: Server) -> None:
    await trio.to_thread.run_sync(wait_until, "all are stopped", lambda: not running(origin))


def test_a_stream_is_read_as_it_is_sent(relay: Server) -> None:
    with httpx.stream("GET", f"{relay.url}/events?count=10") as response:
        numbers = [event.json()["number"] for event in events_of(response)]
    assert numbers == list(range(10))


def test_leaving_in_mid_stream_stops_the_generator(relay: Server, origin: Server) -> None:
    with httpx.stream("GET", f"{relay.url}/events") as response:
        events = events_of(response)
        for _ in range(3):
            next(events)
        assert running(origin) == ["/events"]
    wait_until("the generator is stopped", lambda: not running(origin))
    assert calls(origin)[-1]["state"] == "stopped"


@cancels
async def test_a_cancelled_scope_stops_the_generator(relay: Server, origin: Server) -> None:
    async with httpx.AsyncClient(base_url=relay.url) as client:
        with trio.CancelScope() as scope:
            async with client.stream("POST", "/events", json={}) as response:
                async for _ in response.aiter_raw():
                    scope.cancel()
    gc.collect()
    await all_stopped(origin)


@pytest.mark.parametrize("path", ["/never", "/quiet"])
def test_a_client_that_waits_no_longer_stops_the_backend(
    relay: Server, origin: Server, path: str
) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(relay.url + path, timeout=httpx.Timeout(10, read=0.3))
    wait_until("the backend is stopped", lambda: not running(origin))


def test_a_backend_that_does_not_answer_is_a_504(relay: Server, origin: Server) -> None:
    response = httpx.get(f"{relay.url}/impatient/never")
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "upstream_timeout"
    wait_until("the backend is stopped", lambda: not running(origin))


def test_a_stream_that_falls_silent_ends_with_a_word_and_a_cut(
    relay: Server, origin: Server
) -> None:
    with httpx.stream("GET", f"{relay.url}/impatient/quiet") as response:
        assert response.status_code == 200
        events = events_of(response)
        assert next(events).json()["code"] == "upstream_silent"
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            next(events)
    wait_until("the backend is stopped", lambda: not running(origin))


def test_an_upload_from_a_generator(relay: Server) -> None:
    response = httpx.post(f"{relay.url}/digest", content=bytes_of.big(3_000_000))
    assert response.json()["sha256"] == bytes_of.digest(3_000_000)
    assert response.json()["coding"] == "chunked"


async def test_an_echo_comes_back_while_the_upload_goes_on(relay: Server) -> None:
    """The second piece is sent only when the first is back. By hand: httpx reads no response before
    its upload is over."""
    received = b""
    async with await trio.open_tcp_stream("127.0.0.1", relay.port) as stream:
        with trio.fail_after(10):
            await stream.send_all(
                b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            for piece in (b"first", b"second"):
                await stream.send_all(b"%x\r\n%b\r\n" % (len(piece), piece))
                while piece not in received:
                    received += await stream.receive_some(65536)
            await stream.send_all(b"0\r\n\r\n")
            while not received.endswith(b"0\r\n\r\n"):
                received += await stream.receive_some(65536)


async def test_fifty_streams_at_once_each_get_their_own(relay: Server) -> None:
    counts: dict[int, int] = {}
    limits = httpx.Limits(max_connections=AT_ONCE)

    async def read(client: httpx.AsyncClient, number: int) -> None:
        async with client.stream("GET", f"/events?count={number}&every=5") as response:
            text = "".join([piece async for piece in response.aiter_text()])
        counts[number] = text.count("data: ")

    async with (
        httpx.AsyncClient(base_url=relay.url, limits=limits, timeout=60) as client,
        trio.open_nursery() as nursery,
    ):
        for number in range(1, AT_ONCE + 1):
            nursery.start_soon(read, client, number)
    assert counts == {number: number for number in range(1, AT_ONCE + 1)}


@cancels
async def test_fifty_streams_left_at_once_all_stop(relay: Server, origin: Server) -> None:
    started = 0
    limits = httpx.Limits(max_connections=AT_ONCE)

    async def read(client: httpx.AsyncClient, scope: trio.CancelScope) -> None:
        nonlocal started
        async with client.stream("GET", "/events") as response:
            async for _ in response.aiter_raw():
                started += 1
                if started >= AT_ONCE:
                    scope.cancel()
                await trio.sleep_forever()

    async with (
        httpx.AsyncClient(base_url=relay.url, limits=limits, timeout=60) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(AT_ONCE):
            nursery.start_soon(read, client, nursery.cancel_scope)
    assert started == AT_ONCE
    gc.collect()
    await all_stopped(origin)


async def test_fifty_downloads_at_once_are_the_same_bytes(relay: Server) -> None:
    size = 1_000_000
    limits = httpx.Limits(max_connections=AT_ONCE)
    hashes: set[str] = set()

    async def read(client: httpx.AsyncClient) -> None:
        response = await client.get(f"/big?{size}")
        hashes.add(hashlib.sha256(response.content).hexdigest())

    async with (
        httpx.AsyncClient(base_url=relay.url, limits=limits, timeout=60) as client,
        trio.open_nursery() as nursery,
    ):
        for _ in range(AT_ONCE):
            nursery.start_soon(read, client)
    assert hashes == {bytes_of.digest(size)}


def test_nothing_went_wrong_inside(relay: Server) -> None:
    assert "Traceback" not in relay.stderr.text
