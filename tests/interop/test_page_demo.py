"""The page of `relay demo` in a real browser: what it counts and times is what the backend says.

With RELAY_SCREENSHOTS=folder the pictures for the documentation are written there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.interop import phones
from tests.interop.browser import Page, start_browser
from tests.interop.processes import ROOT, Server, start

SENDERS = ["workload-logs", "query-stream", "event-gateway", "message-broker", "shared-answer"]
# The events of which say when they were sent, and that which relay itself cuts
SYSTEMS = [
    *SENDERS,
    "ask",
]
ENOUGH = 12  # events


@pytest.fixture(scope="module")
def demo() -> Iterator[Server]:
    command = [sys.executable, "-m", "relay", "demo", "--listen", "127.0.0.1:0"]
    with start(command, says="relay: listening on ") as server:
        line = server.stderr.wait_for("relay: listening on ")
        server.address = line.split("listening on ", 1)[1].strip()
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with start_browser() as page:
        page.size(1440, 900)
        yield page


@pytest.fixture
def page(demo: Server, browser: Page) -> Page:
    """The page, freshly loaded, with a backend that is up."""
    browser.open(demo.url)
    browser.wait_for("globalThis.demo && document.querySelector('#backend').dataset.state === 'up'")
    return browser


def click(page: Page, selector: str) -> None:
    page.run(f"document.querySelector({selector!r}).click()")


def type_in(page: Page, system: str, text: str) -> None:
    """Text into a system's field, as typing does: with an input event."""
    page.run(
        f"(() => {{ const input = demo[{system!r}].input; input.value = {text!r};"
        " input.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )


def press(page: Page, name: str, system: str) -> None:
    click(page, f"#{system} .buttons button[aria-label^={name}]")


def lane(system: str, kind: str = "relay") -> str:
    return f"demo[{system!r}].lanes[{['relay', 'proxy'].index(kind)}]"


def events(page: Page, system: str, kind: str = "relay") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.run(f"{lane(system, kind)}.events")
    return found


def one_by_one(received: list[dict[str, Any]]) -> float:
    """The share of events that were on the page before the backend sent the next."""
    pairs = list(pairwise(received))
    return sum(1 for one, next in pairs if one["arrived"] < next["sent"]) / len(pairs)


def stopped(page: Page, system: str) -> None:
    """The stop on the page has ended the backend's generator."""
    at = lane(system)
    page.wait_for(f"{at}.life?.ended >= {at}.stopped - 1")
    assert page.run(f"{at}.life.state") == "stopped"


def alone(page: Page) -> None:
    """Without the proxy: what is measured is relay."""
    click(page, "#compare")


def test_it_loads_without_a_complaint(page: Page) -> None:
    assert page.run("document.querySelectorAll('.system').length") == 6
    assert page.errors() == []


def test_it_needs_no_other_host(page: Page, demo: Server) -> None:
    names = page.run("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert names
    assert all(name.startswith((demo.url, "data:")) for name in names), names


PEERS_LATER = """
{ // a block: at the top level `const fetch` would be the fetch that the page calls
  const { fetch } = globalThis;
  const gone = new Promise((resolve) => (globalThis.letGo = resolve));
  globalThis.fetch = async (url, options) => {
    if (url === "/demo/peers") await gone;
    return fetch(url, options);
  };
}
"""


def test_who_is_quick_starts_nothing_at_the_wrong_server(browser: Page, demo: Server) -> None:
    """1. The page does not know yet where the buffering proxy is. 2. "Start all" is pressed. 3. It
    learns it, and a system is started: nothing was asked of relay in the proxy's place.
    """
    page = browser
    added = page.command("Page.addScriptToEvaluateOnNewDocument", source=PEERS_LATER)
    page.open(demo.url)
    page.command("Page.removeScriptToEvaluateOnNewDocument", **added)
    click(page, "#start-all")
    assert page.run("globalThis.demo === undefined"), "nothing waits for where the proxy is"
    page.run("letGo()")
    page.wait_for("globalThis.demo")
    assert not page.run("demo.ask.running")
    press(page, "Start", "workload-logs")
    page.wait_for(f"{lane('workload-logs', 'proxy')}.events.length")
    assert page.errors() == []


@pytest.mark.parametrize("system", SENDERS)
def test_events_arrive_one_by_one(page: Page, system: str) -> None:
    alone(page)
    press(page, "Start", system)
    page.wait_for(f"{lane(system)}.events.length >= {ENOUGH}")
    received = [event for event in events(page, system) if event["data"].get("type") != "complete"]
    assert one_by_one(received) > 0, received


def test_an_answer_arrives_in_pieces(page: Page) -> None:
    alone(page)
    press(page, "Start", "ask")
    page.wait_for("demo.ask.lanes[0].events.some(({ data }) => data.type === 'complete')")
    kinds = [event["data"]["type"] for event in events(page, "ask")]
    assert kinds[0] == "start"
    assert kinds[-2:] == ["metadata", "complete"]
    arrived = [e["arrived"] for e in events(page, "ask") if e["data"]["type"] == "chunk"]
    assert len(arrived) >= 3
    assert len(set(arrived)) == len(arrived), "paced, so never two at once"


@pytest.mark.parametrize("system", SYSTEMS)
def test_stop_stops_the_generator_and_says_how_soon(page: Page, system: str) -> None:
    """How soon that is, is measured: `python -m benchmarks leaving`."""
    alone(page)
    texts = {"message-broker": "hang on", "ask": "slow thinking"}
    if system in texts:
        type_in(page, system, texts[system])
    press(page, "Start", system)
    page.wait_for(f"{lane(system)}.events.length && {lane(system)}.life?.state === 'running'")
    press(page, "Stop", system)
    stopped(page, system)
    page.wait_for(f"{lane(system)}.told.textContent.includes('ms after you did')")


def test_changed_text_stops_the_old_answer_and_starts_a_new_one(page: Page) -> None:
    alone(page)
    press(page, "Start", "query-stream")
    at = lane("query-stream")
    page.wait_for(f"{at}.events.length && {at}.life?.state === 'running'")
    first = page.run(f"{at}.life.number")
    type_in(page, "query-stream", "something else")
    page.wait_for(f"{at}.lives.find((life) => life.number === {first})?.state === 'stopped'")
    page.wait_for(f"{at}.life.number > {first} && {at}.life.state === 'running'")


def test_the_palette_asks_while_you_type_and_stops_when_it_closes(page: Page) -> None:
    alone(page)
    page.press("k")
    page.wait_for("document.querySelector('#palette').open")
    for letter in "why":
        page.press(letter)
    at = lane("query-stream")
    page.wait_for("document.querySelector('#palette-text').textContent.length > 20")
    assert page.run("demo['query-stream'].input.value") == "why"
    page.wait_for(f"{at}.life?.state === 'running'")
    page.press("Escape")
    page.wait_for(f"{at}.life.state === 'stopped'")
    assert not page.run("document.querySelector('#palette').open")
    # One generator for each letter, and none of them runs on.
    page.wait_for(f"{at}.lives.length >= 1 && {at}.lives.every((life) => life.ended)")


def test_the_proxy_beside_it_holds_events_back(page: Page) -> None:
    press(page, "Start", "query-stream")
    page.wait_for(f"{lane('query-stream', 'proxy')}.events.length >= {ENOUGH}")
    held_back = one_by_one(events(page, "query-stream", "proxy"))
    assert held_back < one_by_one(events(page, "query-stream")[:-1])


def test_a_status_is_shown_as_it_is(page: Page) -> None:
    alone(page)
    type_in(page, "workload-logs", "missing")
    press(page, "Start", "workload-logs")
    page.wait_for("demo['workload-logs'].output.textContent.includes('HTTP 404')")
    assert "no such workload" in page.run("demo['workload-logs'].output.textContent")


def test_what_has_failed_through_relay_is_not_asked_again_through_the_proxy(page: Page) -> None:
    """A strip that repeats its question fails through relay, and the proxy takes the answer for good.

    1. `ask` is asked for `html`: relay says BAD_ANSWER, the proxy beside it passes the page on.
    2. The strip is over, its Stop button is off: the proxy's lane has to end too, or nobody could stop it.
    3. Start again: what the earlier answer still has under way is given up, and not counted for the new one.
    """
    proxy = lane("ask", "proxy")
    type_in(page, "ask", "html")
    press(page, "Start", "ask")
    page.wait_for("!demo['ask'].running")
    assert "BAD_ANSWER" in page.run("demo['ask'].output.textContent")
    page.wait_for(f"{proxy}.ended")

    page.run(f"window.before = {proxy}.control")
    press(page, "Start", "ask")
    assert page.run("before.signal.aborted")


def test_half_an_event_never_reaches_the_page(page: Page) -> None:
    alone(page)
    press(page, "Start", "workload-logs")
    page.wait_for(f"{lane('workload-logs')}.events.length >= 3")
    click(page, "#half")
    page.wait_for(f"{lane('workload-logs')}.error")
    assert "upstream_broke" in page.run(f"{lane('workload-logs')}.error")
    numbers = [event["data"]["line"] for event in events(page, "workload-logs")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_stalled_backend_is_bridged_by_heartbeats(page: Page) -> None:
    alone(page)
    press(page, "Start", "event-gateway")
    at = lane("event-gateway")
    page.wait_for(f"{at}.events.length >= 3")
    click(page, "#stall")
    page.wait_for(f"{at}.marks.filter(({{ kind }}) => kind === 'heartbeat').length >= 2")
    count = len(events(page, "event-gateway"))
    click(page, "#stall")
    page.wait_for(f"{at}.events.length > {count + 2}")
    assert page.run(f"{at}.error ?? null") is None


def test_it_is_usable_by_keyboard(page: Page) -> None:
    alone(page)
    page.run("document.querySelector('#workload-logs .buttons button').focus()")
    page.press("Enter")
    page.wait_for(f"{lane('workload-logs')}.events.length > 0")
    page.press("1")
    page.wait_for("!demo['workload-logs'].running")
    page.press("a")
    page.wait_for("Object.values(demo).every((system) => system.running)")
    page.press("x")
    page.wait_for("Object.values(demo).every((system) => !system.running)")
    page.run("document.activeElement.blur()")
    stops = set()
    for _ in range(40):
        page.press("Tab")
        stops.add(page.run("document.activeElement.ariaLabel || document.activeElement.id"))
    named = {f"Start {name}" for name in ("Workload logs", "Ask")} | {"stall", "half", "kill"}
    assert named <= stops


@pytest.mark.parametrize("size", phones.PHONES)
def test_it_is_usable_on_a_phone(page: Page, size: tuple[int, int], tmp_path: Path) -> None:
    """By touch: start all, read every sentence in whole, ask for something else, stop."""
    page.phone(*size)
    try:
        assert page.run("matchMedia('(pointer: coarse)').matches")
        page.tap("#start-all")
        for system in SENDERS:
            page.wait_for(f"{lane(system, 'proxy')}.events.length >= {ENOUGH}")
        assert phones.fits(page)
        assert phones.too_small(page) == []
        assert phones.keys_shown(page) == []
        page.tap("#query-stream .buttons button[aria-label^=Stop]")
        page.wait_for(f"{lane('query-stream')}.told.textContent.includes('ms after you did')")
        folder = Path(os.environ.get("RELAY_SCREENSHOTS", tmp_path))
        page.screenshot(ROOT / folder / f"demo-{size[0]}.png")
        assert phones.clipped(page, ".title p, .lane, .told, #backend, footer p") == []
        for selector in ("#stop-all", "#stall", "#kill", "#compare", "#ask input"):
            assert phones.reached(page, selector), selector
        page.tap("#workload-logs .field input")
        page.run("document.activeElement.select()")
        page.command("Input.insertText", text="missing")
        page.wait_for("demo['workload-logs'].output.textContent.includes('no such workload')")
        page.tap("#stop-all")
        page.wait_for("Object.values(demo).every((system) => !system.running)")
    finally:
        page.desk()


def test_a_desk_has_its_keys(page: Page) -> None:
    assert phones.keys_shown(page)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_it_can_be_looked_at(page: Page, scheme: str, tmp_path: Path) -> None:
    """Everything at once, then a stop: what the picture in the documentation shows."""
    page.size(1280, 960)
    page.prefers(scheme)
    click(page, "#start-all")
    for system in SENDERS:
        page.wait_for(f"{lane(system, 'proxy')}.events.length >= {ENOUGH}")
    press(page, "Stop", "query-stream")
    page.wait_for(f"{lane('query-stream')}.told.textContent.includes('ms after you did')")
    page.wait_for(f"Date.now() - {lane('query-stream')}.stopped > 2500")  # the proxy runs on
    folder = Path(os.environ.get("RELAY_SCREENSHOTS", tmp_path))
    page.screenshot(ROOT / folder / f"demo-{scheme}.png")
    contrast = page.run("getComputedStyle(document.body).backgroundColor")
    assert contrast == {"dark": "rgb(13, 17, 23)", "light": "rgb(244, 246, 248)"}[scheme]
    click(page, "#stop-all")


SHARED = lane("shared-answer")
ONCE = "told.textContent.includes('generator started once')"
ADDRESS = "demo['shared-answer'].lanes[0].stream.at"


def shared(page: Page) -> None:
    """A shared answer under way."""
    alone(page)
    press(page, "Start", "shared-answer")
    page.wait_for(f"{SHARED}.events.length >= 3 && {SHARED}.{ONCE}")


def whole(page: Page) -> None:
    """What is there is the answer from its first word on, without a hole and without a double."""
    indexes = [event["data"]["index"] for event in events(page, "shared-answer")]
    assert indexes == list(range(len(indexes)))


def reload(page: Page) -> None:
    page.run("window.old = true")
    page.command("Page.reload")
    page.wait_for("!window.old && globalThis.demo")


def stop_shared_answer(page: Page) -> None:
    press(page, "Stop", "shared-answer")
    stopped(page, "shared-answer")


def test_a_reload_in_the_middle_starts_no_second_generator(page: Page) -> None:
    shared(page)
    for _ in range(3):
        count = len(events(page, "shared-answer"))
        reload(page)
        page.wait_for(f"{SHARED}.events.length > {count} && {SHARED}.{ONCE}")
        whole(page)
    assert page.run("demo['shared-answer'].input.value") == "what do we share"
    stop_shared_answer(page)
    reload(page)
    assert not page.run("demo['shared-answer'].running")


def test_a_network_that_was_cut_is_bridged(page: Page) -> None:
    shared(page)
    press(page, "Cut", "shared-answer")
    page.wait_for("demo['shared-answer'].network.away")
    count = len(events(page, "shared-answer"))
    page.wait_for(
        f"{SHARED}.life.ended === undefined && Date.now() - {SHARED}.outages[0].from > 500"
    )
    assert len(events(page, "shared-answer")) == count
    press(page, "Cut", "shared-answer")
    page.wait_for(f"{SHARED}.events.length > {count + 5} && {SHARED}.{ONCE}")
    whole(page)
    stop_shared_answer(page)


def test_a_second_tab_reads_along_and_stops_it(page: Page) -> None:
    shared(page)
    page.run("{ const own = open; window.open = (url) => (window.tab = own(url)); }")
    press(page, "Second", "shared-answer")
    there = "window.tab?.demo?.['shared-answer']"
    page.wait_for(f"{there}?.lanes[0].events.length >= 3")
    assert page.run("tab.demo['shared-answer'].lanes[0].stream.run") == page.run(
        f"{SHARED}.stream.run"
    )
    assert page.run("tab.demo['shared-answer'].lanes[0].events[0].data.index") == 0
    page.wait_for(f"{there}.lanes[0].{ONCE} && {SHARED}.{ONCE}")
    page.run("tab.document.querySelector('#shared-answer [aria-label^=Stop]').click()")
    page.wait_for(f"{SHARED}.told.textContent.includes('stopped by another reader')")
    page.wait_for(f"{SHARED}.life.state === 'stopped' && !demo['shared-answer'].running")
    page.wait_for(f"{there}.lanes[0].told.textContent.includes('ms after you did')")
    whole(page)
    page.run("tab.close()")


def test_without_resuming_every_return_starts_a_generator(page: Page) -> None:
    press(page, "Start", "shared-answer")
    other = lane("shared-answer", "proxy")
    page.wait_for(f"{SHARED}.{ONCE} && {other}.{ONCE}")
    reload(page)
    page.wait_for(f"{other}.told.textContent.includes('started 2 times') && {SHARED}.{ONCE}")
    stop_shared_answer(page)


def test_a_stop_that_cannot_arrive_is_told(page: Page) -> None:
    shared(page)
    address = page.run(ADDRESS)
    press(page, "Cut", "shared-answer")
    press(page, "Stop", "shared-answer")
    page.wait_for(f"{SHARED}.error === 'the stop did not arrive'")
    press(page, "Cut", "shared-answer")
    assert (
        page.run(f"fetch({address!r}, {{ method: 'DELETE' }}).then((answer) => answer.status)")
        == 204
    )
    page.wait_for(f"{SHARED}.life.state === 'stopped'")
    page.run("sessionStorage.clear()")  # what could not be stopped would be read on after a reload


def test_a_killed_backend_is_told_and_comes_back(page: Page) -> None:
    alone(page)
    click(page, "#start-all")
    for system in SENDERS:
        page.wait_for(f"{lane(system)}.events.length >= 2")
    click(page, "#kill")
    for system in SYSTEMS:
        page.wait_for(f"{lane(system)}.error")
        assert page.run(f"{lane(system)}.error").startswith("error event: "), system
        assert "error event" in page.run(f"demo[{system!r}].output.textContent")
    page.wait_for("document.querySelector('#backend').dataset.state === 'down'")
    page.wait_for("document.querySelector('#backend').dataset.state === 'up'")
    press(page, "Start", "workload-logs")
    page.wait_for(f"{lane('workload-logs')}.events.length >= 2")
