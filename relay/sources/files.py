"""source = "files": a directory, served by relay itself.

Rules
  * What is served is below the directory, whatever the path and the links in it say: segments are
    decoded one by one, nothing that begins with a dot is served (so no `..` and no `.git`), and a
    link that leads out is not followed.
  * Only regular files, of at most MAX_FILE bytes: one is held whole while it goes out.
  * What is not served does not exist: one 404 for a missing, a hidden and an unreadable file.
  * Types by the file's name and never guessed by the browser (`nosniff`); nothing is used without
    asking again (`no-cache`), which the ETag makes cheap.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from email.utils import formatdate, mktime_tz, parsedate_tz
from json import dumps
from mimetypes import MimeTypes
from pathlib import Path
from typing import Final

import trio

from relay.http.bodies import Fields
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.routing.pattern import decode
from relay.sources.ask import Ask
from relay.sources.reply import Reply

MAX_FILE: Final = (
    16 * 1024 * 1024
)  # bytes; arbitrary: pages, scripts and pictures. Downloads belong elsewhere
_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
_TYPES: Final = MimeTypes()  # the table of Python alone: the same on every machine
for _type, _suffix in (
    ("text/javascript", ".js"),  # RFC 9239; Python 3.11 still says application/javascript
    ("text/javascript", ".mjs"),
    ("text/plain", ".ts"),  # not the video format of that suffix
    ("text/plain", ".toml"),
    ("text/markdown", ".md"),
    ("image/webp", ".webp"),
    ("font/woff2", ".woff2"),
):
    _TYPES.add_type(_type, _suffix)
_TEXT: Final = ("text/", "application/json", "application/xml", "image/svg+xml")


@dataclass(frozen=True, slots=True)
class _Found:
    """A file that may be served, as it was when it was opened."""

    content: bytes
    content_type: bytes
    etag: bytes
    modified: int  # seconds since 1970


class _Refused(Exception):
    """The file is not served."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class _Folder(Exception):
    """The path names a folder, without the slash that makes its relative links work."""


async def file(directory: Path, ask: Ask) -> Reply:
    """The file of `directory` that the request names."""
    head = ask.head
    if head.method not in (b"GET", b"HEAD"):
        reply = _refusal(405, "method_not_allowed", "files are read with GET and HEAD")
        reply.fields.append((b"allow", b"GET, HEAD"))
        return reply
    try:
        found = await trio.to_thread.run_sync(_find, directory, _path_below(ask))
    except _Folder:
        return Reply(308, [(b"location", head.path + b"/")])
    except _Refused as refused:
        return _refusal(refused.status, refused.code, refused.message)
    fields: Fields = [
        (b"etag", found.etag),
        (b"last-modified", formatdate(found.modified, usegmt=True).encode("ascii")),
        (b"cache-control", b"no-cache"),
    ]
    if _unchanged(head.fields, found):
        return Reply(304, fields)
    return Reply(
        200, [(b"content-type", found.content_type), _NOSNIFF, *fields], body=found.content
    )


def _path_below(ask: Ask) -> bytes:
    """What names the file: what the route's `{rest...}` caught; without one, the folder's own."""
    pattern = ask.route.pattern
    return ask.params[pattern.names[-1]] if pattern.has_rest else b""


def _find(directory: Path, path: bytes) -> _Found:
    """Read the file that `path` names below `directory`; runs in a thread.

    Raises: _Refused, _Folder.
    """
    *folders, name = (decode(segment) for segment in path.split(b"/"))
    if not all(map(_served, folders)) or (name and not _served(name)):
        raise _not_found()
    try:
        root = directory.resolve(strict=True)
        wanted = root.joinpath(*map(os.fsdecode, folders), os.fsdecode(name or b"index.html"))
        real = wanted.resolve(strict=True)
        below = real.relative_to(root)
        if any(part.startswith(".") for part in below.parts):
            raise _not_found()
        # Never a pipe that blocks, and no link that was put there since it was resolved.
        fd = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (OSError, ValueError, RuntimeError):  # not there; outside, or a NUL; links in a circle
        raise _not_found() from None
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise _Folder
        if not stat.S_ISREG(status.st_mode):
            raise _not_found()
        content = _content(fd, status.st_size)
    finally:
        os.close(fd)
    etag = b'"%x-%x"' % (status.st_mtime_ns, status.st_size)
    return _Found(content, _type_of(wanted.name), etag, int(status.st_mtime))


def _content(fd: int, size: int) -> bytes:
    """The bytes of a regular file. Raises: _Refused for one too large, or grown so since."""
    if size <= MAX_FILE:
        with open(fd, "rb", closefd=False) as file:
            content = file.read(MAX_FILE + 1)
        if len(content) <= MAX_FILE:
            return content
    raise _Refused(403, "file_too_large", f"files over {MAX_FILE} bytes are not served")


def _served(segment: bytes) -> bool:
    """Whether a decoded segment may be the name of something that is served."""
    return bool(segment) and segment[:1] != b"." and not any(c in segment for c in (b"/", b"\0"))


def _type_of(name: str) -> bytes:
    kind, encoding = _TYPES.guess_type(name)
    if encoding is not None:
        return b"application/octet-stream"  # compressed: served as it is, and not as what is in it
    kind = kind or "application/octet-stream"
    return (f"{kind}; charset=utf-8" if kind.startswith(_TEXT) else kind).encode("ascii")


def _unchanged(fields: Fields, found: _Found) -> bool:
    """Whether the client has this version (RFC 9110 §13.2.2: tags before the date)."""
    tags = [value for name, value in fields if name == b"if-none-match"]
    if tags:
        given = [tag.strip(b" \t").removeprefix(b"W/") for tag in b",".join(tags).split(b",")]
        return b"*" in given or found.etag in given
    for name, value in fields:
        if name == b"if-modified-since":
            since = parsedate_tz(value.decode("latin-1"))
            try:
                return since is not None and found.modified <= mktime_tz(since)
            except (ValueError, OverflowError):
                return False
    return False


def _not_found() -> _Refused:
    return _Refused(404, "not_found", "there is no such file")


def _refusal(status: int, code: str, message: str) -> Reply:
    body = dumps({"error": {"code": code, "message": message}}).encode("ascii")
    fields = [(b"content-type", b"application/json"), (b"cache-control", b"no-store"), _NOSNIFF]
    ending = Ending(Side.CLIENT, Phase.ROUTE, Cause.REFUSED, message)
    return Reply(status, fields, body=body, ending=ending)
