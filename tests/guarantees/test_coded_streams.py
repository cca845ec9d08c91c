"""The promise: an upstream that compresses its event stream is relayed like any other, event by event,
with every word of relay's between them; and where relay cannot read a coding, it says nothing in it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import memory_stream_pair

from relay.flows.event_flow import EventFlow
from relay.observing.ending import Cause
from tests.core.coded import NAMES, WBITS, Coder, coded
from tests.guarantees.event_setup import dechunked
from tests.harness import RawPeer, Relay, Upstream, chunked, running, scene, settle
from tests.io.broker_setup import JOB, broker

LAST = b"0\r\n\r\n"
E = b"data: 1\n\n"
GET = b"GET /s HTTP/1.1\r\nHost: relay.test\r\nAccept-Encoding: gzip, deflate\r\n\r\n"
kinds = pytest.mark.parametrize("kind", WBITS)
# Content codings that relay does not read.
OPAQUE = ["br", "zstd", "gzip, gzip", "gzip\r\nContent-Encoding: br", "compress"]


def head(coding: bytes | str, *lines: str, framing: str = "Transfer-Encoding: chunked") -> bytes:
    name = coding if isinstance(coding, str) else coding.decode()
    fields = ["Content-Type: text/event-stream", f"Content-Encoding: {name}", framing, *lines]
    return "\r\n".join(["HTTP/1.1 200 OK", *fields, "", ""]).encode()


@asynccontextmanager
async def opened(
    route: str = "", *, memory: bool = False, more: str = ""
) -> AsyncIterator[tuple[Relay, RawPeer, RawPeer]]:
    """A stream that has been asked for: relay, client, upstream. `memory`: over the portable pump."""
    async with scene(route, more=more) as (relay, up):
        client = relay.attach(memory_stream_pair()) if memory else await relay.client()
        await client.send(GET)
        peer, _ = await up.request()
        yield relay, client, peer
        client.close()


pumps = pytest.mark.parametrize("memory", [False, True], ids=["sockets", "in memory"])


@kinds
@pumps
async def test_every_event_leaves_when_its_bytes_are_there(kind: str, memory: bool) -> None:
    """1. The upstream flushes behind each event. 2. Each arrives before the next is sent, decoded, with
    heartbeats in between. 3. The marker is seen, and the end is proper.
    """
    route = 'heartbeat = "20ms"\ncomplete_when = "[DONE]"'
    async with opened(route, memory=memory) as (relay, client, peer):
        coder = Coder(kind)
        await peer.send(head(coder.name, "Vary: Accept-Encoding", 'ETag: "x"', "Digest: y"))
        fields = (await client.head()).lower()
        assert b"vary: accept-encoding\r\n" in fields
        for gone in (b"content-encoding", b"etag", b"digest", b"content-length"):
            assert gone not in fields
        for number in range(5):
            event = b"data: event %d\n\n" % number
            await peer.send(chunked(coder.write(event)))
            await client.until(chunked(event))
            await client.until(chunked(b":\n\n"))
        await peer.send(chunked(coder.write(b"data: [DONE]\n\n") + coder.end()) + LAST)
        await client.until(chunked(b"data: [DONE]\n\n") + LAST)
        line = await relay.line()
        assert (line["ending"], line["events"]) == ("complete", 6)
        assert "coding" not in line


@kinds
@pumps
@pytest.mark.parametrize(
    ("end", "ending"),
    [
        ("too early", "upstream_truncated"),
        ("cut", "upstream_broke"),
        ("garbage", "upstream_nonsense"),
        ("corrupt", "upstream_nonsense"),
    ],
)
async def test_bad_ends(kind: str, memory: bool, end: str, ending: str) -> None:
    """What was whole before them arrives, then the terminal event, and no last chunk."""
    async with opened(memory=memory) as (relay, client, peer):
        coder = Coder(kind)
        await peer.send(head(coder.name) + chunked(coder.write(E + b"data: half")))
        await client.until(chunked(E))
        if end == "too early":
            await peer.send(chunked(coder.write(b" more")) + LAST)
        elif end == "cut":
            peer.close()
        elif end == "garbage":
            await peer.send(chunked(coder.write(b"\n\n") + coder.end() + b"behind"))
        else:
            await peer.send(chunked(b"\xff" * 40))
        rest = await client.rest()
        line = await relay.line()
        assert (line["ending"], line["side"]) == (ending, "upstream")
        assert not rest.endswith(LAST)
        events = dechunked(rest).split(b"\n\n")[:-1]
        assert events[:-1] == ([b"data: half"] if end == "garbage" else [])
        assert f'"code":"{ending}"'.encode() in events[-1]


async def test_a_body_that_is_not_what_it_says() -> None:
    async with opened() as (relay, client, peer):
        await peer.send(head("gzip") + chunked(E))
        rest = await client.rest()
        assert b'"code":"upstream_nonsense"' in rest
        line = await relay.line()
        assert line["detail"] == "the body is not gzip data, or it is corrupt"


@pumps
async def test_members_one_behind_the_other(memory: bool) -> None:
    """A server may close a member behind each event (RFC 1952 §2.2)."""
    async with opened(memory=memory) as (relay, client, peer):
        coder = Coder()
        await peer.send(head("x-gzip", framing="Connection: close"))
        for _ in range(3):
            await peer.send(coder.write(E, "end"))
            await client.until(chunked(E))
        peer.half_close()
        await client.until(LAST)
        assert (await relay.line())["ending"] == "complete"


@kinds
@pumps
async def test_translated(kind: str, memory: bool) -> None:
    route = 'translate = "t"'
    more = "[translations.t.message]\n[translations.t.end]\nlast = true"
    async with opened(route, memory=memory, more=more) as (relay, client, peer):
        coder = Coder(kind)
        await peer.send(head(coder.name) + chunked(coder.write(b'data: {"a": 1}\n\n')))
        await client.until(b'data: {"a":1}\n\n')
        flood = b'data: {"b": 2}\n\n' * 5000
        await peer.send(chunked(coder.write(flood + b"event: end\ndata: {}\n\n")))
        got = await client.until(b"data: {}\n\n\r\n" + LAST)
        assert got.count(b'data: {"b":2}\n\n') == 5000
        line = await relay.line()
        assert (line["ending"], line["events"]) == ("complete", 5002)


@pytest.mark.parametrize("coding", OPAQUE)
@pumps
async def test_another_coding_passes_untouched(coding: str, memory: bool) -> None:
    """1. A heartbeat is due, and a marker is asked for. 2. Not a byte is added, the fields stay, and
    the log says why.
    """
    route = 'heartbeat = "5ms"\ncomplete_when = "[DONE]"\nfirst_event = "5ms"'
    async with opened(route, memory=memory) as (relay, client, peer):
        await peer.send(head(coding, 'ETag: "x"', "Digest: y"))
        fields = await client.head()
        names = coding.replace("\r\nContent-Encoding: ", ", ")
        assert b'etag: "x"' in fields
        assert b"digest: y" in fields
        for name in coding.split("\r\nContent-Encoding: "):
            assert b"content-encoding: " + name.encode() in fields
        start = await relay.line(at="start")
        assert start["coding"] == names
        await trio.sleep(0.03)
        await peer.send(chunked(b"\x0b\x02\x80some"))
        await client.until(b"\x80some\r\n")
        await peer.send(chunked(b"more") + LAST)
        assert await client.until(LAST) == chunked(b"more") + LAST
        line = await relay.line()
        assert (line["ending"], line["coding"], line["events"]) == ("complete", names, 0)


@pumps
@pytest.mark.parametrize("how", ["cut", "silent", "stopped", "drained"])
@pytest.mark.parametrize("dialect", ["plain", "openai"])
async def test_what_ends_another_coding_early_is_an_abort(
    memory: bool, how: str, dialect: str
) -> None:
    """No terminal event, no farewell, and no last chunk: each would be bytes of ours in the coding."""
    route = f'dialect = "{dialect}"\n[routes.timeouts]\nidle = "300ms"'
    async with opened(route, memory=memory) as (relay, client, peer):
        await peer.send(head("br") + chunked(b"\x0b\x02\x80some"))
        await client.until(b"\x80some\r\n")
        [transfer] = relay.worker.registry
        if how == "cut":
            peer.close()
        elif how != "silent":
            transfer.ask(Cause.STOPPED if how == "stopped" else Cause.DRAINED)
        assert await client.rest() == b""
        ending = {"cut": "upstream_broke", "silent": "upstream_silent"}.get(how, how)
        assert (await relay.line())["ending"] == ending


async def test_another_coding_where_events_become_others_is_refused() -> None:
    """What the client was to get of them cannot be made of these bytes."""
    async with opened('translate = "t"', more="[translations.t.message]") as (relay, client, peer):
        await peer.send(head("br") + chunked(b"x"))
        answer = await client.until(b"}}")
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b'"code": "bad_coding"' in answer
        line = await relay.line()
        assert line["ending"] == "upstream_nonsense"
        assert "br" in str(line["detail"])


@pytest.mark.parametrize("coding", [b"gzip", b"br"])
async def test_behind_an_early_commitment(coding: bytes) -> None:
    """The client was promised events: they are decoded, or a terminal event says that they cannot be."""
    async with opened('commit = "after 5ms"\nheartbeat = "5ms"') as (relay, client, peer):
        await client.until(chunked(b":\n\n"))
        if coding == b"gzip":
            await peer.send(head(coding) + chunked(coded(E)) + LAST)
            await client.until(chunked(E) + LAST)
        else:
            await peer.send(head(coding) + chunked(b"\x0b\x02\x80some"))
            rest = await client.rest()
            assert b'"code":"bad_coding"' in rest
            assert b"some" not in rest
        ending = "complete" if coding == b"gzip" else "upstream_nonsense"
        assert (await relay.line())["ending"] == ending


@kinds
async def test_the_stream_of_a_job(kind: str) -> None:
    up = await Upstream.open()
    try:
        async with running(broker(up.url)) as relay:
            client = await relay.client()
            body = json.dumps(JOB).encode()
            size = f"Content-Length: {len(body)}\r\n"
            await client.send(f"POST /chat HTTP/1.1\r\nHost: a\r\n{size}\r\n".encode() + body)
            peer, asked = await up.request()
            assert b"accept-encoding: identity" in asked.lower()
            await peer.exactly(len(body))
            await peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"message_id": 12}')
            asked = await peer.head()
            assert b"accept-encoding: identity" in asked.lower()
            coder = Coder(kind)
            await peer.send(head(coder.name) + chunked(coder.write(b"event: queued\ndata: {}\n\n")))
            await client.until(b'"state":"queued"')
            await peer.send(chunked(coder.write(b"event: done\ndata: {}\n\n")))
            await client.until(b'"type":"complete"}\n\n\r\n' + LAST)
            assert (await relay.line())["ending"] == "complete"
            await client.send(f"POST /chat HTTP/1.1\r\nHost: a\r\n{size}\r\n".encode() + body)
            peer, _ = await up.request()
            await peer.exactly(len(body))
            await peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"message_id": 13}')
            await peer.head()
            await peer.send(head("br") + chunked(b"x"))
            assert b'"code":"bad_coding"' in await client.until(b"\n\n")
    finally:
        up.close()


@kinds
async def test_the_first_event_is_found_in_coded_data(kind: str) -> None:
    """1. The route retries. 2. The stream shows itself by an event that is coded. 3. It is relayed whole."""
    async with opened('retries = 1\nfirst_event = "5s"') as (relay, client, peer):
        coder = Coder(kind)
        await peer.send(head(coder.name) + chunked(coder.write(b":\n\n")))
        await peer.send(chunked(coder.write(E)))
        await client.until(chunked(b":\n\n" + E))
        await peer.send(chunked(coder.write(E) + coder.end()) + LAST)
        await client.until(chunked(E) + LAST)
        assert (await relay.line())["events"] == 2


async def test_a_bomb_without_an_event_counts_as_a_stream_that_has_begun() -> None:
    """1. The route retries. 2. 64 KiB of gzip are 64 MiB of a comment. 3. The head goes out, and the
    rest as the client takes it: what is held stays bounded, and others are served.
    """
    async with opened("retries = 1") as (relay, client, peer):
        bomb = coded(b":" + bytes(64 << 20), level=9)[: 60 * 1024]
        await peer.send(head("gzip") + chunked(bomb))
        await client.head()
        await settle(lambda: any(transfer.paused for transfer in relay.worker.registry))
        [transfer] = relay.worker.registry
        assert isinstance(transfer.flow, EventFlow)
        assert transfer.flow.pending
        assert transfer.flow.held + transfer.unsent <= (1 << 20) + 3 * 65536
        assert await relay.client()


async def test_bytes_of_a_route_that_says_so() -> None:
    """`stream = "bytes"`: nothing is read of a body, in whatever coding, and nothing asked of it."""
    async with scene('stream = "bytes"') as (relay, up):
        client = await relay.client()
        await client.send(GET)
        peer, asked = await up.request()
        assert b"accept-encoding: gzip, deflate" in asked.lower()
        body = chunked(coded(E)) + LAST
        await peer.send(head("gzip") + body)
        assert b"content-encoding: gzip" in await client.head()
        assert await client.exactly(len(body)) == body


async def test_nothing_but_event_streams_is_decoded() -> None:
    async with opened() as (_, client, peer):
        body = coded(b"{}")
        fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
        await peer.send(f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n{fields}\r\n\r\n".encode())
        await peer.send(body)
        assert b"content-encoding: gzip" in await client.head()
        assert await client.exactly(len(body)) == body


@pytest.mark.parametrize(
    ("route", "accept", "asked"),
    [
        ("", "text/event-stream", "identity"),
        ("", "application/json, Text/Event-Stream;q=0.5", "identity"),
        ("", "application/json", "gzip, deflate"),
        ('dialect = "openai"', "application/json", "identity"),
        ('dialect = "plain"', "application/json", "identity"),
        ('complete_when = "[DONE]"', "application/json", "identity"),
        ('translate = "t"', "application/json", "identity"),
        ('heartbeat = "5s"', "application/json", "gzip, deflate"),
        ('stream = "bytes"\ndialect = "openai"', "text/event-stream", "gzip, deflate"),
        ('request_headers = { Accept-Encoding = "br" }', "text/event-stream", "br"),
    ],
)
async def test_when_an_upstream_is_asked_not_to_compress(
    route: str, accept: str, asked: str
) -> None:
    async with scene(route, more="[translations.t.message]") as (relay, up):
        client = await relay.client()
        await client.send(GET[:-2] + f"Accept: {accept}\r\n\r\n".encode())
        _, fields = await up.request()
        lines = [line for line in fields.lower().split(b"\r\n") if line.startswith(b"accept-enc")]
        assert lines == [f"accept-encoding: {asked}".encode()]


async def test_the_head_alone() -> None:
    """The answer to a HEAD has the fields of the GET."""
    async with scene() as (relay, up):
        client = await relay.client()
        await client.send(GET.replace(b"GET", b"HEAD"))
        peer, _ = await up.request()
        await peer.send(head(NAMES["gzip"], framing="Content-Length: 99"))
        fields = await client.head()
        assert b"content-encoding" not in fields
        assert b"content-length" not in fields
