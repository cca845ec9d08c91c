"""Ask: one JSON answer of the pipeline becomes the events that the page reads."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.interop.processes import ROOT, Server, start_hypercorn, start_relay, wait_until
from tests.interop.reading import calls, events_of, last_call

EXAMPLE = ROOT / "examples" / "ask"
CONFIG = EXAMPLE / "relay.toml"
PATH = "/api/ask/stream"
COMPLETE = {"type": "complete", "success": True}


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Server]:
    with start_hypercorn("backend:app", cwd=EXAMPLE) as server:
        yield server


@pytest.fixture(scope="module")
def relay(pipeline: Server) -> Iterator[Server]:
    with start_relay(CONFIG, {"PIPELINE_URL": pipeline.url}) as server:
        yield server


def told(relay: Server, body: Any) -> list[dict[str, Any]]:
    """The events of the answer to a request."""
    with httpx.stream("POST", relay.url + PATH, json=body, timeout=20) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        events = list(events_of(response))
    assert {event.event for event in events} == {""}
    return [event.json() for event in events]


def assert_start(event: dict[str, Any], query: str) -> None:
    assert list(event) == ["type", "query", "timestamp"]
    assert (event["type"], event["query"]) == ("start", query)
    assert datetime.fromisoformat(event["timestamp"]).tzinfo is not None


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["content"] for event in events if event["type"] == "chunk")


def test_the_answer_comes_as_start_chunks_metadata_complete(
    relay: Server, pipeline: Server
) -> None:
    query = "why do 你好, 👩\u200d👩\u200d👧\u200d👦 and e\u0301 stay whole? " + "word " * 60
    start, *chunks, metadata, complete = told(relay, {"query": query})
    assert_start(start, query)
    assert metadata == {"type": "metadata", "confidence": 0.87, "sources": ["handbook.pdf"]}
    assert complete == COMPLETE
    assert {chunk["type"] for chunk in chunks} == {"chunk"}
    assert [chunk["index"] for chunk in chunks] == list(range(len(chunks)))
    assert {chunk["total"] for chunk in chunks} == {len(chunks)}
    assert max(len(chunk["content"]) for chunk in chunks) <= 100
    whole = httpx.post(f"{pipeline.url}/api/ask", json={"query": query}).json()["response"]
    assert text_of(chunks) == whole
    # Between words: a piece ends with a space or the next one begins with it.
    for one, other in pairwise(chunks):
        assert one["content"].endswith(" ") or other["content"].startswith(" ")


def test_start_is_there_while_the_pipeline_thinks(relay: Server, pipeline: Server) -> None:
    with httpx.stream("POST", relay.url + PATH, json={"query": "slow"}) as response:
        events = events_of(response)
        assert next(events).json()["type"] == "start"
        wait_until("it thinks", lambda: last_call(pipeline)["state"] == "running")
    wait_until("it is stopped", lambda: last_call(pipeline)["state"] == "stopped")


def test_cancel_between_two_chunks_is_no_error(relay: Server) -> None:
    with httpx.stream("POST", relay.url + PATH, json={"query": "tell me"}) as response:
        events = events_of(response)
        while next(events).json()["type"] != "chunk":
            pass
    record = relay.wait_for_record(lambda record: record.get("ending") == "client_left")
    assert record["side"] == "client"


@pytest.mark.parametrize(
    "body", [{}, {"query": ""}, {"question": "?"}, ["query"], "query"], ids=repr
)
def test_a_missing_query_is_told(relay: Server, body: Any) -> None:
    last = told(relay, body)[-1]
    assert (last["type"], last["code"], last["retryable"]) == ("error", "BAD_REQUEST", False)
    assert last["message"]


@pytest.mark.parametrize(
    ("query", "code", "retryable"),
    [
        ("refuse", "UNAVAILABLE", True),
        ("html", "BAD_ANSWER", False),
        ("empty", "BAD_ANSWER", False),
    ],
)
def test_what_the_pipeline_gets_wrong_is_told(
    relay: Server, query: str, code: str, retryable: bool
) -> None:
    start, last = told(relay, {"query": query})
    assert_start(start, query)
    assert (last["type"], last["code"], last["retryable"]) == ("error", code, retryable)
    assert last["message"]


def test_a_pipeline_that_is_down_is_told() -> None:
    with start_relay(CONFIG, {"PIPELINE_URL": "http://127.0.0.1:1"}) as relay:
        last = told(relay, {"query": "anybody?"})[-1]
    assert (last["type"], last["code"], last["retryable"]) == ("error", "UNAVAILABLE", True)
    assert "127.0.0.1" not in last["message"]


def test_a_pipeline_that_takes_too_long_is_told_and_stopped(pipeline: Server) -> None:
    config = CONFIG.read_text().replace('timeout = "30s"', 'timeout = "500ms"')
    with start_relay(config, {"PIPELINE_URL": pipeline.url}) as relay:
        last = told(relay, {"query": "slow"})[-1]
    assert (last["type"], last["code"], last["retryable"]) == ("error", "TIMEOUT", True)
    wait_until("it is stopped", lambda: last_call(pipeline)["state"] == "stopped")


def test_a_heartbeat_bridges_the_thinking(pipeline: Server) -> None:
    config = CONFIG.read_text().replace('heartbeat = "10s"', 'heartbeat = "50ms"')
    with start_relay(config, {"PIPELINE_URL": pipeline.url}) as relay:
        response = httpx.post(relay.url + PATH, json={"query": "think"})
    before, found, _ = response.text.partition('"chunk"')
    assert found
    assert "\n:" in before, "a comment while the pipeline thought for 400 ms"


def test_a_retry_before_the_first_chunk_is_not_seen(relay: Server, pipeline: Server) -> None:
    before = len(calls(pipeline))
    events = told(relay, {"query": "flaky"})
    assert [event["type"] for event in events][:2] == ["start", "chunk"]
    assert events[-1] == COMPLETE
    assert len(calls(pipeline)) == before + 2


def test_the_fallback_answers_when_the_pipeline_cannot() -> None:
    env = {"PIPELINE_NAME": "fallback"}
    with start_hypercorn("backend:app", cwd=EXAMPLE, env=env) as fallback:
        urls = {"PIPELINE_URL": "http://127.0.0.1:1", "FALLBACK_URL": fallback.url}
        with start_relay(CONFIG, urls) as relay:
            events = told(relay, {"query": "anybody?"})
        assert [call["state"] for call in calls(fallback)] == ["finished"]
    assert events[-1] == COMPLETE
    assert text_of(events).startswith("You asked: anybody?.")
