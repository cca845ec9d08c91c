"""Limits by key: how many requests and streams each customer, user or address may have, whatever addresses they share."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from relay.config import ConfigError, describe, loads, warnings
from relay.exchange import tally
from relay.exchange.quotas import Quotas, keys_of
from relay.exchange.tally import Claims
from relay.http.heads import parse_request
from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, route_to, running

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
YES = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-User-Id: %b\r\n\r\n"
BY_CUSTOMER = '[limits.by.customer]\nkey = "{header.x-api-key}"\n'
RATE = BY_CUSTOMER + 'request_rate = "1/m"\nrequest_burst = 2\n'
STREAMS = BY_CUSTOMER + "streams = 1\n"
AUTH = '[routes.auth]\nupstream = "app"\npath = "/may"\n'
BY_USER = '[routes.limits.by.user]\nkey = "{auth.x-user-id}"\n'
BODY = json.dumps({"user_id": "ann", "query": "why?"}).encode()


def to(up: Upstream, route: str = "", more: str = "") -> str:
    """Each request comes to the upstream on a connection of its own."""
    return route_to(up, route, more=more, upstream_keys='keepalive_idle = "0s"')


@asynccontextmanager
async def scene(more: str = "", route: str = "") -> AsyncIterator[tuple[Relay, Upstream]]:
    up = await Upstream.open()
    try:
        async with running(to(up, route, more)) as relay:
            yield relay, up
    finally:
        up.close()


@asynccontextmanager
async def guarded(route: str) -> AsyncIterator[tuple[Relay, Upstream, Upstream]]:
    """A relay whose route asks an app first."""
    app, up = await Upstream.open(), await Upstream.open()
    more = f'[upstreams.app]\nurl = "{app.url}"\nkeepalive_idle = "0s"\n'
    try:
        async with running(to(up, AUTH + route, more)) as relay:
            yield relay, app, up
    finally:
        app.close()
        up.close()


async def served(client: RawPeer, up: Upstream, fields: str) -> bytes:
    """One request that reaches the upstream, and its answer's head."""
    await client.send(f"GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode())
    peer, _ = await up.request()
    await peer.send(NO_CONTENT)
    return await client.head()


def fields_of(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


async def test_two_customers_behind_one_address_have_a_bucket_each() -> None:
    """1. Customer a uses up its two requests, and gets a 429. 2. Customer b, at the same address, is served."""
    async with scene(RATE) as (relay, up):
        for _ in range(2):
            assert b" 204 " in await served(await relay.client(), up, "X-Api-Key: a\r\n")
        refused = await relay.get("/", "X-Api-Key: a\r\n")
        head = await refused.head()
        assert b" 429 " in head
        fields = fields_of(head)
        assert fields["ratelimit-policy"] == '"customer";q=2;w=120'
        assert 0 < int(fields["retry-after"]) <= 60
        assert fields["ratelimit"] == f'"customer";r=0;t={fields["retry-after"]}'
        body = json.loads(await refused.until(b"}}"))
        assert body["error"]["code"] == "too_many_requests"
        assert "customer" in body["error"]["message"]
        assert b" 204 " in await served(await relay.client(), up, "X-Api-Key: b\r\n")


async def test_the_limit_by_address_says_the_same_fields() -> None:
    async with scene('[limits]\nrequest_rate = "1/m"\nrequest_burst = 1\n') as (relay, up):
        await served(await relay.client(), up, "")
        fields = fields_of(await (await relay.get()).head())
        assert fields["ratelimit-policy"] == '"address";q=1;w=60'
        assert fields["ratelimit"].startswith('"address";r=0;t=')


@pytest.mark.parametrize(
    "without", ["", "X-Api-Key: \r\n", "X-Api-Key: c\r\nX-Api-Key: d\r\n"], ids=repr
)
async def test_nobody_escapes_by_leaving_the_field_away(without: str) -> None:
    """No field, an empty one, and two, of which nobody knows which counts: the address is the key."""
    async with scene(RATE) as (relay, up):
        for _ in range(2):
            await served(await relay.client(), up, without)
        assert b" 429 " in await (await relay.get("/", without)).head()
        assert b" 204 " in await served(await relay.client(), up, "X-Api-Key: a\r\n")


@pytest.mark.parametrize("spelling", ["x_api_key", "X.Api-Key", "X-API-KEY"])
async def test_another_spelling_is_the_same_key(spelling: str) -> None:
    """Behind relay a CGI or WSGI server reads `X_Api_Key` as `X-Api-Key`: so it counts as that."""
    async with scene(RATE) as (relay, up):
        for _ in range(2):
            await served(await relay.client(), up, "X-Api-Key: a\r\n")
        assert b" 429 " in await (await relay.get("/", f"{spelling}: a\r\n")).head()
        assert b" 204 " in await served(await relay.client(), up, f"{spelling}: b\r\n")
        assert b" 204 " in await served(
            await relay.client(), up, f"X-Api-Key: b\r\n{spelling}: a\r\n"
        )


async def test_a_key_is_in_no_log_no_answer_and_no_memory() -> None:
    async with scene(RATE + "streams = 1\n") as (relay, up):
        secret = "sk-very-secret-1"
        for _ in range(2):
            await served(await relay.client(), up, f"X-Api-Key: {secret}\r\n")
        refused = await relay.get("/", f"X-Api-Key: {secret}\r\n")
        said = await refused.head() + await refused.until(b"}}")
        assert secret.encode() not in said
        for _ in range(3):
            line = await relay.line()
            assert secret not in json.dumps(line)
        assert line["detail"] == "too_many_requests: limit customer"
        [books] = relay.worker.quotas.tallies.values()
        assert len(books) == 1
        assert all(len(key) == 16 and isinstance(key, bytes) for key in books)


async def test_a_stream_that_says_so_is_refused_before_anybody_is_asked() -> None:
    async with scene(STREAMS) as (relay, up):
        wants = "X-Api-Key: a\r\nAccept: text/event-stream\r\n"
        first = await relay.get("/", wants)
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD + chunked(b"data: 0\n\n"))
        await first.until(b"data: 0\n\n")
        refused = fields_of(await (await relay.get("/", wants)).head())
        assert refused["ratelimit-policy"] == '"customer";q=1;qu="concurrent-requests"'
        other = await relay.get("/", wants.replace("a\r", "b\r", 1))
        await up.request()
        first.close()
        await relay.line(status=200)
        again = await relay.get("/", wants)
        await up.request()
        other.close()
        again.close()


async def test_a_stream_that_its_answer_shows_is_refused_with_its_upstream_closed() -> None:
    async with scene(STREAMS) as (relay, up):
        fields = "X-Api-Key: a\r\nContent-Length: 0\r\n"
        post = f"POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode()
        clients, peers = [], []
        for _ in range(2):
            client = await relay.client()
            await client.send(post)
            clients.append(client)
            peers.append((await up.request())[0])
        await peers[0].send(EVENT_HEAD + chunked(b"data: 0\n\n"))
        assert b" 200 " in await clients[0].head()
        await peers[1].send(EVENT_HEAD)
        assert b" 429 " in await clients[1].head()
        assert await peers[1].rest() == b""


async def test_a_users_streams_are_counted_by_what_auth_said() -> None:
    """One user with two sessions has one stream; another user has one of its own."""
    async with guarded(BY_USER + "streams = 1\n") as (relay, app, up):
        wants = "Accept: text/event-stream\r\nCookie: s=%s\r\n"

        async def ask(session: str, user: bytes) -> RawPeer:
            client = await relay.get("/", wants % session)
            peer, _ = await app.request()
            await peer.send(YES % user)
            return client

        first = await ask("1", b"ann")
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD + chunked(b"data: 0\n\n"))
        await first.until(b"data: 0\n\n")
        assert b" 429 " in await (await ask("2", b"ann")).head()
        await ask("3", b"bob")
        await up.request()
        first.close()
        await relay.line(status=200)
        await ask("4", b"ann")
        await up.request()


