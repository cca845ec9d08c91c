"""relay starts and stops with the server around it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import trio

import relay.asgi
from relay.config import ConfigError, loads
from tests.harness import EVENT_HEAD, LIMIT, Upstream, chunked, route_to, settle
from tests.io.asgi_setup import LEFT, serving

CONFIG = route_to("http://127.0.0.1:9")


async def test_a_request_without_the_lifespan_protocol_says_so() -> None:
    app = relay.asgi.app_from(loads(CONFIG, {}))
    with pytest.raises(RuntimeError, match="lifespan protocol"):
        await app({"type": "http"}, _never, _nowhere)


async def test_an_unknown_scope() -> None:
    app = relay.asgi.app_from(loads(CONFIG, {}))
    with pytest.raises(ValueError, match="'telnet'"):
        await app({"type": "telnet"}, _never, _nowhere)


def test_the_wrong_loop_is_told_at_startup() -> None:
    said: list[Any] = []

    async def startup() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        said.append(message)

    app = relay.asgi.app_from(loads(CONFIG, {}))
    asyncio.run(app({"type": "lifespan"}, startup, send))
    [message] = said
    assert message["type"] == "lifespan.startup.failed"
    assert "Trio" in message["message"]


def test_create_reads_the_file_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "relay.toml"
    path.write_text(route_to("http://${BACKEND}/"))
    monkeypatch.setenv("BACKEND", "127.0.0.1:9000")
    config = relay.asgi.create(path).config
    assert config.upstreams["backend"].urls[0].authority == b"127.0.0.1:9000"
    path.write_text("nonsense = 1")
    with pytest.raises(ConfigError, match="nonsense"):
        relay.asgi.create(path)


async def test_the_admin_listener_is_on_its_own_address(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    more = f"admin = 'unix:{path}'"
    async with serving(more=more) as server:
        call = server.get()
        upstream, _ = await server.upstream.request()
        await upstream.send(EVENT_HEAD)
        await call.start()
        await settle(path.exists)
        async with await trio.open_unix_socket(str(path)) as admin:
            await admin.send_all(
                b"GET /streams HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"
            )
            with trio.fail_after(LIMIT):
                answer = b"".join([bytes(piece) async for piece in admin])
        assert b'"198.51.100.7"' in answer
        call.tell(LEFT)
        await server.stop()
    assert not path.exists()


async def test_what_cannot_be_opened_is_told_at_startup(tmp_path: Path) -> None:
    for key in ("admin = 'unix:{}/no/where'", "access_log = '{}/no/where'"):
        more = f"[server]\n{key.format(tmp_path)}"
        app = relay.asgi.app_from(loads(route_to("http://127.0.0.1:9", more=more), {}))
        said: list[Any] = []

        async def startup() -> dict[str, str]:
            await trio.lowlevel.checkpoint()
            return {"type": "lifespan.startup"}

        async def send(message: Any, said: list[Any] = said) -> None:
            await trio.lowlevel.checkpoint()
            said.append(message)

        await app({"type": "lifespan"}, startup, send)
        [message] = said
        assert message["type"] == "lifespan.startup.failed"
        assert "/no/where" in message["message"]


async def test_shutdown_drains() -> None:
    """A stream gets its farewell and ends whole; the shutdown is complete when it has."""
    async with serving(more="[timeouts]\ndrain = '2s'") as server:
        call = server.get()
        upstream, _ = await server.upstream.request()
        await upstream.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
        await call.start()
        assert await call.piece() == b"data: 1\n\n"
        await server.stop()
        body, whole = await call.body()
        assert whole
        assert body.startswith(b"retry: ")
        assert call.over.is_set()
        await upstream.ended()


async def test_shutdown_answers_who_waits_until_the_drain_is_over() -> None:
    async with serving(more="[timeouts]\ndrain = '50ms'") as server:
        call = server.get()
        upstream, _ = await server.upstream.request()
        await server.stop()
        start, body = await call.rest()
        assert start["status"] == 503
        assert b'"shutting_down"' in body["body"]
        assert not body["more_body"]
        await upstream.ended()


async def test_a_request_behind_the_shutdown() -> None:
    async with serving() as server:
        await server.stop()
        late = server.get()
        with trio.fail_after(LIMIT):
            await late.over.wait()
        assert "lifespan" in str(late.error)


async def test_running_inside_a_framework_that_owns_the_lifespan() -> None:
    upstream = await Upstream.open()
    app = relay.asgi.app_from(loads(route_to(upstream, more="server.access_log = 'off'"), {}))
    async with app.running():
        assert app.live == 0
    async with app.running():  # and again
        pass
    upstream.close()


@pytest.mark.parametrize("can_answer", [True, False])
async def test_a_websocket_is_refused(can_answer: bool) -> None:
    said: list[Any] = []

    async def connect() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append(message)

    scope = {"type": "websocket", "extensions": {"websocket.http.response": {}}}
    app = relay.asgi.app_from(loads(CONFIG, {}))
    await app(scope if can_answer else {"type": "websocket"}, connect, send)
    if can_answer:
        assert said[0]["status"] == 501
        assert b"WebSocket" in said[1]["body"]
    else:
        assert said == [{"type": "websocket.close", "code": 1000}]


async def _never() -> Any:
    await trio.sleep_forever()


async def _nowhere(message: Any) -> None:
    await trio.lowlevel.checkpoint()
