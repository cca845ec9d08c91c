"""Query stream: a POST whose answer streams, alone and behind an nginx with its defaults."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.interop.processes import (
    ROOT,
    Server,
    start_hypercorn,
    start_nginx,
    start_relay,
    wait_until,
)
from tests.interop.reading import came_one_by_one, events_of, last_call

EXAMPLE = ROOT / "examples" / "query-stream"
PATH = "/api/python/query/stream"


@pytest.fixture(scope="module")
def backend() -> Iterator[Server]:
    with start_hypercorn("backend:app", cwd=EXAMPLE) as server:
        yield server


@pytest.fixture(scope="module")
def relay(backend: Server) -> Iterator[Server]:
    with start_relay(EXAMPLE / "relay.toml", {"BACKEND_URL": backend.url}) as server:
        yield server


@pytest.fixture(scope="module")
def nginx(relay: Server) -> Iterator[Server]:
    with start_nginx(f"location / {{ proxy_pass {relay.url}; }}") as server:
        yield server


@pytest.fixture(params=["alone", "behind nginx"])
def front(request: pytest.FixtureRequest) -> Server:
    """What the browser talks to."""
    name = "relay" if request.param == "alone" else "nginx"
    server: Server = request.getfixturevalue(name)
    return server


def stopped(backend: Server) -> bool:
    return bool(last_call(backend, "/query/stream")["state"] == "stopped")


def test_tokens_arrive_one_by_one(front: Server) -> None:
    question = {"query": "what is a relay?", "tokens": 8, "every": 100}
    with httpx.stream("POST", front.url + PATH, json=question) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        events = list(events_of(response))
    kinds = [event.json()["type"] for event in events]
    assert kinds == ["token"] * 8 + ["sources", "done"]
    assert came_one_by_one(events[:8])


def test_a_long_question_is_streamed_up_whole(front: Server) -> None:
    question = {"query": "é" * 400_000, "tokens": 1, "every": 0}
    with httpx.stream("POST", front.url + PATH, json=question) as response:
        events = list(events_of(response))
    assert events[1].json()["characters"] == 400_000


def test_a_chunked_upload_is_streamed_up_too(relay: Server) -> None:
    pieces = iter([b'{"query": "in pie', b'ces", "tokens": 1, ', b'"every": 0}'])
    with httpx.stream("POST", relay.url + PATH, content=pieces) as response:
        events = events_of(response)
        assert next(events).json()["type"] == "token"


def test_what_the_backend_refuses_stays_refused(front: Server) -> None:
    response = httpx.post(front.url + PATH, json={"question": "?"})
    assert response.status_code == 422
    assert response.json() == {"error": "query is missing"}


def test_other_paths_go_to_the_backend_as_they_are(front: Server) -> None:
    response = httpx.get(f"{front.url}/api/python/api/v1/models")
    assert response.json() == {"models": ["small", "large"]}


def test_stop_in_mid_stream_stops_the_generator(front: Server, backend: Server) -> None:
    with httpx.stream("POST", front.url + PATH, json={"query": "stop"}) as response:
        events = events_of(response)
        assert [next(events).json()["index"] for _ in range(3)] == [0, 1, 2]
        assert not stopped(backend)
    wait_until("the generator is stopped", lambda: stopped(backend))


def test_stop_before_the_first_token_stops_the_generator(front: Server, backend: Server) -> None:
    question = {"query": "think", "think": 60_000}
    with httpx.stream("POST", front.url + PATH, json=question) as response:
        assert response.status_code == 200
        assert not stopped(backend)
    wait_until("the generator is stopped", lambda: stopped(backend))


def test_a_new_question_stops_the_one_before(relay: Server, backend: Server) -> None:
    """The text changes while the answer streams: abort, and ask anew, on a new connection."""
    with httpx.stream("POST", relay.url + PATH, json={"query": "wha"}) as first:
        events = events_of(first)
        next(events)
        number = last_call(backend, "/query/stream")["number"]
    with httpx.stream("POST", relay.url + PATH, json={"query": "what"}) as second:
        events = events_of(second)
        next(events)
        wait_until(
            "only the first is stopped",
            lambda: (
                {
                    call["state"]
                    for call in httpx.get(f"{backend.url}/state").json()["calls"]
                    if call["number"] >= number
                }
                == {"stopped", "running"}
            ),
        )


def test_a_client_that_left_is_no_error_in_the_log(relay: Server) -> None:
    with httpx.stream("POST", relay.url + PATH, json={"query": "left"}) as response:
        events = events_of(response)
        next(events)
    record = relay.wait_for_record(lambda record: record.get("ending") == "client_left")
    assert (record["side"], record["route"]) == ("client", "query")
    assert "Traceback" not in relay.stderr.text
