"""The promise: relay and its neighbours never disagree about where a message ends. What two
servers could
read in two ways is refused, seen here from outside: what reaches the upstream, what reaches the
client.
"""

from __future__ import annotations

import pytest

from tests.harness import Relay, Upstream, scene, settle

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
REQUESTS = {
    "length and coding": POST + b"Content-Length: 6\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
    "two lengths": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345X",
    "a list of lengths": POST + b"Content-Length: 5, 5\r\n\r\n12345",
    "a length with a sign": POST + b"Content-Length: +5\r\n\r\n12345",
    "a length with leading zeros": POST + b"Content-Length: 005\r\n\r\n12345",
    "a huge length": POST + b"Content-Length: 99999999999999999999\r\n\r\n",
    "two codings": POST + b"Transfer-Encoding: chunked\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a hidden coding": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding in 1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an imitated name": POST + b"Transfer_Encoding: chunked\r\n\r\n",
    "space before the colon": POST + b"Content-Length : 5\r\n\r\n12345",
    "a folded line": b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
    "a bare CR": b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\rContent-Length: 5\r\n\r\n",
    "a bare LF": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "a NUL": b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\x002\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "a dot segment": b"GET /public/../admin HTTP/1.1\r\nHost: a\r\n\r\n",
    "an encoded dot segment": b"GET /public/%2e%2e/admin HTTP/1.1\r\nHost: a\r\n\r\n",
    "an empty chunk size": CHUNKED + b"\r\n\r\n",
    "a chunk size with a sign": CHUNKED + b"+5\r\n12345\r\n0\r\n\r\n",
    "a chunk size in 0x": CHUNKED + b"0x5\r\n12345\r\n0\r\n\r\n",
    "a chunk line with a bare LF": CHUNKED + b"5\n12345\r\n0\r\n\r\n",
    "a chunk that is too long": CHUNKED + b"5\r\n123456\r\n0\r\n\r\n",
    "framing in a trailer": CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", REQUESTS.values(), ids=REQUESTS)
async def test_a_request(request_bytes: bytes) -> None:
    """1. It is refused with a 4xx or 501. 2. The connection ends. 3. Nothing behind it was a
    request."""
    async with scene() as (relay, up):
        client = await relay.client()
        await client.send(request_bytes + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        head = await client.head()
        assert head[9:12] in (b"400", b"501")
        assert b"connection: close" in head
        await client.rest()
        client.close()
        await reached_by_nothing(relay, up)


async def reached_by_nothing(relay: Relay, up: Upstream) -> None:
    """The next whole request that the upstream sees is the next honest one."""
    honest = await relay.client()
    await honest.send(b"GET /honest HTTP/1.1\r\nHost: a\r\n\r\n")
    while True:
        peer = await up.accept()
        data = bytes(await peer.stream.receive_some(65536))
        if data.startswith(b"GET /honest "):
            return
        # A request whose body turned out to be malformed had begun: it must not have gone on.
        data += await peer.rest()
        assert b"smuggled" not in data
        assert not data.endswith(b"0\r\n\r\n")


RESPONSES = {
    "length and coding": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
    "a list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n12345",
    "an unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxx",
    "two codings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an imitated name": b"HTTP/1.1 200 OK\r\nContent_Length: 5\r\n\r\n12345",
    "a folded line": b"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\nContent-Length: 0\r\n\r\n",
    "a bare CR": b"HTTP/1.1 200 OK\r\nX: 1\rY: 2\r\nContent-Length: 0\r\n\r\n",
    "a bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
}


@pytest.mark.parametrize("response_bytes", RESPONSES.values(), ids=RESPONSES)
async def test_a_response(response_bytes: bytes) -> None:
    """The client gets a 502, and the upstream's connection is not used again."""
    async with scene() as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(response_bytes)
        assert (await client.head()).startswith(b"HTTP/1.1 502 ")
        await peer.rest()
        line = await relay.line()
        assert (line["ending"], line["side"]) == ("upstream_nonsense", "upstream")


async def test_bytes_behind_a_response_are_not_the_next_one() -> None:
    """1. An upstream sends more than it declared. 2. Nobody asked for it: the connection is
    closed, the next
    request gets one of its own."""
    async with scene() as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        extra = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + extra)
        await client.until(b"ok")
        await peer.rest()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        second, _ = await up.request()
        await second.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
        assert (await client.until(b"good")).startswith(b"HTTP/1.1 200 ")


async def test_bytes_on_an_idle_connection_are_not_the_next_response() -> None:
    """1. The upstream's connection is idle. 2. It says something unasked."""
    async with scene() as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await client.until(b"ok")
        [group] = relay.worker.groups
        await settle(lambda: len(group.origins[0].idle) == 1)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        await peer.rest()
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        second, _ = await up.request()
        await second.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_a_body_where_none_belongs(status: bytes) -> None:
    """It is not passed on, and not read as the next response."""
    async with scene() as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 6\r\n\r\npoison")
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 " + status[:3])
        await peer.rest()
        assert client.buffer == b""
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        second, _ = await up.request()
        await second.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")


async def test_a_body_behind_the_answer_to_head() -> None:
    async with scene() as (relay, up):
        client = await relay.client()
        await client.send(
            b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n"
        )
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        assert b"content-length: 6" in await client.head()
        await peer.rest()
        second, head = await up.request()
        assert head.startswith(b"GET /next ")
        await second.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")
