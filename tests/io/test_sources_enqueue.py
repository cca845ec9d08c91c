"""source = "enqueue": order in time, every way it fails, and nothing left behind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.harness import running
from tests.io.broker_setup import JOB, broker, nothing_left
from tests.io.sources_setup import STREAM_HEAD, Asked, Backend, event, opened, response

Script = Callable[[Asked], Awaitable[None]]


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with opened() as backend:
        yield backend


async def test_one_post_becomes_a_job_and_its_stream(backend: Backend) -> None:
    async with running(broker(backend.url)) as relay:
        raw = b'{ "user_id": "a&b",  "message": "hi" }'
        client = await backend.post(relay, "/chat", raw)
        job = await backend.asked()
        answer = await response(client)
        assert answer.status == 200, "the head is out while the broker thinks"
        assert job.line == b"POST /message"
        assert job.body == raw, "the client's JSON as it came"
        assert b"\r\nx-api-key: k3y\r\n" in job.head.lower()
        assert b"\r\ncontent-type: application/json\r\n" in job.head
        await job.answer(202, {"message_id": "m/1"})
        stream = await backend.asked()
        assert stream.line == b"GET /stream?user_id=a%26b&message_id=m%2F1"
        assert stream.body == b""
        await stream.peer.send(STREAM_HEAD + event("queued", {"position": 2}))
        assert await answer.event() == {"type": "status", "state": "queued", "position": 2}
        await stream.peer.send(event("done", {"response": "hello"}))
        assert await answer.events() == [{"type": "complete", "response": "hello"}]
        assert answer.clean
        line = await relay.line()
        assert (line["ending"], line["status"]) == ("complete", 200)
        client.close()
        await nothing_left(relay)


FIELDS = (
    "Authorization: Bearer of-the-page\r\nAccept-Language: de\r\nCookie: a=1\r\nX-Api-Key: mine\r\n"
)


async def test_of_the_clients_fields_none_goes_along_unless_it_is_named(backend: Backend) -> None:
    async with running(broker(backend.url)) as relay:
        await backend.post(relay, "/chat", JOB, fields=FIELDS)
        job = await backend.asked()
        for name in (b"of-the-page", b"accept-language", b"cookie", b"mine"):
            assert name not in job.head.lower()


async def test_fields_that_are_named_go_along_with_each_step(backend: Backend) -> None:
    """The steps of one upstream share what `enqueue` names; the upstream's own edits win."""
    named = 'client_headers = ["Authorization", "Accept-Language", "X-API-Key"]'
    async with running(broker(backend.url, enqueue=named, cancel=True)) as relay:
        client = await backend.post(relay, "/chat", JOB, fields=FIELDS)
        job = await backend.asked()
        await job.answer(202, {"message_id": "1"})
        stream = await backend.asked()
        await stream.peer.send(STREAM_HEAD)
        client.close()
        cancel = await backend.asked()
        for asked in (job, stream, cancel):
            head = asked.head.lower()
            assert b"\r\nauthorization: bearer of-the-page\r\n" in head
            assert b"\r\naccept-language: de\r\n" in head
            assert b"\r\nx-api-key: k3y\r\n" in head
            assert b"cookie" not in head
            assert b"mine" not in head
        await cancel.answer(200, {})


async def test_heartbeats_come_while_the_broker_thinks(backend: Backend) -> None:
    async with running(broker(backend.url, route='heartbeat = "10ms"')) as relay:
        client = await backend.post(relay, "/chat", JOB)
        answer = await response(client)
        job = await backend.asked()
        await answer.comment()
        await answer.comment()
        await job.answer(202, {"message_id": "1"})
        stream = await backend.asked()
        await answer.comment()
        await stream.peer.send(STREAM_HEAD + event("done", {}))
        assert await answer.events() == [{"type": "complete"}]


# -- the client's mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b"[1]", "bad_json"),
        (b"null", "bad_json"),
        (b'{"user_id": NaN}', "bad_json"),
        (b'{"user_id": "\xff"}', "bad_json"),
        (b"[" * 100_000, "bad_json"),
        ('{"user_id": "a"}'.encode("utf-16"), "bad_json"),
        (b"{}", "bad_request_body"),
        (b'{"user_id": {"a": 1}}', "bad_request_body"),
        (b'{"user_id": null}', "bad_request_body"),
    ],
)
async def test_a_mistake_of_the_client_is_a_plain_400(
    backend: Backend, body: bytes, code: str
) -> None:
    async with running(broker(backend.url)) as relay:
        client = await backend.post(relay, "/chat", body)
        answer = await response(client)
        assert answer.status == 400
        shown = await answer.json()
        assert isinstance(shown, dict)
        assert shown["error"]["code"] == code
        line = await relay.line()
        assert (line["ending"], line["side"]) == ("bad_request", "client")
        assert backend.nobody_waits(), "nothing was sent to the broker"
        again = await response(await backend.post(relay, "/chat", b"{", client))
        assert again.status == 400, "the connection is as good as before"


