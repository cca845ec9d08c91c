"""Event streams for a browser, by script: `hypercorn -k trio tests.interop.sources:app`."""

from __future__ import annotations

import trio

from relay.demo.service import Lost, Reply, Request, Service, Stream, event

app = Service()
cursors: dict[str, list[str]] = {}  # by path: the Last-Event-ID of every request, as UTF-8


def cursor(request: Request) -> str:
    """Note and return the request's Last-Event-ID; "" without one."""
    found = request.fields.get("last-event-id", "").encode("latin-1").decode("utf-8")
    cursors.setdefault(request.path, []).append(found)
    return found


@app.route("GET", "/cursors/{path...}")
async def seen(request: Request) -> Reply:
    return Reply(200, cursors.get("/" + request.parameters["path"], []))


@app.route("GET", "/named")
async def named(request: Request) -> Stream:
    cursor(request)
    return _named()


async def _named() -> Stream:
    yield b"\xef\xbb\xbf: a comment\r\n\r\n"
    yield b"event: alpha\r\nid: 1\r\ndata: one\r\ndata: more\r\n\r\n"
    yield b"data: two \xc3\xa9\n\n"
    yield b"event:beta\rid:3\rdata:three\r\r"
    yield b"data\n\n"
    await trio.sleep_forever()


@app.route("GET", "/pages/{kind}")
async def pages(request: Request) -> Stream | Reply:
    """Two events per connection, counting on from the cursor; 204 after the sixth."""
    last = int(cursor(request).rpartition("-")[2] or 0)
    if last >= 6:
        return Reply(204, b"")
    return _page(last, request.parameters["kind"])


async def _page(last: int, kind: str) -> Stream:
    yield b"retry: 20\n\n"
    for number in (last + 1, last + 2):
        yield event(number, id=f"é✓-{number}")
    if kind == "cut":
        yield b'data: "half of an eve'
        raise Lost
    if kind == "aged":
        await trio.sleep_forever()


@app.route("GET", "/one")
async def one(request: Request) -> Stream:
    cursor(request)
    return _one()


async def _one() -> Stream:
    yield event("only", id="1")
    await trio.sleep_forever()


@app.route("POST", "/tokens")
async def tokens(request: Request) -> Stream:
    asked = request.json()
    return _tokens(asked["count"], cut=asked.get("cut", False))


async def _tokens(count: int, *, cut: bool) -> Stream:
    for number in range(count):
        yield event({"token": number})
        await trio.sleep(0.02)
    if cut:
        yield b"data: half"
        raise Lost


@app.route("GET", "/status/{code}")
async def status(request: Request) -> Reply:
    cursor(request)
    return Reply(int(request.parameters["code"]), {"status": request.parameters["code"]})


@app.route("GET", "/json")
async def json(request: Request) -> Reply:
    cursor(request)
    return Reply(200, {"not": "an event stream"})
