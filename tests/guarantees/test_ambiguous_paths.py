"""The promise: nothing passes a route by being written differently. What a server behind relay, or a
terminator before it, would read as a path of another route is refused; within one route the bytes go on
as they came.
"""

from __future__ import annotations

import json

import pytest

from relay.config import loads, warnings
from tests.harness import Relay, Upstream, scene
from tests.io.asgi_setup import serving

GUARD = """
[[routes]]
path = "/internal/{rest...}"
source = "local"
local = { status = 403 }
[[routes]]
path = "/files/{name...}"
upstream = "backend"
"""
PASS = '[server]\nlisten = ["127.0.0.1:0"]\nambiguous_paths = "pass"'
SPELLINGS = [
    "/internal%2Fx",
    "//internal/x",
    "/internal;a=1/x",
    "/internal%5cx",
    "/%2Finternal%2Fx",
    "/internal%252Fx",
    "//host/internal/x",
    "/files/%2E%2E%2Finternal".replace("%2E", "%252e"),
]


async def reached_by_nothing(relay: Relay, up: Upstream) -> None:
    """The next request that the upstream sees is the next honest one."""
    await relay.get("/honest")
    _, head = await up.request()
    assert head.startswith(b"GET /honest ")


@pytest.mark.parametrize("path", SPELLINGS)
async def test_it_is_refused(path: str) -> None:
    """1. A guarded route, and a catch-all. 2. The guarded path in other words. 3. The connection goes on."""
    async with scene(GUARD) as (relay, up):
        client = await relay.get(path)
        assert (await client.head()).startswith(b"HTTP/1.1 400 ")
        body = json.loads(await client.until(b"}}"))
        assert body["error"]["code"] == "ambiguous_path"
        line = await relay.line()
        assert (line["status"], line["ending"], line["upstream"]) == (400, "refused", "")
        await client.send(b"GET /internal/x HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 403 ")
        await reached_by_nothing(relay, up)


@pytest.mark.parametrize("path", ["/a%2Fb", "/files/a%2Fb//c;d=1%5C%252F", "/x//y;z", "/100%25"])
async def test_within_one_route_the_bytes_go_on(path: str) -> None:
    async with scene(GUARD) as (relay, up):
        await relay.get(path)
        _, head = await up.request()
        assert head.startswith(f"GET {path} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("path", ["/internal%2Fx", "//internal/x"])
async def test_who_needs_it_lets_it_pass(path: str) -> None:
    async with scene(GUARD, more=PASS) as (relay, up):
        await relay.get(path)
        _, head = await up.request()
        assert head.startswith(f"GET {path} HTTP/1.1\r\n".encode())


async def test_inside_an_asgi_server() -> None:
    async with serving(GUARD) as server:
        for path in ("/internal%2Fx", "//internal/x"):
            status, _ = await server.get(path).start()
            assert status == 400
        server.get("/a%2Fb")
        _, head = await server.upstream.request()
        assert head.startswith(b"GET /a%2Fb ")


def test_a_route_that_no_request_can_take_is_told() -> None:
    text = """
    [[routes]]
    path = "/a;b"
    source = "local"
    [[routes]]
    path = "/a"
    source = "local"
    """
    [warning] = warnings(loads(text, {}))
    assert warning.startswith("/a;b: every request to it is refused")
    assert warnings(loads('[server]\nambiguous_paths = "pass"\n' + text, {})) == ()
