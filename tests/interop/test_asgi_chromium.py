"""Chromium against relay inside Hypercorn, over HTTP/2: twenty EventSources at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.asgi_front import Broken, Front, start_front
from tests.interop.browser import Page, start_browser
from tests.interop.processes import Server, start_hypercorn, wait_until
from tests.interop.reading import calls

AT_ONCE = 20  # over HTTP/1.1 a browser opens six connections to an origin, and the rest waits
CONFIG = """
[upstreams.origin]
url = "{origin}"
[upstreams.broken]
url = "{broken}"
[[routes]]
path = "/page"
source = "local"
[routes.local]
content_type = "text/html"
body = "<!doctype html><title>page</title><link rel=icon href='data:,'>"
[[routes]]
path = "/events"
upstream = "origin"
[[routes]]
path = "/echo"
upstream = "origin"
[[routes]]
path = "/broken/{{rest...}}"
upstream = "broken"
upstream_path = "/{{rest}}"
"""
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: "
BROKEN = {
    b"/events": HEAD + b"text/event-stream\r\n\r\n11\r\ndata: 1\n\ndata: ha\r\n",
    b"/bytes": HEAD + b"text/plain\r\n\r\n4\r\nhalf\r\n",
}
TOOLS = """
globalThis.version = () => {
  const found = performance.getEntriesByType('resource').concat(
    performance.getEntriesByType('navigation'));
  return [...new Set(found.map((entry) => entry.nextHopProtocol))];
};
globalThis.sources = [];
globalThis.listen = (count, url) => {
  for (let number = 0; number < count; number++) {
    const heard = { data: [], errors: 0, source: new EventSource(url + number) };
    heard.source.onmessage = (event) => heard.data.push(JSON.parse(event.data));
    heard.source.onerror = () => heard.errors++;
    sources.push(heard);
  }
};
globalThis.least = () => Math.min(...sources.map((heard) => heard.data.length));
"""


@pytest.fixture(scope="module")
def origin() -> Iterator[Server]:
    with start_hypercorn("tests.interop.origin:app") as server:
        yield server


@pytest.fixture(scope="module")
def front(origin: Server) -> Iterator[Front]:
    broken = Broken(BROKEN)
    with start_front(CONFIG.format(origin=origin.url, broken=broken.url)) as running:
        yield running
    broken.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    # Otherwise Chromium keeps a page that was left, and its streams, for a way back.
    no_cache = "--disable-features=BackForwardCache"
    with start_browser("--ignore-certificate-errors", no_cache) as page:
        yield page


@pytest.fixture
def page(browser: Page, front: Front) -> Page:
    browser.open("about:blank#")
    browser.command("Page.navigate", url=f"{front.url}/page")
    browser.wait_for("document.title === 'page'")
    assert browser.run(TOOLS + "; version()") == ["h2"]
    return browser


def running(origin: Server) -> int:
    return [call["state"] for call in calls(origin, "/events")].count("running")


def test_twenty_event_sources_at_once(page: Page, front: Front, origin: Server) -> None:
    page.run(f"listen({AT_ONCE}, '/events?every=100&n='); 0")
    page.wait_for("least() >= 5")
    assert page.run("sources.map((heard) => heard.errors)") == [0] * AT_ONCE
    first = page.run("sources.map((heard) => heard.data.slice(0, 5).map((told) => told.number))")
    assert first == [[0, 1, 2, 3, 4]] * AT_ONCE
    assert running(origin) == AT_ONCE
    page.run("sources.slice(0, 7).forEach((heard) => heard.source.close()); 0")
    wait_until("seven are stopped", lambda: running(origin) == AT_ONCE - 7)
    page.run("sources.slice(7).forEach((heard) => { heard.data = []; }); 0")
    page.wait_for("sources.slice(7).every((heard) => heard.data.length >= 3)")
    page.command("Page.navigate", url="about:blank")
    wait_until("all are stopped", lambda: running(origin) == 0)
    assert all(call["state"] == "stopped" for call in calls(origin, "/events"))


def test_a_cut_stream_says_so_before_it_is_reset(page: Page) -> None:
    """The terminal event is there, and the EventSource sees an error, not silence."""
    page.run("listen(1, '/broken/events?'); 0")
    page.wait_for("sources[0].errors > 0")
    page.run("sources[0].source.close()")
    data = page.run("sources[0].data")
    assert data[0] == 1
    assert data[1]["code"] == "upstream_broke"


def test_a_cut_body_rejects(page: Page) -> None:
    assert (
        page.run(
            "fetch('/broken/bytes').then((r) => r.text()).then((t) => [t], (error) => error.name)"
        )
        == "TypeError"
    )


def test_a_fetch_that_is_aborted(page: Page, origin: Server) -> None:
    page.run("""(async () => {
      globalThis.stop = new AbortController();
      const response = await fetch('/events?every=20', { signal: stop.signal });
      const reader = response.body.getReader();
      await reader.read();
      reader.closed.catch(() => { globalThis.aborted = true; });
      stop.abort();
    })()""")
    page.wait_for("globalThis.aborted === true")
    wait_until("it is stopped", lambda: running(origin) == 0)


def test_a_body_goes_up_and_comes_back(page: Page) -> None:
    size = 300_000
    assert (
        page.run(f"""(async () => {{
          const body = new Uint8Array({size}).map((_, index) => index);
          const answer = await fetch('/echo', {{ method: 'POST', body }});
          const back = new Uint8Array(await answer.arrayBuffer());
          return back.every((byte, index) => byte === index % 256) && back.length;
        }})()""")
        == size
    )
