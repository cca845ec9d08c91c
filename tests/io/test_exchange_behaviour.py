"""What peers' suites hold their proxies to, written anew: Go's reverseproxy_test.go,
Caddy's
integration tests, and a few of our own. Hop-by-hop fields have a file of their own in guarantees/.
"""

from __future__ import annotations

import pytest
import trio

from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, running, scene

LAST = b"0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def sent(relay: Relay, up: Upstream, request: bytes) -> tuple[RawPeer, RawPeer, bytes]:
    """A request that reached the upstream: both ends, and the head as it arrived there."""
    client = await relay.client()
    await client.send(request)
    peer, head = await up.request()
    return client, peer, head


class TestTargets:
    @pytest.mark.parametrize(
        "target",
        [
            b"/",
            b"/a/b?c=d&e",
            b"/a%2Fb/c%20d?x=%26",
            b"/%C3%A4?q=%zz",
            b"/a//b///",
            b"/?",
            b"/a;b=c,d",
            b"/~user/'(*)!",
            b"/a?b?c",
        ],
    )
    async def test_the_bytes_stay(self, target: bytes) -> None:
        async with scene() as (relay, up):
            _, _, head = await sent(relay, up, b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            assert head.startswith(b"GET " + target + b" HTTP/1.1\r\n")

    @pytest.mark.parametrize(
        ("base", "path", "target", "expected"),
        [
            ("", "/v1/{rest}", b"/api/x", b"/v1/x"),
            ("/base", "/v1/{rest}", b"/api/x?y=1", b"/base/v1/x?y=1"),
            ("/base/", "/v1/{rest}", b"/api/a%2Fb/c", b"/base/v1/a%2Fb/c"),
            ("", "/v1/{rest}?fixed=1", b"/api/x?y=1", b"/v1/x?fixed=1"),  # its own replaces
            ("/base", "", b"/api/x?", b"/base/api/x?"),
        ],
    )
    async def test_base_path_and_query_are_joined(
        self, base: str, path: str, target: bytes, expected: bytes
    ) -> None:
        up = await Upstream.open()
        rewrite = f'upstream_path = "{path}"' if path else ""
        config = f"""
[upstreams.backend]
url = "{up.url}{base}"
[[routes]]
path = "/api/{{rest...}}"
upstream = "backend"
{rewrite}
"""
        async with running(config) as relay:
            _, _, head = await sent(relay, up, b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            assert head.startswith(b"GET " + expected + b" HTTP/1.1\r\n")
        up.close()

    async def test_an_absolute_target_is_sent_as_a_path(self) -> None:
        async with scene() as (relay, up):
            request = b"GET http://other.test:81/a?b HTTP/1.1\r\nHost: a\r\n\r\n"
            _, _, head = await sent(relay, up, request)
            assert head.startswith(b"GET /a?b HTTP/1.1\r\n")
            assert b"x-forwarded-host: other.test:81\r\n" in head


class TestHeads:
    async def test_the_response_head_is_flushed_while_the_body_waits(self) -> None:
        async with scene() as (relay, up):
            client, peer, _ = await sent(relay, up, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await peer.send(b"HTTP/1.1 200 Fine\r\nContent-Length: 5\r\n\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 200 Fine\r\n")
            await peer.send(b"later")
            await client.until(b"later")

    async def test_103_then_200(self) -> None:
        async with scene() as (relay, up):
            client, peer, _ = await sent(relay, up, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await peer.send(
                b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\nX: 1\r\n\r\n"
            )
            hints = await client.head()
            assert hints.startswith(b"HTTP/1.1 103 Early Hints\r\n")
            assert b"link: </a>\r\n" in hints
            assert b"x: 1" not in hints
            await peer.send(OK)
            assert (await client.until(b"ok")).startswith(b"HTTP/1.1 200 OK\r\n")

    async def test_103_is_not_for_http_1_0(self) -> None:
        async with scene() as (relay, up):
            client, peer, _ = await sent(relay, up, b"GET / HTTP/1.0\r\n\r\n")
            await peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
            assert (await client.rest()).startswith(b"HTTP/1.1 200 OK\r\n")

    @pytest.mark.parametrize(
        "status", [b"200 OK", b"204 No Content", b"304 Not Modified", b"404 No"]
    )
    @pytest.mark.parametrize("kind", ["length", "chunked", "none", "events"])
    async def test_head_gets_a_head_alone(self, status: bytes, kind: str) -> None:
        """And the connection goes on."""
        fields = {
            "length": b"Content-Length: 5\r\n",
            "chunked": b"Transfer-Encoding: chunked\r\n",
            "none": b"",
            "events": b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n",
        }[kind]
        async with scene('heartbeat = "1ms"') as (relay, up):
            two = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"
            client, peer, head = await sent(relay, up, two)
            assert head.startswith(b"HEAD / ")
            await peer.send(b"HTTP/1.1 " + status + b"\r\n" + fields + b"\r\n")
            got = await client.head()
            assert got.startswith(b"HTTP/1.1 " + status + b"\r\n")
            if kind == "length" and status[:3] != b"204":
                assert b"content-length: 5\r\n" in got
            await again(peer, up)  # on the same connection, where it could be kept
            assert (await client.until(b"ok")).startswith(b"HTTP/1.1 200 OK\r\n")
            assert (await relay.line())["ending"] == "complete"

    async def test_an_empty_event_stream(self) -> None:
        async with scene() as (relay, up):
            client, peer, _ = await sent(relay, up, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await peer.send(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 0\r\n\r\n"
            )
            await client.until(b"\r\n\r\n" + LAST)
            assert (await relay.line())["ending"] == "complete"

    @pytest.mark.parametrize("status", [b"404 Not Found", b"500 Oops", b"201 Created"])
    async def test_an_error_is_no_event_stream(self, status: bytes) -> None:
        """Status, fields and body stay, although the type says event stream; no heartbeat."""
        async with scene('heartbeat = "1ms"') as (relay, up):
            client, peer, _ = await sent(relay, up, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            fields = b"Content-Type: text/event-stream\r\nContent-Length: 9\r\n\r\n"
            await peer.send(b"HTTP/1.1 " + status + b"\r\n" + fields + b"data")
            head = await client.head()
            assert head.startswith(b"HTTP/1.1 " + status + b"\r\n")
            assert b"content-length: 9\r\n" in head
            await trio.sleep(0.01)
            await peer.send(b": 1\n\n")
            assert await client.exactly(9) == b"data: 1\n\n"


async def again(peer: RawPeer, up: Upstream) -> RawPeer:
    """The upstream's side of the next request: on the same connection, or on a new one."""
    with trio.fail_after(5):
        data = await peer.stream.receive_some(65536)
    if not data:
        peer, _ = await up.request()
    await peer.send(OK)
    return peer


class TestBodies:
    @pytest.mark.parametrize("framing", ["length", "chunked"])
    async def test_a_megabyte_echo(self, framing: str) -> None:
        """Both directions at the same time, each in the framing it came in."""
        size = 1024 * 1024
        coded = framing == "chunked"
        field = b"Transfer-Encoding: chunked" if coded else b"Content-Length: %d" % size
        body = b"%x\r\n%b\r\n%b" % (size, b"x" * size, LAST) if coded else b"x" * size
        async with scene() as (relay, up), trio.open_nursery() as nursery:
            request = b"POST / HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n\r\n"
            client, peer, head = await sent(relay, up, request)
            assert field.lower() in head.lower()
            await peer.send(b"HTTP/1.1 200 OK\r\n" + field + b"\r\n\r\n")

            async def echo() -> None:
                data = b""
                while not (data.endswith(LAST) if coded else len(data) >= size):
                    piece = bytes(await peer.stream.receive_some(65536))
                    await peer.stream.send_all(piece)
                    data += piece

            nursery.start_soon(echo)
            nursery.start_soon(client.stream.send_all, body)
            assert field.lower() in (await client.head()).lower()
            got = await client.until(LAST) if coded else await client.exactly(size)
            assert got.count(b"x") == size
            assert (await relay.line())["ending"] == "complete"

    async def test_a_body_of_length_zero_keeps_its_length(self) -> None:
        async with scene() as (relay, up):
            request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
            _, _, head = await sent(relay, up, request)
            assert b"content-length: 0\r\n" in head

    async def test_trailers_both_ways(self) -> None:
        async with scene() as (relay, up):
            client, peer, _ = await sent(
                relay,
                up,
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n"
                b"Connection: TE\r\nTrailer: X-Up\r\n\r\n1\r\na\r\n0\r\nX-Up: 1\r\nX-Unannounced: 2\r\n\r\n",
            )
            up_end = await peer.until(b"2\r\n\r\n")
            assert up_end.lower().endswith(b"0\r\nx-up: 1\r\nx-unannounced: 2\r\n\r\n")
            await peer.send(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Down\r\n\r\n"
                b"1\r\nb\r\n0\r\nX-Down: 1\r\n\r\n"
            )
            assert b"trailer: X-Down\r\n" in await client.head()
            down_end = await client.until(b"1\r\n\r\n")
            assert down_end.lower().endswith(b"0\r\nx-down: 1\r\n\r\n")

    async def test_an_upstream_without_framing(self) -> None:
        async with scene() as (relay, up):
            client, peer, _ = await sent(relay, up, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await peer.send(b"HTTP/1.0 200 OK\r\n\r\nall of it")
            peer.close()
            assert b"transfer-encoding: chunked\r\n" in await client.head()
            assert await client.until(LAST) == chunked(b"all of it") + LAST
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await up.request()  # the client's connection goes on

    async def test_http_1_0_keep_alive(self) -> None:
        async with scene() as (relay, up):
            request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
            client, peer, _ = await sent(relay, up, request)
            await peer.send(OK)
            assert b"connection: keep-alive\r\n" in await client.until(b"ok")
            await client.send(request)
            await peer.head()

    async def test_an_unread_body_behind_an_abort(self) -> None:
        """1. An upload is refused and never read. 2. Its bytes are not the next request."""
        async with scene('methods = ["GET"]') as (relay, up):
            client = await relay.client()
            smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
            await client.send(
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n" + smuggled
            )
            assert (await client.rest()).startswith(b"HTTP/1.1 405 ")
            await relay.get("/honest")
            _, head = await up.request()
            assert head.startswith(b"GET /honest ")


class TestConnections:
    async def test_a_dead_kept_alive_connection_is_not_the_clients_affair(self) -> None:
        """1. An idle connection has died. 2. A POST comes. 3. It goes out on a new one, its body
        intact."""
        async with scene() as (relay, up):
            client, peer, _ = await sent(relay, up, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await peer.send(OK)
            await client.until(b"ok")
            peer.close()
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345")
            peer, _ = await up.request()
            assert await peer.exactly(5) == b"12345"

    @pytest.mark.parametrize("end", [RawPeer.close, RawPeer.reset])
    async def test_a_kept_alive_connection_that_dies_with_the_request(self, end: object) -> None:
        """A GET is sent again on a new connection; nobody is told."""
        async with scene() as (relay, up):
            client, peer, _ = await sent(relay, up, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await peer.send(OK)
            await client.until(b"ok")
            await client.send(b"GET /again HTTP/1.1\r\nHost: a\r\n\r\n")
            await peer.head()
            end(peer)  # type: ignore[operator]
            peer, head = await up.request()
            assert head.startswith(b"GET /again ")
            await peer.send(OK)
            assert (await client.until(b"ok")).startswith(b"HTTP/1.1 200 ")

    async def test_a_post_is_not_sent_twice(self) -> None:
        async with scene() as (relay, up):
            client, peer, _ = await sent(relay, up, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await peer.send(OK)
            await client.until(b"ok")
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            await peer.head()
            peer.close()
            assert (await client.head()).startswith(b"HTTP/1.1 502 ")

    async def test_accept_then_close_is_a_502(self) -> None:
        async with scene() as (relay, up):
            client = await relay.get()
            (await up.accept()).reset()
            assert (await client.head()).startswith(b"HTTP/1.1 502 ")

    async def test_connection_close_of_the_upstream_is_obeyed(self) -> None:
        async with scene() as (relay, up):
            client, peer, _ = await sent(relay, up, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await peer.send(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert b"connection: close" not in await client.until(b"ok")
            await peer.ended()
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await up.request()

    async def test_pipelined_requests_are_answered_in_order(self) -> None:
        async with scene() as (relay, up):
            client = await relay.client()
            await client.send(
                b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(5))
            )
            peer = await up.accept()
            for n in range(5):
                assert (await peer.head()).startswith(b"GET /%d " % n)
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % n)
                assert (await client.until(b"\r\n\r\n%d" % n)).startswith(b"HTTP/1.1 200 ")

    async def test_a_pipelined_body_and_request_in_one_read(self) -> None:
        async with scene() as (relay, up):
            client, peer, _ = await sent(
                relay,
                up,
                b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
                b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
            )
            assert await peer.exactly(3) == b"abc"
            await peer.send(OK)
            await client.until(b"ok")
            assert (await peer.head()).startswith(b"GET /2 ")


class TestTunnels:
    REQUEST = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    ANSWER = (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )

    async def opened(self, relay: Relay, up: Upstream) -> tuple[RawPeer, RawPeer]:
        client, peer, head = await sent(relay, up, self.REQUEST)
        assert b"connection: upgrade\r\n" in head
        assert b"upgrade: websocket\r\n" in head
        await peer.send(self.ANSWER)
        answer = await client.head()
        assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"upgrade: websocket\r\n" in answer
        assert b"connection: upgrade\r\n" in answer
        assert b"connection: close" not in answer
        return client, peer

    async def test_bytes_both_ways(self) -> None:
        async with scene() as (relay, up):
            client, peer = await self.opened(relay, up)
            for n in range(5):
                await client.send(b"up %d" % n)
                assert await peer.exactly(4) == b"up %d" % n
                await peer.send(b"down %d" % n)
                assert await client.exactly(6) == b"down %d" % n

    @pytest.mark.parametrize("first", ["client", "upstream"])
    async def test_half_close(self, first: str) -> None:
        """Either side may end first; the other direction goes on until it ends too."""
        async with scene() as (relay, up):
            client, peer = await self.opened(relay, up)
            one, other = (client, peer) if first == "client" else (peer, client)
            await one.send(b"last words")
            one.half_close()
            assert await other.rest() == b"last words"
            await other.send(b"and mine")
            other.half_close()
            assert await one.rest() == b"and mine"
            line = await relay.line()
            assert (line["ending"], line["status"], line["phase"]) == ("complete", 101, "tunnel")

    @pytest.mark.parametrize("who", ["client", "upstream"])
    async def test_a_reset(self, who: str) -> None:
        async with scene() as (relay, up):
            before = relay.inventory()
            client, peer = await self.opened(relay, up)
            one, other = (client, peer) if who == "client" else (peer, client)
            one.reset()
            await other.rest()
            ending = "client_left" if who == "client" else "upstream_broke"
            assert (await relay.line())["ending"] == ending
            other.close()
            await relay.nothing_left(before)

    async def test_bytes_behind_both_heads(self) -> None:
        """1. The client sends its first words right behind the request. 2. The upstream behind its
        101."""
        async with scene() as (relay, up):
            client, peer, _ = await sent(relay, up, self.REQUEST + b"early up")
            await peer.send(self.ANSWER + b"early down")
            await client.head()
            assert await client.exactly(10) == b"early down"
            assert await peer.exactly(8) == b"early up"

    async def test_a_refusal_is_an_ordinary_answer(self) -> None:
        async with scene() as (relay, up):
            client, peer, _ = await sent(relay, up, self.REQUEST)
            await peer.send(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno")
            assert (await client.until(b"no")).startswith(b"HTTP/1.1 426 ")
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await peer.head()

    async def test_a_switch_nobody_asked_for(self) -> None:
        async with scene() as (relay, up):
            client, peer, _ = await sent(relay, up, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await peer.send(self.ANSWER)
            assert (await client.head()).startswith(b"HTTP/1.1 502 ")
            await peer.rest()

    async def test_a_switch_to_another_protocol(self) -> None:
        async with scene() as (relay, up):
            client, peer, _ = await sent(relay, up, self.REQUEST)
            await peer.send(self.ANSWER.replace(b"websocket", b"h2c"))
            assert (await client.head()).startswith(b"HTTP/1.1 502 ")

    async def test_many_bytes_at_once(self) -> None:
        """Backpressure holds inside a tunnel too."""
        size = 5_000_000
        async with scene() as (relay, up), trio.open_nursery() as nursery:
            client, peer = await self.opened(relay, up)
            nursery.start_soon(client.stream.send_all, bytes(size))
            nursery.start_soon(peer.stream.send_all, bytes(size))
            assert len(await peer.exactly(size)) == size
            assert len(await client.exactly(size)) == size


async def test_cancellation_while_the_upstream_has_not_answered() -> None:
    """499 in the log, no error."""
    async with scene() as (relay, up):
        client, peer, _ = await sent(relay, up, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        client.close()
        await peer.ended()
        line = await relay.line()
        assert (line["status"], line["ending"]) == (499, "client_left")


async def test_more_is_declared_than_sent() -> None:
    async with scene() as (relay, up):
        client, peer, _ = await sent(relay, up, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
        peer.close()
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert b"content-length: 100" in head
        assert body == b"part"
        assert (await relay.line())["ending"] == "upstream_broke"


async def test_an_event_leaves_with_its_last_byte() -> None:
    """1. All of an event but its last byte has come. 2. Nothing arrives. 3. The byte comes, and so
    does the event."""
    async with scene() as (relay, up):
        client, peer, _ = await sent(relay, up, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await peer.send(EVENT_HEAD)
        await client.head()
        await peer.send(chunked(b"data: 1\n"))
        await peer.send(chunked(b"\n"))
        assert await client.until(b"\n\n\r\n") == chunked(b"data: 1\n\n")
