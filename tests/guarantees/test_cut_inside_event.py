"""The promise: an upstream that breaks inside an event costs the reader that event alone. Every
earlier
event arrives, and one well-formed terminal event says what happened: the two never become one.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.guarantees.event_setup import STREAMS, dechunked, read
from tests.harness import EVENT_HEAD, RawPeer, chunked, scene

HEADS = {
    "chunked": EVENT_HEAD,
    "until the close": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9999\r\n\r\n",
}


@pytest.mark.parametrize("end", [RawPeer.close, RawPeer.reset], ids=["fin", "rst"])
@pytest.mark.parametrize("framing", HEADS)
@pytest.mark.parametrize("sent", STREAMS.values(), ids=STREAMS)
async def test_at_many_offsets(sent: bytes, framing: str, end: Callable[[RawPeer], None]) -> None:
    if framing == "until the close" and end is RawPeer.close:
        pytest.skip("without framing an end is an end: see test_incomplete_stream.py")
    async with scene() as (relay, up):
        for cut in range(0, len(sent), 5):
            client = await relay.get()
            peer, _ = await up.request()
            piece = sent[:cut]
            await peer.send(HEADS[framing])
            await client.head()
            if piece:
                await peer.send(chunked(piece) if framing == "chunked" else piece)
            whole = read(piece)
            if whole and end is RawPeer.reset:  # a reset may overtake what was sent before it
                last = whole[-1].data.rpartition("\n")[2].encode() or b"data"
                await client.until(last)
                client.buffer = b""
                whole = []
            end(peer)
            rest = await client.rest()
            assert not rest.endswith(b"\r\n0\r\n\r\n")
            if end is RawPeer.reset:
                assert rest.count(b'"code":"upstream_broke"') == 1
            else:
                *before, last_event = read(dechunked(rest))
                assert before == whole
                said = json.loads(last_event.data)
                assert (said["type"], said["code"]) == ("error", "upstream_broke")
                assert said["retryable"] is True
            client.close()
            assert (await relay.line())["ending"] == "upstream_broke"


async def test_the_other_streams_go_on() -> None:
    async with scene() as (relay, up):
        first, broken = await relay.get(), (await up.request())[0]
        second, sound = await relay.get(), (await up.request())[0]
        for peer in (broken, sound):
            await peer.send(EVENT_HEAD + chunked(b"data: 1\n\ndata: ha"))
        broken.close()
        assert b"upstream_broke" in await first.rest()
        await sound.send(chunked(b"lf\n\n") + b"0\r\n\r\n")
        assert b"data: half\n\n" in await second.until(b"\r\n0\r\n\r\n")
