"""The promise: nothing of the admin listener is reached from outside: not through a public
listener, not by a page on the web, not without the token, and not by who never finishes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import pytest
import trio
import trio.testing

from relay.admin import listener
from relay.admin.control import LocalControl, WorkerState
from relay.admin.guard import Guard, is_local_name
from relay.admin.pages import Pages
from relay.http.fault import Fault
from relay.http.heads import parse_request
from tests.guarantees.admin_setup import Response, admin, response
from tests.harness import RawPeer, route_to, running, scene

TOKEN = "0pen-sesame"
PATHS = ["/healthz", "/readyz", "/metrics", "/streams", "/status", "/page.js"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_public_listener_knows_none_of_it(path: str) -> None:
    """A catch-all route forwards the path like any other; without a route it is a 404."""
    async with scene() as (relay, upstream), admin(relay):
        client = await relay.get(path)
        peer, head = await upstream.request()
        assert head.startswith(f"GET {path} ".encode())
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert b" 204 " in await client.head()
    nowhere = '[[routes]]\npath = "/only"\nsource = "local"\n'
    async with running(nowhere) as relay, admin(relay):
        client = await relay.get(path)
        assert b" 404 " in await client.head()
        other = await relay.client()
        await other.send(b"DELETE /streams/x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 404 " in await other.head()


# -- the guard, as a table -------------------------------------------------------------------------

ALLOWED = [
    b"Host: 127.0.0.1:9900",
    b"Host: localhost",
    b"Host: LOCALHOST:1",
    b"Host: 127.8.8.8:80",
    b"Host: [::1]:9900",
    b"Host: 127.0.0.1:9900\r\nOrigin: http://127.0.0.1:9900",
    b"Host: localhost:9900\r\nOrigin: https://localhost:9900\r\nSec-Fetch-Site: same-origin",
    b"Host: localhost:9900\r\nSec-Fetch-Site: none",
]
REFUSED = [
    (421, b"Host: relay.example"),
    (421, b"Host: localhost.example:9900"),
    (421, b"Host: 127.0.0.1.nip.io:9900"),
    (421, b"Host: 10.0.0.1:9900"),
    (403, b"Host: 127.0.0.1:9900\r\nOrigin: https://evil.example"),
    (403, b"Host: 127.0.0.1:9900\r\nOrigin: null"),
    (403, b"Host: 127.0.0.1:9900\r\nOrigin: http://127.0.0.1:8000"),
    (403, b"Host: 127.0.0.1:9900\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: cors"),
    (403, b"Host: localhost:9900\r\nSec-Fetch-Site: same-site\r\nSec-Fetch-Mode: no-cors"),
]


def judged(guard: Guard, fields: bytes, method: bytes = b"DELETE", openness: str = "closed") -> int:
    """The status of a refusal; 200: full rights, 206: part of it."""
    parsed = parse_request(method + b" /x HTTP/1.1\r\n" + fields + b"\r\n\r\n", 65536)
    assert parsed is not None
    try:
        return 200 if guard.admit(parsed[0], openness) else 206  # type: ignore[arg-type]
    except Fault as fault:
        return fault.status


@pytest.mark.parametrize("fields", ALLOWED)
def test_loopback_lets_in(fields: bytes) -> None:
    assert judged(Guard(None, "loopback"), fields) == 200


@pytest.mark.parametrize(("status", "fields"), REFUSED)
def test_loopback_keeps_out(status: int, fields: bytes) -> None:
    assert judged(Guard(None, "loopback"), fields) == status


def test_a_link_to_the_page_may_stand_anywhere() -> None:
    fields = b"Host: localhost:9900\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate"
    assert judged(Guard(None, "loopback"), fields, b"GET", "public") == 200
    assert judged(Guard(None, "loopback"), fields, b"DELETE") == 403


def test_a_unix_socket_has_any_name() -> None:
    assert judged(Guard(None, "unix"), b"Host: whatever") == 200
    assert judged(Guard(None, "unix"), b"Host: whatever\r\nOrigin: http://evil.example") == 403


def test_outside_nothing_goes_without_a_token() -> None:
    """The configuration refuses it already; a socket that was passed in it cannot look into."""
    assert judged(Guard(None, "outside"), b"Host: 127.0.0.1:9900", b"GET", "public") == 403


TOKENS: Sequence[tuple[int, bytes]] = [
    (200, b"Authorization: Bearer 0pen-sesame"),
    (200, b"authorization: bearer 0pen-sesame"),
    (401, b"X: y"),
    (401, b"Authorization: Bearer"),
    (401, b"Authorization: Bearer 0pen-sesam"),
    (401, b"Authorization: Bearer 0pen-sesame2"),
    (401, b"Authorization: Basic 0pen-sesame"),
    (401, b"Authorization: 0pen-sesame"),
]


@pytest.mark.parametrize(("status", "fields"), TOKENS)
def test_the_token(status: int, fields: bytes) -> None:
    guard = Guard(TOKEN, "outside")
    assert judged(guard, b"Host: relay.internal\r\n" + fields) == status
    assert judged(guard, b"Host: relay.internal\r\n" + fields, b"GET", "public") == 200
    part = 200 if status == 200 else 206
    assert judged(guard, b"Host: relay.internal\r\n" + fields, b"GET", "part") == part


@pytest.mark.parametrize(
    ("host", "local"),
    [
        (b"localhost", True),
        (b"localhost.:80", True),
        (b"[::1]", True),
        (b"[::ffff:127.0.0.1]:80", True),
        (b"127.1.2.3", True),
        (b"", False),
        (b"0.0.0.0", False),
        (b"127.0.0.1.example", False),
        (b"[fe80::1]", False),
    ],
)
def test_local_names(host: bytes, local: bool) -> None:
    assert is_local_name(host) is local


# -- with sockets ----------------------------------------------------------------------------------


async def test_with_a_token_only_the_page_and_the_probes_are_open() -> None:
    async with running(route_to("http://127.0.0.1:9")) as relay, admin(relay, TOKEN) as desk:
        assert (await desk.ask("/")).status == 200
        assert (await desk.ask("/healthz")).status == 200
        assert (await desk.ask("/readyz")).json == {"ready": True}
        for path in ("/metrics", "/streams", "/status", "/nowhere"):
            got = await desk.ask(path)
            assert (got.status, got.code) == (401, "unauthorized")
            assert got.fields["www-authenticate"] == 'Bearer realm="relay"'
        assert (await desk.ask("/streams/a", "DELETE")).status == 401
        given = f"Authorization: Bearer {TOKEN}\r\n"
        assert (await desk.ask("/streams", fields=given)).status == 200
        assert "reasons" in (await desk.ask("/readyz", fields=given)).json
        assert (await desk.ask("/streams/a", "DELETE", given)).status == 404
        other = f"Host: relay.internal\r\n{given}"
        assert (await desk.ask("/streams", fields=other)).status == 200


async def test_no_request_has_a_body() -> None:
    async with running(route_to("http://127.0.0.1:9")) as relay, admin(relay) as desk:
        peer = await RawPeer.connect(desk.port)
        await peer.send(
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"
        )
        got = await response(peer)
        assert (got.status, got.fields["connection"]) == (413, "close")
        peer.close()
        assert (await ask_raw(desk.port, b"\x00\x01\r\n\r\n")).status == 400
        long = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000
        assert (await ask_raw(desk.port, long)).status == 431


async def ask_raw(port: int, data: bytes) -> Response:
    peer = await RawPeer.connect(port)
    try:
        await peer.send(data)
        return await response(peer)
    finally:
        peer.close()


class Served:
    draining = False

    def snapshot(self) -> dict[str, object]:
        return {}

    def streams(self) -> list[list[object]]:
        return []

    def stop_stream(self, exchange_id: str) -> bool:
        return False


PAGES = Pages(LocalControl(Served(), 0.0), Guard(None, "unix"))


async def serve(stream: trio.abc.Stream, places: listener.Places | None = None) -> None:
    """One connection of the admin listener, until it has ended."""
    places = places or listener.Places(1)
    connection = listener.Connection(stream, PAGES, places)
    await places.take(connection)
    await listener.serve_connection(connection, places)


async def test_half_a_head_has_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """Bytes that trickle do not move it."""
    ours, theirs = trio.testing.memory_stream_pair()
    places = listener.Places(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs, places)
        await trio.sleep(listener.FIRST_WITHIN - 1)
        started = trio.current_time()
        with suppress(trio.BrokenResourceError):
            for byte in b"GET /healthz HTTP/1.1\r\nX-Slow: 1234567":
                await ours.send_all(bytes([byte]))
                await trio.sleep(0.5)
        assert trio.current_time() - started == pytest.approx(listener.HEAD_WITHIN, abs=1)
    assert places.taken == 0


async def test_silence_ends(autojump_clock: trio.testing.MockClock) -> None:
    """Soon before the first request; a scraper that comes every minute keeps its connection."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs)
        assert await ours.receive_some(1) == b""
        assert trio.current_time() == pytest.approx(listener.FIRST_WITHIN, abs=1)
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs)
        await ours.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in await ours.receive_some(65536)
        started = trio.current_time()
        while await ours.receive_some(65536):
            pass
        assert trio.current_time() - started == pytest.approx(listener.IDLE, abs=1)


