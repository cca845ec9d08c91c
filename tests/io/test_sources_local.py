"""source = "local" and "files": types, conditions, and no way out of the directory."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay.sources import files as files_source
from tests.harness import RawPeer, Relay, running

NOT_FOUND = 404


class Answer:
    """A response, whole."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.head = head
        self.body = body
        self.status = int(head.split(b" ", 2)[1])

    def field(self, name: bytes) -> bytes | None:
        for line in self.head.split(b"\r\n")[1:]:
            found, _, value = line.partition(b": ")
            if found.lower() == name:
                return value
        return None


class Browser:
    """Asks on one connection, one request after the other."""

    def __init__(self, peer: RawPeer) -> None:
        self._peer = peer

    async def ask(self, path: str, method: str = "GET", **fields: bytes | None) -> Answer:
        lines = [f"{method} {path} HTTP/1.1".encode(), b"Host: relay.test"]
        lines += [name.replace("_", "-").encode() + b": " + v for name, v in fields.items() if v]
        await self._peer.send(b"\r\n".join(lines) + b"\r\n\r\n")
        head = await self._peer.head()
        answer = Answer(head, b"")
        if method != "HEAD" and answer.status != 304:
            answer.body = await self._peer.exactly(int(answer.field(b"content-length") or 0))
        return answer


@asynccontextmanager
async def browsing(config: str) -> AsyncIterator[Browser]:
    relay: Relay
    async with running(config) as relay:
        peer = await relay.client()
        try:
            yield Browser(peer)
        finally:
            peer.close()


def files(directory: Path, path: str = "/{rest...}") -> str:
    return f"""
[[routes]]
path = "{path}"
source = "files"
[routes.files]
directory = "{directory}"
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory beside a secret, with what should be served and what should not."""
    (tmp_path / "secret.txt").write_text("secret")
    root = tmp_path / "site"
    (root / "sub dir").mkdir(parents=True)
    (root / "index.html").write_text("<!doctype html>")
    (root / "sub dir" / "index.html").write_text("<p>sub")
    (root / "ümlaut.txt").write_text("ü")
    for name in ("page.js", "style.css", "data.json", "a.bin", "module.mjs", "x.svg", "types.d.ts"):
        (root / name).write_text(name)
    (root / ".hidden").write_text("hidden")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("hidden")
    (root / "out").symlink_to(tmp_path / "secret.txt")
    (root / "outdir").symlink_to(tmp_path)
    (root / "in").symlink_to(root / "page.js")
    (root / "git").symlink_to(root / ".git")
    (root / "circle").symlink_to(root / "circle")
    (root / "unreadable").mkdir()
    os.mkfifo(root / "pipe")
    return root


