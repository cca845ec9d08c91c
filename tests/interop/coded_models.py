"""The model server of `models`, which compresses its streams as servers with a compressing middleware do.

`hypercorn -k trio tests.interop.coded_models:app`. It takes the first coding of Accept-Encoding that it
knows, and flushes behind each event; under `/stubborn` it takes gzip whatever was asked for.
"""

from __future__ import annotations

import zlib
from collections.abc import MutableMapping
from typing import Any

from tests.interop import models

_WBITS = {b"gzip": 31, b"deflate": 15}


def _coding(scope: dict[str, Any]) -> bytes | None:
    if scope["path"].startswith("/stubborn"):
        return b"gzip"
    asked = dict(scope["headers"]).get(b"accept-encoding", b"")
    names = [name.strip() for name in asked.split(b",")]
    return next((name for name in names if name in _WBITS), None)


async def app(scope: Any, receive: Any, send: Any) -> None:
    coding = _coding(scope) if scope["type"] == "http" else None
    if coding is None:
        await models.app(scope, receive, send)
        return
    path = scope["path"].removeprefix("/stubborn")
    scope = {**scope, "path": path, "raw_path": path.encode()}
    coder = zlib.compressobj(6, zlib.DEFLATED, _WBITS[coding])
    coded = False

    async def compress(message: MutableMapping[str, Any]) -> None:
        nonlocal coded
        if message["type"] == "http.response.start":
            fields = [(name.lower(), value) for name, value in message["headers"]]
            coded = any(b"event-stream" in value for _, value in fields)
            if coded:
                fields += [(b"content-encoding", coding), (b"vary", b"accept-encoding")]
            message = {**message, "headers": fields}
        elif coded:
            last = not message.get("more_body", False)
            body = coder.compress(message.get("body", b""))
            body += coder.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
            message = {**message, "body": body}
        await send(message)

    await models.app(scope, receive, compress)
