"""Chromium against relay: EventSource, and fetch with a ReadableStream; its own origin and another.

`localhost`, `friend.localhost` and `127.0.0.1` are one server here, and three origins for a browser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.interop.browser import Page, start_browser
from tests.interop.processes import (
    Server,
    free_port,
    start_hypercorn,
    start_relay,
    wait_until,
)
from tests.interop.reading import calls

CONFIG = """
[server]
listen = ["127.0.0.1:{port}"]
[timeouts]
drain = "500ms"
[upstreams.origin]
url = "{origin}"
[upstreams.nobody]
url = "http://127.0.0.1:{nobody}"
[[routes]]
path = "/page"
source = "local"
[routes.local]
content_type = "text/html"
body = "<!doctype html><title>page</title><link rel=icon href='data:,'>"
[[routes]]
path = "/{{rest...}}"
upstream = "origin"
heartbeat = "50ms"
[[routes]]
path = "/pages/aged"
upstream = "origin"
max_age = "300ms"
retry_hint = "20ms"
[[routes]]
path = "/closed/{{rest...}}"
upstream = "origin"
upstream_path = "/{{rest}}"
after_error = "close"
[[routes]]
path = "/nobody"
upstream = "nobody"
[[routes]]
path = "/patient"
upstream = "nobody"
upstream_path = "/one"
unavailable = "retry-event"
retry_hint = "50ms"
[[routes]]
path = "/shared/{{rest...}}"
upstream = "origin"
upstream_path = "/{{rest}}"
response_headers = {{ X-Told = "yes" }}
cors = {{ origins = ["http://friend.localhost:{port}"], credentials = true, expose = ["X-Told"] }}
[[routes]]
path = "/shared/nobody"
methods = ["GET"]
upstream = "nobody"
cors = {{ origins = ["http://friend.localhost:{port}"] }}
[[routes]]
path = "/public/tokens"
methods = ["POST"]
upstream = "origin"
upstream_path = "/tokens"
cors = {{ origins = ["*"] }}
"""
TOOLS = """
globalThis.listen = (url, options = {}) => {
  const log = [];
  const source = new EventSource(url, options);
  const note = (event) =>
    log.push([event.type, event.data, event.lastEventId].filter((part) => part !== undefined));
  for (const type of ['open', 'message', 'alpha', 'beta']) source.addEventListener(type, note);
  source.addEventListener('error', () => log.push(['error', source.readyState]));
  return (globalThis.heard = { source, log, data: () => log.filter((e) => e[0] !== 'open'
    && e[0] !== 'error').map((e) => JSON.parse(e[1])) });
};
globalThis.read = (url, options = {}) => {
  const found = { pieces: [], state: 'waiting' };
  found.stop = new AbortController();
  found.done = (async () => {
    try {
      const response = await fetch(url, { signal: found.stop.signal, ...options });
      found.status = response.status;
      found.told = response.headers.get('x-told');
      found.state = 'reading';
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        found.pieces.push(value);
      }
      found.state = 'ended';
    } catch (error) {
      found.state = error.name;
    }
  })();
  return (globalThis.seen = found);
};
globalThis.ask = (body) => ({
  method: 'POST', body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' },
});
"""
HEARTBEAT = ":\n\n"
# Otherwise Chromium keeps a page that was left, and its streams with it, for a way back.
NO_CACHE = "--disable-features=BackForwardCache"


@pytest.fixture(scope="module")
def origin() -> Iterator[Server]:
    with start_hypercorn("tests.interop.sources:app") as server:
        yield server


@pytest.fixture(scope="module")
def nobody() -> int:
    """A port where nobody listens, until a test changes that."""
    return free_port()


@pytest.fixture(scope="module")
def relay(origin: Server, nobody: int) -> Iterator[Server]:
    config = CONFIG.format(port=free_port(), origin=origin.url, nobody=nobody)
    with start_relay(config) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with start_browser(NO_CACHE) as page:
        yield page


@pytest.fixture
def page(browser: Page, relay: Server) -> Page:
    """A page of relay's own origin, with the tools."""
    return at(browser, relay, "127.0.0.1")


def at(browser: Page, relay: Server, host: str) -> Page:
    """A fresh page of this host."""
    browser.open("about:blank#")
    browser.command("Page.navigate", url=f"http://{host}:{relay.port}/page")
    browser.wait_for(f"document.title === 'page' && location.hostname === '{host}'")
    browser.run(TOOLS + "; 0")
    return browser


def do(page: Page, script: str) -> None:
    """Run something that leaves no value behind."""
    page.run(f"{script}; 0")


def cursors(origin: Server, path: str) -> list[str]:
    found: list[str] = httpx.get(f"{origin.url}/cursors{path}").json()
    return found


def stopped(origin: Server, path: str) -> None:
    wait_until(
        "the upstream is stopped",
        lambda: all(call["state"] == "stopped" for call in calls(origin, path)),
    )


