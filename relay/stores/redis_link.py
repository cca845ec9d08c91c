"""One connection to Redis for what is written and not waited for.

    say(command, then) ─► the socket, in the same step ─► … ─► then(reply), in order

Why not a client library's: a lone XADD costs one 200 µs, and here 10; see docs/technical-notes/scale.md.

Rules
  * What is said while the connection is down, or beyond BACKLOG bytes that Redis has not taken, is not kept: `then` gets a
    Lost. Whoever said it says it again, from the log, when the connection is `up`.
  * Replies are read a few milliseconds late, many at once, unless somebody waits for them.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from relay.config.values.redis_place import Place
from relay.stores.store import StoreUnusable

BACKLOG: Final = 8 * 1024 * 1024  # bytes
_REST: Final = 0.01  # seconds between two reads of replies
_CONNECT: Final = 5.0
_SILENT: Final = 5.0  # seconds without a reply that is due: the connection is taken for dead

# What Redis says of a key that is not of the kind that a command is for
OTHER_KIND: Final = "WRONGTYPE"

Reply = bytes | int | list["Reply"] | None | Exception
Then = Callable[[Reply], None]
Where = Callable[[], Awaitable[tuple[str, int]]]
Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


def tls(place: Place) -> ssl.SSLContext | None:
    """For connections to `place`. Raises: OSError: the file of certificates cannot be read."""
    return ssl.create_default_context(cafile=place.ca) if place.tls else None


class Refused(Exception):
    """Redis answers with an error; its first word is the kind."""


class Lost(Exception):
    """The connection ended before the reply, or before the command was sent."""


class Replies:
    """A parser of RESP2. Raises: ValueError: this is no Redis."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that are whole now."""
        self._data += data
        out: list[Reply] = []
        while True:
            start = self._at
            try:
                out.append(self._one())
            except IndexError:
                self._at = start
                break
        del self._data[: self._at]
        self._at = 0
        return out

    def _line(self) -> bytes:
        end = self._data.find(b"\r\n", self._at)
        if end < 0:
            raise IndexError
        line = bytes(self._data[self._at : end])
        self._at = end + 2
        return line

    def _one(self) -> Reply:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return Refused(rest.decode("latin-1"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            if size < 0:
                return None
            end = self._at + size
            if len(self._data) < end + 2:
                raise IndexError
            value = bytes(self._data[self._at : end])
            self._at = end + 2
            return value
        if kind == b"*":
            return [self._one() for _ in range(int(rest))]
        raise ValueError("this is no Redis")


def bulk(data: bytes) -> bytes:
    """One word of a command."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def command(*words: bytes | str | int) -> bytes:
    """A command as Redis reads it."""
    out = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word if isinstance(word, bytes) else str(word).encode()
        out.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(out)


async def connect(
    place: Place, where: Where, replies: Replies, scripts: tuple[str, ...] = ()
) -> Stream:
    """A connection that Redis has let in. Raises: OSError, Refused."""
    stream: Stream | None = None
    try:
        with trio.fail_after(_CONNECT):
            if place.path:
                stream = await trio.open_unix_socket(place.path)
            else:
                host, port = await where()
                stream = plain = await trio.open_tcp_stream(host, port)
                context = tls(place)
                if context is not None:
                    stream = trio.SSLStream(plain, context, server_hostname=host)
            await _greet(stream, place, replies, scripts)
            return stream
    except trio.TooSlowError:
        if stream is not None:
            drop(stream)
        raise OSError("it does not answer") from None
    except BaseException:
        if stream is not None:
            drop(stream)
        raise


async def _greet(stream: Stream, place: Place, replies: Replies, scripts: tuple[str, ...]) -> None:
    said = []
    if place.password is not None:
        user = (place.user,) if place.user is not None else ()
        said.append(command("AUTH", *user, place.password))
    if place.db:
        said.append(command("SELECT", place.db))
    said += [command("SCRIPT", "LOAD", script) for script in scripts]
    said.append(command("PING"))
    await stream.send_all(b"".join(said))
    got: list[Reply] = []
    while len(got) < len(said):
        data = await stream.receive_some(65536)
        if not data:
            raise OSError("the connection ended")
        got += replies.feed(bytes(data))
    for reply in got:
        if isinstance(reply, Exception):
            raise reply


def drop(stream: Stream) -> None:
    """Close at once."""
    plain = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    plain.socket.close()


class Link:
    """The connection. `run` keeps it.

    Attributes:
        up: what is said goes out.
    """

    def __init__(
        self,
        place: Place,
        where: Where,
        scripts: tuple[str, ...],
        came_up: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        """
        Args:
            where: the server's address just now.
            scripts: to be known there before anything is said.
        """
        self.up = False
        self._place = place
        self._where = where
        self._scripts = scripts
        self._came_up = came_up
        self._failed = failed
        self._stream: Stream | None = None
        self._fd = -1  # of a plain socket, to write at once
        self._waiting: deque[Then] = deque()
        self._backlog = bytearray()
        self._more = trio.Event()  # there is a backlog
        self._hurry = trio.Event()

    def say(self, wire: bytes, then: Then) -> None:
        """Send a command that `command` has made."""
        if not self.up:
            then(Lost())
            return
        self._waiting.append(then)
        if self._fd >= 0 and not self._backlog:
            try:
                sent = os.write(self._fd, wire)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._break()
                return
            if sent == len(wire):
                return
            wire = wire[sent:]
        self._backlog += wire
        self._more.set()
        if len(self._backlog) > BACKLOG:
            self._break()

    async def answered(self) -> None:
        """Until all that was said is answered, or lost."""
        done = trio.Event()
        self.say(command("PING"), lambda _: done.set())
        self.hurry()
        await done.wait()

    def hurry(self) -> None:
        """Read what is answered now as it comes."""
        self._hurry.set()

    # -- its life ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, and again when it ends, for ever."""
        pause = 0.05
        while True:
            try:
                await self._once()
                pause = 0.05
            except Exception as error:
                self._failed(_why(error))
            finally:
                self._drop()
            await trio.sleep(pause)
            pause = min(pause * 2, 2.0)

    async def _once(self) -> None:
        replies = Replies()
        self._stream = stream = await connect(self._place, self._where, replies, self._scripts)
        self.up = True
        if isinstance(stream, trio.SocketStream):
            self._fd = stream.socket.fileno()
        self._came_up()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, stream)
            await self._read(stream, replies)
            nursery.cancel_scope.cancel()
        raise Lost

    async def _write(self, stream: Stream) -> None:
        while True:
            await self._more.wait()
            self._more = trio.Event()
            while self._backlog:
                fd, self._fd = self._fd, -1  # in order: nothing overtakes
                data = bytes(self._backlog)
                self._backlog.clear()
                try:
                    await stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
                self._fd = fd

    async def _read(
        self,
        stream: Stream,
        replies: Replies,
    ) -> None:
        while True:  # noqa: ASYNC913 # each turn reads
            with trio.move_on_after(_SILENT) as silence:  # noqa: ASYNC912 # it reads
                try:
                    data = await stream.receive_some(65536)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
            if silence.cancelled_caught:
                if self._waiting:
                    return
                continue
            if not data:
                return
            for reply in replies.feed(bytes(data)):
                self._waiting.popleft()(reply)
                if isinstance(reply, Refused) and str(reply).startswith("READONLY"):
                    return  # it is the master no more: ask where that is
            if self._hurry.is_set():
                if not self._waiting:
                    self._hurry = trio.Event()
            else:
                with trio.move_on_after(_REST):
                    await self._hurry.wait()

    def _break(self) -> None:
        """It is of no use any more: `run` connects again."""
        self.up = False
        self._fd = -1
        if self._stream is not None:
            drop(self._stream)

    def _drop(self) -> None:
        self._break()
        self._stream = None
        self._backlog.clear()
        waiting, self._waiting = self._waiting, deque()
        for then in waiting:
            then(Lost())


def reach(place: Place) -> None:
    """Connect once, before anything is served. Raises: StoreUnusable: it cannot be reached, or does not let us in.

    Where sentinels say where it is, one of them must answer.
    """

    async def tried() -> str:
        if place.master:
            return "" if await _one_of(place.hosts) else "no sentinel answers"
        host = place.hosts[0] if place.hosts else ("", 0)
        answered = trio.Event()
        said: list[str] = []
        link = Link(place, lambda: _value(host), (), answered.set, said.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            with trio.move_on_after(_CONNECT):
                await answered.wait()
            nursery.cancel_scope.cancel()
        return "" if answered.is_set() else (said or ["it does not answer"])[-1]

    why: list[str] = []
    # In a thread: there may be a loop here already.
    thread = threading.Thread(target=lambda: why.append(trio.run(tried)))
    thread.start()
    thread.join()
    if why != [""]:
        raise StoreUnusable(
            f"the streams' {place} cannot be used: {''.join(why) or 'it does not answer'}"
            " ([streams] required = false starts all the same)"
        )


async def _value(host: tuple[str, int]) -> tuple[str, int]:
    return host


async def _one_of(hosts: tuple[tuple[str, int], ...]) -> bool:
    for host, port in hosts:
        try:
            with trio.fail_after(_CONNECT):
                stream = await trio.open_tcp_stream(host, port)
            await stream.aclose()
            return True
        except (OSError, trio.TooSlowError):
            continue
    return False


def _why(error: Exception) -> str:
    if isinstance(error, Refused):
        return str(error).partition(" ")[0]  # the kind: the rest may quote what was sent
    return (isinstance(error, OSError) and error.strerror) or str(error) or "the connection ended"
