"""The usual streaming proxy as an ASGI application with httpx, served by Hypercorn (Trio) or
uvicorn.

The origin's port comes from the environment: RELAY_BENCH_ORIGIN.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx

HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade"}
ORIGIN = f"http://127.0.0.1:{os.environ.get('RELAY_BENCH_ORIGIN', '9000')}"
Message = dict[str, Any]

# No pool limit (the default is 100 connections), no time-outs: silent streams must not be cut.
client = httpx.AsyncClient(
    base_url=ORIGIN,
    timeout=None,
    limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
)


async def app(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """One exchange; the lifespan needs nothing."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] != "http":
        return
    await _exchange(scope, receive, send)


async def _exchange(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    async def body() -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await receive()
            yield message.get("body", b"")
            more = message.get("more_body", False)

    fields = [(name, value) for name, value in scope["headers"] if name not in HOP_BY_HOP]
    has_body = any(
        name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]
    )
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    request = client.build_request(
        scope["method"],
        httpx.URL(ORIGIN).copy_with(raw_path=target),
        headers=fields,
        content=body() if has_body else None,
    )
    response = await client.send(request, stream=True)
    try:
        kept = [(n.lower(), v) for n, v in response.headers.raw if n.lower() not in HOP_BY_HOP]
        await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
        async for data in response.aiter_raw():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        await response.aclose()
