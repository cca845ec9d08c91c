"""The promise: a shutdown ends what is idle at once, lets the rest finish, tells event streams to
come
back, and is over when its time is over, whatever a client does.
"""

from __future__ import annotations

import re

import pytest
import trio

from tests.harness import EVENT_HEAD, LIMIT, RawPeer, Relay, Upstream, chunked, scene, settle

LAST = b"0\r\n\r\n"
SHORT = '[timeouts]\ndrain = "200ms"'
LONG = '[timeouts]\ndrain = "1h"'  # whoever needs it all exceeds the LIMIT of the test
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def event_stream(relay: Relay, up: Upstream, method: str = "GET") -> tuple[RawPeer, RawPeer]:
    client = await relay.client()
    await client.send(b"%b / HTTP/1.1\r\nHost: a\r\n\r\n" % method.encode())
    peer, _ = await up.request()
    await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
    await client.until(b"data: 1\n\n\r\n")
    return client, peer


async def test_nothing_to_do() -> None:
    async with scene(more=LONG) as (relay, _):
        await relay.drained()


async def test_an_idle_connection_ends_at_once() -> None:
    async with scene(more=LONG) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(OK)
        await client.until(b"ok")
        fresh = await relay.client()  # has said nothing yet
        await settle(lambda: relay.inventory().connections == 2)
        await relay.drained()
        await client.ended()
        await fresh.ended()


async def test_nobody_is_accepted_any_more() -> None:
    async with scene(more=LONG) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        relay.server.stop()
        await settle(lambda: relay.worker.draining)
        with trio.fail_after(LIMIT):
            while True:
                try:
                    late = await relay.client()
                except OSError:
                    break
                await late.rest()  # in the queue when the door was shut
        await peer.send(OK)
        await client.until(b"ok")


async def test_a_request_under_way_is_answered() -> None:
    """With Connection: close, and the drain is over with it."""
    async with scene(more=LONG) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        relay.server.stop()
        await settle(lambda: relay.worker.draining)
        await peer.send(OK)
        assert b"connection: close" in await client.until(b"ok")
        await relay.drained()
        assert (await relay.line())["ending"] == "complete"


async def test_a_pipelined_request_is_not_begun() -> None:
    async with scene(more=LONG) as (relay, up):
        client = await relay.client()
        await client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        peer, _ = await up.request()
        relay.server.stop()
        await settle(lambda: relay.worker.draining)
        await peer.send(OK)
        await client.until(b"ok")
        await client.ended()
        await relay.drained()


async def test_a_stream_gets_a_farewell() -> None:
    """A GET is asked to come back; the body ends properly, half an event is not sent."""
    async with scene(more=SHORT) as (relay, up):
        client, peer = await event_stream(relay, up)
        await peer.send(chunked(b"data: half"))
        await relay.drained()
        rest = await client.rest()
        assert re.fullmatch(rb"[0-9a-f]+\r\nretry: \d+\n\n\r\n0\r\n\r\n", rest)
        await peer.rest()
        line = await relay.line()
        assert (line["ending"], line["side"]) == ("drained", "relay")


async def test_a_stream_that_answers_a_post_is_told() -> None:
    """Nobody repeats a POST by itself."""
    async with scene(more=SHORT) as (relay, up):
        client, _ = await event_stream(relay, up, "POST")
        await relay.drained()
        rest = await client.rest()
        assert b'data: {"type":"error","code":"drained"' in rest
        assert not rest.endswith(LAST)
        assert (await relay.line())["ending"] == "drained"


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "ai-sdk"])
async def test_a_reader_that_does_not_come_back_is_told(dialect: str) -> None:
    """An SDK that reads a GET (a response that is fetched again by its id) does not reconnect: a
    clean end alone would be a whole answer to it."""
    async with scene(f'dialect = "{dialect}"', more=SHORT) as (relay, up):
        client, _ = await event_stream(relay, up)
        await relay.drained()
        rest = await client.rest()
        assert b"error" in rest
        assert b"the relay is shutting down" in rest
        assert rest.endswith(LAST)
        assert (await relay.line())["ending"] == "drained"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_drain_that_is_over_before_it_looks_tells_all_the_same(method: str) -> None:
    async with scene(more='[timeouts]\ndrain = "1ms"') as (relay, up):
        client, _ = await event_stream(relay, up, method)
        await relay.drained()
        rest = await client.rest()
        assert (b"retry: " if method == "GET" else b'"code":"drained"') in rest
        assert (await relay.line())["ending"] == "drained"


