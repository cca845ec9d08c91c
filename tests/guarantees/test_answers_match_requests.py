"""The promise: whatever relay answers by itself, the client's connection stays in step. Behind each answer comes the answer
to the next request, or the connection ends and was said to.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from relay.http.bodies import body_reader
from relay.http.heads import parse_response
from tests.harness import LIMIT, RawPeer, running, scene
from tests.io.upstreams_setup import refusing_port

CONFIG = """
[timeouts]
request_body_idle = "50ms"
[limits]
request_body = "1KiB"
[upstreams.nobody]
url = "http://127.0.0.1:{port}"
[[routes]]
path = "/marked"
source = "local"
[routes.local]
body = "marked"
[[routes]]
path = "/local"
source = "local"
[routes.local]
status = 503
body = "somewhere else"
[[routes]]
path = "/empty"
source = "local"
[routes.local]
status = 204
[[routes]]
path = "/files/{{rest...}}"
source = "files"
[routes.files]
directory = "{folder}"
[[routes]]
path = "/refused"
upstream = "nobody"
[[routes]]
path = "/hidden"
upstream = "nobody"
unavailable = "retry-event"
[[routes]]
path = "/hidden-clean"
upstream = "nobody"
unavailable = "retry-event"
after_error = "close"
[[routes]]
path = "/hidden-off"
upstream = "nobody"
unavailable = "retry-event"
after_error = "close"
dialect = "off"
[[routes]]
path = "/get"
methods = ["GET"]
upstream = "nobody"
cors = {{ origins = ["*"] }}
[[routes]]
path = "/answer"
source = "answer"
[routes.answer]
upstream = "nobody"
path = "/"
text = "x"
[[routes]]
path = "/job"
source = "enqueue"
after_error = "close"
[routes.enqueue]
upstream = "nobody"
path = "/"
[routes.follow]
upstream = "nobody"
path = "/"
[[routes]]
path = "/committed"
upstream = "nobody"
commit = "after 1ms"
after_error = "close"
"""
PATHS = [
    "/nothing",
    "/local",
    "/empty",
    "/files/a.txt",
    "/files/none",
    "/files",
    "/refused",
    "/hidden",
    "/hidden-clean",
    "/hidden-off",
    "/get",
    "/answer",
    "/job",
    "/committed",
]
REQUESTS = {
    "HEAD": b"HEAD %b HTTP/1.1\r\nHost: a\r\n\r\n",
    "HEAD with a body": b"HEAD %b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
    "GET": b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET with what it has": b"GET %b HTTP/1.1\r\nHost: a\r\nIf-None-Match: *\r\n\r\n",
    "POST": b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    "POST in chunks": b"POST %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"2\r\n{}\r\n0\r\n\r\n",
    "POST that is not whole": b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{}",
    "POST that waits": b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n"
    b"Expect: 100-continue\r\n\r\n",
    "POST that is too large": b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n{}",
    "OPTIONS": b"OPTIONS %b HTTP/1.1\r\nHost: a\r\nOrigin: https://a\r\n"
    b"Access-Control-Request-Method: GET\r\n\r\n",
    "keep-alive of old": b"GET %b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "HEAD of old": b"HEAD %b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
}
UNFINISHED = frozenset(("POST that is not whole", "POST that waits", "POST that is too large"))
MARKED = b"GET /marked HTTP/1.1\r\nHost: a\r\n\r\n"


class Client:
    """Reads answers as strictly as can be."""

    def __init__(self, peer: RawPeer) -> None:
        self.peer = peer
        self.rest = b""
        self.ended = False

    async def more(self) -> bool:
        with trio.fail_after(LIMIT):
            try:
                data = bytes(await self.peer.stream.receive_some(65536))
            except trio.BrokenResourceError:
                data = b""
        self.rest += data
        self.ended = not data
        return bool(data)

    async def answer(self, method: bytes) -> tuple[int, bytes, bool]:
        """Status and body of the next final answer, and whether the connection goes on. An answer that is cut off, which
        is what `abort` means, ends it."""
        while True:
            parsed = parse_response(self.rest, method, 65536) if self.rest else None
            if parsed is None:
                assert await self.more(), f"no answer: {self.rest!r}"
                continue
            head, used = parsed
            self.rest = self.rest[used:]
            if head.status >= 200:
                break
        reader = body_reader(head.framing, "upstream")
        body = b""
        while not reader.done:
            if self.rest:
                data, self.rest = self.rest, b""
                body += reader.feed(data)
                self.rest = reader.surplus
            elif not await self.more():
                reader.eof()
                return head.status, body, False
        return head.status, body, head.keep_alive


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("path", PATHS)
async def test_behind_an_answer_of_relays_own(path: str, kind: str, tmp_path: Path) -> None:
    """1. A request that relay answers. 2. Right behind it another one. 3. That is answered with what was asked, or the
    first answer ended the connection."""
    (tmp_path / "a.txt").write_text("a file")
    config = CONFIG.format(port=refusing_port(), folder=tmp_path)
    async with running(config) as relay:
        request = REQUESTS[kind] % path.encode()
        method = request.partition(b" ")[0]
        client = Client(await relay.client())
        await client.peer.send(request)
        if kind not in UNFINISHED:
            await client.peer.send(MARKED)
        _, body, goes_on = await client.answer(method)
        if method == b"HEAD":
            assert body == b""
        if not goes_on:
            while not client.ended:
                await client.more()
            assert client.rest == b"", "something came behind the end"
            return
        assert kind not in UNFINISHED, "its rest would be a request"
        assert await client.answer(b"GET") == (200, b"marked", True)


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_head_is_hidden_from_an_event_source_too(status: int) -> None:
    """1. HEAD on a route with `retry-event`, over an upstream that is unavailable. 2. It gets the head that a GET would
    get, without a body. 3. The connection goes on."""
    async with scene('unavailable = "retry-event"\nafter_error = "close"') as (relay, up):
        client = await relay.client()
        await client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        peer, _ = await up.request()
        await peer.send(
            b"HTTP/1.1 %d No\r\nContent-Length: 4\r\nConnection: close\r\n\r\n" % status
        )
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"content-type: text/event-stream\r\n" in head
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        peer, _ = await up.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert (await client.until(b"ok")).startswith(b"HTTP/1.1 200 ")
