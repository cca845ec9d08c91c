"""JSON from outside, in `enqueue` and `answer`: of bounded size when built, read beside the streams, with or without a
byte order mark."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from tests.harness import Relay, running, settle
from tests.io.broker_setup import JOB, broker
from tests.io.sources_setup import STREAM_HEAD, Backend, event, opened, response
from tests.io.test_sources_answer import ANSWER, ASK, TEXT, pipeline

BOM = b"\xef\xbb\xbf"
MANY = b"[" + b"[]," * 349_000 + b"1]"  # a mebibyte; 25 MiB when built
LONG = "x" * 20_000  # beyond what is read on the spot


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with opened() as backend:
        yield backend


def threads(relay: Relay) -> int:
    return relay.worker.threads.json.statistics().tasks_waiting


@pytest.mark.parametrize("more", [MANY, b"[" * 200 + b"]" * 200], ids=["many", "deep"])
async def test_a_message_of_too_many_values_is_refused(backend: Backend, more: bytes) -> None:
    async with running(broker(backend.url, enqueue='max_body = "2MiB"')) as relay:
        body = b'{"user_id": "ann", "message": %b}' % more
        answer = await response(await backend.post(relay, "/chat", body))
        assert answer.status == 400
        shown = await answer.json()
        assert isinstance(shown, dict)
        assert shown["error"]["code"] == "bad_json"
        assert backend.nobody_waits()


async def test_a_question_of_too_many_values_is_refused(backend: Backend) -> None:
    async with running(pipeline(backend.url, 'max_body = "2MiB"')) as relay:
        answer = await response(await backend.post(relay, "/ask", b'{"query": %b}' % MANY))
        [error] = await answer.events()
        assert error["code"] == "BAD_REQUEST"
        assert backend.nobody_waits()


async def test_an_answer_of_too_many_values_is_refused(backend: Backend) -> None:
    async with running(pipeline(backend.url)) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        await (await backend.asked()).answer(200, b'{"response": "x", "more": %b}' % MANY)
        error = (await answer.events())[-1]
        assert (error["type"], error["code"]) == ("error", "BAD_ANSWER")


async def test_a_large_body_is_read_in_its_turn_and_holds_nobody_up(backend: Backend) -> None:
    """1. The one thread that reads JSON is busy. 2. A large message waits for it. 3. A small one does not."""
    async with running(broker(backend.url)) as relay:
        busy = relay.worker.threads.json
        busy.acquire_on_behalf_of_nowait(backend)
        await backend.post(relay, "/chat", {**JOB, "message": LONG})
        await settle(lambda: threads(relay) == 1)
        await backend.post(relay, "/chat", JOB)
        job = await backend.asked()
        assert json.loads(job.body) == JOB
        assert backend.nobody_waits()
        busy.release_on_behalf_of(backend)
        assert json.loads((await backend.asked()).body)["message"] == LONG


async def test_gone_while_a_large_body_waits_to_be_read(backend: Backend) -> None:
    async with running(broker(backend.url)) as relay:
        relay.worker.threads.json.acquire_on_behalf_of_nowait(backend)
        client = await backend.post(relay, "/chat", {**JOB, "message": LONG})
        await settle(lambda: threads(relay) == 1)
        client.close()
        assert (await relay.line())["ending"] == "client_left"
        assert threads(relay) == 0
        assert backend.nobody_waits()


async def test_a_long_text_is_told_whole(backend: Backend) -> None:
    async with running(
        pipeline(backend.url, 'pace = "0s"')
        .replace("chunk_chars = 12", "chunk_chars = 5000")
        .replace('pace = "1ms"\n', "")
    ) as relay:
        text = "Grüße, 你好. \n" * 30_000
        answer = await response(await backend.post(relay, "/ask", {"query": LONG}))
        await (await backend.asked()).answer(200, {**ANSWER, "response": text})
        chunks = [each for each in await answer.events() if each["type"] == "chunk"]
        assert "".join(str(each["content"]) for each in chunks) == text


async def test_a_byte_order_mark_is_ignored(backend: Backend) -> None:
    async with running(broker(backend.url)) as relay:
        answer = await response(await backend.post(relay, "/chat", BOM + b'{"user_id": "ann"}'))
        job = await backend.asked()
        assert job.body == b'{"user_id": "ann"}', (
            "relay adds none to its own request (RFC 8259 §8.1)"
        )
        await job.answer(202, BOM + b'{"message_id": "m1"}')
        stream = await backend.asked()
        assert stream.line == b"GET /stream?user_id=ann&message_id=m1"
        head = (
            STREAM_HEAD
            + b"event: queued\ndata: "
            + BOM
            + b'{"position": 1}\n\n'
            + event("done", {})
        )
        await stream.peer.send(head)
        first, _ = await answer.events()
        assert first == {"type": "status", "state": "queued", "position": 1}


async def test_a_byte_order_mark_before_the_answer_is_ignored(backend: Backend) -> None:
    async with running(pipeline(backend.url)) as relay:
        answer = await response(await backend.post(relay, "/ask", BOM + b'{"query": "why?"}'))
        asked = await backend.asked()
        assert asked.body == b'{"query": "why?"}'
        await asked.answer(200, BOM + json.dumps(ANSWER).encode())
        events = await answer.events()
        assert "".join(str(each["content"]) for each in events if each["type"] == "chunk") == TEXT