async def test_a_stream_that_ends_by_itself_may() -> None:
    async with scene(more=LONG) as (relay, up):
        client, peer = await event_stream(relay, up)
        relay.server.stop()
        await settle(lambda: relay.worker.draining)
        await peer.send(chunked(b"data: 2\n\n") + LAST)
        assert (await client.rest()).endswith(chunked(b"data: 2\n\n") + LAST)
        await relay.drained()
        assert (await relay.line())["ending"] == "complete"


async def test_a_body_may_finish_and_is_cut_at_the_deadline() -> None:
    """There is no place for words in it: the cut is visible, no last chunk."""
    async with scene(more=SHORT) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"part"))
        await client.until(b"part\r\n")
        relay.server.stop()
        await settle(lambda: relay.worker.draining)
        await peer.send(chunked(b"more"))
        await client.until(b"more\r\n")
        await relay.drained()
        assert await client.rest() == b""
        await peer.rest()
        line = await relay.line()
        assert (line["ending"], line["side"]) == ("drained", "relay")


@pytest.mark.parametrize("events", [False, True], ids=["bytes", "events"])
async def test_a_client_that_does_not_read(events: bool) -> None:
    """It cannot be told anything, and does not outlive the drain time."""
    async with scene(more=SHORT) as (relay, up):
        before = relay.inventory()
        client = await relay.get()
        client.shrink()
        peer, _ = await up.request()
        await peer.send(
            EVENT_HEAD if events else b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
        )
        piece = chunked(b"data: " + b"x" * 60_000 + b"\n\n") if events else bytes(60_000)
        with trio.move_on_after(0.1) as scope:
            while True:
                await peer.stream.send_all(piece)
                scope.deadline = trio.current_time() + 0.1
        [transfer] = relay.worker.registry
        assert transfer.paused
        await relay.drained()
        await peer.rest()
        assert (await relay.line())["ending"] == "drained"
        assert relay.inventory().connections == before.connections


async def test_an_upstream_that_does_not_answer() -> None:
    async with scene(more=SHORT) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await relay.drained()
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"shutting_down"' in answer
        assert b"connection: close" in answer
        await peer.ended()
        line = await relay.line()
        assert (line["ending"], line["phase"], line["status"]) == ("drained", "request", 503)


@pytest.mark.parametrize("after", ["abort", "close"])
async def test_an_upstream_that_does_not_answer_a_client_that_has_its_head(after: str) -> None:
    """Nobody is cut without a word, behind an early head neither."""
    route = f'commit = "after 10ms"\nafter_error = "{after}"'
    async with scene(route, more=SHORT) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await client.head()
        await relay.drained()
        rest = await client.rest()
        assert b'"shutting_down"' in rest
        assert rest.endswith(b"0\r\n\r\n") == (after == "close")
        await peer.ended()
        assert (await relay.line())["ending"] == "drained"


async def test_an_upload_under_way() -> None:
    async with scene(more=SHORT) as (relay, up):
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        peer, _ = await up.request()
        await peer.exactly(5)
        await relay.drained()
        await peer.ended()
        assert (await relay.line())["ending"] == "drained"


async def test_a_tunnel() -> None:
    async with scene(more=SHORT) as (relay, up):
        client = await relay.get("/", "Connection: upgrade\r\nUpgrade: echo\r\n")
        peer, _ = await up.request()
        await peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
        )
        await client.head()
        await relay.drained()
        await client.rest()
        await peer.rest()
        line = await relay.line()
        assert (line["ending"], line["phase"]) == ("drained", "tunnel")


async def test_idle_upstream_connections_are_closed() -> None:
    async with scene(more=LONG) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(OK)
        await client.until(b"ok")
        await relay.drained()
        await peer.ended()