# -- EventSource -----------------------------------------------------------------------------------


def test_names_ids_and_lines_arrive_as_sent(page: Page) -> None:
    do(page, "listen('/named')")
    page.wait_for("heard.log.length >= 5")
    assert page.run("heard.log") == [
        ["open"],
        ["alpha", "one\nmore", "1"],
        ["message", "two é", "1"],
        ["beta", "three", "3"],
        ["message", "", "3"],
    ]


@pytest.mark.parametrize("kind", ["whole", "cut", "aged"])
def test_it_reconnects_with_its_last_event_id(page: Page, origin: Server, kind: str) -> None:
    """After a clean end, a break inside an event, and relay's own farewell; until 204 says stop."""
    do(page, f"listen('/pages/{kind}')")
    page.wait_for("heard.source.readyState === EventSource.CLOSED")
    data = page.run("heard.data()")
    told = [entry for entry in data if isinstance(entry, dict)]
    assert [entry for entry in data if entry not in told] == [1, 2, 3, 4, 5, 6]
    codes = [entry["code"] for entry in told]
    assert codes == (["upstream_broke"] * 3 if kind == "cut" else [])
    assert cursors(origin, f"/pages/{kind}") == ["", "é✓-2", "é✓-4", "é✓-6"]


def test_204_stops_it(page: Page, origin: Server) -> None:
    do(page, "listen('/status/204')")
    page.wait_for("heard.log.length > 0")
    assert page.run("heard.log") == [["error", 2]]  # CLOSED: no reconnection
    assert cursors(origin, "/status/204") == [""]


@pytest.mark.parametrize("status", [404, 429, 500, 502, 503])
def test_an_error_status_stops_it(page: Page, origin: Server, status: int) -> None:
    do(page, f"listen('/status/{status}')")
    page.wait_for("heard.log.length > 0")
    assert page.run("heard.log") == [["error", 2]]
    assert cursors(origin, f"/status/{status}") == [""]


def test_another_media_type_stops_it(page: Page) -> None:
    do(page, "listen('/json')")
    page.wait_for("heard.log.length > 0")
    assert page.run("heard.log") == [["error", 2]]


def test_a_502_of_relay_stops_it(page: Page) -> None:
    do(page, "listen('/nobody')")
    page.wait_for("heard.log.length > 0")
    assert page.run("heard.log") == [["error", 2]]


def test_retry_event_keeps_it_until_the_backend_is_back(page: Page, nobody: int) -> None:
    """The 502 of a deploy, as a route with `unavailable = "retry-event"` tells it."""
    do(page, "listen('/patient')")
    page.wait_for("heard.log.filter((entry) => entry[0] === 'open').length >= 3")
    failures = page.run("heard.data()")
    assert {failure["code"] for failure in failures} == {"upstream_unreachable"}
    assert {failure["retryable"] for failure in failures} == {True}
    with start_hypercorn("tests.interop.sources:app", port=nobody):
        page.wait_for("heard.data().at(-1) === 'only'")
        assert page.run("heard.source.readyState") == 1  # OPEN


def test_heartbeats_are_invisible(page: Page) -> None:
    do(page, "listen('/one'); read('/one')")
    page.wait_for("seen.pieces.join('').split(':\\n\\n').length > 5")
    assert page.run("heard.log") == [["open"], ["message", '"only"', "1"]]
    text = page.run("seen.pieces.join('')")
    assert text.replace(HEARTBEAT, "") == 'data: "only"\nid: 1\n\n'


@pytest.mark.parametrize("way", ["heard.source.close()", "location.href = 'about:blank'"])
def test_leaving_closes_the_upstream(page: Page, origin: Server, way: str) -> None:
    do(page, "listen('/one')")
    page.wait_for("heard.log.length >= 2")
    assert calls(origin, "/one")[-1]["state"] == "running"
    do(page, way)
    stopped(origin, "/one")


def test_closing_the_tab_closes_the_upstream(relay: Server, origin: Server) -> None:
    with start_browser(NO_CACHE) as browser:
        page = at(browser, relay, "127.0.0.1")
        do(page, "listen('/one'); read('/one')")
        page.wait_for("heard.log.length >= 2 && seen.pieces.length > 0")
        assert [call["state"] for call in calls(origin, "/one")[-2:]] == ["running"] * 2
        page.close()
        stopped(origin, "/one")


# -- fetch -----------------------------------------------------------------------------------------


def pieces(page: Page) -> list[Any]:
    text: str = page.run("seen.pieces.join('')")
    return [block for block in text.split("\n\n") if block != ":"][:-1]


def test_fetch_reads_piece_by_piece(page: Page) -> None:
    do(page, "read('/tokens', ask({ count: 12 }))")
    page.wait_for("seen.state === 'ended'")
    assert pieces(page) == [f'data: {{"token": {number}}}' for number in range(12)]
    assert page.run("seen.pieces.length") >= 6  # in one piece it would have been buffered


