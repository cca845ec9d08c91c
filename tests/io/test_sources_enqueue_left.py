"""The client leaves, at every step of an enqueued job: nothing runs on, and the broker is told."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from relay.exchange.connection import Connection
from relay.wires.stream_wire import StreamWire
from tests.harness import RawPeer, descriptors, running, settle
from tests.io.broker_setup import JOB, ORDER, broker, nothing_left, turns_of
from tests.io.sources_setup import STREAM_HEAD, Backend, event, opened, response
from tests.io.upstreams_setup import Blackhole


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
    """There is no way to cancel a job, so there is no reason to wait for its id."""
    async with running(broker(backend.url, enqueue=ORDER)) as relay:
        client = await backend.post(relay, "/chat", JOB)
        await response(client)
        job = await backend.asked()
        leave(client, how)
        await job.peer.ended()
        line = await relay.line()
        assert (line["ending"], line["phase"]) == ("client_left", "request")
        await nothing_left(relay)
        assert backend.nobody_waits()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("order", ["", ORDER])
async def test_gone_while_the_post_is_under_way(backend: Backend, how: str, order: str) -> None:
    """1. The job is posted, and the broker takes its time. 2. The client leaves. 3. The broker accepts the job: now
    its id is known, it is cancelled, once, and nobody follows its stream."""
    async with running(broker(backend.url, enqueue=order, cancel=True)) as relay:
        client = await backend.post(relay, "/chat", JOB)
        await response(client)
        job = await backend.asked()
        leave(client, how)
        line = await relay.line()
        assert (line["ending"], line["phase"]) == ("client_left", "request")
        await job.answer(202, {"message_id": "m1"})
        told = await backend.asked()
        assert told.line == b"POST /cancel?id=m1"
        await told.answer(204)
        await nothing_left(relay)
        assert backend.nobody_waits()


async def test_gone_while_the_post_is_under_way_and_it_is_refused(backend: Backend) -> None:
    async with running(broker(backend.url, cancel=True)) as relay:
        client = await backend.post(relay, "/chat", JOB)
        await response(client)
        job = await backend.asked()
        client.close()
        await relay.line()
        await job.answer(503, {"message_id": "m1"})
        await nothing_left(relay)
        assert backend.nobody_waits(), "there is no job"


async def test_the_turn_is_kept_until_the_post_that_was_left_has_ended(backend: Backend) -> None:
    async with running(broker(backend.url, enqueue=ORDER, cancel=True)) as relay:
        client = await backend.post(relay, "/chat", JOB)
        await response(client)
        job = await backend.asked()
        client.close()
        await relay.line()
        await backend.post(relay, "/chat", {**JOB, "message": "next"})
        await settle(lambda: turns_of(relay)() == 1)
        assert backend.nobody_waits(), "the next message would overtake the one that was left"
        await job.answer(202, {"message_id": "m1"})
        lines = set()
        for _ in range(2):
            asked = await backend.asked()
            lines.add(asked.line)
            await asked.answer(202, {"message_id": "m2"})
        assert lines == {b"POST /cancel?id=m1", b"POST /message"}


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 202 X\r\nContent-Length: 9\r\n\r\n{", b"nonsense\r\n\r\n"]
)
@pytest.mark.parametrize("left", [False, True], ids=["waiting", "left"])
async def test_a_job_of_which_nobody_knows_is_cancelled_where_it_can_be_named(
    backend: Backend, answer: bytes, left: bool
) -> None:
    """1. The job is posted. 2. The broker breaks off before it has said whether it takes it. 3. The client has named
    the job itself, so it is cancelled all the same."""
    text = broker(backend.url, cancel=True, cancel_path="/cancel?id={body.message}")
    async with running(text) as relay:
        client = await backend.post(relay, "/chat", JOB)
        await response(client)
        job = await backend.asked()
        if left:
            client.close()
            await relay.line()
        if answer:
            await job.peer.send(answer)
        job.peer.close()
        told = await backend.asked()
        assert told.line == b"POST /cancel?id=hello"
        await told.answer(204)
        client.close()
        await nothing_left(relay)
        assert backend.nobody_waits()


async def test_a_post_that_is_left_and_never_answered_ends_in_time(backend: Backend) -> None:
    text = broker(
        backend.url,
        enqueue='timeout = "100ms"',
        cancel=True,
        cancel_path="/cancel?id={body.message}",
    )
    async with running(text) as relay:
        client = await backend.post(relay, "/chat", JOB)
        await response(client)
        job = await backend.asked()
        client.close()
        await job.peer.ended()
        told = await backend.asked()
        assert told.line == b"POST /cancel?id=hello"
        await told.answer(204)
        await nothing_left(relay)


async def test_gone_before_anything_was_sent_sends_nothing(backend: Backend) -> None:
    """1. One message of a user is being posted, the next one waits for its turn. 2. Its client leaves."""
    async with running(broker(backend.url, enqueue=ORDER, cancel=True)) as relay:
        first = await backend.post(relay, "/chat", JOB)
        await response(first)
        job = await backend.asked()
        second = await backend.post(relay, "/chat", JOB)
        await response(second)
        await settle(lambda: turns_of(relay)() == 1)
        second.close()
        line = await relay.line()
        assert (line["ending"], line["phase"]) == ("client_left", "queued")
        await job.answer(202, {"message_id": "m1"})
        stream = await backend.asked()
        assert stream.line.startswith(b"GET /stream")
        await stream.peer.send(STREAM_HEAD + event("done", {}))
        assert (await relay.line())["ending"] == "complete"
        first.close()
        await nothing_left(relay)
        assert backend.nobody_waits()


async def test_gone_while_the_broker_is_dialled_sends_nothing(backend: Backend) -> None:
    """The dial is stuck: the listen queue of the broker is full."""
    hole = Blackhole()
    try:
        async with running(broker(f"http://127.0.0.1:{hole.port}", cancel=True)) as relay:
            client = await backend.post(relay, "/chat", JOB)
            await response(client)
            await settle(
                lambda: any(
                    origin.streams for group in relay.worker.groups for origin in group.origins
                )
            )
            client.close()
            line = await relay.line()
            assert (line["ending"], line["phase"]) == ("client_left", "dial")
            await nothing_left(relay)
    finally:
        hole.close()


async def test_a_drain_waits_for_the_post_and_the_cancel(backend: Backend) -> None:
    async with running("[timeouts]\ndrain = '1ms'\n" + broker(backend.url, cancel=True)) as relay:
        client = await backend.post(relay, "/chat", JOB)
        await response(client)
        job = await backend.asked()
        relay.server.stop()
        assert (await relay.line())["ending"] == "drained"
        await job.answer(202, {"message_id": "m1"})
        told = await backend.asked()
        assert told.line == b"POST /cancel?id=m1"
        assert not relay.stopped.is_set()
        await told.answer(204)
        await relay.drained()


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
        nursery.start_soon(
            Connection(relay.worker, StreamWire(server, relay.worker.alarms), None).run
        )
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
        await settle(lambda: len(relay.worker.background) == 1)
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


@pytest.mark.parametrize("cancel", [False, True])
async def test_no_descriptor_is_left(backend: Backend, cancel: bool) -> None:
    async with running(broker(backend.url, enqueue=ORDER, cancel=cancel)) as relay:
        before = descriptors()
        for _ in range(20):
            client = await backend.post(relay, "/chat", JOB)
            await response(client)
            job = await backend.asked()
            client.close()
            await relay.line()
            if cancel:
                await job.answer(202, {"message_id": "m"})
                await (await backend.asked()).answer(204)
            else:
                await job.peer.ended()
                job.peer.close()
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


async def test_who_posts_and_leaves_keeps_its_place(backend: Backend) -> None:
    """1. One client is allowed. It posts a job and leaves; the broker takes its time. 2. The next one waits at the door.
    3. The POST has come to its end, and the job is cancelled: the next one gets in."""
    text = broker(backend.url, cancel=True) + "\n[limits]\nconnections = 1\n"
    async with running(text) as relay:
        client = await backend.post(relay, "/chat", JOB)
        await response(client)
        job = await backend.asked()
        client.close()
        await relay.line()
        await settle(lambda: relay.worker.counters.connections == 0)
        other = await backend.post(relay, "/chat", JOB)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert relay.worker.counters.connections == 0
        await job.answer(202, {"message_id": "m1"})
        told = await backend.asked()
        assert told.line == b"POST /cancel?id=m1"
        await told.answer(204)
        await response(other)
        assert relay.worker.counters.connections == 1
        await (await backend.asked()).answer(503)
        other.close()
        await nothing_left(relay)


async def test_gone_in_the_moment_in_which_the_job_is_accepted(backend: Backend) -> None:
    """The client's end and the broker's reply come in the same turn, and either may be seen first: the job is cancelled,
    once, every time."""
    async with running(broker(backend.url, cancel=True)) as relay:
        for number in range(40):
            client = await backend.post(relay, "/chat", JOB)
            await response(client)
            job = await backend.asked()
            client.close()
            await job.answer(202, {"message_id": f"m{number}"})
            told = await backend.asked()
            # The reply was seen a whole turn before: its stream was asked for
            if told.line.startswith(b"GET "):
                told.peer.close()
                told = await backend.asked()
            assert told.line == b"POST /cancel?id=m%d" % number
            await told.answer(204)
        await nothing_left(relay)
        assert backend.nobody_waits()
