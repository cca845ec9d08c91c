"""What the events of an answer hold is data in the route: `[routes.answer.events]`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from relay.config import ConfigError, loads
from tests.harness import running
from tests.io.sources_setup import Backend, Response, opened, response
from tests.io.test_sources_answer import ANSWER, ASK, ISO_8601, TEXT, pipeline


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    async with opened() as backend:
        yield backend


def with_events(url: str, lines: str, keys: str = "", route: str = "") -> str:
    return pipeline(url, keys + "\n[routes.answer.events]\n" + lines, route=route)


async def told(config: str, backend: Backend, given: object = ANSWER) -> list[dict[str, object]]:
    async with running(config) as relay:
        answer = await response(await backend.post(relay, "/ask?lang=de&lang=en&n=a%20b", ASK))
        await (await backend.asked()).answer(200, given)
        events = await answer.events()
        assert answer.clean
        return events


async def test_every_event_may_be_another(backend: Backend) -> None:
    lines = """
start = { kind = "begin", about = { q = "{body.query}", all = "{body}", lang = "{query.lang}", n = "{query.n}" } }
chunk = { delta = "{chunk.content}", at = "{chunk.index}/{chunk.total}", of = "{body.query}", c = "{answer.confidence}" }
metadata = { kind = "about", first = "{answer.sources[0]}", note = "sources: {answer.sources}" }
complete = { kind = "end", braces = "{{}}", ok = true, left = 0, sources = "{answer.length(sources)}" }
"""
    start, *chunks, metadata, end = await told(with_events(backend.url, lines), backend)
    assert start == {
        "kind": "begin",
        "about": {"q": "why?", "all": {"query": "why?"}, "lang": "de", "n": "a b"},
    }
    assert "".join(str(chunk["delta"]) for chunk in chunks) == TEXT
    total = len(chunks)
    assert [chunk["at"] for chunk in chunks] == [f"{n}/{total}" for n in range(total)]
    assert {(chunk["of"], chunk["c"]) for chunk in chunks} == {("why?", 0.5)}
    assert metadata == {
        "kind": "about",
        "first": "a",
        "note": 'sources: ["a","b"]',
        "confidence": 0.5,
        "sources": ["a", "b"],
    }
    assert end == {"kind": "end", "braces": "{}", "ok": True, "left": 0, "sources": 2}


async def test_an_event_may_be_left_out(backend: Backend) -> None:
    lines = "start = {}\nmetadata = {}\ncomplete = {}\n"
    events = await told(with_events(backend.url, lines), backend)
    assert {event["type"] for event in events} == {"chunk"}


async def test_the_text_may_come_in_one_piece(backend: Backend) -> None:
    lines = 'chunk = {}\ncomplete = { type = "complete", response = "{answer.response}", at = "{now}" }\n'
    *_, end = await told(with_events(backend.url, lines), backend)
    assert re.fullmatch(ISO_8601, str(end.pop("at")))
    assert end == {"type": "complete", "response": TEXT}


async def test_a_parameter_of_the_path(backend: Backend) -> None:
    config = with_events(backend.url, 'start = { id = "{path.id}" }\n').replace(
        'path = "/ask"', 'path = "/{id}"'
    )
    async with running(config) as relay:
        answer = await response(await backend.post(relay, "/Gr%C3%BC%C3%9Fe%2F", ASK))
        assert await answer.event() == {"id": "Grüße/"}


ERROR = 'error = { kind = "failed", why = "{error.message}", code = "{error.code}", again = "{error.retryable}" }\n'


async def failed(answer: Response) -> dict[str, object]:
    last = (await answer.events())[-1]
    assert answer.clean, "the error is the protocol's own end"
    return last


@pytest.mark.parametrize(("body", "code"), [(b"{}", "BAD_REQUEST"), (b"[", "BAD_REQUEST")])
async def test_a_failure_is_told_in_the_words_of_the_route(
    backend: Backend, body: bytes, code: str
) -> None:
    async with running(with_events(backend.url, ERROR)) as relay:
        last = await failed(await response(await backend.post(relay, "/ask", body)))
        assert (last["kind"], last["code"], last["again"]) == ("failed", code, False)
        assert isinstance(last["why"], str)


async def test_so_is_what_ends_the_stream_from_outside(backend: Backend) -> None:
    """An operator's stop is no failure of the source: it is said in the same words all the same."""
    async with running(with_events(backend.url, ERROR)) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        await answer.event()
        await backend.asked()
        [transfer] = relay.worker.registry
        assert relay.worker.registry.stop(transfer.record.id)
        last = await failed(answer)
        assert (last["kind"], last["code"]) == ("failed", "stopped")
        assert (await relay.line())["ending"] == "stopped"


