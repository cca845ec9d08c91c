"""What an ASGI server sees of relay: every read passed on, a client that leaves, a response cut."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from tests.harness import EVENT_HEAD, chunked, settle
from tests.io.asgi_setup import END, LEFT, serving


async def test_one_message_for_every_event() -> None:
    async with serving() as server:
        call = server.get("/events")
        upstream, head = await server.upstream.request()
        assert head.startswith(b"GET /events HTTP/1.1\r\n")
        await upstream.send(EVENT_HEAD)
        status, fields = await call.start()
        assert status == 200
        assert fields[b"content-type"] == b"text/event-stream"
        assert fields[b"x-accel-buffering"] == b"no"
        assert not {b"connection", b"transfer-encoding", b"content-length"} & set(fields)
        for number in range(5):
            event = b"data: %d\n\n" % number
            await upstream.send(chunked(event))
            assert await call.piece() == event
        await upstream.send(chunked(b"data: half"))
        await upstream.send(chunked(b" and half\n\n"))
        assert await call.piece() == b"data: half and half\n\n"
        await upstream.send(b"0\r\n\r\n")
        assert await call.body() == (b"", True)
        line = await server.log()
        assert (line["ending"], line["events"], line["client"]) == ("complete", 6, "198.51.100.7")


async def test_a_small_answer_is_two_messages() -> None:
    async with serving() as server:
        call = server.get("/", version="1.1")
        upstream, _ = await server.upstream.request()
        await upstream.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\nX: y\r\n\r\nnone")
        start, body = await call.rest()
        assert start["status"] == 404
        fields = dict(start["headers"])
        assert (fields[b"x"], fields[b"content-length"]) == (b"y", b"4")
        assert body == {"type": "http.response.body", "body": b"none", "more_body": False}


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n'),
    ],
)
async def test_no_body(method: str, answer: bytes) -> None:
    async with serving() as server:
        call = server.call(method, "/", END)
        upstream, _ = await server.upstream.request()
        await upstream.send(answer)
        start, body = await call.rest()
        assert start["status"] == int(answer.split()[1])
        assert dict(start["headers"]).get(b"content-length") == (b"4" if method == "HEAD" else None)
        assert body == {"type": "http.response.body", "body": b"", "more_body": False}


async def test_what_upstream_sees_of_the_client() -> None:
    async with serving() as server:
        spoofed = [(b"x-forwarded-for", b"6.6.6.6"), (b"forwarded", b"for=6.6.6.6")]
        server.get("/a%2Fb?q=1", fields=spoofed)
        _, head = await server.upstream.request()
        lines = head.lower().split(b"\r\n")
        assert lines[0] == b"get /a%2fb?q=1 http/1.1"
        assert b"x-forwarded-for: 198.51.100.7" in lines
        assert b"x-forwarded-proto: https" in lines
        assert b"x-forwarded-host: relay.test" in lines
        assert b"forwarded: for=198.51.100.7;host=relay.test;proto=https" in lines
        assert b"6.6.6.6" not in head
        assert not any(line.startswith((b"transfer-encoding", b"content-length")) for line in lines)


async def test_relays_own_answers() -> None:
    async with serving(more="[limits]\nrequest_head = '1KiB'") as server:
        for number, (fields, path, status, code) in enumerate(
            [
                ([(b"x", b"y" * 2000)], "/", 431, "request_head_too_large"),
                ([(b"content-length", b"1"), (b"content-length", b"2")], "/", 400, "bad_request"),
                ([], "/a/../b", 400, "bad_request"),
                ([(b"a", b"b\r\nc: d")], "/", 400, "bad_request"),
            ]
        ):
            call = server.get(path, fields=fields)
            assert (await call.start())[0] == status, number
            body, whole = await call.body()
            assert whole
            assert json.loads(body)["error"]["code"] == code
            assert (await server.log())["status"] == status


# -- the client leaves -----------------------------------------------------------------------------


async def test_a_client_that_leaves_a_stream() -> None:
    async with serving() as server:
        call = server.get()
        upstream, _ = await server.upstream.request()
        await upstream.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
        await call.start()
        assert await call.piece() == b"data: 1\n\n"
        call.tell(LEFT)
        await upstream.ended()
        assert await call.rest() == []
        line = await server.log()
        assert (line["ending"], line["side"], line["phase"]) == ("client_left", "client", "body")


async def test_a_client_that_leaves_before_the_answer() -> None:
    async with serving() as server:
        call = server.get()
        upstream, _ = await server.upstream.request()
        call.tell(LEFT)
        await upstream.ended()
        assert await call.rest() == []
        assert (await server.log())["ending"] == "client_left"


async def test_a_client_that_leaves_its_upload() -> None:
    async with serving() as server:
        call = server.call("POST", fields=[(b"content-length", b"100")])
        call.upload(b"some")
        upstream, _ = await server.upstream.request()
        assert await upstream.exactly(4) == b"some"
        call.tell(LEFT)
        await upstream.ended()
        assert await call.rest() == []
        assert (await server.log())["ending"] == "client_left"


async def test_the_server_gives_a_request_up() -> None:
    async with serving() as server:
        call = server.get()
        upstream, _ = await server.upstream.request()
        await upstream.send(EVENT_HEAD)
        await call.start()
        call.scope_of_task.cancel()
        await upstream.ended()
        await call.over.wait()


async def test_an_upstream_does_not_wait_behind_a_shielded_send() -> None:
    """A client that stopped reading; the server's send never returns, and cannot be cancelled."""
    async with serving(more="[timeouts]\nwrite = '50ms'") as server:
        call = server.get()
        call.gate = trio.Event()
        upstream, _ = await server.upstream.request()
        await upstream.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
        await call.stuck.wait()
        await upstream.send(chunked(b"data: 2\n\n"))
        await upstream.ended()
        assert (await server.log())["ending"] == "client_stalled"
        assert not call.over.is_set()
        call.gate.set()
        body = await call.rest()
        assert body[-1]["type"] == "http.response.start" or body[-1]["more_body"]


