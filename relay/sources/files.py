"""source = "files": a directory, served by relay itself.

Rules
  * What is served is below the directory, whatever the path and the links in it say: segments are
    decoded one by one, nothing that begins with a dot is served (so no `..` and no `.git`), and a
    link that leads out is not followed.
  * Only regular files, of at most MAX_FILE bytes. One of more than AT_ONCE is not read here: it goes out piece by piece
    from its descriptor, so a client that does not read holds nothing of it.
  * Whatever waits for the disk is in a thread; who leaves meanwhile leaves nothing open.
  * What is not served does not exist: one 404 for a missing, a hidden and an unreadable file.
  * Types by the file's name and never guessed by the browser (`nosniff`); nothing is used without
    asking again (`no-cache`), which the ETag makes cheap.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from json import dumps
from mimetypes import MimeTypes
from pathlib import Path
from threading import Lock
from typing import Final

import trio

from relay.config.keys.sources.files import Files
from relay.config.values.filled import value_of
from relay.http.bodies import Fields
from relay.http.dates import date_bytes, date_of
from relay.observing.ending import Cause, Ending, Phase, Side
from relay.routing.pattern import decode
from relay.sources.context import Context
from relay.sources.reply import Failure, OpenFile, Reply
from relay.wires.descriptors import in_reserve, is_lack

# Bytes; arbitrary: pages, scripts and pictures. Downloads belong elsewhere
MAX_FILE: Final = 16 * 1024 * 1024
AT_ONCE: Final = 64 * 1024  # bytes of a file that is read when it is opened, and sent with its head
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
    """A file that may be served, as it was when it was opened: its content, or where that is to be read."""

    content: bytes
    file: OpenFile | None
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


async def run(plan: Files, context: Context) -> Reply:
    """The file of the plan's folder that the request names."""
    head = context.head
    if head.method not in (b"GET", b"HEAD"):
        reply = _refusal(405, "method_not_allowed", "files are read with GET and HEAD")
        reply.fields.append((b"allow", b"GET, HEAD"))
        return reply
    found = await _Opening(Path(value_of(plan.directory)), _path_below(context)).found(context)
    if isinstance(found, _Folder):
        query = b"?" + head.query if head.query else b""
        return Reply(308, [(b"location", head.path + b"/" + query)])
    if isinstance(found, _Refused):
        return _refusal(found.status, found.code, found.message)
    fields: Fields = [
        (b"etag", found.etag),
        (b"last-modified", date_bytes(found.modified)),
        (b"cache-control", b"no-cache"),
    ]
    if _unchanged(head.fields, found):
        if found.file is not None:
            found.file.close()
        return Reply(304, fields)
    fields = [(b"content-type", found.content_type), _NOSNIFF, *fields]
    return Reply(200, fields, body=found.content, file=found.file)


class _Opening:
    """A file that is looked for in a thread. Whoever gives up waiting leaves nothing open."""

    __slots__ = ("_directory", "_file", "_given_up", "_lock", "_path")

    def __init__(self, directory: Path, path: bytes) -> None:
        self._directory = directory
        self._path = path
        self._file: OpenFile | None = None
        self._given_up = False
        self._lock = Lock()

    async def found(self, context: Context) -> _Found | _Refused | _Folder:
        """Raises: Failure past the deadline of a response's head."""
        within = context.route.timeouts.response_head
        waited_for = True
        try:
            with context.alarms.within(within):
                return await trio.to_thread.run_sync(
                    self._find, limiter=context.threads.files, abandon_on_cancel=True
                )
            waited_for = False
        except trio.Cancelled:
            waited_for = False
            raise
        finally:
            if not waited_for:
                self._give_up()
        raise Failure(504, Cause.SILENT, f"no file within {within:g} s", side=Side.RELAY)

    def _find(self) -> _Found | _Refused | _Folder:
        """In the thread. What is expected comes out of it as a value: a traceback would refer to all that waits for it."""
        try:
            found = find(self._directory, self._path)
        except (_Refused, _Folder) as refused:
            refused.__context__ = None
            return refused.with_traceback(None)
        with self._lock:
            self._file = found.file
        if self._given_up:
            self._give_up()
        return found

    def _give_up(self) -> None:
        with self._lock:
            self._given_up = True
            file = self._file
        if file is not None:
            file.close()


def _path_below(context: Context) -> bytes:
    """What names the file: what the route's `{rest...}` caught; without one, the folder's own."""
    pattern = context.route.pattern
    return context.params[pattern.names[-1]] if pattern.has_rest else b""


def find(directory: Path, path: bytes) -> _Found:
    """The file that `path` names below `directory`, open or read; runs in a thread.

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
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, OSError) and is_lack(error):
            raise _overloaded() from None
        # Not there; outside, or a NUL; links in a circle.
        raise _not_found() from None
    kept = False
    try:
        if in_reserve(fd):
            raise _overloaded()
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise _Folder
        if not stat.S_ISREG(status.st_mode):
            raise _not_found()
        if status.st_size > MAX_FILE:
            raise _Refused(403, "file_too_large", f"files over {MAX_FILE} bytes are not served")
        content = os.pread(fd, AT_ONCE, 0) if status.st_size <= AT_ONCE else b""
        kept = status.st_size > AT_ONCE
    finally:
        if not kept:
            os.close(fd)
    etag = b'"%x-%x"' % (status.st_mtime_ns, status.st_size)
    file = OpenFile(fd, status.st_size) if kept else None
    return _Found(content, file, _type_of(wanted.name), etag, int(status.st_mtime))


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
            since = date_of(value.strip())
            return since is not None and found.modified <= since
    return False


def _not_found() -> _Refused:
    return _Refused(404, "not_found", "there is no such file")


def _overloaded() -> _Refused:
    return _Refused(503, "overloaded", "no file can be opened just now")


def _refusal(status: int, code: str, message: str) -> Reply:
    body = dumps({"error": {"code": code, "message": message}}).encode("ascii")
    fields = [(b"content-type", b"application/json"), (b"cache-control", b"no-store"), _NOSNIFF]
    ending = Ending(Side.CLIENT, Phase.ROUTE, Cause.REFUSED, message)
    return Reply(status, fields, body=body, ending=ending)
