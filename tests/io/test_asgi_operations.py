"""What a team needs to run relay works inside an ASGI server too: limits by key, what a stream said, fields of the log."""

from __future__ import annotations

from tests.harness import EVENT_HEAD, chunked
from tests.io.asgi_setup import LEFT, serving

LIMIT = '[limits.by.customer]\nkey = "{header.x-api-key}"\nstreams = 1\n'
CAPTURE = '[routes.capture]\ntokens = "usage.tokens"\n'


def customer(name: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"x-api-key", name), (b"accept", b"text/event-stream")]


async def test_streams_of_one_customer() -> None:
    async with serving(more=LIMIT) as server:
        first = server.get("/", fields=customer(b"a"))
        upstream, _ = await server.upstream.request()
        await upstream.send(EVENT_HEAD + chunked(b"data: 0\n\n"))
        assert (await first.start())[0] == 200
        status, fields = await server.get("/", fields=customer(b"a")).start()
        assert status == 429
        assert fields[b"ratelimit-policy"] == b'"customer";q=1;qu="concurrent-requests"'
        server.get("/", fields=customer(b"b"))
        await server.upstream.request()
        first.tell(LEFT)
        await server.log(ending="client_left")
        server.get("/", fields=customer(b"a"))
        await server.upstream.request()


async def test_what_a_stream_said_stands_in_the_log_with_the_fields() -> None:
    async with serving(CAPTURE, more='access_log_fields = "User-Agent"\n') as server:
        call = server.get("/", fields=[(b"user-agent", b"curl/8")])
        upstream, _ = await server.upstream.request()
        await upstream.send(
            EVENT_HEAD + chunked(b'data: {"usage": {"tokens": 7}}\n\n') + b"0\r\n\r\n"
        )
        await call.rest()
        line = await server.log()
        assert line["captured"] == {"tokens": 7}
        assert line["fields"] == {"user-agent": "curl/8"}
        assert line["upstream_status"] == 200
