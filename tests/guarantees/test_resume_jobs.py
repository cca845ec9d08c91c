"""Resumable streams of a broker: the job that nobody reads any more is cancelled, whatever ends its run."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.guarantees.relay_processes import upstream
from tests.guarantees.resume_setup import Reader, event
from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, running, settle

JOBS = """
[timeouts]
drain = "2s"
[upstreams.backend]
url = "{url}"
keepalive_idle = "0s"
[[routes]]
path = "/job"
methods = ["POST"]
source = "enqueue"
heartbeat = "off"
[routes.enqueue]
upstream = "backend"
path = "/asked"
[routes.follow]
upstream = "backend"
path = "/followed"
[routes.cancel]
upstream = "backend"
path = "/cancelled"
[routes.resume]
principal = "public"
key = "{{body.id}}"
at = "/at/{{key}}"
stop = true
unwatched = "1h"
"""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
BODY = b'{"id":"7"}'
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


async def followed(relay: Relay, up: Upstream) -> tuple[Reader, RawPeer]:
    """A job that is followed: its reader, and the stream's end."""
    client = await relay.client()
    await client.send(
        b"POST /job HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (len(BODY), BODY)
    )
    peer, _ = await up.request()
    await peer.exactly(len(BODY))
    await peer.send(ACCEPTED)
    stream, head = await up.request()
    assert b"/followed " in head
    await stream.send(EVENT_HEAD + event(1))
    reader = Reader(client)
    await reader.head()
    await reader.until(1)
    return reader, stream


@pytest.mark.parametrize("ended_by", ["stop", "drain", "drain while it is read"])
async def test_a_job_is_cancelled_with_its_run(ended_by: str) -> None:
    """1. A job runs, and nobody watches it (or somebody does). 2. It is stopped, or the relay shuts down. 3. The broker is
    told, before the process ends."""
    async with upstream() as up, running(JOBS.format(url=up.url)) as relay:
        reader, stream = await followed(relay, up)
        if "read" not in ended_by:
            reader.close()
            await settle(lambda: not any(run.viewers for run in relay.worker.feeds.book.runs))

        async def told() -> None:
            peer, head = await up.request()
            assert b"/cancelled " in head
            await stream.ended()
            await peer.send(OK)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(told)
            if ended_by == "stop":
                client = await relay.client()
                await client.send(b"DELETE /at/7 HTTP/1.1\r\nHost: a\r\n\r\n")
                assert b" 204 " in await client.head()
            else:
                nursery.start_soon(relay.drained)
        if ended_by == "stop":
            await settle(lambda: not len(relay.worker.background))


async def test_a_client_that_cannot_be_told_of_the_early_head_has_left() -> None:
    """1. A job is under way; the head of its stream goes out before there is one. 2. The client takes nothing any more: the
    head cannot be sent. 3. It has left, which is no fault of relay's own."""
    async with upstream() as up, running(JOBS.format(url=up.url)) as relay:
        client = relay.attach(trio.testing.memory_stream_pair())
        await client.stream.receive_stream.aclose()
        await client.send(
            b"POST /job HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(BODY), BODY)
        )
        line = await relay.line()
        assert line["ending"] == "client_left", line
