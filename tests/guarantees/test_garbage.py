"""The promise: whatever way an exchange ends, nothing of it waits for the garbage collector. A full
collection looks at every object of the process, and with thousands of connections all streams stand
still meanwhile; so relay has it run very rarely (`relay.processes.run`)."""

from __future__ import annotations

import gc
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, scene, settle

GET = b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: relay.test\r\nTransfer-Encoding: chunked\r\n\r\n"
ASK = b'POST /ask HTTP/1.1\r\nHost: relay.test\r\nContent-Length: 13\r\n\r\n{"query":"q"}'
ROUTES = """
[translations.t.a]
[[routes]]
path = "/translated"
upstream = "backend"
translate = "t"
[[routes]]
path = "/resumed"
methods = ["GET"]
upstream = "backend"
[routes.resume]
keep = "0s"
unwatched = "0s"
[[routes]]
path = "/files/{{rest...}}"
source = "files"
[routes.files]
directory = "{folder}"
[[routes]]
path = "/chat"
source = "enqueue"
[routes.enqueue]
upstream = "backend"
path = "/m"
[routes.follow]
upstream = "backend"
path = "/s?id={{reply.id}}"
[routes.cancel]
upstream = "backend"
path = "/c?id={{reply.id}}"
[[routes]]
path = "/ask"
source = "answer"
[routes.answer]
upstream = "backend"
path = "/x"
text = "text"
"""
EVENT = chunked(b"data: 1\n\n")

Way = Callable[[RawPeer, Upstream], Awaitable[None]]


async def says_nothing(client: RawPeer, up: Upstream) -> None:
    client.close()


async def speaks_nonsense(client: RawPeer, up: Upstream) -> None:
    await client.send(b"BAD\r\n\r\n")
    await client.rest()


async def is_answered(client: RawPeer, up: Upstream) -> None:
    await client.send(GET)
    peer, _ = await up.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await client.until(b"ok")


async def leaves_before_the_head(client: RawPeer, up: Upstream) -> None:
    await client.send(GET)
    peer, _ = await up.request()
    client.close()
    await peer.ended()


async def leaves_an_upload(client: RawPeer, up: Upstream) -> None:
    await client.send(POST + chunked(b"half"))
    peer, _ = await up.request()
    await peer.until(b"half")
    client.close()
    await peer.rest()


async def is_refused_in_an_upload(client: RawPeer, up: Upstream) -> None:
    await client.send(POST + b"nonsense\r\n")
    await client.rest()


async def leaves_a_stream(client: RawPeer, up: Upstream) -> None:
    await client.send(GET)
    peer, _ = await up.request()
    await peer.send(EVENT_HEAD + EVENT)
    await client.until(EVENT)
    client.close()
    await peer.ended()


async def sees_a_stream_break(client: RawPeer, up: Upstream) -> None:
    await client.send(GET)
    peer, _ = await up.request()
    await peer.send(EVENT_HEAD + EVENT)
    await client.until(EVENT)
    peer.close()
    await client.rest()


async def sees_a_stream_end(client: RawPeer, up: Upstream) -> None:
    await client.send(GET)
    peer, _ = await up.request()
    await peer.send(EVENT_HEAD + EVENT)
    await client.until(EVENT)
    await peer.send(b"0\r\n\r\n")
    await client.until(b"0\r\n\r\n")


async def is_told_that_the_upstream_broke(client: RawPeer, up: Upstream) -> None:
    await client.send(GET)
    peer, _ = await up.request()
    peer.close()
    await client.until(b"}}")


async def is_told_that_the_upstream_spoke_nonsense(client: RawPeer, up: Upstream) -> None:
    await client.send(GET)
    peer, _ = await up.request()
    await peer.send(b"HTTP/9 huh\r\n\r\n")
    await client.until(b"}}")


async def leaves_a_translated_stream(client: RawPeer, up: Upstream) -> None:
    await client.send(GET.replace(b" / ", b" /translated "))
    peer, _ = await up.request()
    await peer.send(EVENT_HEAD + chunked(b"event: a\ndata: {}\n\n"))
    await client.until(b"data: ")
    client.close()
    await peer.ended()


async def leaves_a_compressed_stream(client: RawPeer, up: Upstream) -> None:
    await client.send(GET)
    peer, _ = await up.request()
    head = EVENT_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
    squeeze = zlib.compressobj(wbits=31)
    await peer.send(
        head + chunked(squeeze.compress(b"data: 1\n\n") + squeeze.flush(zlib.Z_SYNC_FLUSH))
    )
    await client.until(b"data: 1")
    client.close()
    await peer.ended()


async def leaves_a_run_that_nobody_watches_then(client: RawPeer, up: Upstream) -> None:
    await client.send(GET.replace(b" / ", b" /resumed "))
    peer, _ = await up.request()
    await peer.send(EVENT_HEAD + EVENT)
    await client.until(b"data: 1")
    client.close()
    await peer.ended()


async def reads_a_run_to_its_end(client: RawPeer, up: Upstream) -> None:
    await client.send(GET.replace(b" / ", b" /resumed "))
    peer, _ = await up.request()
    await peer.send(EVENT_HEAD + EVENT)
    await client.until(b"data: 1")
    await peer.send(b"0\r\n\r\n")
    await client.until(b"0\r\n\r\n")