async def test_a_body_over_the_limit_is_a_413(backend: Backend) -> None:
    async with running(broker(backend.url, enqueue='max_body = "1KiB"')) as relay:
        answer = await response(await backend.post(relay, "/chat", {**JOB, "message": "x" * 2000}))
        assert answer.status == 413
        assert backend.nobody_waits()


async def test_a_chunked_body_is_decoded(backend: Backend) -> None:
    async with running(broker(backend.url)) as relay:
        client = backend.kept(await relay.client())
        await client.send(b"POST /chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b'{"user_id":', b' "a"}'):
            await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await client.send(b"0\r\n\r\n")
        job = await backend.asked()
        assert job.body == b'{"user_id": "a"}'
        assert b"\r\ntransfer-encoding:" not in job.head.lower()


async def test_a_client_that_waits_for_100_gets_it(backend: Backend) -> None:
    async with running(broker(backend.url)) as relay:
        client = backend.kept(await relay.client())
        await client.send(
            b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 16\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await client.head()).startswith(b"HTTP/1.1 100 ")
        await client.send(b'{"user_id": "a"}')
        assert (await response(client)).status == 200
        assert (await backend.asked()).body == b'{"user_id": "a"}'


# -- the broker's failures -------------------------------------------------------------------------


def answers(status: int, body: object = b"", kind: str = "application/json") -> Script:
    async def script(asked: Asked) -> None:
        await asked.answer(status, body, kind=kind)

    return script


def sends(data: bytes) -> Script:
    async def script(asked: Asked) -> None:
        await asked.peer.send(data)
        asked.peer.close()

    return script


async def stays_silent(asked: Asked) -> None:
    """The deadline of the step ends it."""


LARGE = {"message_id": "1", "padding": "x" * 70_000}

ENQUEUE_FAILURES = [
    ("unavailable", answers(503, {"error": "full"}), "enqueue_refused", True, "upstream_failed"),
    ("busy", answers(429), "enqueue_refused", True, "upstream_failed"),
    ("refused", answers(400, {"error": "no"}), "enqueue_refused", False, "upstream_failed"),
    ("no JSON", answers(200, b"<p>"), "bad_reply", False, "upstream_failed"),
    ("no object", answers(200, ["1"]), "bad_reply", False, "upstream_failed"),
    ("no id", answers(200, {"id": 1}), "bad_reply", False, "upstream_failed"),
    ("no scalar id", answers(200, {"message_id": []}), "bad_reply", False, "upstream_failed"),
    ("large", answers(200, LARGE), "answer_too_large", False, "upstream_failed"),
    (
        "large, of no stated length",
        sends(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 70_000),
        "answer_too_large",
        False,
        "upstream_failed",
    ),
    ("closed", sends(b""), "upstream_broke", True, "upstream_broke"),
    (
        "cut",
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
        "upstream_broke",
        True,
        "upstream_broke",
    ),
    ("not HTTP", sends(b"SSH-2.0\r\n\r\n"), "upstream_nonsense", True, "upstream_nonsense"),
    (
        "bad chunks",
        sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        "upstream_nonsense",
        True,
        "upstream_nonsense",
    ),
    ("silent", stays_silent, "upstream_timeout", True, "upstream_silent"),
]


@pytest.mark.parametrize(
    ("script", "code", "retryable", "ending"),
    [case[1:] for case in ENQUEUE_FAILURES],
    ids=[case[0] for case in ENQUEUE_FAILURES],
)
async def test_a_job_that_is_not_accepted_ends_with_an_event(
    backend: Backend, script: Script, code: str, retryable: bool, ending: str
) -> None:
    async with running(broker(backend.url, enqueue='timeout = "100ms"', cancel=True)) as relay:
        answer = await response(await backend.post(relay, "/chat", JOB))
        await script(await backend.asked())
        [last] = await answer.events()
        assert (last["type"], last["code"], last["retryable"]) == ("error", code, retryable)
        assert answer.status == 200
        assert answer.clean, "after_error is close"
        line = await relay.line()
        assert line["ending"] == ending
        answer.peer.close()
        await nothing_left(relay)
        assert backend.nobody_waits(), "nothing was followed, and nothing posted twice"


async def test_a_broker_that_is_down_ends_with_an_event(backend: Backend) -> None:
    backend.upstream.close()
    async with running(broker(backend.url)) as relay:
        answer = await response(await backend.post(relay, "/chat", JOB))
        assert answer.status == 200, "however fast the refusal: the contract is the same"
        [last] = await answer.events()
        assert (last["code"], last["retryable"]) == ("upstream_unreachable", True)
        assert (await relay.line())["ending"] == "upstream_unreachable"


FOLLOW_FAILURES = [
    ("refused", answers(500), "stream_refused", True, "upstream_failed"),
    ("forbidden", answers(403), "stream_refused", False, "upstream_failed"),
    ("never ready", answers(404), "stream_not_ready", False, "upstream_failed"),
    ("too early for ever", answers(425), "stream_not_ready", True, "upstream_failed"),
    ("JSON", answers(200, {}), "bad_stream", False, "upstream_failed"),
    ("redirected", answers(302), "stream_refused", False, "upstream_failed"),
    ("closed", sends(b""), "upstream_broke", True, "upstream_broke"),
    ("silent", stays_silent, "upstream_timeout", True, "upstream_silent"),
]


@pytest.mark.parametrize(
    ("script", "code", "retryable", "ending"),
    [case[1:] for case in FOLLOW_FAILURES],
    ids=[case[0] for case in FOLLOW_FAILURES],
)
async def test_a_job_without_a_stream_ends_with_an_event_and_is_cancelled(
    backend: Backend, script: Script, code: str, retryable: bool, ending: str
) -> None:
    follow = 'timeout = "100ms"\nnot_ready_for = "0s"'
    async with running(broker(backend.url, follow=follow, cancel=True)) as relay:
        answer = await response(await backend.post(relay, "/chat", JOB))
        await (await backend.asked()).answer(202, {"message_id": "m1"})
        await script(await backend.asked())
        [last] = await answer.events()
        assert (last["type"], last["code"], last["retryable"]) == ("error", code, retryable)
        assert (await relay.line())["ending"] == ending
        told = await backend.asked()
        assert told.line == b"POST /cancel?id=m1"
        assert b"\r\ncontent-length: 0\r\n" in told.head
        await told.answer(204)
        answer.peer.close()
        await nothing_left(relay)


async def test_a_stream_that_is_not_there_yet_is_asked_for_again(backend: Backend) -> None:
    async with running(broker(backend.url)) as relay:
        answer = await response(await backend.post(relay, "/chat", JOB))
        job = await backend.asked()
        await job.answer(202, {"message_id": "m1"}, close=False)
        for status in (404, 425, 404):
            early = await backend.asked(job.peer)
            await early.answer(status, {"error": "not yet"}, close=False)
        stream = await backend.asked(job.peer)
        assert stream.line == b"GET /stream?user_id=ann&message_id=m1"
        assert backend.nobody_waits(), "all of it went over one connection"
        await stream.peer.send(STREAM_HEAD + event("done", {}))
        assert await answer.events() == [{"type": "complete"}]


async def test_a_worker_that_falls_silent_ends_with_an_event(backend: Backend) -> None:
    async with running(broker(backend.url, route='event_idle = "50ms"', cancel=True)) as relay:
        answer = await response(await backend.post(relay, "/chat", JOB))
        await (await backend.asked()).answer(202, {"message_id": "m1"})
        stream = await backend.asked()
        await stream.peer.send(STREAM_HEAD + event("queued", {}))
        events = await answer.events()
        assert [each["type"] for each in events] == ["status", "error"]
        assert (await relay.line())["ending"] == "upstream_silent"
        await stream.peer.ended()
        await (await backend.asked()).answer(204)
        answer.peer.close()
        await nothing_left(relay)


async def test_a_stream_that_is_lost_inside_an_event_ends_with_a_whole_one(
    backend: Backend,
) -> None:
    async with running(broker(backend.url)) as relay:
        answer = await response(await backend.post(relay, "/chat", JOB))
        await (await backend.asked()).answer(202, {"message_id": "m1"})
        stream = await backend.asked()
        head = STREAM_HEAD.replace(b"Connection: close", b"Transfer-Encoding: chunked")
        await stream.peer.send(head + b'19\r\nevent: queued\ndata: {"po')
        stream.peer.close()
        [last] = await answer.events()
        assert (last["type"], last["code"]) == ("error", "upstream_broke")
        assert (await relay.line())["ending"] == "upstream_broke"
