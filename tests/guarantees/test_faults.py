"""The promise: a bug of relay's own costs one connection. It is logged with its traceback, the
exchange ends
as a fault, both of its connections are closed, and every other stream goes on.

The bugs are put in by hand, where real ones would sit.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from relay.exchange import connection
from relay.exchange.delivery import Delivery
from relay.exchange.transfer import Transfer
from relay.flows.event_flow import EventFlow
from relay.http.fields import ClientView
from relay.observing.lines import JsonLines
from relay.upstreams.group import Group
from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, scene

MARK = b"data: the one that breaks it\n\n"


def in_a_step(patch: pytest.MonkeyPatch) -> None:
    """In the synchronous step that moves bytes, on the engine's own stack."""
    whole = EventFlow.passes

    def passes(self: EventFlow, data: bytes) -> bool:
        if MARK in data:
            raise ZeroDivisionError
        return whole(self, data)

    patch.setattr(EventFlow, "passes", passes)


def in_a_clock(patch: pytest.MonkeyPatch) -> None:
    whole = Transfer.tick

    def tick(self: Transfer, now: float) -> bytes:
        if self.record.path == "/broken":
            raise ZeroDivisionError
        return whole(self, now)

    patch.setattr(Transfer, "tick", tick)


async def stream(relay: Relay, up: Upstream, path: str) -> tuple[RawPeer, RawPeer]:
    client = await relay.get(path)
    peer, _ = await up.request()
    await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
    await client.until(b"data: 1\n\n\r\n")
    return client, peer


@pytest.mark.parametrize("where", [in_a_step, in_a_clock], ids=lambda where: where.__name__)
async def test_in_a_stream(
    where: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    where(monkeypatch)
    async with scene('heartbeat = "20ms"') as (relay, up):
        before = relay.inventory()
        sound, other = await stream(relay, up, "/sound")
        broken, peer = await stream(relay, up, "/broken")
        if where is in_a_step:
            await peer.send(chunked(MARK))
        rest = await broken.rest()
        assert not rest.endswith(b"0\r\n\r\n")
        await peer.rest()
        line = await relay.line()
        assert (line["ending"], line["side"], line["path"]) == ("fault", "relay", "/broken")
        assert "ZeroDivisionError" in caplog.text
        relay.faults.clear()
        await other.send(chunked(b"data: 2\n\n"))
        await sound.until(b"data: 2\n\n\r\n")
        sound.close()
        await other.rest()
        await relay.nothing_left(before)


async def test_before_the_head(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Delivery.begin

    async def begin(self: Delivery) -> None:
        if self._exchange.record.path == "/broken":
            raise ZeroDivisionError
        await whole(self)

    monkeypatch.setattr(Delivery, "begin", begin)
    async with scene() as (relay, up):
        before = relay.inventory()
        broken = await relay.get("/broken")
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD)
        await broken.rest()
        await peer.rest()
        assert (await relay.line())["ending"] == "fault"
        assert "ZeroDivisionError" in caplog.text
        relay.faults.clear()
        sound, other = await stream(relay, up, "/sound")
        sound.close()
        await other.rest()
        await relay.nothing_left(before)


async def test_before_there_is_an_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even there the connection is closed, and the next one served."""

    def broken(*_: object) -> ClientView:
        raise ZeroDivisionError

    async with scene() as (relay, up):
        before = relay.inventory()
        with monkeypatch.context() as patch:
            patch.setattr(connection, "client_view", broken)
            client = await relay.get()
            await client.rest()
        relay.faults.clear()
        sound, other = await stream(relay, up, "/sound")
        sound.close()
        await other.rest()
        client.close()
        await relay.nothing_left(before)


class Once:
    """Raises in the place of a function, once and not before it is told to."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.told = False
        whole = getattr(owner, name)

        def broken(*given: object) -> object:
            if self.told:
                self.told = False
                raise ZeroDivisionError
            return whole(*given)

        patch.setattr(owner, name, broken)


# Where a stream begins; behind an answer that is all there, when its upstream connection was given back; before a url is
# chosen.
PLACES = {
    "beginning": (Delivery, "begin_now"),
    "books": (JsonLines, "end"),
    "choice": (Group, "choose"),
}
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.mark.parametrize("served", [0, 1], ids=["dialled", "kept"])
@pytest.mark.parametrize("where", PLACES)
async def test_in_a_step_of_a_request(
    where: str,
    served: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """1. A stream is under way. 2. Another connection's request meets a bug in a step of the engine, of its own socket or
    of its upstream's, the first or the second one that it has. 3. It has ended, and was counted once; the stream goes on.
    """
    bug = Once(monkeypatch, *PLACES[where])
    async with scene() as (relay, up):
        sound, other = await stream(relay, up, "/sound")
        before = relay.inventory()
        broken = await relay.client()
        peer: RawPeer | None = None
        for _ in range(served):
            await broken.send(b"GET /well HTTP/1.1\r\nHost: a\r\n\r\n")
            peer, _ = await up.request()
            await peer.send(WHOLE)
            await broken.until(b"ok")
            assert (await relay.line())["ending"] == "complete"
        bug.told = True
        await broken.send(b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n")
        if where != "choice":
            if peer is None:
                peer, _ = await up.request()
            else:
                await peer.head()
            await peer.send(WHOLE if where == "books" else EVENT_HEAD + chunked(b"data: 1\n\n"))
        await broken.rest()
        line = await relay.line()
        assert (line["at"], line["ending"], line["path"]) == ("end", "fault", "/broken")
        assert "ZeroDivisionError" in caplog.text
        relay.faults.clear()
        if peer is not None and where == "beginning":
            await peer.rest()
        if peer is not None:
            peer.close()
        await other.send(chunked(b"data: 2\n\n"))
        await sound.until(b"data: 2\n\n\r\n")
        await relay.nothing_left(before)
        sound.close()
        await other.rest()
        endings = relay.worker.counters.routes["/{rest...}"].endings
        assert sum(count for cause, count in endings.items() if cause == "fault") == 1


async def test_a_flood_does_not_starve_the_others() -> None:
    """1. One stream carries as much as it can. 2. The events of another one still come one by
    one."""
    async with scene() as (relay, up), trio.open_nursery() as nursery:
        flooded = await relay.get("/flood")
        source, _ = await up.request()
        await source.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

        async def pour() -> None:
            while True:
                await source.stream.send_all(chunked(bytes(60_000)))

        async def drink() -> None:
            while True:
                await flooded.stream.receive_some(1 << 20)

        nursery.start_soon(pour)
        nursery.start_soon(drink)
        client, peer = await stream(relay, up, "/events")
        for n in range(100):
            await peer.send(chunked(b"data: %d\n\n" % n))
            await client.until(b"data: %d\n\n\r\n" % n)
        nursery.cancel_scope.cancel()
