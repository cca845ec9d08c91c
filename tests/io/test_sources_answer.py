"""source = "answer": the events of a JSON answer, every code of an error, retries, fallback."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from tests.harness import Relay, running, settle
from tests.io.sources_setup import Asked, Backend, opened, response

Script = Callable[[Asked], Awaitable[None]]

ASK = {"query": "why?"}
TEXT = "Nothing is held back, nothing runs on for nobody. Grüße, 你好."
COMPLETE = {"type": "complete", "success": True}
ISO_8601 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
ANSWER = {"response": TEXT, "confidence": 0.5, "sources": ["a", "b"]}


def pipeline(url: str, keys: str = "", *, route: str = "", fallback: str = "") -> str:
    """TOML of a route that asks a pipeline and tells its answer as events."""
    second = f'[upstreams.spare]\nurl = "{fallback}"' if fallback else ""
    use = 'fallback = "spare"' if fallback else ""
    return f"""
[upstreams.pipeline]
url = "{url}"
{second}
[[routes]]
path = "/ask"
source = "answer"
{route}
[routes.answer]
upstream = "pipeline"
path = "/api/ask"
require = ["query"]
text = "response"
metadata = {{ confidence = "confidence", sources = "sources" }}
chunk_chars = 12
pace = "1ms"
{use}
{keys}
"""


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with opened() as backend:
        yield backend


@pytest.fixture
async def spare() -> AsyncIterator[Backend]:
    async with opened() as backend:
        yield backend


def assert_start(event: dict[str, object]) -> None:
    assert list(event) == ["type", "query", "timestamp"]
    assert (event["type"], event["query"]) == ("start", "why?")
    assert re.fullmatch(ISO_8601, str(event["timestamp"]))


async def nothing_left(relay: Relay) -> None:
    worker = relay.worker
    origins = [origin for group in worker.groups for origin in group.origins]
    await settle(lambda: all(origin.streams == 0 for origin in origins))
    await settle(lambda: len(worker.engine) == 1 + sum(len(origin.idle) for origin in origins))


async def test_one_answer_becomes_events(backend: Backend) -> None:
    async with running(pipeline(backend.url)) as relay:
        raw = b'{"query":  "why?"}'
        client = await backend.post(relay, "/ask", raw)
        answer = await response(client)
        assert b"\r\ncontent-type: text/event-stream\r\n" in answer.head
        assert_start(await answer.event())
        asked = await backend.asked()
        assert asked.line == b"POST /api/ask"
        assert asked.body == raw
        await asked.answer(200, ANSWER)
        *chunks, metadata, complete = await answer.events()
        assert "".join(str(chunk["content"]) for chunk in chunks) == TEXT
        assert [chunk["index"] for chunk in chunks] == list(range(len(chunks)))
        assert {chunk["total"] for chunk in chunks} == {len(chunks)}
        assert {chunk["type"] for chunk in chunks} == {"chunk"}
        assert all(len(str(chunk["content"])) <= 12 for chunk in chunks)
        assert metadata == {"type": "metadata", "confidence": 0.5, "sources": ["a", "b"]}
        assert complete == COMPLETE
        assert answer.clean
        line = await relay.line()
        assert (line["ending"], line["status"]) == ("complete", 200)
        assert line["events"] == len(chunks) + 3
        again = await response(await backend.post(relay, "/ask", ASK, client))
        assert again.status == 200, "the connection serves again"


async def test_the_clients_fields_that_are_named_go_along(backend: Backend) -> None:
    keys = 'client_headers = "Accept-Language"'
    async with running(pipeline(backend.url, keys)) as relay:
        fields = "Accept-Language: de\r\nCookie: a=1\r\n"
        await backend.post(relay, "/ask", {"query": "x"}, fields=fields)
        asked = await backend.asked()
        assert b"\r\naccept-language: de\r\n" in asked.head.lower()
        assert b"cookie" not in asked.head.lower()


async def test_heartbeats_come_while_the_backend_thinks(backend: Backend) -> None:
    async with running(pipeline(backend.url, route='heartbeat = "10ms"')) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        asked = await backend.asked()
        await answer.comment()
        await answer.comment()
        await asked.answer(200, ANSWER)
        assert (await answer.events())[-1] == COMPLETE


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"response": "x"}, {"confidence": None, "sources": None}),
        ({"response": "x", "confidence": 0, "sources": {}}, {"confidence": 0, "sources": {}}),
    ],
)
async def test_metadata_that_is_missing_is_null(
    backend: Backend, given: dict[str, object], shown: dict[str, object]
) -> None:
    async with running(pipeline(backend.url)) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        await (await backend.asked()).answer(200, given)
        events = await answer.events()
        assert events[-2] == {"type": "metadata", **shown}


async def test_text_that_is_empty_is_an_answer(backend: Backend) -> None:
    async with running(pipeline(backend.url)) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        await (await backend.asked()).answer(200, {"response": ""})
        assert [each["type"] for each in await answer.events()] == ["start", "metadata", "complete"]


async def test_line_ends_and_half_surrogates_in_the_text_break_no_event(backend: Backend) -> None:
    async with running(pipeline(backend.url)) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        text = "a\r\nb\u2028c\n\nd \ud800 e"
        await (await backend.asked()).answer(200, {"response": text})
        chunks = [each for each in await answer.events() if each["type"] == "chunk"]
        assert "".join(str(chunk["content"]) for chunk in chunks) == text


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"query"',
        b"{}",
        b'{"query": ""}',
        b'{"query": " \\n\\t"}',
        b'{"query": null}',
        b'{"query": "\xff"}',
        b'{"query": Infinity}',
    ],
)
async def test_a_request_that_is_wrong_is_an_event(backend: Backend, body: bytes) -> None:
    async with running(pipeline(backend.url)) as relay:
        answer = await response(await backend.post(relay, "/ask", body))
        assert answer.status == 200
        [error] = await answer.events()
        assert (error["type"], error["code"]) == ("error", "BAD_REQUEST")
        assert error["retryable"] is False
        assert isinstance(error["message"], str)
        assert answer.clean
        line = await relay.line()
        assert (line["ending"], line["side"]) == ("bad_request", "client")
        assert backend.nobody_waits()


@pytest.mark.parametrize("body", [{"query": 0}, {"query": False}, {"query": ["a"]}])
async def test_a_required_member_of_any_other_type_will_do(backend: Backend, body: object) -> None:
    async with running(pipeline(backend.url)) as relay:
        await backend.post(relay, "/ask", body)
        await backend.asked()


async def test_a_member_that_the_target_needs_is_required(backend: Backend) -> None:
    text = pipeline(backend.url).replace("/api/ask", "/api/{body.tenant}/ask")
    async with running(text) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        [error] = await answer.events()
        assert error["code"] == "BAD_REQUEST"
        await backend.post(relay, "/ask", {**ASK, "tenant": "a/b"})
        assert (await backend.asked()).line == b"POST /api/a%2Fb/ask"


async def test_a_body_over_the_limit_is_a_413(backend: Backend) -> None:
    async with running(pipeline(backend.url, 'max_body = "1KiB"')) as relay:
        answer = await response(await backend.post(relay, "/ask", {"query": "x" * 2000}))
        assert answer.status == 413


async def test_no_event_is_sent_for_a_head_request(backend: Backend) -> None:
    async with running(pipeline(backend.url)) as relay:
        client = backend.kept(await relay.client())
        await client.send(b"HEAD /ask HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        answer = await response(await backend.post(relay, "/ask", b"", client))
        assert [each["code"] for each in await answer.events()] == ["BAD_REQUEST"]


def answers(status: int, body: object = b"") -> Script:
    async def script(asked: Asked) -> None:
        await asked.answer(status, body)

    return script


def sends(data: bytes) -> Script:
    async def script(asked: Asked) -> None:
        await asked.peer.send(data)
        asked.peer.close()

    return script


async def stays_silent(asked: Asked) -> None:
    """The deadline ends it."""


async def stalls(asked: Asked) -> None:
    await asked.peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"response":')


FAILURES = [
    ("silent", stays_silent, "TIMEOUT", True, "upstream_silent"),
    ("stalls in its answer", stalls, "TIMEOUT", True, "upstream_silent"),
    ("unavailable", answers(503), "UNAVAILABLE", True, "upstream_failed"),
    ("failed", answers(500), "UNAVAILABLE", True, "upstream_failed"),
    ("busy", answers(429), "UNAVAILABLE", True, "upstream_failed"),
    ("unauthorised", answers(401), "UNAVAILABLE", False, "upstream_failed"),
    ("not found", answers(404), "UNAVAILABLE", False, "upstream_failed"),
    ("closes", sends(b""), "UNAVAILABLE", True, "upstream_broke"),
    (
        "cut",
        sends(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
        "UNAVAILABLE",
        True,
        "upstream_broke",
    ),
    ("finds it wrong", answers(422), "BAD_REQUEST", False, "bad_request"),
    ("no JSON", answers(200, b"<p>"), "BAD_ANSWER", False, "upstream_failed"),
    ("no content", sends(b"HTTP/1.1 204 X\r\n\r\n"), "BAD_ANSWER", False, "upstream_failed"),
    ("no text", answers(200, {"confidence": 1}), "BAD_ANSWER", False, "upstream_failed"),
    ("text of another type", answers(200, {"response": 1}), "BAD_ANSWER", False, "upstream_failed"),
    ("no object", answers(200, ["response"]), "BAD_ANSWER", False, "upstream_failed"),
    ("nested", answers(200, b"[" * 100_000), "BAD_ANSWER", False, "upstream_failed"),
    ("redirected", answers(302), "BAD_ANSWER", False, "upstream_failed"),
    (
        "large",
        answers(200, {"response": "x" * 5000}),
        "BAD_ANSWER",
        False,
        "upstream_failed",
    ),
    (
        "large, of no stated length",
        sends(b"HTTP/1.0 200 OK\r\n\r\n" + b" " * 5000),
        "BAD_ANSWER",
        False,
        "upstream_failed",
    ),
    ("not HTTP", sends(b"SSH-2.0\r\n\r\n"), "BAD_ANSWER", False, "upstream_nonsense"),
]


@pytest.mark.parametrize(
    ("script", "code", "retryable", "ending"),
    [case[1:] for case in FAILURES],
    ids=[case[0] for case in FAILURES],
)
async def test_an_answer_that_does_not_come_is_an_event(
    backend: Backend, script: Script, code: str, retryable: bool, ending: str
) -> None:
    keys = 'timeout = "100ms"\nmax_answer = "4KiB"'
    async with running(pipeline(backend.url, keys)) as relay:
        client = await backend.post(relay, "/ask", ASK)
        answer = await response(client)
        await script(await backend.asked())
        start, error = await answer.events()
        assert_start(start)
        assert (error["type"], error["code"]) == ("error", code)
        assert error["retryable"] is retryable
        assert backend.url.removeprefix("http://") not in str(error["message"])
        assert answer.clean
        assert (await relay.line())["ending"] == ending, "the log tells what the status cannot"
        client.close()
        await nothing_left(relay)


async def test_a_backend_that_is_down_is_an_event(backend: Backend) -> None:
    backend.upstream.close()
    async with running(pipeline(backend.url)) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        _, error = await answer.events()
        assert (error["code"], error["retryable"]) == ("UNAVAILABLE", True)
        assert (await relay.line())["ending"] == "upstream_unreachable"


# -- retries and fallback --------------------------------------------------------------------------


async def test_a_failed_attempt_is_repeated(backend: Backend) -> None:
    async with running(pipeline(backend.url, "retries = 2")) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        for script in (answers(503), sends(b""), answers(200, ANSWER)):
            asked = await backend.asked()
            assert asked.body == b'{"query": "why?"}'
            await script(asked)
        events = await answer.events()
        assert [each["type"] for each in events].count("start") == 1
        assert events[-1] == COMPLETE


@pytest.mark.parametrize("script", [answers(400), answers(401), answers(200, b"<p>")])
async def test_what_would_not_change_is_not_repeated(backend: Backend, script: Script) -> None:
    async with running(pipeline(backend.url, "retries = 2")) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        await script(await backend.asked())
        assert (await answer.events())[-1]["type"] == "error"
        answer.peer.close()
        await nothing_left(relay)
        assert backend.nobody_waits()


@pytest.mark.parametrize(
    "script", [answers(503), answers(401), answers(200, b"<p>"), sends(b""), stays_silent]
)
async def test_the_fallback_is_asked(backend: Backend, spare: Backend, script: Script) -> None:
    text = pipeline(backend.url, 'timeout = "200ms"', fallback=spare.url)
    async with running(text) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        await script(await backend.asked())
        await (await spare.asked()).answer(200, ANSWER)
        assert (await answer.events())[-1] == COMPLETE
        line = await relay.line()
        assert (line["ending"], line["upstream"]) == ("complete", spare.url)


async def test_a_request_that_is_wrong_is_not_put_to_the_fallback(
    backend: Backend, spare: Backend
) -> None:
    async with running(pipeline(backend.url, "retries = 1", fallback=spare.url)) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        await (await backend.asked()).answer(400)
        assert (await answer.events())[-1]["code"] == "BAD_REQUEST"
        assert spare.nobody_waits()


async def test_both_fail(backend: Backend, spare: Backend) -> None:
    async with running(pipeline(backend.url, fallback=spare.url)) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        await (await backend.asked()).answer(200, b"<p>")
        await (await spare.asked()).answer(503)
        assert [each["type"] for each in await answer.events()] == ["start", "error"]
        assert (await relay.line())["ending"] == "upstream_failed"


async def test_a_fallback_with_the_same_urls_is_none(backend: Backend) -> None:
    async with running(pipeline(backend.url, fallback=backend.url)) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        await (await backend.asked()).answer(503)
        assert (await answer.events())[-1]["code"] == "UNAVAILABLE"
        assert backend.nobody_waits()


# -- the client leaves -----------------------------------------------------------------------------


async def test_gone_while_the_backend_thinks(backend: Backend) -> None:
    async with running(pipeline(backend.url)) as relay:
        client = await backend.post(relay, "/ask", ASK)
        await (await response(client)).event()
        asked = await backend.asked()
        client.close()
        await asked.peer.ended()
        assert (await relay.line())["ending"] == "client_left"
        await nothing_left(relay)


async def test_gone_between_two_chunks(backend: Backend) -> None:
    text = pipeline(backend.url).replace('"1ms"', '"1h"')
    async with running(text) as relay:
        client = await backend.post(relay, "/ask", ASK)
        answer = await response(client)
        await (await backend.asked()).answer(200, ANSWER)
        await answer.event()
        await answer.event()
        client.close()
        line = await relay.line()
        assert (line["ending"], line["phase"]) == ("client_left", "body")
        await nothing_left(relay)


async def test_gone_in_a_pause_before_the_next_attempt(backend: Backend) -> None:
    async with running(pipeline(backend.url, "retries = 10")) as relay:
        client = await backend.post(relay, "/ask", ASK)
        await response(client)
        for _ in range(3):
            await (await backend.asked()).answer(503)
        client.close()
        assert (await relay.line())["ending"] == "client_left"
        await nothing_left(relay)


# -- an early head, before the question is whole ---------------------------------------------------

EARLY = 'commit = "after 5ms"\nheartbeat = "5ms"'
SLOW = b"POST /ask HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_the_answer_follows_an_early_head(backend: Backend) -> None:
    """1. The client sends its head, and takes its time over the question. 2. The head of the stream goes out, and
    heartbeats. 3. The question comes: it is answered like any other."""
    async with running(pipeline(backend.url, route=EARLY)) as relay:
        client = backend.kept(await relay.client())
        await client.send(SLOW + b'a\r\n{"query": \r\n')
        answer = await response(client)
        assert answer.status == 200
        await answer.comment()
        await client.send(b'7\r\n"why?"}\r\n0\r\n\r\n')
        asked = await backend.asked()
        assert asked.body == b'{"query": "why?"}'
        await answer.comment()
        await asked.answer(200, ANSWER)
        events = await answer.events()
        assert (events[0]["type"], events[-1]["type"]) == ("start", "complete")
        assert answer.clean
        line = await relay.line()
        assert (line["ending"], line["status"], line["events"]) == ("complete", 200, len(events))


@pytest.mark.parametrize(
    ("rest", "code"),
    [
        (b"800\r\n" + b"x" * 0x800 + b"\r\n", "body_too_large"),
        (b"zz\r\n", "bad_chunk"),
        (b"", "request_timeout"),
        (b"0\r\n\r\n", "BAD_REQUEST"),
    ],
)
async def test_a_question_that_is_wrong_after_an_early_head_is_told(
    backend: Backend, rest: bytes, code: str
) -> None:
    route = EARLY + '\ntimeouts = { request_body_idle = "100ms" }'
    async with running(pipeline(backend.url, 'max_body = "1KiB"', route=route)) as relay:
        client = backend.kept(await relay.client())
        await client.send(SLOW)
        answer = await response(client)
        assert answer.status == 200
        await client.send(rest)
        [error] = await answer.events()
        assert (error["type"], error["code"], error["retryable"]) == ("error", code, False)
        line = await relay.line()
        assert line["side"] == "client"
        assert line["ending"] in ("refused", "bad_request", "client_stalled")
        assert backend.nobody_waits()


# -- Retry-After -----------------------------------------------------------------------------------


def busy(after: str) -> Script:
    return sends(f"HTTP/1.1 503 X\r\nRetry-After: {after}\r\nContent-Length: 0\r\n\r\n".encode())


@pytest.mark.parametrize("after", ["60", "Fri, 31 Dec 2999 23:59:59 GMT"])
async def test_a_backend_that_asks_for_patience_is_left_to_the_fallback(
    backend: Backend, spare: Backend, after: str
) -> None:
    """A reader should not be held for a minute, and the backend not be asked again before that."""
    async with running(pipeline(backend.url, "retries = 3", fallback=spare.url)) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        await busy(after)(await backend.asked())
        await (await spare.asked()).answer(200, ANSWER)
        assert (await answer.events())[-1] == COMPLETE
        assert backend.nobody_waits()


async def test_a_backend_that_says_when_is_asked_then(backend: Backend) -> None:
    async with running(pipeline(backend.url, "retries = 1")) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        await busy("1")(await backend.asked())
        refused = trio.current_time()
        asked = await backend.asked()
        assert trio.current_time() - refused > 0.9
        await asked.answer(200, ANSWER)
        assert (await answer.events())[-1] == COMPLETE
