"""The usual streaming proxy in aiohttp: one ClientSession, the body passed on chunk by chunk.

Usage: python -m benchmarks.peers.aiohttp_relay LISTEN ORIGIN
"""

import sys
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

SESSION = web.AppKey("session", aiohttp.ClientSession)
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"}


def passed_on(fields: aiohttp.typedefs.LooseHeaders) -> list[tuple[str, str]]:
    """The end-to-end fields."""
    return [(name, value) for name, value in fields.items() if name.lower() not in HOP_BY_HOP]  # type: ignore[union-attr]


async def relay(request: web.Request) -> web.StreamResponse:
    """One exchange."""
    fields = passed_on(request.headers)
    fields.append(("X-Forwarded-For", request.remote or ""))
    async with request.app[SESSION].request(
        request.method,
        f"http://127.0.0.1:{sys.argv[2]}{request.raw_path}",
        headers=fields,
        data=request.content if request.body_exists else None,
        allow_redirects=False,
    ) as upstream:
        response = web.StreamResponse(status=upstream.status)
        for name, value in passed_on(upstream.headers):
            response.headers.add(name, value)
        await response.prepare(request)
        # iter_any hands over what arrived, without waiting for more.
        async for data in upstream.content.iter_any():
            await response.write(data)
        await response.write_eof()
        return response


async def session(app: web.Application) -> AsyncIterator[None]:
    """No limit on connections (the default is 100), no decompression, no total time-out (300 s)."""
    connector = aiohttp.TCPConnector(limit=0)
    unlimited = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        connector=connector, timeout=unlimited, auto_decompress=False
    ) as app[SESSION]:
        yield


def main() -> None:
    app = web.Application()
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", relay)
    # No access log: the faster variant. handler_cancellation: without it a client that left
    # is not noticed.
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        handler_cancellation=True,
        backlog=4096,
        print=None,
    )


if __name__ == "__main__":
    main()