def test_aborting_a_fetch_stops_the_generator(page: Page, origin: Server) -> None:
    do(page, "read('/tokens', ask({ count: 100000 }))")
    page.wait_for("seen.pieces.length >= 3")
    assert calls(origin, "/tokens")[-1]["state"] == "running"
    do(page, "seen.stop.abort()")
    stopped_last(origin, "/tokens")
    page.wait_for("seen.state === 'AbortError'")


def stopped_last(origin: Server, path: str) -> None:
    wait_until("the generator is stopped", lambda: calls(origin, path)[-1]["state"] == "stopped")


@pytest.mark.parametrize(("path", "state"), [("/tokens", "TypeError"), ("/closed/tokens", "ended")])
def test_a_fetch_hears_of_a_break(page: Page, path: str, state: str) -> None:
    """One whole terminal event; and with `after_error = "abort"` the read fails as well."""
    do(page, f"read('{path}', ask({{ count: 2, cut: true }}))")
    page.wait_for("!['waiting', 'reading'].includes(seen.state)")
    assert page.run("seen.state") == state
    blocks = pieces(page)
    assert blocks[:2] == ['data: {"token": 0}', 'data: {"token": 1}']
    assert blocks[2].startswith('data: {"type":"error","code":"upstream_broke"')
    assert len(blocks) == 3


def test_an_error_status_keeps_its_body(page: Page) -> None:
    do(page, "read('/status/404')")
    page.wait_for("seen.state === 'ended'")
    assert page.run("[seen.status, JSON.parse(seen.pieces.join(''))]") == [404, {"status": "404"}]


# -- another origin --------------------------------------------------------------------------------


@pytest.fixture
def friend(browser: Page, relay: Server) -> Page:
    """A page of the origin that the routes name."""
    return at(browser, relay, "friend.localhost")


@pytest.fixture
def stranger(browser: Page, relay: Server) -> Page:
    return at(browser, relay, "stranger.localhost")


@pytest.fixture
def there(relay: Server) -> Callable[[str], str]:
    return lambda path: f"http://127.0.0.1:{relay.port}{path}"


def test_a_friend_may_ask_with_a_preflight(friend: Page, there: Callable[[str], str]) -> None:
    """JSON by POST, with credentials: the browser asks first, and relay answers."""
    url = there("/shared/tokens")
    do(friend, f"read('{url}', {{ ...ask({{ count: 3 }}), credentials: 'include' }})")
    friend.wait_for("!['waiting', 'reading'].includes(seen.state)")
    assert friend.run("[seen.state, seen.status, seen.told]") == ["ended", 200, "yes"]
    assert len(pieces(friend)) == 3


def test_the_preflight_does_not_reach_the_backend(
    friend: Page, there: Callable[[str], str], origin: Server
) -> None:
    do(friend, f"read('{there('/shared/tokens')}', ask({{ count: 1 }}))")
    friend.wait_for("seen.state === 'ended'")
    assert not [call for call in calls(origin) if call["method"] == "OPTIONS"]


def test_anyone_may_read_what_is_public(stranger: Page, there: Callable[[str], str]) -> None:
    do(stranger, f"read('{there('/public/tokens')}', ask({{ count: 2 }}))")
    stranger.wait_for("seen.state === 'ended'")
    assert len(pieces(stranger)) == 2


@pytest.mark.parametrize("path", ["/shared/tokens", "/tokens"])
def test_a_stranger_may_not(stranger: Page, there: Callable[[str], str], path: str) -> None:
    do(stranger, f"read('{there(path)}', ask({{ count: 2 }}))")
    stranger.wait_for("seen.state === 'TypeError'")
    do(stranger, f"listen('{there(path.replace('tokens', 'one'))}')")
    stranger.wait_for("heard.log.length > 0")
    assert stranger.run("heard.log") == [["error", 2]]


def test_a_friends_event_source_may_bring_credentials(
    friend: Page, there: Callable[[str], str]
) -> None:
    do(friend, f"listen('{there('/shared/pages/whole')}', {{ withCredentials: true }})")
    friend.wait_for("heard.source.readyState === EventSource.CLOSED")
    assert friend.run("heard.data()") == [1, 2, 3, 4, 5, 6]


def test_a_friend_may_read_an_error_of_relay(friend: Page, there: Callable[[str], str]) -> None:
    do(friend, f"read('{there('/shared/nobody')}')")
    friend.wait_for("seen.state === 'ended'")
    assert friend.run("[seen.status, JSON.parse(seen.pieces.join('')).error.code]") == [
        502,
        "upstream_unreachable",
    ]


def test_nothing_went_wrong_inside(relay: Server) -> None:
    assert "Traceback" not in relay.stderr.text
