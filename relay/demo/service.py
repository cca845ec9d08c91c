"""A backend to stand behind relay: a small ASGI application that knows what became of its streams.

The examples and the demo are written with it; nothing else of relay uses it. A handler returns a
`Reply`, or an async generator of serialised events (`event(...)`). The generator is cancelled the
moment the connection goes away, and `GET /state` tells when that was. `POST /faults` misbehaves on
purpose: `{"stall": true}`, `{"half": true}`, `{"die": true}`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, unquote

import trio

from relay.sse.event import Event, serialise

CALLS_KEPT = 100  # how many calls `GET /state` tells of; older ones are forgotten

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def now() -> int:
    """The wall clock in milliseconds since 1970, as `Date.now()` in a page has it."""
    return time.time_ns() // 1_000_000


def event(data: object, *, name: str = "", id: str = "") -> bytes:
    """One server-sent event with JSON as its data."""
    return serialise(Event(json.dumps(data), event=name, id=id or None))


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    fields: dict[str, str]  # lower-case names
    parameters: dict[str, str]  # of the path, decoded
    query: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty one if it is anything else."""
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


@dataclass(frozen=True, slots=True)
class Reply:
    """A response in one piece, JSON unless `data` is bytes."""

    status: int
    data: object
    fields: tuple[tuple[str, str], ...] = ()


class Lost(Exception):
    """Raised by a stream's generator: break off, the connection closes without the body's end."""


Stream = AsyncGenerator[bytes, None]
Handler = Callable[[Request], Awaitable[Reply | Stream]]


@dataclass(slots=True)
class Call:
    """What became of one request; times from `now()`.

    `state` is "running", "finished", "stopped" (the peer left) or "broken" (on purpose).
    """

    number: int
    method: str
    path: str
    via: str  # the Via field: which proxy it came through
    started: int
    state: str = "running"
    events: int = 0
    ended: int | None = None
    half: bool = field(default=False, repr=False)  # break in the middle of the next event


class Service:
    """An ASGI application: routes, and a memory of its calls."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = []
        self._number = 0
        self._flowing = trio.Event()  # not set: stalled
        self._flowing.set()

    def route(self, method: str, path: str) -> Callable[[Handler], Handler]:
        """Register a handler; `{name}` is one segment, `{name...}` the rest. First match wins."""
        pattern = re.sub(r"\{(\w+)\.\.\.\}", r"(?P<\1>.*)", path)
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern)

        def register(handler: Handler) -> Handler:
            self._routes.append((method, re.compile(pattern), handler))
            return handler

        return register

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read_body(receive)
        if body is None:
            return  # the peer left while it was sending
        path = scope["raw_path"].decode("ascii")
        fields = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        query = dict(parse_qsl(scope["query_string"].decode()))
        request = Request(scope["method"], path, fields, {}, query, body)
        if path == "/state":
            await _reply(send, Reply(200, {"now": now(), "calls": self.history()}))
        elif path == "/faults":
            await _reply(send, self.misbehave(request.json()))
        else:
            await self._call(request, receive, send)

    def history(self) -> list[dict[str, Any]]:
        """The last calls as JSON, oldest first."""
        return [asdict(call) for call in self.calls]

    def misbehave(self, faults: dict[str, Any]) -> Reply:
        """Go wrong on purpose, as asked."""
        if "stall" in faults:
            if faults["stall"]:
                self._flowing = trio.Event()
            else:
                self._flowing.set()
        if faults.get("half"):
            for call in self.calls:
                call.half = call.state == "running"
        if faults.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        return Reply(200, {"stalled": not self._flowing.is_set()})

    def _match(self, request: Request) -> tuple[Handler, Request] | None:
        for method, pattern, handler in self._routes:
            if method == request.method and (match := pattern.fullmatch(request.path)):
                parameters = {name: unquote(value) for name, value in match.groupdict().items()}
                return handler, replace(request, parameters=parameters)
        return None

    async def _call(self, request: Request, receive: Receive, send: Send) -> None:
        found = self._match(request)
        if found is None:
            await _reply(send, Reply(404, {"error": f"nothing at {request.path}"}))
            return
        handler, request = found
        self._number += 1
        via = request.fields.get("via", "")
        call = Call(self._number, request.method, request.path, via, now())
        self.calls.append(call)
        del self.calls[:-CALLS_KEPT]
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stop_when_gone, receive, nursery.cancel_scope)
                result = await handler(request)
                if isinstance(result, Reply):
                    await self._flowing.wait()
                    call.state = "finished"
                    await _reply(send, result)
                else:
                    async with aclosing(result):
                        await self._stream(call, result, send)
                nursery.cancel_scope.cancel()
        finally:
            call.ended = now()
            if call.state == "running":
                call.state = "stopped"

    async def _stream(self, call: Call, stream: Stream, send: Send) -> None:
        fields = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        try:
            async for piece in stream:
                await self._flowing.wait()
                body = piece[: len(piece) // 2] if call.half else piece
                await send({"type": "http.response.body", "body": body, "more_body": True})
                if call.half:
                    raise Lost
                call.events += 1
        except Lost:
            call.state = "broken"
            return  # without the end of the body: the server closes the connection
        call.state = "finished"  # first: what follows may be answered with the disconnect
        await send({"type": "http.response.body", "body": b""})


async def _stop_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _read_body(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)


async def _reply(send: Send, reply: Reply) -> None:
    raw = isinstance(reply.data, bytes)
    body = reply.data if isinstance(reply.data, bytes) else json.dumps(reply.data).encode()
    fields = [
        (b"content-type", b"text/plain; charset=utf-8" if raw else b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode()) for name, value in reply.fields),
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
