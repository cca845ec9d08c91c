"""Messages of one sender keep their order (`order_by`), and nobody waits for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.harness import running, settle
from tests.io.broker_setup import JOB, ORDER, broker, turns_of
from tests.io.sources_setup import Backend, opened, response


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with opened() as backend:
        yield backend


async def test_rapid_messages_of_one_user_keep_their_order(backend: Backend) -> None:
    async with running(broker(backend.url, enqueue=ORDER)) as relay:
        waiting = turns_of(relay)
        await backend.post(relay, "/chat", {**JOB, "message": 1})
        first = await backend.asked()
        await backend.post(relay, "/chat", {**JOB, "message": 2})
        await settle(lambda: waiting() == 1)
        await backend.post(relay, "/chat", {**JOB, "message": 3})
        await settle(lambda: waiting() == 2)
        other = await backend.post(relay, "/chat", {"user_id": "bob", "message": 4})
        await response(other)
        assert b"bob" in (await backend.asked()).body, "another user waits for nobody"
        assert backend.nobody_waits(), "and nobody overtakes"
        await first.answer(202, {"message_id": "m1"})
        asked = [await backend.asked(), await backend.asked()]
        [second] = [each for each in asked if each.line.startswith(b"POST")]
        assert b'"message": 2' in second.body
        await second.answer(202, {"message_id": "m2"})
        asked = [await backend.asked(), await backend.asked()]
        [third] = [each for each in asked if each.line.startswith(b"POST")]
        assert b'"message": 3' in third.body


async def test_a_message_behind_a_refused_one_is_posted(backend: Backend) -> None:
    async with running(broker(backend.url, enqueue=ORDER)) as relay:
        await backend.post(relay, "/chat", {**JOB, "message": 1})
        first = await backend.asked()
        await backend.post(relay, "/chat", {**JOB, "message": 2})
        await settle(lambda: turns_of(relay)() == 1)
        await first.answer(503)
        assert b'"message": 2' in (await backend.asked()).body


async def test_who_leaves_while_waiting_gives_its_place_up(backend: Backend) -> None:
    async with running(broker(backend.url, enqueue=ORDER)) as relay:
        waiting = turns_of(relay)
        await backend.post(relay, "/chat", {**JOB, "message": 1})
        first = await backend.asked()
        second = await backend.post(relay, "/chat", {**JOB, "message": 2})
        await settle(lambda: waiting() == 1)
        await backend.post(relay, "/chat", {**JOB, "message": 3})
        await settle(lambda: waiting() == 2)
        second.close()
        await settle(lambda: waiting() == 1)
        line = await relay.line()
        assert (line["ending"], line["phase"]) == ("client_left", "queued")
        await first.answer(202, {"message_id": "m1"})
        asked = [await backend.asked(), await backend.asked()]
        [third] = [each for each in asked if each.line.startswith(b"POST")]
        assert b'"message": 3' in third.body


async def test_waiting_for_a_turn_is_bounded(backend: Backend) -> None:
    async with running(broker(backend.url, enqueue=ORDER + 'order_wait = "50ms"')) as relay:
        await backend.post(relay, "/chat", JOB)
        await backend.asked()
        answer = await response(await backend.post(relay, "/chat", JOB))
        [last] = await answer.events()
        assert (last["code"], last["retryable"]) == ("order_timeout", True)
        line = await relay.line()
        assert (line["ending"], line["side"], line["phase"]) == ("shed", "relay", "queued")


@pytest.mark.parametrize("sender", [None, "missing"])
async def test_a_message_without_a_sender_has_no_order(
    backend: Backend, sender: str | None
) -> None:
    async with running(broker(backend.url, enqueue='order_by = "body.sender"')) as relay:
        job = JOB if sender else {**JOB, "sender": None}
        await backend.post(relay, "/chat", job)
        await backend.post(relay, "/chat", job)
        await backend.asked()
        await backend.asked()
