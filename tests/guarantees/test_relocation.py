"""The promise: an upstream that names its own address sends nobody there: the client gets a path on
relay, whatever the kind of connection, and everything else as it came.
"""

from __future__ import annotations

import re

import pytest

from tests.harness import Upstream, route_to, running, scene

FIELDS = ("Location", "Content-Location")


async def answers(config: str, up: Upstream, path: str, lines: str, status: int = 302) -> bytes:
    """The head that the client gets for these field lines of the upstream."""
    async with running(config) as relay:
        client = await relay.get(path)
        peer, _ = await up.request()
        head = f"HTTP/1.1 {status} X\r\n{lines}Content-Length: 0\r\n\r\n"
        await peer.send(head.encode())
        return await client.head()


def values(head: bytes, name: str) -> list[str]:
    found: list[str] = re.findall(rf"\r\n{name.lower()}: (.*?)\r\n", head.decode())
    return found


@pytest.mark.parametrize("status", [201, 301, 302, 303, 307, 308, 200])
@pytest.mark.parametrize("name", FIELDS)
async def test_its_own_address(name: str, status: int) -> None:
    async with scene() as (relay, up):
        client = await relay.get("/a")
        peer, _ = await up.request()
        lines = f"X-Other: {up.url}/x\r\n{name}: {up.url}/x/?y"
        await peer.send(f"HTTP/1.1 {status} X\r\n{lines}\r\nContent-Length: 0\r\n\r\n".encode())
        head = await client.head()
        assert values(head, name) == ["/x/?y"]
        assert values(head, "X-Other") == [f"{up.url}/x"]


async def test_any_of_its_urls_and_what_the_route_made_of_the_path() -> None:
    up = await Upstream.open()
    config = f"""
[upstreams.u]
urls = ["{up.url}/base", "http://[::1]:81"]
balance = "round-robin"
[[routes]]
path = "/two/{{id}}/{{rest...}}"
upstream = "u"
upstream_path = "/one/{{id}}/{{rest}}"
"""
    lines = f"Location: {up.url}/base/one/7/y\r\nContent-Location: http://[::1]:81/one/7/z\r\n"
    lines += f"Refresh: 5; url={up.url}/base/one/7/r\r\n"
    head = await answers(config, up, "/two/7/x", lines)
    assert values(head, "Location") == ["/two/7/y"]
    assert values(head, "Content-Location") == ["/two/7/z"]
    assert values(head, "Refresh") == ["5; url=/two/7/r"]
    up.close()


@pytest.mark.parametrize(
    "value", ["https://login.example/?next=http://127.0.0.1/", "/x", "../x", "//cdn.example/x", ""]
)
async def test_everything_else_as_it_came(value: str) -> None:
    up = await Upstream.open()
    head = await answers(route_to(up), up, "/a", f"Location: {value}\r\n")
    assert values(head, "Location") == [value]
    up.close()


async def test_beneath_what_the_route_does_not_keep() -> None:
    up = await Upstream.open()
    config = route_to(up, 'upstream_path = "/one"')
    head = await answers(config, up, "/a", f"Location: {up.url}/login\r\n")
    assert values(head, "Location") == [f"{up.url}/login"]
    up.close()


async def test_the_operators_word_stands() -> None:
    up = await Upstream.open()
    config = route_to(up, 'response_headers = { Location = "https://app.example/" }')
    head = await answers(config, up, "/a", f"Location: {up.url}/login\r\n")
    assert values(head, "Location") == ["https://app.example/"]
    up.close()
