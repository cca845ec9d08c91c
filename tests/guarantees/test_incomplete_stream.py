"""The promise: a stream that ends cleanly without the marker its route names is not complete: the
reader
is told, the end is no clean one, and the log says truncated. And the marker is never relay's to
write.
"""

from __future__ import annotations

import pytest

from tests.guarantees.event_setup import dechunked, read
from tests.harness import EVENT_HEAD, chunked, scene

LAST = b"0\r\n\r\n"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
DELTA = b'event: delta\ndata: {"text": "so far"}\n\n'

# complete_when → a block that completes
MARKERS = {
    "[DONE]": b"data: [DONE]\n\n",
    "event:message_stop": b'event: message_stop\ndata: {"type": "message_stop"}\n\n',
    "event:response.completed|event:response.incomplete": b"event: response.incomplete\ndata: {}\n\n",
}
# what looks like a marker and is none
LOOKALIKES = {
    "[DONE]": b'data: {"text": "[DONE]"}\n\n',
    "event:message_stop": b'event: delta\ndata: {"text": "event:message_stop"}\n\n',
    "event:response.completed|event:response.incomplete": b"data: response.completed\n\n",
}


def framed(framing: str, body: bytes) -> bytes:
    """A whole, clean response with this body."""
    if framing == "chunked":
        return EVENT_HEAD + chunked(body) + LAST
    if framing == "length":
        return SSE + b"Content-Length: %d\r\n\r\n" % len(body) + body
    return SSE + b"\r\n" + body


@pytest.mark.parametrize("framing", ["chunked", "length", "until the close"])
@pytest.mark.parametrize("marker", MARKERS)
@pytest.mark.parametrize("with_marker", [False, True], ids=["without", "with"])
async def test_the_marker_decides(framing: str, marker: str, with_marker: bool) -> None:
    body = DELTA + LOOKALIKES[marker] + (MARKERS[marker] if with_marker else b"")
    async with scene(f'complete_when = "{marker}"') as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(framed(framing, body))
        peer.close()
        line = await relay.line()
        client.half_close()
        rest = (await client.rest()).partition(b"\r\n\r\n")[2]
        events = read(dechunked(rest))
        if with_marker:
            assert events == read(body)
            assert rest.endswith(b"\r\n" + LAST)
            assert line["ending"] == "complete"
        else:
            assert events[:-1] == read(body)
            assert '"code":"upstream_truncated"' in events[-1].data
            assert not rest.endswith(b"\r\n" + LAST)
            assert (line["ending"], line["side"]) == ("upstream_truncated", "upstream")
            assert MARKERS[marker].strip() not in rest


@pytest.mark.parametrize("framing", ["chunked", "length", "until the close"])
@pytest.mark.parametrize("tail", [b"data: [DONE]\n", b"data: [DONE]", b"data: [DONE]\r\n"])
async def test_the_last_block_needs_no_blank_line(framing: str, tail: bytes) -> None:
    """A server that ends cleanly behind `data: [DONE]` without the blank line has said its end, and
    the client gets it as it came."""
    async with scene('complete_when = "[DONE]"') as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(framed(framing, DELTA + tail))
        peer.close()
        assert (await relay.line())["ending"] == "complete"
        client.half_close()
        rest = (await client.rest()).partition(b"\r\n\r\n")[2]
        assert rest.endswith(b"\r\n" + LAST)
        assert dechunked(rest) == DELTA + tail


async def test_a_marker_in_an_event_that_is_cut() -> None:
    """A marker that was only begun, and a whole one before a cut, complete nothing."""
    for body, last in ((b"data: [DON", LAST), (b"data: [DONE]\n", b"")):
        async with scene('complete_when = "[DONE]"') as (relay, up):
            client = await relay.get()
            peer, _ = await up.request()
            await peer.send(EVENT_HEAD + chunked(DELTA + body) + last)
            peer.close()
            line = await relay.line()
            assert line["ending"] == ("upstream_truncated" if last else "upstream_broke")
            assert b"[DON" not in await client.rest()


LISTS = [
    '["event:a", "event:b", "[DONE]"]',
    '["[DONE]", "event:b", "event:a"]',
    '"[DONE]|event:a | event:b"',
    '"event:a|[DONE]|event:b"',
]


@pytest.mark.parametrize("markers", LISTS)
@pytest.mark.parametrize("end", [b"data: [DONE]\n\n", b"event: a\n\n", b"event:b\ndata: 1\n\n"])
async def test_any_of_several_markers_in_any_order(markers: str, end: bytes) -> None:
    async with scene(f"complete_when = {markers}") as (relay, up):
        for body, ending in ((DELTA + end, "complete"), (DELTA, "upstream_truncated")):
            client = await relay.get()
            peer, _ = await up.request()
            await peer.send(framed("chunked", body))
            peer.close()
            assert (await relay.line())["ending"] == ending
            client.close()


@pytest.mark.parametrize("tail", [b"data: [DONE]\n\n", b"data: [DONE]\n", b"data: [DONE]", b""])
async def test_the_upstreams_marker_counts_in_a_translated_stream(tail: bytes) -> None:
    """The marker itself may go nowhere: no rule is for it."""
    rules = "[translations.t.delta]\n"
    route = 'complete_when = "[DONE]"\ntranslate = "t"'
    async with scene(route, more=rules) as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(framed("chunked", DELTA + tail))
        peer.close()
        ending = (await relay.line())["ending"]
        client.half_close()
        rest = (await client.rest()).partition(b"\r\n\r\n")[2]
        assert ending == ("complete" if tail else "upstream_truncated")
        assert rest.endswith(b"\r\n" + LAST) == bool(tail)
        assert b'data: {"text":"so far"}\n\n' in dechunked(rest)


@pytest.mark.parametrize("dialect", ["plain", "named", "openai", "anthropic", "ai-sdk"])
@pytest.mark.parametrize("asked", ["", 'after_error = "abort"', 'after_error = "close"'])
async def test_the_end_behind_the_terminal_event(dialect: str, asked: str) -> None:
    """Where the error event is the protocol's own failure the stream closes behind it by default."""
    by_default = dialect in ("openai", "anthropic", "ai-sdk")
    closes = "close" in asked if asked else by_default
    async with scene(f'complete_when = "[DONE]"\ndialect = "{dialect}"\n{asked}') as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD + chunked(DELTA))
        peer.close()
        assert (await relay.line())["ending"] == "upstream_broke"
        client.half_close()
        rest = await client.rest()
        assert b"the connection" in rest or b"upstream closed" in rest
        assert rest.endswith(b"\r\n" + LAST) == closes


async def test_after_error_close_ends_cleanly_and_still_says_so() -> None:
    """For clients that take an abort for a network fault: the terminal event alone tells."""
    async with scene('complete_when = "[DONE]"\nafter_error = "close"') as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(framed("chunked", DELTA))
        rest = await client.until(b"\r\n" + LAST)
        assert b'"code":"upstream_truncated"' in rest
        assert (await relay.line())["ending"] == "upstream_truncated"


async def test_without_a_marker_a_clean_end_is_complete() -> None:
    async with scene() as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(framed("chunked", DELTA))
        await client.until(b"\r\n" + LAST)
        assert (await relay.line())["ending"] == "complete"
