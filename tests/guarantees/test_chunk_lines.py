"""The promise: what a chunk's line may say besides its size is read, bounded, and goes no further. Blanks that
RFC 9112 §7.1.1 allows are no fault, and nothing that two servers could read in two ways is passed on.
"""

from __future__ import annotations

import pytest

from tests.harness import EVENT_HEAD, chunked, scene

POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
EVENT = b"data: hello\n\n"
LEGAL = [b"; a=b", b" ;a", b'\t; a = "b;c"', b";a;b=c"]


@pytest.mark.parametrize("extension", LEGAL)
async def test_a_request(extension: bytes) -> None:
    async with scene() as (relay, up):
        client = await relay.client()
        body = b"5" + extension + b"\r\nhello\r\n0" + extension + b"\r\n\r\n"
        await client.send(POST + body)
        peer, _ = await up.request()
        assert await peer.until(LAST) == chunked(b"hello") + LAST
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert b" 204 " in await client.head()


@pytest.mark.parametrize("head", [ANSWER, EVENT_HEAD], ids=["bytes", "events"])
@pytest.mark.parametrize("extension", LEGAL)
async def test_a_response(head: bytes, extension: bytes) -> None:
    """It is whole, its connection serves again, and its chunks are plain."""
    async with scene() as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        line = b"%x" % len(EVENT) + extension
        await peer.send(head + line + b"\r\n" + EVENT + b"\r\n")
        await client.head()
        assert await client.until(EVENT + b"\r\n") == chunked(EVENT)
        await peer.send(
            chunked(EVENT) + line + b"\r\n" + EVENT + b"\r\n0" + extension + b"\r\n\r\n"
        )
        rest = await client.until(LAST)
        assert b";" not in rest
        assert rest.count(EVENT) == 2
        assert (await relay.line())["ending"] == "complete"


@pytest.mark.parametrize("line", [b"5 ", b"5\t", b"5;a ", b"5; ", b"5 5", b"5;a\nb"])
async def test_a_blank_that_belongs_to_nothing(line: bytes) -> None:
    async with scene() as (relay, up):
        client = await relay.client()
        await client.send(POST + line + b"\r\nhello\r\n" + LAST)
        assert b" 400 " in await client.head()
        asking = await relay.get()
        while True:
            peer = await up.accept()
            if (await peer.head()).startswith(b"GET "):
                break
        await peer.send(ANSWER + chunked(b"ok") + line + b"\r\nhello\r\n" + LAST)
        await asking.head()
        assert not (await asking.rest()).endswith(LAST)
        assert (await relay.line(ending="upstream_nonsense"))["side"] == "upstream"


async def test_nothing_but_extensions() -> None:
    """1. A client uploads a byte for every hundred of extension. 2. It is told to stop."""
    async with scene() as (relay, up):
        client = await relay.client()
        await client.send(POST)
        await up.request()
        chunk = b"1;" + b"a" * 100 + b"\r\nx\r\n"
        await client.send(chunk * 1000)
        assert b" 400 " in await client.head()
        assert b'"bad_chunk"' in await client.rest()
