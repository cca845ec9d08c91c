"""Several urls: one that fails before its first event is left for the next, and never after it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
import pytest

from tests.interop.processes import (
    Server,
    free_port,
    start_hypercorn,
    start_relay,
    wait_until,
)
from tests.interop.reading import calls, events_of

MOODS = ("well", "silent", "comments", "busy", "cut", "closed")
BAD = ("silent", "busy", "closed", "refused")
UPSTREAM = """
[upstreams.{name}]
urls = [{urls}]
balance = "round-robin"
[[routes]]
path = "/{name}/events"
upstream = "{name}"
upstream_path = "/events"
retries = {retries}
first_event = "800ms"
"""


@pytest.fixture(scope="module")
def backends() -> Iterator[Server]:
    with start_hypercorn("tests.interop.moody:app") as server:
        yield server


@pytest.fixture(scope="module")
def relay(backends: Server) -> Iterator[Server]:
    urls = {mood: f"{backends.url}/{mood}" for mood in MOODS}
    urls["refused"] = f"http://127.0.0.1:{free_port()}"
    config = '[server]\nlisten = ["${LISTEN}"]\n'
    for mood in (*BAD, "comments", "cut"):
        pair = f'"{urls[mood]}", "{urls["well"]}"'
        config += UPSTREAM.format(name=mood, urls=pair, retries=1)
        config += UPSTREAM.format(name=f"{mood}-alone", urls=f'"{urls[mood]}"', retries=0)
    with start_relay(config) as server:
        yield server


def test_every_answer_comes_from_the_one_that_is_well(relay: Server) -> None:
    for mood in BAD:
        for _ in range(3):  # round-robin: some begin with the bad one
            response = httpx.get(f"{relay.url}/{mood}/events")
            assert response.status_code == 200, mood
            assert response.text == 'data: "well"\n\ndata: 0\n\ndata: 1\n\n', mood


def test_a_post_is_sent_again_with_its_body(relay: Server) -> None:
    for _ in range(2):
        response = httpx.post(f"{relay.url}/refused/events", json={"a": "question"})
        assert response.text.startswith('data: "well"')


def test_after_the_first_event_nobody_else_is_asked(relay: Server, backends: Server) -> None:
    before = len(calls(backends, "/well/"))
    asked = 0
    for _ in range(2):
        with httpx.stream("GET", f"{relay.url}/cut/events") as response:
            events = events_of(response)
            if next(events).json() == "well":
                asked += 1
                continue
            assert next(events).json()["code"] == "upstream_broke"
            with pytest.raises(httpx.RemoteProtocolError):
                next(events)
    assert len(calls(backends, "/well/")) == before + asked
    assert asked < 2


@pytest.mark.parametrize(
    ("mood", "status", "code"),
    [
        ("refused", 502, "upstream_unreachable"),
        ("silent", 200, "upstream_silent"),
        ("comments", 200, "upstream_silent"),
        ("closed", 200, "upstream_broke"),
    ],
)
def test_alone_it_fails_as_it_is(relay: Server, mood: str, status: int, code: str) -> None:
    with httpx.stream("GET", f"{relay.url}/{mood}-alone/events") as response:
        assert response.status_code == status
        text = ""
        with contextlib.suppress(httpx.RemoteProtocolError):
            for piece in response.iter_text():
                text += piece
    assert f'"code":"{code}"' in text.replace(": ", ":")


def test_alone_its_503_passes_as_it_is(relay: Server) -> None:
    response = httpx.get(f"{relay.url}/busy-alone/events")
    assert (response.status_code, response.json()) == (503, {"mood": "busy"})


def test_those_that_were_left_are_stopped(relay: Server, backends: Server) -> None:
    for mood in ("silent", "comments"):
        wait_until(
            f"{mood} is stopped",
            lambda mood=mood: {c["state"] for c in calls(backends, f"/{mood}/")} == {"stopped"},  # type: ignore[misc]
        )
    assert "Traceback" not in relay.stderr.text