async def test_a_reader_that_stops_has_its_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs)
        await ours.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.sleep(listener.WRITE_WITHIN + 1)
        while await ours.receive_some(65536):
            pass


# -- strangers ---------------------------------------------------------------------------------------

ASK = b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
STRANGERS = {
    "say nothing": b"",
    "never end their head": b"GET / HTTP/1.1\r\nX: ",
    "ask again and again and read nothing": ASK * 2000,
    "have asked once": ASK,
}


@pytest.mark.parametrize("says", STRANGERS.values(), ids=STRANGERS)
async def test_strangers_keep_nobody_out(says: bytes) -> None:
    """1. More strangers than there are places. 2. A probe is answered, again and again, on a connection of its own and on
    one that it keeps, while more of them come. 3. No more than the places are open."""
    async with scene() as (relay, _), admin(relay) as pages:
        strangers = [await RawPeer.connect(pages.port) for _ in range(listener.CONNECTIONS * 2)]
        try:
            for stranger in strangers:
                with suppress(trio.BrokenResourceError), trio.move_on_after(0.05):
                    await stranger.stream.send_all(says)
            for _ in range(3):
                assert (await pages.ask("/healthz")).status == 200
                strangers += [await RawPeer.connect(pages.port) for _ in range(20)]
            kept = await RawPeer.connect(pages.port)
            strangers.append(kept)
            for _ in range(3):
                strangers.append(await RawPeer.connect(pages.port))
                await kept.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await response(kept)).status == 200
        finally:
            for stranger in strangers:
                stranger.close()


async def test_who_is_being_answered_is_not_put_out() -> None:
    """1. Every place asks for something that takes long. 2. One more comes and waits. 3. All get their answer."""

    go = trio.Event()

    class Slow(LocalControl):
        async def states(self) -> list[WorkerState]:
            await go.wait()
            return [WorkerState(0, 1, "serving", 0.0)]

    control = Slow(Served(), 0.0)
    places = listener.Places(3)
    pages = Pages(control, Guard(None, "unix"))
    answered: list[bytes] = []

    async def client() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        connection = listener.Connection(theirs, pages, places)
        await places.take(connection)
        nursery.start_soon(listener.serve_connection, connection, places)
        await ours.send_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answered.append(bytes(await ours.receive_some(65536)))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(client)
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(client)
        await trio.testing.wait_all_tasks_blocked()
        assert not answered
        go.set()
    assert len(answered) == 4
    assert all(b" 200 " in each for each in answered)
