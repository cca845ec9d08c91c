"""`@microsoft/fetch-event-source` in Chromium on a resumable POST route: it sends the same POST again each time its tab is
shown, and after every error. The model is asked once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop.browser import Page, start_browser
from tests.interop.processes import wait_until
from tests.interop.resuming import WHO, Bench, bench

ROUTE = """
[[routes]]
path = "/answers/{id}"
methods = ["POST"]
upstream = "model"
complete_when = "event:done"
heartbeat = "50ms"
[routes.resume]
principal = "{cookie.session}"
key = "{id}"
at = "/streams/{key}"
"""
# As the package's own documentation has it, with the waiting between two attempts made short.
READER = """
(url) => {
  Object.assign(window, { seen: [], opened: 0, ended: "", errors: 0 });
  fetchEventSource(url, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ text: "?" }),
    onopen: async () => { opened++; },
    onmessage: ({ data }) => seen.push(JSON.parse(data)),
    onerror: () => { errors++; return 20; },
  }).then(() => (ended = "clean"), (error) => (ended = String(error)));
}
"""
# The package listens to the document; Chromium without a screen never hides a tab, so the document says it is hidden.
SHOW = """
(hidden) => {
  Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
  document.dispatchEvent(new Event("visibilitychange"));
}
"""


@pytest.fixture(scope="module")
def ground(built: Callable[[str], Path]) -> Iterator[Bench]:
    with bench(ROUTE, built("resuming")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with start_browser() as page:
        yield page


@pytest.fixture
def page(browser: Page, ground: Bench, request: pytest.FixtureRequest) -> Page:
    name, _, value = WHO["Cookie"].partition("=")
    browser.command("Network.setCookie", url=ground.url, name=name, value=value, httpOnly=True)
    browser.open(f"{ground.url}/?test={request.node.name}")
    browser.wait_for("window.fetchEventSource !== undefined")
    return browser


def hide(page: Page, ground: Bench) -> None:
    page.run(f"({SHOW})(true)")
    ground.watched_by(0)


def show(page: Page) -> None:
    page.run(f"({SHOW})(false)")


def test_a_tab_that_is_hidden_and_shown_twenty_times(page: Page, ground: Bench) -> None:
    page.run(f"({READER})('/answers/tab')")
    page.wait_for("seen.length === 1")
    for number in range(1, 21):
        hide(page, ground)
        ground.say("tab", say=[number])
        show(page)
        page.wait_for(f"seen.length === {number + 1}")
    ground.say("tab", done=True)
    page.wait_for("ended === 'clean'")
    assert page.run("seen") == ["begun", *range(1, 21), "done"]
    assert page.run("opened") == 21
    assert ground.asked("tab") == 1


def test_a_tab_that_is_shown_twenty_times_at_once(page: Page, ground: Bench) -> None:
    """The package then reads twice (it looks at the newest abort controller, not at the request's own), and one answer."""
    page.run(f"({READER})('/answers/hasty')")
    page.wait_for("seen.length === 1")
    page.run(f"{{ for (let i = 0; i < 40; i++) ({SHOW})(i % 2 === 0); }}")
    ground.say("hasty", say=[1], done=True)
    page.wait_for("ended === 'clean'")
    assert set(page.run("seen")) == {"begun", 1, "done"}
    assert ground.asked("hasty") == 1


def test_an_answer_that_ended_while_the_tab_was_hidden(page: Page, ground: Bench) -> None:
    page.run(f"({READER})('/answers/hidden')")
    page.wait_for("seen.length === 1")
    hide(page, ground)
    ground.say("hidden", say=[1], done=True)
    wait_until("it has ended", lambda: ground.states("/answers/hidden") == ["finished"])
    show(page)
    page.wait_for("ended === 'clean'")
    assert page.run("seen") == ["begun", 1, "done"]
    assert ground.asked("hidden") == 1


def test_connections_that_break(page: Page, ground: Bench) -> None:
    page.run(f"({READER})('/answers/cut')")
    page.wait_for("seen.length === 1")
    for number in range(1, 6):
        ground.cut()
        ground.say("cut", say=[number])
        page.wait_for(f"seen.length === {number + 1}")
        ground.watched_by(1)
    ground.say("cut", done=True)
    page.wait_for("ended === 'clean'")
    assert page.run("seen") == ["begun", 1, 2, 3, 4, 5, "done"]
    assert ground.asked("cut") == 1


def test_a_reader_that_has_seen_the_end_and_asks_again(page: Page, ground: Bench) -> None:
    """Cut off between the last event and the end of the body: 200, a comment, a clean end; no error, and nothing begins."""
    page.run(f"({READER})('/answers/over')")
    page.wait_for("seen.length === 1")
    ground.say("over", done=True)
    page.wait_for("ended === 'clean'")
    ended = "fetch(location.origin + '/answers/over', { method: 'POST', body: JSON.stringify({ text: '?' }),"
    ended += " headers: { 'Content-Type': 'application/json', 'Last-Event-ID': cursor } })"
    record = ground.relay.wait_for_record(lambda r: r.get("at") == "run" and r["events"] == 2)
    page.run(f"window.cursor = '{record['run']}-2'")
    assert page.run(f"{ended}.then(async (r) => [r.status, await r.text()])") == [200, ":\n"]
    assert page.run("errors") == 0
    assert ground.asked("over") == 1