async def test_local_gives_what_is_configured() -> None:
    config = """
[[routes]]
path = "/robots.txt"
source = "local"
[routes.local]
status = 203
body = "User-agent: *"
content_type = "text/x-robots"
[[routes]]
path = "/empty"
source = "local"
[routes.local]
status = 204
"""
    async with browsing(config) as browser:
        answer = await browser.ask("/robots.txt")
        assert (answer.status, answer.body) == (203, b"User-agent: *")
        assert answer.field(b"content-type") == b"text/x-robots"
        assert answer.field(b"x-content-type-options") == b"nosniff"
        assert (await browser.ask("/robots.txt", "HEAD")).status == 203
        answer = await browser.ask("/empty")
        assert (answer.status, answer.field(b"content-length")) == (204, None)
        assert answer.field(b"content-type") is None


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", b"text/html; charset=utf-8"),
        ("/index.html", b"text/html; charset=utf-8"),
        ("/sub%20dir/", b"text/html; charset=utf-8"),
        ("/page.js", b"text/javascript; charset=utf-8"),
        ("/module.mjs", b"text/javascript; charset=utf-8"),
        ("/style.css", b"text/css; charset=utf-8"),
        ("/data.json", b"application/json; charset=utf-8"),
        ("/x.svg", b"image/svg+xml; charset=utf-8"),
        ("/types.d.ts", b"text/plain; charset=utf-8"),
        ("/a.bin", b"application/octet-stream"),
        ("/%C3%BCmlaut.txt", b"text/plain; charset=utf-8"),
        ("/in", b"application/octet-stream"),
        ("/page.js?v=1", b"text/javascript; charset=utf-8"),
    ],
)
async def test_files_have_types(site: Path, path: str, content_type: bytes) -> None:
    async with browsing(files(site)) as browser:
        answer = await browser.ask(path)
        assert answer.status == 200
        assert answer.field(b"content-type") == content_type
        assert answer.field(b"x-content-type-options") == b"nosniff"
        assert answer.field(b"cache-control") == b"no-cache"
        assert answer.body


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/index.html/",
        "/index.html/x",
        "//index.html",
        "/sub%20dir//index.html",
        "/.hidden",
        "/%2ehidden",
        "/.git/config",
        "/git/config",
        "/out",
        "/outdir/secret.txt",
        "/circle",
        "/pipe",
        "/unreadable/",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "/sub%20dir/..%2f..%2fsecret.txt",
        "/..%5csecret.txt",
        "/%2Fetc/passwd",
        "/%2fetc%2fpasswd",
        "/page.js%00",
        "/%00",
        "/" + "x" * 300,
        "/%ff",
    ],
)
async def test_what_is_not_served_does_not_exist(site: Path, path: str) -> None:
    async with browsing(files(site)) as browser:
        answer = await browser.ask(path)
        assert answer.status in (400, NOT_FOUND), "400 where no upstream would get it either"
        assert b"secret" not in answer.body.replace(path.encode(), b"")
        assert b"hidden" not in answer.body


async def test_a_folder_is_redirected_to_its_slash(site: Path) -> None:
    async with browsing(files(site)) as browser:
        answer = await browser.ask("/sub%20dir")
        assert (answer.status, answer.field(b"location")) == (308, b"/sub%20dir/")


async def test_without_a_rest_it_is_the_index(site: Path) -> None:
    async with browsing(files(site, "/start")) as browser:
        assert (await browser.ask("/start")).body == b"<!doctype html>"
        assert (await browser.ask("/page.js")).status == NOT_FOUND


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_files_are_only_read(site: Path, method: str) -> None:
    async with browsing(files(site)) as browser:
        answer = await browser.ask("/page.js", method)
        assert (answer.status, answer.field(b"allow")) == (405, b"GET, HEAD")


async def test_head_has_no_body(site: Path) -> None:
    async with browsing(files(site)) as browser:
        assert (await browser.ask("/page.js", "HEAD")).status == 200
        assert (await browser.ask("/page.js")).body == b"page.js", "the connection is in step"


async def test_a_client_that_has_the_file_is_told_so(site: Path) -> None:
    async with browsing(files(site)) as browser:
        first = await browser.ask("/page.js")
        etag, date = first.field(b"etag"), first.field(b"last-modified")
        assert etag is not None
        assert date is not None
        for tags in (etag, b"W/" + etag, b'"x", ' + etag, b"*"):
            again = await browser.ask("/page.js", if_none_match=tags)
            assert (again.status, again.field(b"etag")) == (304, etag)
        assert (await browser.ask("/page.js", if_none_match=b'"x"')).status == 200
        assert (await browser.ask("/page.js", if_modified_since=date)).status == 304
        before = b"Mon, 01 Jan 2001 00:00:00 GMT"
        assert (await browser.ask("/page.js", if_modified_since=before)).status == 200
        assert (await browser.ask("/page.js", if_modified_since=b"yesterday")).status == 200
        both = await browser.ask("/page.js", if_none_match=b'"x"', if_modified_since=date)
        assert both.status == 200, "the tag decides"
        (site / "page.js").write_text("changed")
        assert (await browser.ask("/page.js", if_none_match=etag)).body == b"changed"


async def test_a_large_file_is_refused(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_source, "MAX_FILE", 6)
    async with browsing(files(site)) as browser:
        answer = await browser.ask("/page.js")
        assert answer.status == 403
        assert b"file_too_large" in answer.body
        assert (await browser.ask("/in")).status == 403
