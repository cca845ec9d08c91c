"""The promise: what relay sets, removes or writes has no second spelling and no second place. A server
that makes variables of names (CGI, WSGI, PHP), or that merges trailers into the head, sees relay's word
alone.
"""

from __future__ import annotations

import re

import pytest

from tests.harness import RawPeer, Relay, Upstream, chunked, scene
from tests.io.asgi_setup import serving

KEYS = """
[upstreams.backend.request_headers]
X-Api-Key = "s3cret"
X-Internal-User = ""
"""
ROUTE = 'response_headers = { Server = "", X-Powered-By = "relay" }'
POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
EVENTS = ANSWER + b"Content-Type: text/event-stream\r\n"
TOLD = b"data: 1\n\n"


def environ(message: bytes) -> dict[str, list[str]]:
    """Fields, of a head or of trailers or of both, as a CGI names them."""
    found: dict[str, list[str]] = {}
    for line in message.split(b"\r\n"):
        name, colon, value = line.decode("latin-1").partition(": ")
        if colon:
            found.setdefault(re.sub(r"[^A-Z0-9]", "_", name.upper()), []).append(value)
    return found


SPELLINGS = [
    b"X_Api_Key", b"x.api~key", b"X-Internal_User", b"X_Forwarded_For", b"X.Forwarded.For",
    b"X~Forwarded~Proto", b"X_Forwarded_User", b"CF_Connecting_IP", b"X_Request_Id",
]  # fmt: skip
PLAIN = [b"X-Api-Key", b"X-Internal-User", b"X-Forwarded-For", b"Forwarded", b"Proxy", b"X-Real-IP"]


@pytest.mark.parametrize("name", SPELLINGS)
async def test_in_the_head_of_a_request(name: bytes) -> None:
    async with scene(ROUTE, upstream_keys=KEYS) as (relay, up):
        await relay.get("/", f"{name.decode()}: mine\r\nX_Sum: 1\r\n")
        _, head = await up.request()
        seen = environ(head)
        assert seen["X_API_KEY"] == ["s3cret"]
        assert seen["X_FORWARDED_FOR"] == ["127.0.0.1"]
        assert seen["X_SUM"] == ["1"]
        assert b"mine" not in head


@pytest.mark.parametrize("name", [*SPELLINGS, *PLAIN, b"Authorization", b"X.Api.Key"])
async def test_in_the_trailers_of_a_request(name: bytes) -> None:
    """1. The trailers come with the head. 2. The same, after the upstream has seen the head."""
    trailers = b"0\r\nX-First: 1\r\n" + name + b": mine\r\nx_sum: 2\r\n\r\n"
    async with scene(ROUTE, upstream_keys=KEYS) as (relay, up):
        client = await relay.client()
        await client.send(POST + b"\r\n" + chunked(b"a") + trailers)
        peer, _ = await up.request()
        assert (
            await peer.until(b"2\r\n\r\n") == chunked(b"a") + b"0\r\nx-first: 1\r\nx_sum: 2\r\n\r\n"
        )
        second = await relay.client()
        await second.send(POST + b"\r\n" + chunked(b"a"))
        peer, _ = await up.request()
        await peer.until(chunked(b"a"))
        await second.send(trailers)
        assert await peer.until(b"2\r\n\r\n") == b"0\r\nx-first: 1\r\nx_sum: 2\r\n\r\n"


FRAMING = [b"Transfer_Encoding: chunked", b"Transfer.Encoding: chunked", b"Content~Length: 5"]


@pytest.mark.parametrize("line", FRAMING)
async def test_a_lookalike_of_a_framing_field(line: bytes) -> None:
    async with scene() as (relay, up):
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n")
        assert b" 400 " in await client.head()
        asking = await relay.get()
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + line + b"\r\n\r\n")
        assert b" 502 " in await asking.head()


async def answered(relay: Relay, up: Upstream, answer: bytes) -> RawPeer:
    client = await relay.get()
    peer, _ = await up.request()
    await peer.send(answer)
    return client


