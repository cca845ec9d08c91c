"""The promise: what one peer may make relay hold is bounded, and a peer that exceeds it is told so.

Sizes and counts; the clocks are in test_deadlines.py, memory under load in test_slow_reader.py.
"""

from __future__ import annotations

import pytest
import trio

from tests.harness import EVENT_HEAD, RawPeer, chunked, scene

GET = b"GET / HTTP/1.1\r\nHost: relay.test\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def refused(client: RawPeer, status: int, code: str) -> None:
    """The client is told, and the connection ends."""
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"connection: close" in head
    body = await client.rest()
    assert b'{"error": {"code": "%b"' % code.encode() in body


class TestRequestHead:
    async def test_a_head_of_exactly_the_limit(self) -> None:
        async with scene(more='[limits]\nrequest_head = "1KiB"') as (relay, up):
            client = await relay.client()
            pad = 1024 - len(GET) - len(b"X: \r\n\r\n")
            await client.send(GET + b"X: " + b"x" * pad + b"\r\n\r\n")
            peer, _ = await up.request()
            await peer.send(OK)
            await client.until(b"ok")

    async def test_a_head_over_the_limit(self) -> None:
        async with scene(more='[limits]\nrequest_head = "1KiB"') as (relay, _):
            client = await relay.client()
            await client.send(GET + b"X: " + b"x" * 1024 + b"\r\n\r\n")
            await refused(client, 431, "request_head_too_large")
            line = await relay.line()
            assert (line["ending"], line["side"], line["phase"]) == (
                "bad_request",
                "client",
                "head",
            )

    async def test_a_head_that_never_ends(self) -> None:
        """It is refused at the limit, not when it ends."""
        async with scene(more='[limits]\nrequest_head = "1KiB"') as (relay, _):
            client = await relay.client()
            await client.send(GET + b"X: " + b"x" * 1024)
            await refused(client, 431, "request_head_too_large")

    async def test_a_request_line_over_the_limit(self) -> None:
        async with scene(more='[limits]\nrequest_head = "1KiB"') as (relay, _):
            client = await relay.client()
            await client.send(b"GET /" + b"x" * 2000)
            await refused(client, 414, "request_line_too_long")

    async def test_too_many_fields(self) -> None:
        async with scene(more="[limits]\nheader_count = 10") as (relay, _):
            client = await relay.client()
            await client.send(GET + b"X: 1\r\n" * 10 + b"\r\n")
            await refused(client, 431, "too_many_fields")

    async def test_the_second_request_has_the_same_limit(self) -> None:
        async with scene(more='[limits]\nrequest_head = "1KiB"') as (relay, up):
            client = await relay.client()
            await client.send(GET + b"\r\n" + GET + b"X: " + b"x" * 1024 + b"\r\n\r\n")
            peer, _ = await up.request()
            await peer.send(OK)
            await client.until(b"ok")
            await refused(client, 431, "request_head_too_large")


class TestRequestBody:
    async def test_a_length_over_the_limit(self) -> None:
        async with scene(more='[limits]\nrequest_body = "10B"') as (relay, _):
            client = await relay.client()
            await client.send(GET.replace(b"GET", b"POST") + b"Content-Length: 11\r\n\r\n")
            await refused(client, 413, "body_too_large")
            line = await relay.line()
            assert (line["ending"], line["side"]) == ("refused", "client")

    async def test_chunks_over_the_limit(self) -> None:
        """1. A chunked upload is under way. 2. It goes over the limit. 3. The upstream never sees
        its end."""
        async with scene(more='[limits]\nrequest_body = "10B"') as (relay, up):
            client = await relay.client()
            post = GET.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\n"
            await client.send(post + chunked(b"12345"))
            peer, _ = await up.request()
            await peer.until(chunked(b"12345"))
            await client.send(chunked(b"678901") + b"0\r\n\r\n")
            await refused(client, 413, "body_too_large")
            assert b"0\r\n\r\n" not in await peer.rest()

    async def test_a_body_of_exactly_the_limit(self) -> None:
        async with scene(more='[limits]\nrequest_body = "10B"') as (relay, up):
            client = await relay.client()
            post = GET.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\n"
            await client.send(post + chunked(b"1234567890") + b"0\r\n\r\n")
            peer, _ = await up.request()
            await peer.until(b"0\r\n\r\n")
            await peer.send(OK)
            await client.until(b"ok")

    async def test_a_routes_own_limit(self) -> None:
        limits = '[routes.limits]\nrequest_body = "5B"'
        async with scene(limits) as (relay, _):
            client = await relay.client()
            await client.send(GET.replace(b"GET", b"POST") + b"Content-Length: 6\r\n\r\n123456")
            await refused(client, 413, "body_too_large")


