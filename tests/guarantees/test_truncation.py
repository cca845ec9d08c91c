"""The promise: a response that was cut never looks like one that is whole, however the upstream was
cut and however the client's HTTP frames the body.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.lowlevel
import trio.testing

from tests.harness import EVENT_HEAD, LIMIT, RawPeer, Relay, chunked, scene

LAST = b"0\r\n\r\n"
GET_10 = b"GET / HTTP/1.0\r\nHost: relay.test\r\n\r\n"
GET_11 = b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n"
HEADS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"some"),
    "inside-a-chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nsome",
    "nonsense": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"some") + b"?",
}
cut_bodies = pytest.mark.parametrize("sent", HEADS.values(), ids=HEADS)
cuts = pytest.mark.parametrize("cut", [RawPeer.close, RawPeer.reset], ids=["fin", "rst"])


async def exchange(relay: Relay, request: bytes) -> RawPeer:
    client = await relay.client()
    await client.send(request)
    return client


async def to_the_end(client: RawPeer) -> bytes:
    """What comes up to a proper end. Raises: trio.BrokenResourceError for a reset."""
    data = client.buffer
    with trio.fail_after(LIMIT):
        while more := await client.stream.receive_some():
            data += more
    return data


@cuts
@cut_bodies
async def test_a_body_for_http_1_1(sent: bytes, cut: Callable[[RawPeer], None]) -> None:
    """Fewer bytes than the length says, or no last chunk; then the connection ends."""
    async with scene() as (relay, up):
        before = relay.inventory()
        client = await exchange(relay, GET_11)
        peer, _ = await up.request()
        await peer.send(sent)
        head = await client.head()
        await client.until(b"some")
        cut(peer)
        rest = await client.rest()
        assert b"content-length: 100" in head or LAST not in rest
        assert rest in (b"", b"\r\n")
        line = await relay.line()
        assert line["ending"] in ("upstream_broke", "upstream_nonsense")
        assert (line["side"], line["phase"], line["status"]) == ("upstream", "body", 200)
        client.close()
        await relay.nothing_left(before)


@cuts
@pytest.mark.parametrize("sent", [HEADS["chunked"], HEADS["inside-a-chunk"]])
async def test_a_body_for_http_1_0(sent: bytes, cut: Callable[[RawPeer], None]) -> None:
    """1. The body has no frame but the connection's end. 2. The upstream is cut. 3. Only a reset
    can
    tell the client."""
    async with scene() as (relay, up):
        client = await exchange(relay, GET_10)
        peer, _ = await up.request()
        await peer.send(sent)
        await client.until(b"some")
        cut(peer)
        with pytest.raises(trio.BrokenResourceError):
            await to_the_end(client)
        assert (await relay.line())["ending"] == "upstream_broke"


async def test_a_whole_body_for_http_1_0() -> None:
    """The other side of it: the proper end is no reset."""
    async with scene() as (relay, up):
        client = await exchange(relay, GET_10)
        peer, _ = await up.request()
        await peer.send(HEADS["chunked"] + LAST)
        await client.head()
        assert await to_the_end(client) == b"some"
        assert (await relay.line())["ending"] == "complete"


@pytest.mark.parametrize("version", [GET_10, GET_11], ids=["1.0", "1.1"])
async def test_a_body_until_the_close_that_is_reset(version: bytes) -> None:
    """An upstream without framing that resets has not ended its body, also where nobody looks at what is in it."""
    async with scene() as (relay, up):
        client = await exchange(relay, version)
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await client.until(b"some")
        peer.reset()
        if version is GET_10:
            with pytest.raises(trio.BrokenResourceError):
                await to_the_end(client)
        else:
            assert LAST not in await client.rest()
        assert (await relay.line())["ending"] == "upstream_broke"


@cuts
@pytest.mark.parametrize("version", [GET_10, GET_11], ids=["1.0", "1.1"])
async def test_an_event_stream(version: bytes, cut: Callable[[RawPeer], None]) -> None:
    """It says so itself, and the connection ends without a last chunk."""
    async with scene() as (relay, up):
        client = await exchange(relay, version)
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD + chunked(b"data: 1\n\ndata: 2"))
        await client.until(b"data: 1\n\n")
        cut(peer)
        rest = await client.rest()
        assert b'data: {"type":"error","code":"upstream_broke"' in rest
        assert b"data: 2" not in rest
        assert not rest.endswith(LAST)
        assert (await relay.line())["ending"] == "upstream_broke"


async def test_an_event_stream_without_a_terminal_event_for_http_1_0() -> None:
    """dialect = "off": nothing tells of the cut but the connection."""
    async with scene('dialect = "off"') as (relay, up):
        client = await exchange(relay, GET_10)
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
        await client.until(b"data: 1\n\n")
        peer.close()
        with pytest.raises(trio.BrokenResourceError):
            await to_the_end(client)


async def test_a_head_that_is_cut_is_a_502() -> None:
    async with scene() as (relay, up):
        client = await exchange(relay, GET_11)
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Le")
        peer.close()
        assert (await client.head()).startswith(b"HTTP/1.1 502 ")
        assert (await relay.line())["ending"] == "upstream_broke"


async def test_the_connection_is_not_used_again() -> None:
    """1. A body is cut. 2. The client has pipelined its next request. 3. It is not answered
    here."""
    async with scene() as (relay, up):
        client = await exchange(relay, GET_11 + GET_11)
        peer, _ = await up.request()
        await peer.send(HEADS["length"])
        await client.until(b"some")
        peer.close()
        assert await client.rest() == b""
        line = await relay.line()
        assert line["bytes_out"] == 4


@pytest.mark.parametrize("marker", [b"", b"data: [DONE]\n\n"])
async def test_a_clean_end_is_complete_only_with_the_routes_marker(marker: bytes) -> None:
    route = 'complete_when = "[DONE]"\ndialect = "openai"\nafter_error = "abort"'
    async with scene(route) as (relay, up):
        client = await exchange(relay, GET_11)
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
        await client.until(b"data: 1\n\n\r\n")
        await peer.send((chunked(marker) if marker else b"") + LAST)
        line = await relay.line()
        client.half_close()
        rest = await client.rest()
        if marker:
            assert rest == chunked(marker) + LAST
            assert line["ending"] == "complete"
        else:
            assert b'"error":' in rest
            assert b"[DONE]" not in rest
            assert not rest.endswith(LAST)
            assert line["ending"] == "upstream_truncated"


async def test_what_was_said_survives_an_upload_that_goes_on() -> None:
    """1. A client uploads while it is answered with a stream. 2. The upstream breaks. 3. A reset
    for the
    unread upload would destroy the terminal event on its way."""
    async with scene() as (relay, up):
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
        await client.until(b"data: 1\n\n\r\n")
        peer.close()
        await client.send(bytes(200_000))
        assert (await relay.line())["ending"] == "upstream_broke"
        assert b'"code":"upstream_broke"' in await client.rest()


async def test_a_reset_that_the_upload_is_told_of() -> None:
    """1. A client uploads while it is answered with a body until the close. 2. The upstream resets, and the upload's write
    is told so first. 3. The body was cut."""

    class Reset(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            if task.name.endswith("Upload.run"):
                peer.reset()

    async with scene() as (relay, up):
        client = await exchange(
            relay, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n1"
        )
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await client.until(b"some")
        await trio.testing.wait_all_tasks_blocked()
        reset = Reset()
        trio.lowlevel.add_instrument(reset)
        try:
            await client.send(b"2" * 1000)
            assert LAST not in await client.rest()
        finally:
            trio.lowlevel.remove_instrument(reset)
        assert (await relay.line())["ending"] == "upstream_broke"
