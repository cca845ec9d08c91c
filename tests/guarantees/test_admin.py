"""The promise: the operator sees every stream and can end it, and learns whether relay is ready.

Clients and the upstream are played by hand; the admin listener has a socket of its own.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from relay.admin.listener import CONNECTIONS
from tests.guarantees.admin_setup import admin, response
from tests.harness import EVENT_HEAD, RawPeer, chunked, route_to, running, scene
from tests.io.upstreams_setup import refusing_port

PATHS = ["/", "/page.css", "/page.js", "/table.js", "/words.js", "/healthz", "/readyz"]
PATHS += ["/metrics", "/streams", "/status"]


@pytest.mark.parametrize("path", PATHS)
async def test_every_resource_answers(path: str) -> None:
    async with running(route_to("http://127.0.0.1:9")) as relay, admin(relay) as desk:
        got = await desk.ask(path)
        assert got.status == 200
        assert got.body
        assert got.fields["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in got.fields["content-security-policy"]
        head = await desk.ask(path, "HEAD")
        assert head.status == 200
        assert head.body == b""
        refused = await desk.ask(path, "POST", "Content-Length: 0\r\n")
        assert (refused.status, refused.fields["allow"]) == (405, "GET, HEAD")
        assert (await desk.ask(f"{path}x/y")).status == 404


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with running(route_to("http://127.0.0.1:9")) as relay, admin(relay) as desk:
        peer = await RawPeer.connect(desk.port)
        request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        await peer.send(request + request)
        assert (await response(peer)).json == {"status": "ok"}
        assert (await response(peer)).json == {"status": "ok"}
        await peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert (await response(peer)).fields["connection"] == "close"
        await peer.ended()
        peer.close()


async def test_the_list_tells_what_runs() -> None:
    async with scene('name = "logs"') as (relay, upstream), admin(relay) as desk:
        assert await desk.streams() == []
        client = await relay.get("/a?secret=1")
        peer, _ = await upstream.request()
        await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n", b"data: 2\n\n", b"data: unfini"))
        await client.until(b"data: 2\n\n\r\n")
        [stream] = await desk.streams()
        line = await relay.line(at="start")
        assert stream["id"] == line["id"]
        assert stream["route"] == "logs"
        assert stream["client"] == "127.0.0.1"
        assert (stream["method"], stream["path"]) == ("GET", "/a"), "no query: it may be secret"
        assert stream["upstream"] == upstream.url
        assert (stream["kind"], stream["events"], stream["held"]) == ("events", 2, 12)
        assert stream["bytes"] == len(chunked(b"data: 1\n\ndata: 2\n\n"))
        assert 0 <= stream["last_event"] <= stream["age"]
        assert (stream["worker"], stream["slow"]) == (0, None)
        await peer.send(chunked(b"shed\n\n", b""))
        await client.until(b"0\r\n\r\n")
        assert await desk.streams() == []


async def test_a_slow_client_shows() -> None:
    async with scene() as (relay, upstream), admin(relay) as desk:
        client = await relay.client()
        client.shrink()
        await client.send(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        peer, _ = await upstream.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.stream.send_all, bytes(20_000_000))
            with trio.fail_after(10):
                while not [s for s in await desk.streams() if s["slow"] == "client"]:  # noqa: ASYNC110
                    await trio.sleep(0.001)
            [stream] = await desk.streams()
            assert stream["kind"] == "bytes"
            assert stream["held"] > 0, "what the client did not take"
            assert (await desk.ask("/status")).json["held"] == stream["held"]
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_delete_ends_a_stream_with_a_terminal_event(method: str) -> None:
    async with scene() as (relay, upstream), admin(relay) as desk:
        client = await relay.client()
        await client.send(f"{method} /s HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        peer, _ = await upstream.request()
        await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n", b"data: {half an ev"))
        await client.until(b"data: 1\n\n\r\n")
        [stream] = await desk.streams()
        answer = await desk.ask(f"/streams/{stream['id']}", "DELETE")
        assert (answer.status, answer.json) == (200, {"stopped": stream["id"]})
        rest = await client.rest()
        assert b"half" not in rest
        event = json.loads(rest.partition(b"data: ")[2].partition(b"\n\n")[0])
        assert event["code"] == "stopped"
        await peer.ended()
        line = await relay.line()
        assert (line["id"], line["ending"], line["side"]) == (stream["id"], "stopped", "relay")
        gone = await desk.ask(f"/streams/{stream['id']}", "DELETE")
        assert (gone.status, gone.code) == (404, "no_such_stream")


async def test_delete_of_nothing() -> None:
    async with running(route_to("http://127.0.0.1:9")) as relay, admin(relay) as desk:
        assert (await desk.ask("/streams/0123456789abcdef", "DELETE")).status == 404
        assert (await desk.ask("/streams/../x", "DELETE")).status in (400, 404)
        assert (await desk.ask("/streams", "DELETE")).status == 405
        assert (await desk.ask("/streams/0123456789abcdef")).fields["allow"] == "DELETE"


async def test_ready_while_every_upstream_has_a_url_that_is_up() -> None:
    """1. Nobody has tried the upstream: ready. 2. It refused: not ready, and why. 3. After its
    back-off it may be tried, so traffic must be let in again: ready."""
    config = route_to(f"http://127.0.0.1:{refusing_port()}")
    async with running(config) as relay, admin(relay) as desk:
        assert (await desk.ask("/readyz")).json == {"ready": True, "reasons": []}
        client = await relay.get()
        assert b" 502 " in await client.head()
        not_ready = await desk.ask("/readyz")
        assert not_ready.status == 503
        assert not_ready.json["reasons"] == ["every url of upstream backend is down"]
        assert (await desk.ask("/healthz")).status == 200, "the process itself works"
        [origin] = [origin for group in relay.worker.groups for origin in group.origins]
        origin.retry_at = 0.0
        assert (await desk.ask("/readyz")).status == 200
        client.close()


async def test_one_url_that_is_up_is_enough() -> None:
    async with scene() as (_, upstream):
        urls = f'["http://127.0.0.1:{refusing_port()}", "{upstream.url}"]'
        config = route_to(upstream).replace(f'url = "{upstream.url}"', f"urls = {urls}")
        async with running(config) as relay, admin(relay) as desk:
            [group] = relay.worker.groups
            group.origins[0].failed("refused")
            assert (await desk.ask("/readyz")).status == 200
            states = {
                url["url"]: url["up"] for url in (await desk.ask("/status")).json["upstreams"]
            }
            assert list(states.values()) == [False, True]


async def test_not_ready_while_it_drains_and_the_listener_still_answers() -> None:
    async with scene(more='[timeouts]\ndrain = "20s"') as (relay, upstream), admin(relay) as desk:
        client = await relay.get("/s")
        peer, _ = await upstream.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
        await client.until(b"\r\n\r\na")
        relay.server.stop()
        got = await desk.ask("/readyz")
        assert (got.status, got.json["reasons"]) == (503, ["draining"])
        assert len(await desk.streams()) == 1
        await peer.send(b"b")
        assert await client.rest() == b"b"
        await relay.stopped.wait()
        assert (await desk.ask("/healthz")).status == 200


async def test_slots_of_its_own_are_taken_before_accept() -> None:
    async with running(route_to("http://127.0.0.1:9")) as relay, admin(relay) as desk:
        holders = [await RawPeer.connect(desk.port) for _ in range(CONNECTIONS)]
        for holder in holders:
            await holder.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await response(holder)).status == 200
        waiting = await RawPeer.connect(desk.port)
        await waiting.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert waiting.buffer == b""
        holders[0].close()
        assert (await response(waiting)).status == 200
        for peer in (*holders, waiting):
            peer.close()


async def test_a_fault_of_relays_own_costs_one_connection() -> None:
    class Broken:
        async def streams(self) -> dict[int, list[list[object]]]:
            raise KeyError("a bug")

        async def states(self) -> list[object]:
            raise KeyError("a bug")

    broken: Any = Broken()
    nowhere = route_to("http://127.0.0.1:9")
    async with running(nowhere) as relay, admin(relay, control=broken) as desk:
        peer = await RawPeer.connect(desk.port)
        await peer.send(b"GET /streams HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await peer.ended()
        peer.close()
        assert (await desk.ask("/")).status == 200
        assert "admin listener" in relay.faults[0].getMessage()
        relay.faults.clear()