async def reads_a_file(client: RawPeer, up: Upstream) -> None:
    await client.send(GET.replace(b" / ", b" /files/large "))
    await client.until(b"y" * 1000)


async def leaves_a_file(client: RawPeer, up: Upstream) -> None:
    await client.send(GET.replace(b" / ", b" /files/large "))
    await client.head()


async def asks_for_a_file_that_is_not_there(client: RawPeer, up: Upstream) -> None:
    await client.send(GET.replace(b" / ", b" /files/none "))
    await client.until(b"}}")


async def gets_an_answer_as_events(client: RawPeer, up: Upstream) -> None:
    await client.send(ASK)
    peer, _ = await up.request()
    await peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"text":"a"}')
    await client.until(b"0\r\n\r\n")


async def asks_with_what_is_no_json(client: RawPeer, up: Upstream) -> None:
    await client.send(ASK.replace(b'"q"}', b'"q"]'))
    await client.until(b"0\r\n\r\n")


async def gets_no_json_for_an_answer(client: RawPeer, up: Upstream) -> None:
    await client.send(ASK)
    peer, _ = await up.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[[[[]")
    await client.until(b"0\r\n\r\n")


async def posts_a_job_that_is_refused(client: RawPeer, up: Upstream) -> None:
    await client.send(ASK.replace(b"/ask", b"/chat"))
    peer, _ = await up.request()
    await peer.send(b"HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\n{}")
    await client.rest()


async def posts_a_job_and_leaves(client: RawPeer, up: Upstream) -> None:
    await client.send(ASK.replace(b"/ask", b"/chat"))
    await client.head()
    peer, _ = await up.request()
    client.close()
    await peer.send(b'HTTP/1.1 202 X\r\nConnection: close\r\nContent-Length: 8\r\n\r\n{"id":1}')
    told, head = await up.request()
    while b"/c?" not in head:  # it was heard of so late that the job is followed first
        told, head = await up.request()
    await told.send(b"HTTP/1.1 204 X\r\n\r\n")


async def follows_a_job_and_leaves(client: RawPeer, up: Upstream) -> None:
    await client.send(ASK.replace(b"/ask", b"/chat"))
    peer, _ = await up.request()
    await peer.send(b'HTTP/1.1 202 X\r\nConnection: close\r\nContent-Length: 8\r\n\r\n{"id":1}')
    peer, _ = await up.request()
    await peer.send(EVENT_HEAD + EVENT)
    await client.until(b"data: 1")
    client.close()
    await peer.ended()
    told, _ = await up.request()
    await told.send(b"HTTP/1.1 204 X\r\n\r\n")


async def leaves_before_the_answer(client: RawPeer, up: Upstream) -> None:
    await client.send(ASK)
    peer, _ = await up.request()
    client.close()
    await peer.rest()


async def switches_protocols_and_leaves(client: RawPeer, up: Upstream) -> None:
    upgrade = b"Connection: upgrade\r\nUpgrade: x\r\n\r\n"
    await client.send(GET[:-2] + upgrade)
    peer, _ = await up.request()
    await peer.send(b"HTTP/1.1 101 Switching Protocols\r\n" + upgrade)
    await client.head()
    client.close()
    await peer.rest()
    peer.close()


@pytest.mark.parametrize(
    "way",
    [
        says_nothing,
        speaks_nonsense,
        is_answered,
        leaves_before_the_head,
        leaves_an_upload,
        is_refused_in_an_upload,
        leaves_a_stream,
        sees_a_stream_break,
        sees_a_stream_end,
        is_told_that_the_upstream_broke,
        is_told_that_the_upstream_spoke_nonsense,
        leaves_a_translated_stream,
        leaves_a_compressed_stream,
        leaves_a_run_that_nobody_watches_then,
        reads_a_run_to_its_end,
        reads_a_file,
        leaves_a_file,
        asks_for_a_file_that_is_not_there,
        gets_an_answer_as_events,
        asks_with_what_is_no_json,
        gets_no_json_for_an_answer,
        posts_a_job_that_is_refused,
        posts_a_job_and_leaves,
        follows_a_job_and_leaves,
        leaves_before_the_answer,
        switches_protocols_and_leaves,
    ],
    ids=lambda way: way.__name__,
)
async def test_an_exchange_leaves_no_circle_behind(way: Way, tmp_path: Path) -> None:
    """1. The collector is off. 2. Exchanges end. 3. There is nothing of them to collect."""
    (tmp_path / "large").write_text("x" * 1_000_000 + "y" * 1000)
    async with scene(more=ROUTES.format(folder=tmp_path)) as (relay, up):
        await once(relay, up, way)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(3):
                await once(relay, up, way)
            gc.collect()
            left = Counter(f"{type(each).__module__}.{type(each).__name__}" for each in gc.garbage)
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert not [name for name in left if name.startswith(("relay.", "h11."))], left


async def once(relay: Relay, up: Upstream, way: Way) -> None:
    client = await RawPeer.connect(relay.port)
    await settle(lambda: relay.inventory().connections == 1)
    try:
        await way(client, up)
    finally:
        client.close()
    await settle(lambda: relay.worker.counters.connections == len(relay.worker.background) == 0)
    for peer in up.peers:
        peer.close()