async def test_a_client_that_leaves_while_send_is_stuck() -> None:
    async with serving() as server:
        call = server.get()
        call.gate = trio.Event()
        upstream, _ = await server.upstream.request()
        await upstream.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
        await call.stuck.wait()
        call.tell(LEFT)
        await upstream.ended()
        assert not call.over.is_set()
        call.gate.set()
        await call.over.wait()


# -- the upstream breaks ---------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_a_broken_stream_never_gets_its_last_message(version: str) -> None:
    async with serving() as server:
        call = server.get(version=version)
        upstream, _ = await server.upstream.request()
        await upstream.send(EVENT_HEAD + chunked(b"data: 1\n\ndata: ha"))
        await call.start()
        assert await call.piece() == b"data: 1\n\n"
        upstream.close()
        body, whole = await call.body()
        assert not whole
        assert body.startswith(b'data: {"type":"error","code":"upstream_broke"')
        assert body.endswith(b"\n\n")
        assert (await server.log())["ending"] == "upstream_broke"


async def test_a_broken_stream_that_is_to_close_does() -> None:
    async with serving('after_error = "close"') as server:
        call = server.get()
        upstream, _ = await server.upstream.request()
        await upstream.send(EVENT_HEAD)
        await call.start()
        upstream.close()
        body, whole = await call.body()
        assert whole
        assert b"upstream_broke" in body


async def test_a_short_body_ends_short_where_no_reset_is_to_be_had() -> None:
    """Under HTTP/2 an end before the length that was said is an error for the client."""
    async with serving() as server:
        call = server.get()
        upstream, _ = await server.upstream.request()
        await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        _, fields = await call.start()
        assert fields[b"content-length"] == b"10"
        assert await call.piece() == b"abc"
        upstream.close()
        assert await call.body() == (b"", True)


async def test_a_short_body_stops_under_http_1() -> None:
    async with serving() as server:
        call = server.get(version="1.1")
        upstream, _ = await server.upstream.request()
        await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await call.start()
        assert await call.piece() == b"abc"
        upstream.close()
        assert await call.body() == (b"", False)


async def test_nobody_answers() -> None:
    async with serving() as server:
        server.upstream.close()
        call = server.get()
        assert (await call.start())[0] == 502
        body, whole = await call.body()
        assert whole
        assert json.loads(body)["error"]["code"] == "upstream_unreachable"


# -- uploads ---------------------------------------------------------------------------------------


async def test_an_upload_goes_up_as_it_comes() -> None:
    async with serving() as server:
        call = server.call("POST")
        upstream, head = await server.upstream.request()
        assert b"transfer-encoding: chunked" in head
        for part in (b"one", b"two", b"three"):
            call.upload(part)
            assert await upstream.exactly(len(chunked(part))) == chunked(part)
        call.upload(b"", more=False)
        assert await upstream.until(b"0\r\n\r\n")
        await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await call.start()
        assert await call.body() == (b"ok", True)