class TestResponse:
    @pytest.mark.parametrize("ends", [b"\r\n\r\n", b""])
    async def test_a_head_over_the_limit(self, ends: bytes) -> None:
        async with scene(more='[limits]\nresponse_head = "1KiB"') as (relay, up):
            client = await relay.get()
            peer, _ = await up.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1024 + ends)
            assert (await client.head()).startswith(b"HTTP/1.1 502 ")
            await peer.rest()
            assert (await relay.line())["ending"] == "upstream_nonsense"

    async def test_interim_heads_without_end(self) -> None:
        """Together they may be as large as one head."""
        async with scene(more='[limits]\nresponse_head = "1KiB"') as (relay, up):
            client = await relay.get()
            peer, _ = await up.request()
            hint = b"HTTP/1.1 103 Early Hints\r\n\r\n"
            await peer.send(hint * 100)
            assert (await client.until(b" 502 ")).count(b" 103 ") == 1024 // len(hint)
            assert (await relay.line())["ending"] == "upstream_nonsense"

    async def test_many_interim_heads(self) -> None:
        """A server at work may say so again and again (102 Processing, RFC 2518 §10.1)."""
        async with scene() as (relay, up):
            client = await relay.get()
            peer, _ = await up.request()
            for _ in range(40):
                await peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
                assert (await client.head()).startswith(b"HTTP/1.1 102 Processing\r\n")
            await peer.send(OK)
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")

    async def test_an_endless_chunk_line(self) -> None:
        async with scene() as (relay, up):
            client = await relay.get()
            peer, _ = await up.request()
            await peer.send(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;" + b"x" * 2000
            )
            await client.head()
            assert b"0\r\n\r\n" not in await client.rest()
            assert (await relay.line())["ending"] == "upstream_nonsense"

    async def test_an_endless_trailer(self) -> None:
        async with scene() as (relay, up):
            client = await relay.get()
            peer, _ = await up.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
            await client.head()
            await peer.send(b"X: " + b"x" * 20_000)
            assert b"0\r\n\r\n" not in await client.rest()
            assert (await relay.line())["ending"] == "upstream_nonsense"

    async def test_an_event_over_the_limit_passes_unframed(self) -> None:
        """It is not refused: nothing is held beyond the limit, and nothing injected until its
        end."""
        limits = '[routes.limits]\nmax_event = "1KiB"'
        async with scene('heartbeat = "10ms"\n' + limits) as (relay, up):
            client = await relay.get()
            peer, _ = await up.request()
            await peer.send(EVENT_HEAD + chunked(b"data: " + b"x" * 2000))
            await client.until(b"x" * 2000 + b"\r\n")
            [transfer] = relay.worker.registry
            assert transfer.flow.held == 0
            await trio.sleep(0.05)  # several heartbeats would be due
            await peer.send(chunked(b"y\n\n"))
            assert await client.until(b"y\n\n\r\n") == chunked(b"y\n\n")
            await client.until(chunked(b":\n\n"))


async def test_connections_over_the_limit_wait() -> None:
    """1. One connection is allowed and there. 2. A second one waits in the kernel. 3. The first
    ends."""
    async with scene(more="[limits]\nconnections = 1") as (relay, up):
        first = await relay.get("/1")
        peer, _ = await up.request()
        second = await relay.get("/2")
        assert relay.inventory().connections == 1
        await peer.send(OK)
        await first.until(b"ok")
        first.close()
        assert (await peer.head()).startswith(b"GET /2 ")
        await peer.send(OK)
        await second.until(b"ok")


async def test_read_ahead_of_pipelined_requests_is_bounded() -> None:
    """While a response streams nothing more is read than came with the request."""
    async with scene() as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD)
        await client.head()
        with trio.move_on_after(0.1) as scope:
            while True:
                await client.stream.send_all((GET + b"\r\n") * 1000)
                scope.deadline = trio.current_time() + 0.1
        assert scope.cancelled_caught
        await peer.send(b"0\r\n\r\n")
        await client.until(b"0\r\n\r\n")
        await peer.head()
        client.reset()