async def test_a_dialect_words_it_where_the_route_does_not(backend: Backend) -> None:
    async with running(pipeline(backend.url, route='dialect = "openai"')) as relay:
        last = await failed(await response(await backend.post(relay, "/ask", b"{}")))
        error = last["error"]
        assert isinstance(error, dict)
        assert error["code"] == "BAD_REQUEST"


async def test_a_failure_is_told_even_where_the_dialect_says_nothing(backend: Backend) -> None:
    async with running(pipeline(backend.url, route='dialect = "off"')) as relay:
        last = await failed(await response(await backend.post(relay, "/ask", b"{}")))
        assert (last["type"], last["code"]) == ("error", "BAD_REQUEST")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('start = "x"', 'answer.events.start (line 20): found "x", expected a table of members'),
        (
            "begin = {}",
            "answer.events.begin (line 20): unknown key; there is start, chunk, metadata, complete, error",
        ),
        (
            'start = { a = "{answer.x}" }',
            "answer.events.start (line 20): {answer.x} is not known here; there is body, query, path, now",
        ),
        (
            'start = { a = "{chunk.index}" }',
            "answer.events.start (line 20): {chunk.index} is not known here; there is body, query, path, now",
        ),
        (
            'chunk = { a = "{chunk.text}" }',
            "answer.events.chunk (line 20): {chunk.text} there is no text; there is content, index, total",
        ),
        (
            'chunk = { a = "{chunk}" }',
            "answer.events.chunk (line 20): {chunk} there is no member; there is content, index, total",
        ),
        (
            'complete = { a = "{path.id}" }',
            "answer.events.complete (line 20): {path.id} there is no id",
        ),
        (
            'complete = { a = "{now.x}" }',
            "answer.events.complete (line 20): {now.x} has no members",
        ),
        (
            'complete = { a = "{query}" }',
            "answer.events.complete (line 20): {query} needs the name of a parameter",
        ),
        (
            'complete = { a = "{answer.x[}" }',
            "answer.events.complete (line 20): {answer.x[} it ends too early",
        ),
        (
            'complete = { a = ["{"] }',
            'answer.events.complete (line 20): a "{" or "}" without its other half: written twice it stands for itself',
        ),
        (
            "error = {}",
            "answer.events.error (line 20): cannot be left out: a failure would look like a whole answer",
        ),
        (
            'error = { a = "{body.x}" }',
            "answer.events.error (line 20): {body.x} is not known here; there is error, now",
        ),
        (
            "start = { a = 1979-05-27 }",
            "answer.events.start.a (line 20): found 1979-05-27, expected a JSON value: text, number, "
            "boolean, array or table",
        ),
    ],
)
def test_a_mistake_is_named(line: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(with_events("http://x", line + "\n"), {})
    assert str(caught.value) == f"routes[0].{problem}"


def test_what_was_put_in_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        loads(with_events("http://x", 'start = { a = "{body.${SECRET}" }\n'), {"SECRET": "pa55"})
    assert "pa55" not in str(caught.value)
    assert "a placeholder in it is wrong" in str(caught.value)


async def test_what_was_put_in_is_said(backend: Backend) -> None:
    lines = 'start = { model = "${MODEL}", and = "{body.query} ${MODEL}" }\n'
    config = loads(with_events(backend.url, lines), {"MODEL": "m-1 {{x}}"})
    async with running(config) as relay:
        answer = await response(await backend.post(relay, "/ask", ASK))
        assert await answer.event() == {"model": "m-1 {x}", "and": "why? m-1 {x}"}
