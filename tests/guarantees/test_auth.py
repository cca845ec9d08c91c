"""Who may: an upstream is asked before anything else, and nothing but a yes goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from relay.config import ConfigError, loads
from tests.harness import RawPeer, Relay, Upstream, running

CONFIG = """
{server}
[upstreams.app]
url = "{app}"
request_headers = {{ X-App-Key = "of-the-app" }}
[upstreams.backend]
url = "{backend}"
request_headers = {{ X-Api-Key = "of-the-backend" }}
[[routes]]
path = "/{{rest...}}"
upstream = "backend"
request_headers = {{ X-Route = "r" }}
{route}
[routes.auth]
upstream = "app"
path = "/may"
timeout = "500ms"
copy = ["X-User-Id", "X-Role"]
{auth}
"""


class Ground:
    def __init__(self, relay: Relay, app: Upstream, backend: Upstream) -> None:
        self.relay = relay
        self.app = app
        self.backend = backend

    async def asked(self, request: bytes) -> tuple[RawPeer, RawPeer, bytes]:
        """A client that has sent `request`, and the question that the app got."""
        client = await self.relay.client()
        await client.send(request)
        peer, head = await self.app.request()
        return client, peer, head


@asynccontextmanager
async def ground(route: str = "", auth: str = "", server: str = "") -> AsyncIterator[Ground]:
    app, backend = await Upstream.open(), await Upstream.open()
    text = CONFIG.format(app=app.url, backend=backend.url, route=route, auth=auth, server=server)
    try:
        async with running(text) as relay:
            yield Ground(relay, app, backend)
    finally:
        app.close()
        backend.close()


def get(fields: str = "", path: str = "/a/b?c=d") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: relay.test\r\n{fields}\r\n".encode()


YES = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-User-Id: u1\r\nSet-Cookie: s=2\r\n\r\n"


async def test_the_question_has_the_clients_fields_and_where_it_wants_to_go() -> None:
    fields = (
        "Cookie: s=1\r\nAuthorization: Bearer x\r\nIf-None-Match: y\r\nRange: bytes=0-1\r\nLast-Event-ID: 7\r\n"
        "Content-Type: a/b\r\nX-Forwarded-Method: FORGED\r\nX_Forwarded_Uri: /forged\r\nUpgrade: websocket\r\n"
    )
    async with ground() as g:
        _, _, head = await g.asked(get(fields))
        lower = head.lower()
        assert head.startswith(b"GET /may HTTP/1.1\r\n")
        for line in (
            b"cookie: s=1",
            b"authorization: bearer x",
            b"x-forwarded-method: get",
            b"x-forwarded-uri: /a/b?c=d",
            b"x-app-key: of-the-app",
        ):
            assert lower.count(b"\r\n" + line + b"\r\n") == 1, line
        for name in (
            b"if-none",
            b"range",
            b"last-event",
            b"content-",
            b"forged",
            b"upgrade",
            b"x-route",
            b"x-api",
        ):
            assert name not in lower, name


async def test_a_yes_goes_on_with_what_it_says_of_the_user() -> None:
    async with ground() as g:
        client, peer, _ = await g.asked(
            get("X-User-Id: forged\r\nX_User_Id: forged\r\nX-Role: admin\r\n")
        )
        await peer.send(YES)
        backend, head = await g.backend.request()
        lower = head.lower()
        assert b"x-user-id: u1\r\n" in lower
        assert b"forged" not in lower
        assert b"x-role" not in lower  # the answer says nothing of a role, so nobody does
        assert b"x-api-key: of-the-backend" in lower
        await backend.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert b"set-cookie: s=2" in (await client.head()).lower()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 401, 403])
async def test_a_no_goes_to_the_client_as_it_is(status: int) -> None:
    async with ground() as g:
        client, peer, _ = await g.asked(get())
        await peer.send(
            b"HTTP/1.1 %d No\r\nLocation: /login\r\nWWW-Authenticate: Basic\r\nContent-Length: 5\r\n\r\nlogin"
            % status
        )
        answer = (
            (await client.until(b"login\r\n")) if status < 400 else await client.until(b"login")
        )
        answer += await client.until(b"\r\n\r\nlogin") if b"\r\n\r\n" not in answer else b""
        assert answer.startswith(b"HTTP/1.1 %d" % status)
        assert b"location: /login\r\n" in answer.lower()
        assert (await g.relay.line())["status"] == status


@pytest.mark.parametrize(
    "answer", ["500", "404", "100-then-close", "silence", "refused", "nonsense", "429"]
)
async def test_anything_else_is_503(answer: str) -> None:
    async with ground() as g:
        if answer == "refused":
            g.app.close()
            client = await g.relay.get()
        else:
            client, peer, _ = await g.asked(get())
            if answer == "100-then-close":
                await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                peer.close()
            elif answer == "nonsense":
                await peer.send(b"hello\r\n\r\n")
            elif answer != "silence":
                await peer.send(b"HTTP/1.1 %b No\r\nContent-Length: 0\r\n\r\n" % answer.encode())
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"auth_unavailable" in await client.until(b"}}")


async def test_an_eventsource_is_told_to_come_back() -> None:
    async with ground('unavailable = "retry-event"') as g:
        client, peer, _ = await g.asked(get())
        await peer.send(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        assert b"auth_unavailable" in await client.until(b"\n\n")


async def test_a_preflight_is_not_asked_for() -> None:
    async with ground('cors = { origins = ["https://app.example"] }') as g:
        client = await g.relay.client()
        await client.send(
            b"OPTIONS /a HTTP/1.1\r\nHost: x\r\nOrigin: https://app.example\r\n"
            b"Access-Control-Request-Method: POST\r\n\r\n"
        )
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")


async def test_a_member_of_the_body_may_stand_in_the_question() -> None:
    body = b'{"chat":"c 1"}'
    request = (
        b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    )
    app, backend = await Upstream.open(), await Upstream.open()
    config = CONFIG.format(app=app.url, backend=backend.url, route="", auth="", server="")
    try:
        async with running(config.replace('"/may"', '"/may/{body.chat}"')) as relay:
            g = Ground(relay, app, backend)
            _, peer, head = await g.asked(request % (len(body), body))
            assert head.startswith(b"GET /may/c%201 HTTP/1.1")
            assert b"transfer-encoding" not in head.lower()
            await peer.send(YES)
            upstream, _ = await backend.request()
            assert body in await upstream.until(b"0\r\n\r\n")
            client = await relay.client()
            await client.send(request % (2, b"{}"))
            assert (await client.head()).startswith(b"HTTP/1.1 400 ")
    finally:
        app.close()
        backend.close()


async def test_a_client_that_leaves_while_it_is_asked_leaves_nothing_behind() -> None:
    async with ground() as g:
        before = g.relay.inventory()
        for _ in range(20):
            client, peer, _ = await g.asked(get())
            client.close()
            await peer.ended()
            peer.close()
        await g.relay.nothing_left(before)


async def test_the_secrets_of_one_upstream_are_not_told_to_the_other() -> None:
    async with ground() as g:
        client, peer, question = await g.asked(get())
        await peer.send(YES)
        _, head = await g.backend.request()
        assert b"of-the-backend" not in question
        assert b"of-the-app" not in head
        client.close()


async def test_a_yes_with_an_endless_body_does_not_hold_up_the_request() -> None:
    async with ground() as g:
        _, peer, _ = await g.asked(get())
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await g.backend.request()
        await peer.ended()


async def test_what_the_question_is_about_is_relays_own_word() -> None:
    """1. A trusted proxy passes on what its client claims. 2. The question says it once, as it is."""
    server = '[server]\nlisten = ["127.0.0.1:0"]\ntrusted_proxies = ["127.0.0.0/8"]'
    fields = "X-Forwarded-Uri: /open\r\nX-Forwarded-Method: OPTIONS\r\nX_Forwarded_Uri: /open\r\n"
    async with ground(server=server) as g:
        _, _, head = await g.asked(get(fields))
        lower = head.lower()
        assert lower.count(b"forwarded-uri: ") == 1
        assert b"x-forwarded-uri: /a/b?c=d\r\n" in lower
        assert lower.count(b"forwarded-method: ") == 1
        assert b"/open" not in lower


@pytest.mark.parametrize("name", ["Content-Length", "Transfer_Encoding", "Host", "Connection"])
def test_framing_is_not_copied(name: str) -> None:
    text = CONFIG.format(app="http://a", backend="http://b", route="", auth="", server="")
    with pytest.raises(ConfigError, match=r"auth\.copy\[0\].*cannot be edited"):
        loads(text.replace('["X-User-Id", "X-Role"]', f'["{name}"]'), {})