async def test_an_upload_is_asked_for_no_faster_than_it_goes_up() -> None:
    async with serving() as server:
        call = server.call("POST")
        for _ in range(900):
            call.upload(bytes(65536))
        upstream, _ = await server.upstream.request()
        await trio.testing.wait_all_tasks_blocked(0.05)
        taken = call.taken
        assert taken < 200  # 12 MiB: what the kernel's own buffers took
        await upstream.exactly(1_000_000)
        await settle(lambda: call.taken > taken)


async def test_an_early_answer_ends_once_the_upload_has() -> None:
    """Hypercorn ends its process when a client goes on uploading to a stream that was answered."""
    async with serving() as server:
        call = server.call("POST", fields=[(b"content-length", b"12")])
        call.upload(b"some")
        upstream, _ = await server.upstream.request()
        await upstream.send(b"HTTP/1.1 413 No\r\nContent-Length: 3\r\n\r\nbig")
        assert (await call.start())[0] == 413
        assert await call.piece() == b"big"
        call.upload(b"more")
        await settle(lambda: call.taken == 2)
        assert not call.over.is_set()
        call.upload(b"last", more=False)
        assert await call.body() == (b"", True)
        assert (await server.log())["status"] == 413


async def test_an_early_answer_to_a_client_that_leaves() -> None:
    async with serving() as server:
        call = server.call("POST")
        upstream, _ = await server.upstream.request()
        await upstream.send(b"HTTP/1.1 413 No\r\nContent-Length: 3\r\n\r\nbig")
        await call.start()
        assert await call.piece() == b"big"
        call.tell(LEFT)
        assert await call.body() == (b"", False)


async def test_an_early_answer_to_an_upload_that_stops() -> None:
    more = "[timeouts]\nrequest_body_idle = '50ms'"
    async with serving(more=more) as server:
        call = server.call("POST")
        upstream, _ = await server.upstream.request()
        await upstream.send(b"HTTP/1.1 413 No\r\nContent-Length: 3\r\n\r\nbig")
        await call.start()
        assert await call.piece() == b"big"
        assert await call.body() == (b"", False)


async def test_a_body_that_is_not_as_long_as_it_says() -> None:
    """No server should pass it; if one does, the surplus is not the next request."""
    async with serving() as server:
        call = server.call("POST", fields=[(b"content-length", b"4")], version="1.1")
        call.upload(b"ab")
        upstream, _ = await server.upstream.request()
        call.upload(b"cd GET /evil HTTP/1.1\r\n\r\n", more=False)
        assert await upstream.rest() == b"ab"
        assert await call.rest() == []


# -- what else there is ----------------------------------------------------------------------------


async def test_early_hints_where_the_server_knows_them() -> None:
    answer = (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    )
    extensions: list[dict[str, Any]] = [{"http.response.early_hint": {}}, {}]
    async with serving() as server:
        for known in extensions:
            call = server.get(extensions=known)
            upstream, _ = await server.upstream.request()
            await upstream.send(answer)
            said = await call.rest()
            hint = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}
            assert (hint in said) is bool(known)
            assert said[-2]["status"] == 200
            upstream.close()


async def test_more_requests_than_there_is_room_for() -> None:
    cors = 'cors = { origins = ["https://app.example"] }'
    async with serving(cors, more="[limits]\nconnections = 1") as server:
        first = server.get()
        upstream, _ = await server.upstream.request()
        await upstream.send(EVENT_HEAD)
        await first.start()
        second = server.call("POST", fields=[(b"origin", b"https://app.example")])
        status, fields = await second.start()
        assert status == 503
        assert fields[b"access-control-allow-origin"] == b"https://app.example"
        assert b"date" in fields
        second.upload(b"x", more=False)
        body, whole = await second.body()
        assert whole
        assert b'"overloaded"' in body
        first.tell(LEFT)
        await first.over.wait()
        await settle(lambda: server.app.live == 0)
        third = server.get()
        await server.upstream.request()
        third.tell(LEFT)


async def test_nothing_is_left_of_a_hundred_exchanges() -> None:
    async with serving() as server:
        await trio.testing.wait_all_tasks_blocked()
        before = trio.lowlevel.current_statistics().tasks_living
        for number in range(100):
            call = server.get()
            upstream, _ = await server.upstream.request()
            if number % 3:
                await upstream.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
            if number % 3 == 2:
                upstream.close()
            else:
                call.tell(LEFT)
            await call.over.wait()
            upstream.close()
        await settle(lambda: trio.lowlevel.current_statistics().tasks_living == before)
        assert server.app.live == 0