async def test_what_the_client_claims_to_be_is_not_what_auth_said() -> None:
    async with guarded(BY_USER + 'request_rate = "1/m"\nrequest_burst = 1\n') as (relay, app, up):
        for number, status in ((1, b" 204 "), (2, b" 429 ")):
            client = await relay.get("/", f"X-User-Id: {number}\r\n")
            peer, _ = await app.request()
            await peer.send(YES % b"ann")
            if number == 1:
                backend, _ = await up.request()
                await backend.send(NO_CONTENT)
            assert status in await client.head()


async def test_a_flood_with_a_known_key_does_not_reach_auth() -> None:
    key = '[routes.limits.by.customer]\nkey = "{header.x-api-key}"\nrequest_rate = "1/m"\n'
    async with guarded(key + "request_burst = 1\n") as (relay, app, up):
        client = await relay.get("/", "X-Api-Key: a\r\n")
        peer, _ = await app.request()
        await peer.send(YES % b"ann")
        backend, _ = await up.request()
        await backend.send(NO_CONTENT)
        await client.head()
        assert b" 429 " in await (await relay.get("/", "X-Api-Key: a\r\n")).head()
        ended = [await relay.line() for _ in range(2)]
        assert [bool(line["upstream"]) for line in ended] == [True, False]


ENQUEUE = """
methods = ["POST"]
source = "enqueue"
[routes.enqueue]
upstream = "backend"
path = "/message"
[routes.follow]
upstream = "backend"
path = "/stream?id={reply.id}"
"""
ANSWER = """
methods = ["POST"]
source = "answer"
[routes.answer]
upstream = "backend"
path = "/ask"
text = "text"
"""


