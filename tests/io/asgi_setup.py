"""An ASGI server of a few lines, and relay in it: the test plays the client, and the upstream.

test ──► FakeServer ──(scope, receive, send)──► App ──► Upstream (real sockets, see harness)
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from relay.asgi import App, app_from
from relay.config import loads
from tests.harness import LIMIT, LogPipe, Upstream, no_faults, route_to

Message = dict[str, Any]
END = {"type": "http.request", "body": b"", "more_body": False}
LEFT = {"type": "http.disconnect"}


class Call:
    """One request as the server sees it: what it told the app, and what the app sent."""

    def __init__(self, app: App, scope: Message, nursery: trio.Nursery) -> None:
        self.scope = scope
        self.taken = 0  # messages that the app has asked for
        self.over = trio.Event()  # the app has returned
        self.error: Exception | None = None
        self.gate: trio.Event | None = None  # a client that does not read until it is set
        self.stuck = trio.Event()  # the app waits for the gate
        self.scope_of_task = trio.CancelScope()
        self._tell, self._told = trio.open_memory_channel[Message](1000)
        self._say, self._said = trio.open_memory_channel[Message](1000)
        nursery.start_soon(self._run, app)

    async def _run(self, app: App) -> None:
        try:
            with self.scope_of_task:
                await app(self.scope, self._receive, self._send)
        except RuntimeError as error:
            self.error = error
        self._say.close()
        self.over.set()

    async def _receive(self) -> Message:
        message = await self._told.receive()
        self.taken += 1
        return message

    async def _send(self, message: Any) -> None:
        if self.gate is not None:
            self.stuck.set()
            with trio.move_on_after(LIMIT, shield=True):  # as Hypercorn does, for ever
                await self.gate.wait()
        await self._say.send(message)

    def tell(self, *messages: Message) -> None:
        for message in messages:
            self._tell.send_nowait(message)

    def upload(self, body: bytes, more: bool = True) -> None:
        self.tell({"type": "http.request", "body": body, "more_body": more})

    async def said(self) -> Message:
        """The app's next message."""
        with trio.fail_after(LIMIT):
            return await self._said.receive()

    async def start(self) -> tuple[int, dict[bytes, bytes]]:
        """Status and fields of the response."""
        message = await self.said()
        assert message["type"] == "http.response.start"
        return message["status"], dict(message["headers"])

    async def piece(self) -> bytes:
        """The next part of the body; the end is not one."""
        message = await self.said()
        assert message["type"] == "http.response.body"
        assert message["more_body"], message
        return bytes(message["body"])

    async def rest(self) -> list[Message]:
        """Everything the app says until it returns."""
        with trio.fail_after(LIMIT):
            return [message async for message in self._said]

    async def body(self) -> tuple[bytes, bool]:
        """The rest of the body, and whether it was said to be whole."""
        parts = await self.rest()
        whole = bool(parts) and not parts[-1]["more_body"]
        return b"".join(part["body"] for part in parts), whole


class FakeServer:
    """Speaks ASGI to one app."""

    def __init__(self, app: App, nursery: trio.Nursery, log: LogPipe, upstream: Upstream) -> None:
        self.app = app
        self.nursery = nursery
        self.upstream = upstream
        self._log = log
        self.lifespan = Call(app, {"type": "lifespan", "state": {}}, nursery)

    async def log(self, **wanted: object) -> dict[str, object]:
        """The next line of the access log that is like this."""
        wanted.setdefault("at", "end")
        return await self._log.line(wanted)

    def call(
        self,
        method: str = "GET",
        path: str = "/",
        *messages: Message,
        fields: list[tuple[bytes, bytes]] | None = None,
        version: str = "2",
        **more: Any,
    ) -> Call:
        """Begin a request; `messages` are told at once."""
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "http_version": version,
            "method": method,
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(b"host", b"relay.test"), *(fields or [])],
            "client": ("198.51.100.7", 4711),
            "server": ("127.0.0.1", 8443),
            "extensions": {},
            **more,
        }
        call = Call(self.app, scope, self.nursery)
        call.tell(*messages)
        return call

    def get(self, path: str = "/", **more: Any) -> Call:
        return self.call("GET", path, END, **more)

    async def stop(self) -> None:
        """The lifespan's shutdown; returns when the app says that it is complete."""
        self.lifespan.tell({"type": "lifespan.shutdown"})
        assert await self.lifespan.said() == {"type": "lifespan.shutdown.complete"}


@asynccontextmanager
async def serving(route: str = "", *, more: str = "") -> AsyncIterator[FakeServer]:
    """relay in a server that has started it, with one catch-all route to an upstream."""
    upstream = await Upstream.open()
    log = LogPipe()
    more = f'[server]\naccess_log = "/dev/fd/{log.fd}"\n{more}'
    try:
        with no_faults():
            async with trio.open_nursery() as nursery:
                app = app_from(loads(route_to(upstream, route, more=more), {}))
                server = FakeServer(app, nursery, log, upstream)
                server.lifespan.tell({"type": "lifespan.startup"})
                assert await server.lifespan.said() == {"type": "lifespan.startup.complete"}
                await trio.testing.wait_all_tasks_blocked()
                yield server
                nursery.cancel_scope.cancel()
    finally:
        upstream.close()
        log.close()
