"""The promise: a credential that relay adds is seen by the upstream alone. It is in no access log,
no
message of relay, no error, no field or event a client can see, however an exchange goes wrong.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from relay.config import ConfigError, loads
from relay.config.values import Config
from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, route_to, running
from tests.io.upstreams_setup import refusing_port

SECRET = "s3cr3t-t0ken-0f-the-backend"
KEYS = """
[upstreams.backend.request_headers]
Authorization = "Bearer ${BACKEND_TOKEN}"
"""


def configured(url: Upstream | str, route: str = "", more: str = "") -> Config:
    text = route_to(url, route, more=more, upstream_keys=KEYS)
    return loads(text, {"BACKEND_TOKEN": SECRET})


class Seen:
    """Everything that leaves relay, except towards the upstream."""

    def __init__(self, relay: Relay, up: Upstream) -> None:
        self.relay = relay
        self.up = up
        self.bytes = b""
        self.lines: list[dict[str, object]] = []

    async def request(self, fields: str = "", path: str = "/") -> tuple[RawPeer, RawPeer]:
        """A request that reached the upstream, with the credential."""
        client = await self.relay.get(path, fields)
        peer, head = await self.up.request()
        assert f"authorization: Bearer {SECRET}\r\n".encode() in head
        return client, peer

    async def to_the_end(self, client: RawPeer) -> None:
        client.half_close()
        self.bytes += await client.rest()
        self.lines.append(await self.relay.line())


@asynccontextmanager
async def watched(
    caplog: pytest.LogCaptureFixture, route: str = "", more: str = ""
) -> AsyncIterator[Seen]:
    """A relay whose every word is checked for the credential."""
    caplog.set_level(logging.DEBUG)
    up = await Upstream.open()
    async with running(configured(up, route, more)) as relay:
        seen = Seen(relay, up)
        yield seen
        rows = repr(relay.server.streams())
    up.close()
    assert seen.bytes, "the client saw something"
    assert SECRET.encode() not in seen.bytes
    assert SECRET not in repr(seen.lines) + rows + caplog.text


Play = Callable[[RawPeer], Awaitable[None]]


async def answers_with_an_error(peer: RawPeer) -> None:
    await peer.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 7\r\n\r\nexpired")


async def talks_nonsense(peer: RawPeer) -> None:
    await peer.send(f"Authorization: Bearer {SECRET}\r\n\r\n".encode())


async def breaks_its_head(peer: RawPeer) -> None:
    await peer.send(f"HTTP/1.1 200 OK\r\nX-Echo: {SECRET}\r\nX bad: 1\r\n\r\n".encode())


async def breaks_its_body(peer: RawPeer) -> None:
    await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n") + SECRET.encode() + b"\r\n")


async def breaks_an_event(peer: RawPeer) -> None:
    await peer.send(EVENT_HEAD + chunked(f"data: {SECRET}".encode()))
    peer.close()


async def closes(peer: RawPeer) -> None:
    peer.close()


async def resets(peer: RawPeer) -> None:
    peer.reset()


@pytest.mark.parametrize(
    "play",
    [
        answers_with_an_error,
        talks_nonsense,
        breaks_its_head,
        breaks_its_body,
        breaks_an_event,
        closes,
        resets,
    ],
    ids=lambda play: play.__name__,
)
async def test_whatever_the_upstream_does(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async with watched(caplog, 'half_close = "keep"') as seen:
        client, peer = await seen.request()
        await play(peer)
        await seen.to_the_end(client)


async def test_an_upstream_that_echoes_the_request_in_a_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """TRACE would send the credential back; it is refused before it is forwarded."""
    async with watched(caplog) as seen:
        client = await seen.relay.client()
        await client.send(b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n")
        await seen.to_the_end(client)
        assert b" 405 " in seen.bytes


async def test_a_deadline(caplog: pytest.LogCaptureFixture) -> None:
    more = '[timeouts]\nresponse_head = "20ms"'
    async with watched(caplog, 'half_close = "keep"', more) as seen:
        client, _ = await seen.request()
        await seen.to_the_end(client)
        assert b" 504 " in seen.bytes


async def test_a_refused_dial(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"http://127.0.0.1:{refusing_port()}"
    async with running(configured(url, 'half_close = "keep"')) as relay:
        client = await relay.get()
        got = await client.until(b"}}")
        line = await relay.line()
    assert b" 502 " in got
    assert SECRET not in got.decode() + repr(line) + caplog.text


@pytest.mark.parametrize(
    "play", [answers_with_an_error, closes, breaks_an_event], ids=lambda play: play.__name__
)
async def test_a_terminal_event(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    """The failure is told inside an event stream, the 200 being out."""
    route = 'half_close = "keep"\ncommit = "after 1ms"'
    async with watched(caplog, route) as seen:
        client, peer = await seen.request()
        await client.head()
        await play(peer)
        await seen.to_the_end(client)
        assert b'"type":"error"' in seen.bytes


async def test_what_the_client_sent_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    """One Authorization, relay's; the client's own is not in the log either."""
    async with watched(caplog, 'half_close = "keep"') as seen:
        client = await seen.relay.get(
            "/?token=mine", "Authorization: Bearer mine\r\nCookie: mine\r\n"
        )
        peer, head = await seen.up.request()
        assert head.lower().count(b"authorization:") == 1
        assert b"Bearer mine" not in head
        await answers_with_an_error(peer)
        await seen.to_the_end(client)
        assert "mine" not in repr(seen.lines)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_fault_of_relays_own(
    method: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback names lines, not values: in a step of the engine (GET) and in the connection's task (POST)."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("relay.exchange.step.prepared_answer", broken)
    monkeypatch.setattr("relay.exchange.delivery.Delivery.begin", broken)
    up = await Upstream.open()
    async with running(configured(up)) as relay:
        client = await relay.client()
        await client.send(
            f"{method} / HTTP/1.1\r\nHost: relay\r\nContent-Length: 0\r\n\r\n".encode()
        )
        peer, _ = await up.request()
        await answers_with_an_error(peer)
        line = await relay.line()
        await peer.rest()
        relay.faults.clear()
    up.close()
    assert line["ending"] == "fault"
    assert "ZeroDivisionError" in caplog.text
    assert SECRET not in caplog.text + repr(line)


async def test_values_do_not_show_themselves() -> None:
    """Whoever prints the configuration, or an error of it, prints no credential."""
    config = configured("http://127.0.0.1:1")
    assert SECRET not in repr(config)
    with pytest.raises(ConfigError) as caught:
        configured("http://127.0.0.1:1", f'heartbeat = "{SECRET}"\nunknown = 1')
    assert "Bearer" not in str(caught.value)
