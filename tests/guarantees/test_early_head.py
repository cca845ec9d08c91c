"""The promise of `commit = "after …"`: while the upstream thinks, the client gets 200 and
heartbeats; what
becomes of the request is then told inside the stream. By default the head waits for the upstream's.
"""

from __future__ import annotations

import json

import pytest
import trio
from trio.testing import lockstep_stream_pair

from tests.guarantees.event_setup import dechunked, read
from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, scene

LAST = b"0\r\n\r\n"
EARLY = 'commit = "after 5ms"\nheartbeat = "5ms"'
HEARTBEAT = chunked(b":\n\n")


async def committed(relay: Relay, up: Upstream, version: str = "1.1") -> tuple[RawPeer, RawPeer]:
    """The head and two heartbeats are out, the upstream has said nothing."""
    client = await relay.client()
    await client.send(f"GET / HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    peer, _ = await up.request()
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: text/event-stream\r\n" in head
    assert b"cache-control: no-cache, no-transform\r\n" in head
    assert b"x-accel-buffering: no\r\n" in head
    for _ in range(2):
        await client.until(HEARTBEAT if version == "1.1" else b":\n\n")
    return client, peer


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("together", [False, True], ids=["apart", "together"])
async def test_the_stream_goes_on(version: str, together: bool) -> None:
    """The upstream's events follow; its byte order mark would be text there, and is dropped."""
    async with scene(EARLY) as (relay, up):
        client, peer = await committed(relay, up, version)
        body = chunked(b"\xef\xbb\xbfdata: 1\n\ndata: 2\n\n") + LAST
        if together:
            await peer.send(EVENT_HEAD + body)
        else:
            await peer.send(EVENT_HEAD)
            await peer.send(body)
        rest = await client.rest()
        assert [event.data for event in read(dechunked(rest) if version == "1.1" else rest)] == [
            "1",
            "2",
        ]
        assert rest.endswith(LAST) == (version == "1.1")
        line = await relay.line()
        assert (line["ending"], line["status"], line["events"]) == ("complete", 200, 2)


ANSWERS = {
    "an error": (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nbody", "status_500", True),
    "a refusal": (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "status_404", False),
    "something else": (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        "status_200",
        False,
    ),
    "nonsense": (b"nonsense\r\n\r\n", "upstream_nonsense", True),
    "nothing": (b"", "upstream_broke", True),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("after_error", ["abort", "close"])
async def test_what_is_no_stream_becomes_a_terminal_event(
    answer: tuple[bytes, str, bool], after_error: str
) -> None:
    sent, code, retryable = answer
    async with scene(EARLY + f'\nafter_error = "{after_error}"') as (relay, up):
        client, peer = await committed(relay, up)
        if sent:
            await peer.send(sent)
        peer.close()
        rest = await client.rest()
        [event] = read(dechunked(rest))
        said = json.loads(event.data)
        assert (said["type"], said["code"], said["retryable"]) == ("error", code, retryable)
        assert rest.endswith(b"\r\n" + LAST) == (after_error == "close")
        line = await relay.line()
        assert line["status"] == 200
        assert line["ending"] != "complete"


async def test_an_answer_in_time_is_the_upstreams_own() -> None:
    async with scene('commit = "after 1h"') as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 404 ")
        assert (await relay.line())["status"] == 404


async def test_by_default_the_head_waits() -> None:
    async with scene('heartbeat = "1ms"') as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 103 Early Hints\r\n\r\n"
        await peer.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 503 ")


async def test_an_interim_response_after_the_commitment_is_too_late() -> None:
    async with scene(EARLY) as (relay, up):
        client, peer = await committed(relay, up)
        await peer.send(
            b"HTTP/1.1 103 Early Hints\r\n\r\n" + EVENT_HEAD + chunked(b"data: 1\n\n") + LAST
        )
        rest = await client.rest()
        assert b"103" not in rest
        assert [event.data for event in read(dechunked(rest))] == ["1"]


async def test_an_answer_to_head_is_never_committed_early() -> None:
    """1. A HEAD waits. 2. A heartbeat behind its head would be read as the next response."""
    async with scene(EARLY) as (relay, up):
        client = await relay.client()
        await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + EVENT_HEAD)
        assert (await client.head()).startswith(b"HTTP/1.1 103 ")
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await peer.head()
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")


async def test_an_interim_response_that_is_being_written() -> None:
    """1. An interim response waits for a client that does not read. 2. The time to commit comes.
    3. One stands
    behind the other."""
    async with scene('commit = "after 500ms"') as (relay, up):
        client = relay.attach(lockstep_stream_pair())
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await trio.sleep(0.7)  # the head is due, and waits
        assert await client.head() == b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
        assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")
        client.close()
        assert (await relay.line())["ending"] == "client_left"


@pytest.mark.parametrize("after_error", ["abort", "close"])
async def test_a_request_body_that_turns_out_wrong_is_told(after_error: str) -> None:
    """1. The body is on its way up, the head of the stream is out. 2. A chunk of the body is malformed: the client is
    told in the stream, and the upstream is closed."""
    async with scene(EARLY + f'\nafter_error = "{after_error}"') as (relay, up):
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(chunked(b"x" * 100))
        peer, _ = await up.request()
        assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")
        await client.send(b"zz\r\n")
        rest = await client.rest()
        [event] = read(dechunked(rest))
        assert json.loads(event.data)["code"] == "bad_chunk"
        assert rest.endswith(b"\r\n" + LAST) == (after_error == "close")
        line = await relay.line()
        assert (line["ending"], line["side"], line["status"]) == ("bad_request", "client", 200)
        assert await peer.rest() == chunked(b"x" * 100)
