"""The client leaves, at every step of an enqueued job: nothing runs on, and the broker is told."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from relay.exchange.connection import Connection
from relay.wires.stream_wire import StreamWire
from tests.harness import RawPeer, descriptors, running, settle
from tests.io.broker_ground import JOB, ORDER, broker, nothing_left, turns_of
from tests.io.sources_ground import STREAM_HEAD, Backend, event, opened, response


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with opened() as backend:
        yield backend


def leave(client: RawPeer, how: str) -> None:
    if how == "reset":
        client.reset()
    else:
        client.close()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_gone_before_the_job_is_accepted(backend: Backend, how: str) -> None:
    async with running(broker(backend.url, enqueue=ORDER, cancel=True)) as relay:
        client = await backend.post(relay, "/chat", JOB)
        await response(client)
        job = await backend.asked()
        leave(client, how)
        await job.peer.ended()
        line = await relay.line()
        assert (line["ending"], line["phase"]) == ("client_left", "request")
        await nothing_left(relay)
        assert backend.nobody_waits(), "there is no id to cancel by"


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_gone_between_the_two_steps(backend: Backend, how: str) -> None:
    async with running(broker(backend.url, cancel=True)) as relay:
        client = await backend.post(relay, "/chat", JOB)
        await response(client)
        await (await backend.asked()).answer(202, {"message_id": "m1"})
        stream = await backend.asked()
        leave(client, how)
        await stream.peer.ended()
        assert (await relay.line())["ending"] == "client_left"
        told = await backend.asked()
        assert told.line == b"POST /cancel?id=m1"
        assert b"\r\nx-api-key: k3y\r\n" in told.head.lower()
        await told.answer(204)
        await nothing_left(relay)


async def test_gone_while_the_stream_is_not_there_yet(backend: Backend) -> None:
    follow = 'not_ready_for = "60s"'
    async with running(broker(backend.url, follow=follow, cancel=True)) as relay:
        client = await backend.post(relay, "/chat", JOB)
        await response(client)
        await (await backend.asked()).answer(202, {"message_id": "m1"})
        for _ in range(4):
            await (await backend.asked()).answer(404)
        client.close()  # in a pause of 400 ms
        asked = await backend.asked()
        while not asked.line.startswith(b"POST /cancel"):
            await asked.answer(404)  # the close and the next try crossed
            asked = await backend.asked()
        await asked.answer(204)
        assert (await relay.line())["ending"] == "client_left"
        await nothing_left(relay)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_gone_during_the_stream(backend: Backend, how: str) -> None:
    async with running(broker(backend.url, cancel=True)) as relay:
        client = await backend.post(relay, "/chat", JOB)
        answer = await response(client)
        await (await backend.asked()).answer(202, {"message_id": "m1"})
        stream = await backend.asked()
        await stream.peer.send(STREAM_HEAD + event("queued", {}))
        await answer.event()
        leave(client, how)
        await stream.peer.ended()
        line = await relay.line()
        assert (line["ending"], line["phase"]) == ("client_left", "body")
        await (await backend.asked()).answer(204)
        await nothing_left(relay)


async def test_gone_from_a_stream_that_is_no_socket(backend: Backend) -> None:
    """The body comes after the head, so nobody watches the client before it has been read."""
    async with running(broker(backend.url, cancel=True)) as relay, trio.open_nursery() as nursery:
        client, server = trio.testing.memory_stream_pair()
        nursery.start_soon(Connection(relay.worker, StreamWire(server), None).run)
        await client.send_all(b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        await client.send_all(b'{"user_id": "a"}')
        await (await backend.asked()).answer(202, {"message_id": "m1"})
        stream = await backend.asked()
        await client.aclose()
        await stream.peer.ended()
        assert (await relay.line())["ending"] == "client_left"
        await (await backend.asked()).answer(204)
        await nothing_left(relay)


async def test_a_stream_that_came_to_its_end_is_not_cancelled(backend: Backend) -> None:
    async with running(broker(backend.url, cancel=True)) as relay:
        client = await backend.post(relay, "/chat", JOB)
        answer = await response(client)
        await (await backend.asked()).answer(202, {"message_id": "m1"})
        stream = await backend.asked()
        await stream.peer.send(STREAM_HEAD + event("done", {}))
        await answer.events()
        await relay.line()
        client.close()
        await nothing_left(relay)
        assert backend.nobody_waits()


async def test_a_broker_that_does_not_answer_the_cancel_holds_nothing(backend: Backend) -> None:
    async with running(broker(backend.url, cancel=True)) as relay:
        client = await backend.post(relay, "/chat", JOB)
        await response(client)
        await (await backend.asked()).answer(202, {"message_id": "m1"})
        await backend.asked()
        client.close()
        told = await backend.asked()
        await settle(lambda: len(relay.worker.errands) == 1)
        await told.peer.ended()  # its deadline
        await nothing_left(relay)


async def test_a_drain_waits_for_the_cancel(backend: Backend) -> None:
    text = broker(backend.url, cancel=True).replace('timeout = "50ms"', 'timeout = "5s"')
    async with running("[timeouts]\ndrain = '1ms'\n" + text) as relay:
        client = await backend.post(relay, "/chat", JOB)
        await response(client)
        await (await backend.asked()).answer(202, {"message_id": "m1"})
        await backend.asked()
        relay.server.stop()
        told = await backend.asked()
        assert told.line == b"POST /cancel?id=m1"
        await told.answer(204)
        assert (await relay.line())["ending"] == "drained"


async def test_no_descriptor_is_left(backend: Backend) -> None:
    async with running(broker(backend.url, enqueue=ORDER, cancel=True)) as relay:
        before = descriptors()
        for _ in range(20):
            client = await backend.post(relay, "/chat", JOB)
            await response(client)
            job = await backend.asked()
            client.close()
            await job.peer.ended()
            job.peer.close()
        await relay.lines(20)
        await nothing_left(relay)
        assert descriptors() == before


async def test_all_leave_at_once(backend: Backend) -> None:
    """Whatever they were waiting for: the turn, the reply, the stream."""
    async with running(broker(backend.url, enqueue=ORDER)) as relay:
        clients = [await backend.post(relay, "/chat", {**JOB, "user_id": n % 3}) for n in range(12)]
        await settle(lambda: turns_of(relay)() == 9)
        for client in clients:
            client.close()
        lines = await relay.lines(12)
        assert {line["ending"] for line in lines} == {"client_left"}
        await nothing_left(relay)