@pytest.mark.parametrize("head", [ANSWER, EVENTS], ids=["bytes", "events"])
@pytest.mark.parametrize("name", [b"X_Powered_By", b"X.Request.Id", b"X_Accel.Buffering"])
async def test_in_the_head_of_a_response(head: bytes, name: bytes) -> None:
    async with scene(ROUTE) as (relay, up):
        fields = name + b": theirs\r\nX_Sum: 1\r\n\r\n0\r\n\r\n"
        got = await (await answered(relay, up, head + fields)).head()
        assert b"theirs" not in got
        assert environ(got)["X_SUM"] == ["1"]


@pytest.mark.parametrize("head", [ANSWER, EVENTS], ids=["bytes", "events"])
@pytest.mark.parametrize(
    "name",
    b"Server X-Powered-By X_Powered_By X-Request-Id Set-Cookie Set_Cookie Cache-Control Content-Length"
    b" Transfer-Encoding Content.Length Via".split(),
)
async def test_in_the_trailers_of_a_response(head: bytes, name: bytes) -> None:
    """They are dropped, the others pass, and the response is whole: the connection serves again."""
    async with scene(ROUTE) as (relay, up):
        trailers = b"0\r\nX-Cost: 1\r\n" + name + b": 5\r\nx_sum: 2\r\n\r\n"
        client = await answered(relay, up, head + b"\r\n" + chunked(TOLD) + trailers)
        await client.head()
        assert (
            await client.until(b"2\r\n\r\n")
            == chunked(TOLD) + b"0\r\nx-cost: 1\r\nx_sum: 2\r\n\r\n"
        )
        assert (await relay.line())["ending"] == "complete"
        [group] = relay.worker.groups
        assert group.origins[0].streams == 0
        assert len(group.origins[0].idle) == 1


async def test_in_an_interim_response() -> None:
    """What the route removes does not come early in a 103."""
    async with scene(ROUTE) as (relay, up):
        hints = b"HTTP/1.1 103 Early Hints\r\nServer: x\r\nX_Powered_By: y\r\nLink: <a>\r\n\r\n"
        client = await answered(relay, up, hints + b"HTTP/1.1 204 No Content\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\n"


async def test_cross_origin_fields_have_one_spelling() -> None:
    async with scene('cors = { origins = ["https://app.example"] }') as (relay, up):
        answer = (
            ANSWER
            + b"Access_Control_Allow_Origin: *\r\n\r\n0\r\nAccess-Control-Allow-Origin: *\r\n\r\n"
        )
        client = await answered(relay, up, answer)
        assert b"Control_Allow" not in await client.head()
        assert await client.until(b"0\r\n\r\n") == b"0\r\n\r\n"


@pytest.mark.parametrize("name", SPELLINGS[3:])  # without those of an upstream's request_headers
async def test_inside_an_asgi_server(name: bytes) -> None:
    async with serving(ROUTE) as server:
        call = server.get(fields=[(name.lower(), b"mine"), (b"x_sum", b"1")])
        peer, head = await server.upstream.request()
        seen = environ(head)
        # Those are no names of this relay's
        if b"api" not in name and b"internal" not in name.lower():
            assert b"mine" not in head
        assert seen["X_SUM"] == ["1"]
        assert seen["X_FORWARDED_FOR"] == ["198.51.100.7"]
        await peer.send(
            ANSWER + b"X_Powered_By: theirs\r\n\r\n" + chunked(b"a") + b"0\r\nServer: x\r\n\r\n"
        )
        status, fields = await call.start()
        assert status == 200
        assert b"theirs" not in fields.values()
        assert await call.body() == (b"a", True)


@pytest.mark.parametrize("line", FRAMING)
async def test_a_lookalike_of_a_framing_field_inside_an_asgi_server(line: bytes) -> None:
    async with serving() as server:
        name, _, value = line.lower().partition(b": ")
        status, _ = await server.get(fields=[(name, value)]).start()
        assert status == 400
