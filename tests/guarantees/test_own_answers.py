"""The promise: what relay answers by itself is as good as an upstream's answer: a page of an origin
that the route names can read it, whatever it says; it is dated; and OPTIONS, TRACE and CONNECT get
what RFC 9110 asks for.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime

import pytest
import trio

from tests.harness import (
    EVENT_HEAD,
    RawPeer,
    Relay,
    Upstream,
    chunked,
    route_to,
    running,
    scene,
)
from tests.io.upstreams_setup import refusing_port

APP = "https://app.example"
CORS = f'cors = {{ origins = ["{APP}"], credentials = true, expose = ["Retry-After"] }}'
FROM_APP = f"Origin: {APP}\r\n"
SHORT = "200ms"
Play = Callable[[Relay, Upstream], Awaitable[RawPeer]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def fields(head: bytes) -> dict[str, str]:
    lines = head.decode().split("\r\n")[1:-2]
    return dict(line.split(": ", 1) for line in lines)


def readable(head: bytes, origin: str = APP) -> bool:
    """Whether a page of that origin may read the answer."""
    found = fields(head)
    return (
        found.get("access-control-allow-origin") == origin
        and found.get("access-control-allow-credentials") == "true"
        and "origin" in found.get("vary", "").lower()
    )


def asks(method: str = "GET", more: str = "", body: bytes = b"", path: str = "/") -> Play:
    async def play(relay: Relay, _: Upstream) -> RawPeer:
        client = await relay.client()
        head = f"{method} {path} HTTP/1.1\r\nHost: a\r\n{FROM_APP}{more}\r\n"
        await client.send(head.encode() + body)
        return client

    return play


def behind(answer: bytes) -> Play:
    """The upstream answers with that, and closes."""

    async def play(relay: Relay, up: Upstream) -> RawPeer:
        client = await relay.get("/", FROM_APP)
        peer, _ = await up.request()
        await peer.send(answer)
        peer.close()
        return client

    return play


async def twice(relay: Relay, up: Upstream) -> RawPeer:
    """The second request of this address is one too many."""
    client = await relay.get("/", FROM_APP)
    peer, _ = await up.request()
    await peer.send(OK)
    await client.until(b"ok")
    await client.send(f"GET / HTTP/1.1\r\nHost: a\r\n{FROM_APP}\r\n".encode())
    return client


def two_streams(accept: str) -> Play:
    """A second event stream; where it does not say so, it is seen by the upstream's answer."""

    async def play(relay: Relay, up: Upstream) -> RawPeer:
        await relay.get("/", FROM_APP)
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
        await relay.line(at="start")
        client = await relay.get("/", FROM_APP + accept)
        if not accept:
            peer, _ = await up.request()
            await peer.send(EVENT_HEAD)
        return client

    return play


