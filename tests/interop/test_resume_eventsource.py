"""An EventSource with cookies, the npm package and the browser's own, on a resumable GET route.

It reconnects by itself with Last-Event-ID and misses nothing; after the end one 204, and silence; behind a stop nothing
begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.interop.browser import Page, start_browser
from tests.interop.processes import Server, require, start, wait_until
from tests.interop.resuming import WHO, Bench, bench

ROUTE = """
[[routes]]
path = "/answers/{id}"
methods = ["GET"]
upstream = "model"
complete_when = "event:done"
heartbeat = "50ms"
retry_hint = "100ms"
[routes.resume]
principal = "{cookie.session}"
key = "{id}"
at = "/streams/{key}"
[[routes]]
path = "/"
methods = ["GET"]
source = "local"
local = { content_type = "text/html", body = "<!doctype html><title>page</title>" }
"""
READER = """
(url) => {
  window.seen = [];
  window.opened = 0;
  window.source = new EventSource(url);
  source.onopen = () => opened++;
  const keep = ({ type, data, lastEventId }) => data !== undefined && seen.push({ event: type, data, id: lastEventId });
  for (const name of ["message", "done", "error"]) source.addEventListener(name, keep);
}
"""


@pytest.fixture(scope="module")
def ground() -> Iterator[Bench]:
    with bench(ROUTE) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with start_browser() as page:
        yield page


class Node:
    """The npm package in a process of its own."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._server.stdout.lines]

    def events(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line.get("data") is not None]

    def opened(self) -> int:
        return sum("open" in line for line in self.lines())

    def closed(self) -> bool:
        return any(line.get("state") == 2 for line in self.lines())


class Chromium:
    """The browser's own."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._page.run("seen")
        return found

    def opened(self) -> int:
        return int(self._page.run("opened"))

    def closed(self) -> bool:
        return bool(self._page.run("source.readyState") == 2)


Client = Node | Chromium
Start = Callable[[str], Client]


@pytest.fixture(params=["node", "chromium"])
def read(request: pytest.FixtureRequest, ground: Bench) -> Iterator[Start]:
    """Begin to read the answer of a name."""
    if request.param == "chromium":
        page: Page = request.getfixturevalue("browser")
        name, _, value = WHO["Cookie"].partition("=")
        page.command("Network.setCookie", url=ground.url, name=name, value=value, httpOnly=True)
        page.open(f"{ground.url}/?{request.node.name}")

        def in_page(id: str) -> Client:
            page.run(f"({READER})('/answers/{id}')")
            return Chromium(page)

        yield in_page
        page.run("source.close()")
        return
    npm: Path = request.getfixturevalue("npm")
    running: list[Any] = []

    def in_node(id: str) -> Client:
        script: list[str | Path] = [
            require("node"),
            npm / "eventsource.mjs",
            f"{ground.url}/answers/{id}",
        ]
        process = start([*script, WHO["Cookie"], "done", "error"])
        running.append(process)
        return Node(process.__enter__())

    yield in_node
    for process in running:
        process.__exit__(None, None, None)


def data(client: Client) -> list[Any]:
    return [json.loads(event["data"]) for event in client.events()]


def sees(client: Client, wanted: list[Any]) -> None:
    wait_until(f"it has {wanted}", lambda: len(client.events()) >= len(wanted))
    assert data(client) == wanted


def closes(client: Client, ground: Bench, asked: int) -> None:
    """It has met a 204, once, and will not come back."""
    wait_until("it is closed", client.closed)
    wait_until("a 204 is in the log", lambda: refusals(ground) > asked)
    assert refusals(ground) == asked + 1


def refusals(ground: Bench) -> int:
    return [r["status"] for r in ground.records("/answers/")].count(204)


def test_it_misses_nothing_over_many_cuts(read: Start, ground: Bench, request: Any) -> None:
    id = f"cuts-{request.node.callspec.id}"
    before = refusals(ground)
    client = read(id)
    wanted: list[Any] = ["begun"]
    sees(client, wanted)
    for number in range(1, 9):
        opened = client.opened()
        if number % 2:
            ground.cut()
        ground.say(id, say=[number])
        wanted.append(number)
        sees(client, wanted)
        if number % 2:
            wait_until("it came back", partial(lambda before: client.opened() > before, opened))
            ground.watched_by(1)
    ground.say(id, done=True)
    wanted.append("done")
    sees(client, wanted)
    closes(client, ground, before)
    ids = [event["id"] for event in client.events()]
    run = ids[0].rpartition("-")[0]
    assert ids == [f"{run}-{number}" for number in range(1, 11)]
    assert ground.asked(id) == 1


def test_a_stop_and_then_nothing_begins(read: Start, ground: Bench, request: Any) -> None:
    id = f"stop-{request.node.callspec.id}"
    before = refusals(ground)
    client = read(id)
    sees(client, ["begun"])
    assert httpx.delete(f"{ground.url}/streams/{id}", headers=WHO).status_code == 204
    wait_until("it is told", lambda: len(client.events()) == 2)
    assert data(client)[1]["code"] == "stopped"
    assert client.events()[1]["id"].endswith("-end")
    closes(client, ground, before)
    wait_until("the model is stopped", lambda: ground.states(id) == ["stopped"])
    assert ground.asked(id) == 1


def test_a_model_that_breaks_is_asked_again_by_who_reads(
    read: Start, ground: Bench, request: Any
) -> None:
    """Broken is not over for good: the terminal event, then a run of its own."""
    id = f"break-{request.node.callspec.id}"
    client = read(id)
    sees(client, ["begun"])
    ground.say(id, **{"break": True})
    wait_until("it is asked again", lambda: ground.asked(id) == 2)
    ground.say(id, done=True)
    wait_until("it is closed", client.closed)
    first, broken, *second = data(client)
    assert (first, broken["code"], second) == ("begun", "upstream_broke", ["begun", "done"])
    assert ground.asked(id) == 2
