"""The ASGI application: one HTTP scope is one request on one in-memory connection.

    lifespan   startup ─► Server (no listeners) ─► shutdown, or the server's own end ─► drain
    http       Request ─► RequestStream ─► relay's Connection ─► Answering ─► send()
    websocket  refused: ASGI carries messages, relay tunnels bytes

Rules
  * Nothing is held back: one `http.response.body` for every read.
  * The client's leaving (`http.disconnect`, or the end of the request's task) closes the stream,
    and relay does what it always does then.
  * Relay's part of an exchange runs in relay's own nursery: neither a client that stopped reading
    nor a cancelled request makes an upstream wait.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from json import dumps
from pathlib import Path

import trio

from relay.admin.control import LocalControl
from relay.asgi.answering import Answering
from relay.asgi.hypercorn_hooks import HypercornHooks, Wait
from relay.asgi.request import Message, Receive, Request, Scope, Send
from relay.asgi.stream import RequestStream
from relay.config import load
from relay.config.values import Config
from relay.exchange.connection import Connection
from relay.exchange.own_answers import cors_of
from relay.exchange.worker import Worker
from relay.http.clock import date
from relay.http.serialise import error_response
from relay.serving.activation import Passed
from relay.serving.listeners import BindError, Listener, open_listeners
from relay.serving.reload import Refused, open_log
from relay.serving.server import Server
from relay.wires.stream_wire import StreamWire

_NO_LIFESPAN = (
    "relay is not running in this server: it starts with the lifespan protocol, which the server "
    "does not speak, or which a framework in front of relay did not pass on; in the latter case "
    "enter `async with app.running():` where the framework starts"
)
_NO_TRIO = "relay needs Trio: start the server with its Trio worker (hypercorn --worker-class trio)"
_NO_WEBSOCKETS = "relay cannot tunnel a WebSocket out of an ASGI server"
_MARGIN = 0.9  # share of the server's own grace that relay drains in; the rest is for the last farewells to get out


class CannotStart(Exception):
    """Why relay does not start; for people."""


class App:
    """relay as an ASGI application. It serves while `running`, which the lifespan enters."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._server: Server | None = None
        self._nursery: trio.Nursery | None = None
        self._watched = False  # somebody waits for the end of the ASGI server

    @property
    def live(self) -> int:
        """Exchanges under way."""
        return self._server.worker.counters.connections if self._server is not None else 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope. Raises: RuntimeError (an HTTP request while relay is not running)."""
        kind = scope["type"]
        if kind == "http":
            await self._http(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            await _refuse_websocket(scope, receive, send)
        else:
            raise ValueError(f"relay does not know the ASGI scope {kind!r}")

    # -- from startup to shutdown ------------------------------------------------------------------

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve for as long as the block lasts, then drain: [timeouts] drain at most.

        Raises: CannotStart (the access log or the admin listener cannot be opened).
        Cancellation: the exchanges under way end at once.
        """
        try:
            log = open_log(self.config)
            admin = self.config.server.admin
            # Shared: each of the server's processes has one.
            listeners = open_listeners(
                [admin] if admin is not None else [], Passed(), takeover=True
            )
        except (Refused, BindError) as error:
            raise CannotStart(str(error)) from None
        server = Server(Worker(self.config, log), [])
        drained = trio.Event()

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            await server.run(task_status=task_status)
            drained.set()

        async with trio.open_nursery() as self._nursery:
            await self._nursery.start(serve)
            for listener in listeners:
                self._nursery.start_soon(_serve_admin, listener, server)
            self._server = server
            try:
                yield
                server.stop()
                await drained.wait()
            finally:
                self._server = None
                self._watched = False
                self._nursery.cancel_scope.cancel()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        if not trio.lowlevel.in_trio_run():
            await send({"type": "lifespan.startup.failed", "message": _NO_TRIO})
            return
        try:
            async with self.running():
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except CannotStart as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
        else:
            await send({"type": "lifespan.shutdown.complete"})

    def _watch_for_the_end(self, server: Server, send: Send) -> None:
        """Drain when the ASGI server begins to shut down: its lifespan event is for when it has."""
        self._watched = True
        found = HypercornHooks(send).terminating()
        if found is not None:
            assert self._nursery is not None
            self._nursery.start_soon(_drain_within, server, *found)

    # -- one request -------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = self._server
        if server is None:
            raise RuntimeError(_NO_LIFESPAN)
        if not self._watched:
            self._watch_for_the_end(server, send)
        worker = server.worker
        request = Request(scope)
        stream = RequestStream(request, receive)
        wire = StreamWire(stream, worker.alarms)
        connection = Connection(worker, wire, _peer(scope), _scheme(scope), single=True)
        answering = Answering(wire, stream, request.method, scope, send, worker)
        try:
            refusal = None if server.serve(connection) else _overloaded(request, worker)
            await answering.run(refusal)
        finally:
            stream.leave()


async def _serve_admin(listener: Listener, server: Server) -> None:
    """The admin listener, on an address of its own and never on the ASGI server's."""
    from relay.admin.listener import serve_admin  # not loaded where it is off

    try:
        control = LocalControl(server, time.time())
        await serve_admin(listener.sock, server.worker.config, control)
    finally:
        listener.remove_file()
        listener.close()


async def _drain_within(server: Server, termination: Wait, seconds: float) -> None:
    """Stop the server when its host is about to end, and in the time that the host leaves."""
    await termination()
    worker = server.worker
    times = worker.config.timeouts
    within = min(times.drain, seconds * _MARGIN)
    worker.configure(worker.config._replace(timeouts=times._replace(drain=within)))
    server.stop()


def _overloaded(request: Request, worker: Worker) -> bytes:
    return error_response(
        503,
        "overloaded",
        "too many requests at once, or shutting down",
        head_only=request.method == b"HEAD",
        fields=[(b"date", date()), *cors_of(request.path, request.fields, worker.table)],
    )


def _peer(scope: Scope) -> str | None:
    client = scope.get("client")
    return str(client[0]) if client else None


def _scheme(scope: Scope) -> bytes:
    return b"https" if scope.get("scheme") == "https" else b"http"


async def _refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """501 where the server can say so, else the close that it makes a 403 of."""
    await receive()
    answers: list[Message] = [{"type": "websocket.close", "code": 1000}]
    if "websocket.http.response" in scope.get("extensions", {}):
        body = dumps({"error": {"code": "not_implemented", "message": _NO_WEBSOCKETS}}).encode()
        fields = [[b"content-type", b"application/json"], [b"date", date()]]
        answers = [
            {"type": "websocket.http.response.start", "status": 501, "headers": fields},
            {"type": "websocket.http.response.body", "body": body},
        ]
    with suppress(Exception):  # the server's, where it has answered by itself meanwhile
        for answer in answers:
            await send(answer)


def create(path: str | Path) -> App:
    """The application for a configuration file, with secrets from this process's environment.

    `listen`, `workers` and `proxy_protocol` are left to the ASGI server and not used; relay's
    own admin listener is served, by each of the server's processes.
    Raises: relay.config.ConfigError with every mistake.
    """
    return App(load(path, os.environ))


def app_from(config: Config) -> App:
    """The application for a configuration that is at hand."""
    return App(config)