STREAM_LIMIT = "[limits]\nstreams_per_address = 1"
REFUSALS: dict[str, tuple[int, Play, str, str]] = {
    "no such method": (405, asks("PUT", "Content-Length: 0\r\n"), 'methods = ["GET"]', ""),
    "no such method, uploading": (
        405, asks("PUT", "Content-Length: 9\r\n"), 'methods = ["GET"]', ""),
    "too many requests": (429, twice, "", '[limits]\nrequest_rate = "1/m"\nrequest_burst = 1'),
    "too many streams": (429, two_streams("Accept: text/event-stream\r\n"), "", STREAM_LIMIT),
    "too many streams, seen late": (429, two_streams(""), "", STREAM_LIMIT),
    "body too large": (
        413, asks("POST", "Content-Length: 9\r\n"), "", '[limits]\nrequest_body = "5B"'),
    "body too large, seen late": (
        413, asks("POST", "Transfer-Encoding: chunked\r\n", chunked(b"123456")), "",
        '[limits]\nrequest_body = "5B"'),
    "malformed chunk": (400, asks("POST", "Transfer-Encoding: chunked\r\n", b"x\r\n"), "", ""),
    "slow body": (
        408, asks("POST", "Content-Length: 9\r\n"), "", '[timeouts]\nrequest_body_idle = "20ms"'),
    "no such target": (400, asks(), 'upstream_path = "/{query.x}"', ""),
    "upstream nonsense": (502, behind(b"SSH-2.0-x\r\n\r\n"), "", ""),
    "upstream broke": (502, behind(b""), "", ""),
    "upstream silent": (504, asks(), "", '[timeouts]\nresponse_head = "20ms"'),
    "Max-Forwards is no number": (400, asks("OPTIONS", "Max-Forwards: x\r\n"), "", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
async def test_a_page_can_read_what_relay_refuses(case: str) -> None:
    """Without the CORS fields the page would see a network error, and no status."""
    status, play, route, more = REFUSALS[case]
    async with scene(f"{CORS}\n{route}", more=more) as (relay, up):
        client = await play(relay, up)
        head = await client.until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert readable(head), head
        assert fields(head)["access-control-expose-headers"] == "retry-after"


async def test_an_unreachable_upstream() -> None:
    async with running(route_to(f"http://127.0.0.1:{refusing_port()}", CORS)) as relay:
        client = await relay.get("/", FROM_APP)
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 502 ")
        assert readable(head)


@pytest.mark.parametrize("case", ["no such method", "too many requests", "upstream broke"])
async def test_another_origin_can_read_nothing(case: str) -> None:
    _, play, _, more = REFUSALS[case]
    route = 'cors = { origins = ["https://other.example"] }\nmethods = ["GET"]'
    async with scene(route, more=more) as (relay, up):
        client = await play(relay, up)
        assert b"access-control" not in await client.until(b"\r\n\r\n")


PREFLIGHT = f"{FROM_APP}Access-Control-Request-Method: GET\r\n"


async def test_preflights_do_not_count() -> None:
    """1. A bucket of one request. 2. Each request of a page is preceded by a preflight. A refused
    preflight would hide the 429 that the page should read."""
    limits = '[limits]\nrequest_rate = "1/m"\nrequest_burst = 1'
    async with scene(CORS, more=limits) as (relay, up):
        for _ in range(20):
            client = await relay.client()
            await client.send(f"OPTIONS / HTTP/1.1\r\nHost: a\r\n{PREFLIGHT}\r\n".encode())
            head = await client.head()
            assert head.startswith(b"HTTP/1.1 204 ")
            assert readable(head)
        client = await relay.get("/", FROM_APP)
        peer, _ = await up.request()
        await peer.send(OK)
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        refused = await (await relay.get("/", FROM_APP)).head()
        assert refused.startswith(b"HTTP/1.1 429 ")
        assert readable(refused)


async def test_preflights_that_the_upstream_answers_count() -> None:
    """Without `cors` a preflight is a request like any other."""
    limits = '[limits]\nrequest_rate = "1/m"\nrequest_burst = 1'
    async with scene(more=limits) as (relay, up):
        heads: list[bytes] = []
        for _ in range(2):
            client = await relay.client()
            await client.send(f"OPTIONS / HTTP/1.1\r\nHost: a\r\n{PREFLIGHT}\r\n".encode())
            if not heads:
                peer, _ = await up.request()
                await peer.send(OK)
            heads.append(await client.head())
        assert [head[9:12] for head in heads] == [b"200", b"429"]


async def test_the_routes_response_fields_too() -> None:
    route = 'methods = ["GET"]\nresponse_headers = { X-Frame-Options = "DENY" }'
    async with scene(route) as (relay, up):
        client = await asks("PUT", "Content-Length: 0\r\n")(relay, up)
        assert fields(await client.head())["x-frame-options"] == "DENY"


async def test_a_path_without_a_route_has_no_policy() -> None:
    async with running(route_to("http://127.0.0.1:1", CORS).replace("/{rest...}", "/a")) as relay:
        head = await (await relay.get("/b", FROM_APP)).head()
        assert head.startswith(b"HTTP/1.1 404 ")
        assert b"access-control" not in head


# -- Date ------------------------------------------------------------------------------------------


def is_now(text: str) -> bool:
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", text)
    return abs(parsedate_to_datetime(text).timestamp() - time.time()) < 60


@pytest.mark.parametrize("case", REFUSALS)
async def test_answers_of_relays_own_are_dated(case: str) -> None:
    _, play, route, more = REFUSALS[case]
    async with scene(f"{CORS}\n{route}", more=more) as (relay, up):
        client = await play(relay, up)
        assert is_now(fields(await client.until(b"\r\n\r\n"))["date"])


@pytest.mark.parametrize("sent", [b"nonsense\r\n\r\n", b"GET /a/../b HTTP/1.1\r\nHost: a\r\n\r\n"])
async def test_answers_to_what_is_no_request_are_dated(sent: bytes) -> None:
    async with scene() as (relay, _):
        client = await relay.client()
        await client.send(sent)
        assert is_now(fields(await client.head())["date"])


@pytest.mark.parametrize("head", [OK, EVENT_HEAD, b"HTTP/1.1 304 Not Modified\r\n\r\n"])
async def test_a_response_without_a_date_gets_one(head: bytes) -> None:
    async with scene() as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(head)
        assert is_now(fields(await client.head())["date"])


async def test_a_date_that_is_there_stays() -> None:
    sent = b"Tue, 15 Nov 1994 08:12:31 GMT"
    async with scene() as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nDate: " + sent + b"\r\nContent-Length: 0\r\n\r\n")
        head = await client.head()
        assert re.findall(rb"\r\ndate: (.*?)\r\n", head) == [sent]


@pytest.mark.parametrize(("edit", "found"), [("", []), ("never", [b"never"])])
async def test_the_operators_word_on_date_stands(edit: str, found: list[bytes]) -> None:
    async with scene(f'response_headers = {{ Date = "{edit}" }}') as (relay, up):
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(OK)
        assert re.findall(rb"\r\ndate: (.*?)\r\n", await client.head()) == found


# -- OPTIONS, TRACE, CONNECT -----------------------------------------------------------------------

ALL = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
ROUTES = """
[[routes]]
path = "/read"
methods = ["GET", "OPTIONS"]
upstream = "backend"
[[routes]]
path = "/write"
methods = ["PUT"]
upstream = "backend"
"""


async def sends(relay: Relay, request: str) -> bytes:
    client = await relay.client()
    await client.send(f"{request}\r\nHost: a\r\n\r\n".encode())
    return await client.head()


@pytest.mark.parametrize("target", ["*", "http://a"])
async def test_options_of_the_server(target: str) -> None:
    """`OPTIONS *` asks about the server in general, so no upstream is asked."""
    async with scene() as (relay, _):
        head = await sends(relay, f"OPTIONS {target} HTTP/1.1")
        assert head.startswith(b"HTTP/1.1 204 ")
        assert fields(head)["allow"] == ALL
        assert (await relay.line())["ending"] == "complete"


async def test_options_of_a_server_with_few_methods() -> None:
    config = route_to("http://127.0.0.1:1", 'methods = ["GET", "POST"]')
    async with running(config) as relay:
        assert fields(await sends(relay, "OPTIONS * HTTP/1.1"))["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize(("path", "allow"), [("/x", ALL), ("/read", ALL), ("/write", ALL)])
async def test_options_at_its_last_hop(path: str, allow: str) -> None:
    async with scene(more=ROUTES) as (relay, _):
        head = await sends(relay, f"OPTIONS {path} HTTP/1.1\r\nMax-Forwards: 0")
        assert head.startswith(b"HTTP/1.1 204 ")
        assert fields(head)["allow"] == allow
        assert not (await relay.line())["upstream"]


@pytest.mark.parametrize(
    ("came", "goes"),
    [("1", "0"), ("010", "9"), ("255", "254"), ("256", "255"), ("9" * 5000, "255")],
)
async def test_options_with_hops_left(came: str, goes: str) -> None:
    async with scene() as (relay, up):
        client = await relay.client()
        request = f"OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: {came}\r\n\r\n"
        await client.send(request.encode())
        peer, head = await up.request()
        assert re.findall(rb"(?i)\r\nmax-forwards: *(.*?)\r\n", head) == [goes.encode()]
        await peer.send(OK)
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "value", ["", "x", "-1", "1, 2", "1\r\nMax-Forwards: 1", "0\r\nMax-Forwards: 5"]
)
async def test_options_with_hops_that_are_no_number(value: str) -> None:
    async with scene() as (relay, _):
        head = await sends(relay, f"OPTIONS / HTTP/1.1\r\nMax-Forwards: {value}")
        assert head.startswith(b"HTTP/1.1 400 ")


async def test_hops_of_other_methods_pass() -> None:
    """The field is for TRACE and OPTIONS; elsewhere it may be ignored."""
    async with scene() as (relay, up):
        await relay.get("/", "Max-Forwards: 0\r\n")
        _, head = await up.request()
        assert b"max-forwards: 0\r\n" in head


@pytest.mark.parametrize(
    ("request_line", "allow"),
    [
        ("TRACE /write HTTP/1.1", "PUT"),
        ("TRACE /read?x HTTP/1.1\r\nMax-Forwards: 0", "GET, HEAD, OPTIONS"),
        ("TRACE /nowhere HTTP/1.1\r\nMax-Forwards: 3", ALL),
        ("CONNECT a:443 HTTP/1.1", ALL),
    ],
)
async def test_trace_and_connect(request_line: str, allow: str) -> None:
    config = route_to("http://127.0.0.1:1", more=ROUTES).replace("/{rest...}", "/elsewhere")
    async with running(config) as relay:
        head = await sends(relay, request_line)
        assert head.startswith(b"HTTP/1.1 405 ")
        assert fields(head)["allow"] == allow


async def test_allow_names_every_route_of_the_path() -> None:
    """With the catch-all beneath it, /write takes everything."""
    async with scene(more=ROUTES) as (relay, _):
        assert fields(await sends(relay, "TRACE /write HTTP/1.1"))["allow"] == ALL


async def test_answers_under_way_are_not_disturbed() -> None:
    """An OPTIONS that relay answers leaves the connection usable."""
    async with scene() as (relay, up):
        client = await relay.client()
        for request in ("OPTIONS * HTTP/1.1", "OPTIONS /a HTTP/1.1\r\nMax-Forwards: 0"):
            await client.send(f"{request}\r\nHost: a\r\n\r\n".encode())
            assert (await client.head()).startswith(b"HTTP/1.1 204 ")
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        with trio.fail_after(5):
            peer, _ = await up.request()
        await peer.send(OK)
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")


# -- answers of a route's auth ---------------------------------------------------------------------


@pytest.mark.parametrize("status", [302, 401, 403, 500])
async def test_what_auth_answers(status: int) -> None:
    """A page can read a refusal; a redirect is for the client and stays as the application wrote it."""
    route = f'{CORS}\n[routes.auth]\nupstream = "backend"\npath = "/may"'
    async with scene(route) as (relay, up):
        client = await relay.get("/", FROM_APP)
        peer, head = await up.request()
        assert head.startswith(b"GET /may HTTP/1.1\r\n")
        location = f"{up.url}/login"
        answer = f"HTTP/1.1 {status} X\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        await peer.send(answer.encode())
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 %d " % (503 if status == 500 else status))
        assert readable(head)
        assert is_now(fields(head)["date"])
        if status == 302:
            assert fields(head)["location"] == location