@pytest.mark.parametrize("source", [ENQUEUE, ANSWER], ids=["enqueue", "answer"])
async def test_a_route_of_streams_is_refused_once_auth_has_answered(source: str) -> None:
    app, up = await Upstream.open(), await Upstream.open()
    text = f'[upstreams.app]\nurl = "{app.url}"\nkeepalive_idle = "0s"\n'
    text += f'[upstreams.backend]\nurl = "{up.url}"\n'
    text += f'[[routes]]\npath = "/s"{source}{AUTH}{BY_USER}streams = 1\n'
    post = b"POST /s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    try:
        async with running(text) as relay:
            first, second = await relay.client(), await relay.client()
            await first.send(post)
            peer, _ = await app.request()
            await peer.send(YES % b"ann")
            backend, _ = await up.request()
            await second.send(post)
            again, _ = await app.request()
            await again.send(YES % b"ann")
            assert b" 429 " in await second.head()
            first.close()
            backend.close()
    finally:
        app.close()
        up.close()


async def test_a_limit_of_all_routes_counts_over_them_and_one_of_a_route_alone() -> None:
    up = await Upstream.open()
    own = '[routes.limits.by.customer]\nkey = "{header.x-api-key}"\nrequest_rate = %s\n'
    text = RATE + f'[upstreams.backend]\nurl = "{up.url}"\nkeepalive_idle = "0s"\n'
    for path, more in (
        ("/a", ""),
        ("/b", ""),
        ("/c", own % '"1/m"'),
        ("/d", own % '"off"'),
    ):
        text += f'[[routes]]\npath = "{path}"\nupstream = "backend"\n{more}'
    try:
        async with running(text) as relay:

            async def status(path: str, *, reaches: bool) -> bytes:
                client = await relay.get(path, "X-Api-Key: a\r\n")
                if reaches:
                    peer, _ = await up.request()
                    await peer.send(NO_CONTENT)
                return (await client.head()).split(b" ")[1]

            assert await status("/a", reaches=True) == b"204"
            assert await status("/b", reaches=True) == b"204"
            assert await status("/a", reaches=False) == b"429"
            assert await status("/b", reaches=False) == b"429"
            for _ in range(3):
                assert await status("/c", reaches=True) == b"204"
                assert await status("/d", reaches=True) == b"204"
    finally:
        up.close()


async def test_a_reload_keeps_what_was_counted() -> None:
    """A stream that was opened before a reload holds its place after it, also where the limit came with the reload."""
    async with scene(STREAMS) as (relay, up):
        wants = "X-Api-Key: a\r\nAccept: text/event-stream\r\n"
        client = await relay.get("/", wants)
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD + chunked(b"data: 0\n\n"))
        await client.until(b"data: 0\n\n")
        relay.worker.configure(loads(route_to(up, more=STREAMS + 'request_rate = "9/s"\n'), {}))
        assert b" 429 " in await (await relay.get("/", wants)).head()
        relay.worker.configure(loads(route_to(up), {}))  # no limit, and none of its books
        client.close()
        await relay.line(status=200)
        relay.worker.configure(loads(route_to(up, more=STREAMS), {}))
        await relay.get("/", wants)
        await up.request()


async def test_a_page_of_another_origin_can_read_the_refusal() -> None:
    cors = 'cors = { origins = ["https://app.example"], expose = ["Retry-After", "RateLimit"] }\n'
    async with scene(RATE.replace("= 2", "= 1"), cors) as (relay, up):
        page = "Origin: https://app.example\r\n"
        await served(await relay.client(), up, page)
        fields = fields_of(await (await relay.get("/", page)).head())
        assert fields["access-control-allow-origin"] == "https://app.example"
        assert "ratelimit" in fields["access-control-expose-headers"]


