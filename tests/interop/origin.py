"""The application behind relay in these tests: plain answers, echoes, uploads, endless streams.

`hypercorn -k trio tests.interop.origin:app`. Streams that are to be watched go through a `Service`,
so that `GET /state` tells when each was stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import trio

from relay.demo.service import Receive, Reply, Request, Scope, Send, Service, Stream, event, now

BLOCK = bytes(range(256)) * 256  # 64 KiB
service = Service()
closes: list[str] = []


def big(size: int) -> Iterator[bytes]:
    """`size` bytes in blocks; a test makes the same to compare."""
    while size > 0:
        yield BLOCK[:size]
        size -= len(BLOCK)


def digest(size: int) -> str:
    found = hashlib.sha256()
    for block in big(size):
        found.update(block)
    return found.hexdigest()


@service.route("GET", "/hello")
async def hello(_request: Request) -> Reply:
    return Reply(200, b"hello\n", (("X-Odd", "one"), ("X-Odd", "two"), ("Connection", "x-odd-hop")))


@service.route("GET", "/closes")
async def closed(_request: Request) -> Reply:
    """The paths of WebSockets that have ended."""
    return Reply(200, closes)


@service.route("GET", "/status/{code}")
async def status(request: Request) -> Reply:
    return Reply(int(request.parameters["code"]), {"status": request.parameters["code"]})


@service.route("GET", "/fields")
async def fields(request: Request) -> Reply:
    return Reply(200, request.fields)


@service.route("GET", "/events")
async def events(request: Request) -> Stream:
    """`count` events (default: endless), one every `every` ms."""
    return _asked(request)


def _asked(request: Request) -> Stream:
    count = int(request.query.get("count", 1_000_000))
    every = float(request.query.get("every", 20)) / 1000
    return _events(count, every)


@service.route("POST", "/events")
async def posted_events(request: Request) -> Stream:
    return _asked(request)


async def _events(count: int, every: float) -> Stream:
    for number in range(count):
        yield event({"number": number, "at": now()}, id=str(number))
        await trio.sleep(every)


class Steps:
    """How far the streams of /steps may go: a test says when."""

    taken = 0
    moved = trio.Event()


@service.route("GET", "/steps")
async def steps(_request: Request) -> Stream:
    """An event for each POST to /step since then, when it comes; nothing in between."""
    return _steps(Steps.taken)


async def _steps(number: int) -> Stream:
    while True:
        while number == Steps.taken:
            await Steps.moved.wait()
        number += 1
        yield event(number, id=str(number))


@service.route("POST", "/step")
async def step(_request: Request) -> Reply:
    Steps.taken += 1
    moved, Steps.moved = Steps.moved, trio.Event()
    moved.set()
    return Reply(200, Steps.taken)


@service.route("GET", "/quiet")
async def quiet(_request: Request) -> Stream:
    """A head, and nothing else."""
    return _quiet()


async def _quiet() -> Stream:
    await trio.sleep_forever()
    yield b""


@service.route("GET", "/never")
async def never(_request: Request) -> Reply:
    """Not even a head."""
    await trio.sleep_forever()
    raise AssertionError


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        own = {"/echo": _echo, "/digest": _digest, "/big": _big, "/early": _early}
        handler = own.get(scope["path"])
        if handler is not None:
            await handler(scope, receive, send)
            return
    elif scope["type"] == "websocket":
        await _websocket(scope, receive, send)
        return
    await service(scope, receive, send)


async def _start(send: Send, status: int, *fields: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(fields)})


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    """The request body as it comes, while it comes."""
    sizes = [field for field in scope["headers"] if field[0] == b"content-length"]
    await _start(send, 200, (b"content-type", b"application/octet-stream"), *sizes)
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        await send(
            {"type": "http.response.body", "body": message.get("body", b""), "more_body": True}
        )
        if not message.get("more_body"):
            break
    await send({"type": "http.response.body", "body": b""})


async def _digest(scope: Scope, receive: Receive, send: Send) -> None:
    """What came up: its size, its hash, and how it was framed."""
    found, size = hashlib.sha256(), 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return
        found.update(message.get("body", b""))
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    named = {n.decode("latin-1"): v.decode("latin-1") for n, v in scope["headers"]}
    told = {
        "method": scope["method"],
        "size": size,
        "sha256": found.hexdigest(),
        "length": named.get("content-length"),
        "coding": named.get("transfer-encoding"),
        "expect": named.get("expect"),
    }
    body = json.dumps(told).encode()
    await _start(send, 200, (b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.body", "body": body})


async def _big(scope: Scope, receive: Receive, send: Send) -> None:
    """`/big?SIZE`: so many bytes, with their length or chunked (`/big?SIZE&chunked`)."""
    size, _, chunked = scope["query_string"].decode().partition("&")
    sizes = () if chunked else ((b"content-length", size.encode()),)
    await _start(send, 200, (b"content-type", b"application/octet-stream"), *sizes)
    for block in big(int(size)):
        await send({"type": "http.response.body", "body": block, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _early(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuses before it has read the body."""
    body = b"too much\n"
    await _start(send, 413, (b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.body", "body": body})


async def _websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """An echo; `/ws/forbidden` is refused, `close CODE REASON` closes."""
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] == "/ws/forbidden":
        await send({"type": "websocket.close", "code": 1000})
        return
    offered = scope.get("subprotocols", [])
    chosen = "second" if "second" in offered else None
    await send({"type": "websocket.accept", "subprotocol": chosen})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            closes.append(scope["path"])
            return
        text = message.get("text")
        if text is not None and text.startswith("close "):
            _, code, reason = text.split(" ", 2)
            await send({"type": "websocket.close", "code": int(code), "reason": reason})
            return
        await send({"type": "websocket.send", "text": text, "bytes": message.get("bytes")})
