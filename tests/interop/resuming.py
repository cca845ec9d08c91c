"""What the tests of clients that come back share: relay with resumable routes before the model that obeys, and its page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.interop.browser import Page
from tests.interop.processes import (
    Server,
    free_port,
    start_hypercorn,
    start_relay,
    wait_until,
)

WHO = {"Cookie": "session=a-secret-of-the-test"}
CONFIG = """
[server]
listen = ["${{LISTEN}}"]
admin = "127.0.0.1:{admin}"
[timeouts]
drain = "2s"
[upstreams.model]
url = "{url}"
{routes}
"""
PAGES = """
[[routes]]
path = "/{{page...}}"
methods = ["GET"]
source = "files"
files = {{ directory = "{pages}" }}
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """relay, its admin listener and the model behind it."""

    relay: Server
    admin: str
    model: Server

    @property
    def url(self) -> str:
        return self.relay.url

    def say(self, id: str, **order: Any) -> None:
        """Make the model say, end, or break off, as soon as it is asked."""
        url = f"{self.model.url}/say/{id}"
        wait_until(f"{id} is asked for", lambda: httpx.put(url, json=order).status_code == 200)

    def asked(self, id: str) -> int:
        """How often the model was asked for this answer."""
        return int(httpx.get(f"{self.model.url}/asked/{id}").json())

    def states(self, part: str = "") -> list[str]:
        """What became of each generator."""
        calls = httpx.get(f"{self.model.url}/state").json()["calls"]
        paths = ("/say/", "/asked/")
        return [c["state"] for c in calls if part in c["path"] and not c["path"].startswith(paths)]

    def rows(self, *, run: bool) -> list[dict[str, Any]]:
        """The runs under way, or the clients that are served."""
        rows = httpx.get(f"{self.admin}/streams").json()["streams"]
        return [row for row in rows if (row["kind"] == "run") == run]

    def viewers(self, path: str = "") -> list[dict[str, Any]]:
        return [row for row in self.rows(run=False) if row.get("run") and path in row["path"]]

    def watched_by(self, count: int) -> None:
        """Wait until so many clients read runs."""
        wait_until(f"{count} viewers", lambda: len(self.viewers()) == count)

    def cut(self) -> None:
        """Break the connections of all who read, in the middle."""
        for row in self.viewers():
            assert httpx.delete(f"{self.admin}/streams/{row['id']}").status_code in (200, 404)

    def records(self, path: str) -> list[dict[str, Any]]:
        """The records of the requests for paths with `path` in them that have ended."""
        return [r for r in self.relay.records if path in r.get("path", "") and r.get("at") == "end"]


@contextlib.contextmanager
def bench(routes: str, pages: Path | None = None) -> Iterator[Bench]:
    """The three as processes."""
    admin = free_port()
    with start_hypercorn("tests.interop.answers:app") as model:
        config = CONFIG.format(url=model.url, admin=admin, routes=routes)
        if pages is not None:
            config += PAGES.format(pages=pages)
        with start_relay(config) as relay:
            yield Bench(relay, f"http://127.0.0.1:{admin}", model)


def reload(page: Page) -> None:
    """As a person does it."""
    page.run("window.old = true")
    page.command("Page.reload")
    page.wait_for("!window.old && document.readyState === 'complete'")
