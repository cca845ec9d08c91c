"""The promise: what relay says in an event stream stands between events, never inside one,
whatever the
line ends and however the bytes come in.
"""

from __future__ import annotations

import random

import pytest
import trio

from relay.flows.event_flow import EventFlow
from relay.http.framing import CHUNKED, UNTIL_CLOSE
from relay.observing.ending import Cause
from relay.sse.dialects import HEARTBEAT
from tests.guarantees.event_setup import STREAMS, dechunked, read
from tests.harness import EVENT_HEAD, chunked, scene

streams = pytest.mark.parametrize("sent", STREAMS.values(), ids=STREAMS)
BIG = 1024 * 1024  # nothing is too long to be held


def relayed(pieces: list[bytes], *, max_event: int = BIG, framed: bool = True) -> bytes:
    """What the client reads where a heartbeat is due before, between and behind all pieces."""
    framing = CHUNKED if framed else UNTIL_CLOSE
    flow = EventFlow(framing, framing, max_event)
    out = b""
    for piece in pieces:
        out += flow.inject(HEARTBEAT) or b""
        if piece:
            out += flow.feed(chunked(piece) if framed else piece)
    out += flow.inject(HEARTBEAT) or b""
    out += flow.feed(b"0\r\n\r\n") if framed else flow.eof() or b""
    return dechunked(out) if framed else out


@streams
@pytest.mark.parametrize("framed", [True, False], ids=["chunked", "until the close"])
def test_for_every_split_in_three(sent: bytes, framed: bool) -> None:
    expected = read(sent)
    for first in range(len(sent)):
        for second in range(first, len(sent), 3):
            pieces = [sent[:first], sent[first:second], sent[second:]]
            assert read(relayed(pieces, framed=framed)) == expected


@streams
def test_byte_by_byte(sent: bytes) -> None:
    assert read(relayed([sent[n : n + 1] for n in range(len(sent))])) == read(sent)


@streams
def test_with_events_too_long_to_be_held(sent: bytes) -> None:
    """A tail over max_event passes as it comes; until its boundary nothing is said."""
    dice = random.Random(0)
    for _ in range(300):
        cuts = sorted(dice.choices(range(len(sent)), k=8))
        pieces = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
        assert read(relayed(pieces, max_event=dice.randrange(1, 12))) == read(sent)


@streams
def test_a_byte_order_mark_behind_a_heartbeat(sent: bytes) -> None:
    """A mark is one at the start alone; behind words of ours it would be text."""
    marked = b"\xef\xbb\xbf" + sent
    for split in range(6):
        assert read(relayed([marked[:split], marked[split:]])) == read(sent)


@streams
async def test_through_the_running_relay(sent: bytes) -> None:
    """1. The upstream sends one byte. 2. A heartbeat arrives. 3. And so on: the reader sees the
    same events."""
    async with scene('heartbeat = "1ms"') as (relay, up):
        client = await relay.get("/", "Connection: close\r\n")
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD)
        await client.head()
        got = b""
        for n in range(len(sent)):
            await peer.send(chunked(sent[n : n + 1]))
            got += await client.until(chunked(HEARTBEAT))
        await peer.send(b"0\r\n\r\n")
        got += await client.rest()
        assert got.count(HEARTBEAT) >= len(sent)
        assert read(dechunked(got)) == read(sent)


@streams
@pytest.mark.parametrize("cause", ["farewell", "terminal event"])
async def test_the_last_words(sent: bytes, cause: str) -> None:
    """A farewell and a terminal event too stand behind whole events, wherever the stream is cut."""
    method = "GET" if cause == "farewell" else "POST"
    async with scene(more='[timeouts]\ndrain = "1s"') as (relay, up):
        dice = random.Random(1)
        for _ in range(20):
            cut = dice.randrange(1, len(sent))
            client = await relay.client()
            await client.send(
                f"{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
            )
            peer, _ = await up.request()
            await peer.send(EVENT_HEAD + chunked(sent[:cut]))
            await client.head()
            with trio.move_on_after(0.01):
                await client.until(b"nothing of this kind")
            if cause == "farewell":
                [transfer] = relay.worker.registry
                transfer.ask(Cause.DRAINED)
            else:
                peer.close()
            got = read(dechunked(await client.rest()))
            whole = read(sent[:cut])
            assert got[: len(whole)] == whole
            assert len(got) - len(whole) == (0 if cause == "farewell" else 1)
            client.close()
            peer.close()
            await relay.line()