def test_a_million_keys_are_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request with another key, as long as a head may be: only MOST are remembered, of 16 bytes each."""
    monkeypatch.setattr(tally, "MOST", 500)
    config = loads(route_to("http://127.0.0.1:1", more=RATE + "streams = 1\n"), {})
    quotas = Quotas()
    quotas.configure(config.routes)
    counted, late = quotas.of(config.routes[0])
    assert not late
    held = Claims()
    for number in range(5000):
        text = b"GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: %d%b\r\n\r\n" % (number, b"k" * 1000)
        parsed = parse_request(text, 16384, 100)
        assert parsed is not None
        entries = keys_of(counted, parsed[0], {}, None, "192.0.2.1")
        claims = held if number == 7 else Claims()
        assert claims.add(entries, 0.0, events=True) is None
        if number == 7:
            assert claims.take_place(0.0) is None
    [(books, key)] = held.entries
    assert len(books) <= 500
    assert all(len(each) == 16 for each in books)
    assert books.crowded(key)  # a key in use is not forgotten
    held.release()
    assert not books.crowded(key)


WRONG = {
    "nothing to limit": (BY_CUSTOMER, "limits.by.customer", "limits nothing"),
    "a burst alone": (
        BY_CUSTOMER + "streams = 1\nrequest_burst = 3\n",
        "limits.by.customer",
        "`request_burst` has no effect",
    ),
    "no key": ("[limits.by.x]\nstreams = 1\n", "limits.by.x.key", "is missing"),
    "no placeholder": ('[limits.by.x]\nkey = "k"\nstreams = 1\n', "limits.by.x.key", "the same"),
    "a body": (
        '[limits.by.x]\nkey = "{body.user}"\nstreams = 1\n',
        "limits.by.x.key",
        "before its body is read",
    ),
    "a parameter of a route": (
        '[limits.by.x]\nkey = "{tenant}"\nstreams = 1\n',
        "limits.by.x.key",
        "[routes.limits.by]",
    ),
    "a name": (
        '[limits.by."a b"]\nkey = "{client}"\nstreams = 1\n',
        'limits.by."a b"',
        "a name is",
    ),
    "an unknown key": (
        BY_CUSTOMER + "stream = 1\n",
        "limits.by.customer.stream",
        'did you mean "streams"',
    ),
}


@pytest.mark.parametrize(("more", "key", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_names_its_key(more: str, key: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(route_to("http://127.0.0.1:1", more=more), {})
    [mistake] = [each for each in caught.value.mistakes if each.key == key]
    assert message in mistake.message


@pytest.mark.parametrize(
    ("key", "message"),
    [("{auth.x-user-id}", "needs [routes.auth]"), ("{tenant}", 'no route parameter "tenant"')],
)
def test_a_mistake_on_a_route_names_its_key(key: str, message: str) -> None:
    route = f'[routes.limits.by.x]\nkey = "{key}"\nstreams = 1\n'
    with pytest.raises(ConfigError) as caught:
        loads(route_to("http://127.0.0.1:1", route), {})
    [mistake] = caught.value.mistakes
    assert mistake.key == "routes[0].limits.by.x.key"
    assert message in mistake.message


def test_check_shows_the_limits_and_warns_of_one_without_auth() -> None:
    more = RATE + '[limits.by.user]\nkey = "{auth.x-user-id}"\nstreams = 3\n'
    route = '[routes.limits.by.page]\nkey = "{client}/{rest}"\nrequest_rate = "20/s"\nstreams = 2\n'
    config = loads(route_to("http://127.0.0.1:1", route, more=more), {})
    text = describe(config)
    assert "limit    customer {header.x-api-key} 1/m at most 2 at once" in text
    assert "limit page {client}/{rest} 20/s at most 100 at once and 2 streams" in text
    assert any("limits.by.user" in each for each in warnings(config))


def test_an_upstream_that_only_says_who_may_is_used() -> None:
    more = '[upstreams.app]\nurl = "http://127.0.0.1:2"\n'
    assert not warnings(
        loads(route_to("http://127.0.0.1:1", AUTH + BY_USER + "streams = 1\n", more=more), {})
    )
