"""LangGraph's SDK, unchanged, on a resumable route with `handle = "location"`: it reconnects where `Location` says, takes no
204, and finds the run's id in the upstream's Content-Location."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.interop.processes import Server, require, start, wait_until
from tests.interop.resuming import Bench, bench

ROUTE = """
[[routes]]
path = "/threads/{id}/runs/stream"
methods = ["POST"]
upstream = "model"
complete_when = "event:end"
dialect = "named"
heartbeat = "50ms"
[routes.resume]
principal = "{header.x-api-key}"
key = "{id}"
at = "/streams/{key}"
handle = "location"
"""
KEY = {"X-Api-Key": "a-key-of-the-test"}


@pytest.fixture(scope="module")
def ground() -> Iterator[Bench]:
    with bench(ROUTE) as running:
        yield running


class Run:
    """A run of the SDK in a process of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._server.stdout.lines]

    def parts(self) -> list[Any]:
        """What was said, but for the metadata."""
        return [line["data"]["said"] for line in self.lines() if line.get("event") == "values"]

    def sees(self, wanted: list[Any]) -> None:
        wait_until(f"it has {wanted}", lambda: len(self.parts()) >= len(wanted))
        assert self.parts() == wanted

    def ended(self) -> str:
        line = self._server.stdout.wait_for('"ended"')
        return str(json.loads(line)["ended"])


@pytest.fixture
def run(npm: Path, ground: Bench, request: pytest.FixtureRequest) -> Iterator[Run]:
    with start([require("node"), npm / "langgraph.mjs", ground.url, request.node.name]) as server:
        ground.watched_by(1)
        yield Run(server)


def test_it_reconnects_where_location_says(
    run: Run, ground: Bench, request: pytest.FixtureRequest
) -> None:
    thread = request.node.name
    for number in range(1, 4):
        ground.say(thread, say=[number])
        run.sees(list(range(1, number + 1)))
        ground.cut()
        ground.watched_by(1)
    ground.say(thread, say=[4], done=True)
    assert run.ended() == "clean"
    run.sees([1, 2, 3, 4])
    created, first, *_ = run.lines()
    assert created == {"created": {"run_id": "r1", "thread_id": thread}}
    assert first["event"] == "metadata"
    events = [line.get("event") for line in run.lines()]
    assert events == [None, "metadata", *["values"] * 4, "end", None]
    assert ground.asked(thread) == 1


def test_an_end_that_was_said_while_it_was_away(
    run: Run, ground: Bench, request: pytest.FixtureRequest
) -> None:
    thread = request.node.name
    ground.say(thread, say=[1])
    run.sees([1])
    ground.cut()
    ground.say(thread, say=[2], done=True)
    assert run.ended() == "clean"
    run.sees([1, 2])
    assert ground.asked(thread) == 1


def test_a_stop_from_elsewhere(run: Run, ground: Bench, request: pytest.FixtureRequest) -> None:
    """The SDK hears the terminal event, comes back behind it once, and gets a clean end in place of a 204."""
    thread = request.node.name
    ground.say(thread, say=[1])
    run.sees([1])
    assert httpx.delete(f"{ground.url}/streams/{thread}", headers=KEY).status_code == 204
    assert run.ended() == "clean"
    errors = [line["data"]["code"] for line in run.lines() if line.get("event") == "error"]
    assert set(errors) == {"stopped"}
    wait_until("the model is stopped", lambda: ground.states(thread) == ["stopped"])
    assert ground.asked(thread) == 1
