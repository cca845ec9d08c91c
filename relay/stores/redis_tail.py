"""Runs of other processes that are read here from Redis: each a Tail, and one blocking XREAD for many of them.

    read: presence ─► XRANGE to the end ─► a Group: XREAD of up to MOST streams and of a `wake` that adds one ─► the Reader

Rules
  * An entry says its number, so what comes twice (a connection that broke, a fail-over) is told once.
  * What is missing before an entry was trimmed, or Redis refused it and its owner says it again soon: a tail that finds a
    hole is `torn`, reads no further and waits until it is known which.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

import trio

from relay.stores.redis_link import OTHER_KIND, Refused, Replies, Reply, Stream, bulk, command
from relay.stores.redis_scripts import MAX_ID
from relay.stores.store import Reader, Sealed
from relay.stores.written import LARGEST_EVENT, NotOurs, chunks, read_fields

MOST: Final = 256  # streams that one connection waits for
COUNT: Final = 32  # entries of at most 64 KiB that are asked for at once
_BLOCK: Final = 4000  # milliseconds
_SILENT: Final = 5.0  # seconds beyond it after which the connection is taken for dead

Entry = tuple[bytes, Mapping[bytes, bytes]]


class Tail:
    """See store.Tail.

    Attributes:
        run: its name in Redis.
        owner: its owner's process.
        place: the id of the entry that was read last.
        ended: the entry of its end was read.
        over: its reader was told of the end.
        torn: something is missing, and it may come yet.
        hole_stays: what is missing will not come.
        seen: when its owner's lease was there for the last time.
    """

    def __init__(
        self, run: str, owner: bytes, reader: Reader, left: Callable[[Tail], None]
    ) -> None:
        self.run = run
        self.owner = owner
        self.reader = reader
        self.place = b"0-0"
        self.ended = False
        self.over = False
        self.torn = False
        self.hole_stays = False
        self.seen = trio.current_time()
        self._left = left
        self._headed = False
        self._next = 1
        self._parts: list[bytes] = []  # of an event that is not whole yet
        self._size = 0  # bytes of them together
        self._whole = b"0-0"  # the id of the last entry that ended a whole event

    def close(self) -> None:
        self._left(self)

    def head(self, record: bytes) -> None:
        """The fields of its head. Raises: NotOurs."""
        if not self._headed:
            self._headed = True
            self.reader.head(read_fields(record))

    def take(self, entries: Iterable[Entry]) -> None:
        """Entries that came, in order. Raises: NotOurs."""
        events: list[bytes] = []
        first = self._next
        for place, values in entries:
            self.place = place
            if place == MAX_ID:
                self.ended = True
                break
            some: list[bytes] = []
            last, part = map(int, place.split(b"-"))
            if b"h" in values:
                self.head(values[b"h"])
            elif b"m" in values or b"d" in values:
                whole = self._assembled(values, part)
                if whole is None:
                    if self.torn:
                        break
                    continue
                some = whole
            start = last - len(some) + 1
            if start < self._next:  # a part of it was told already
                some = some[self._next - start :]
                start = self._next
            if some and start != self._next and not self.hole_stays:
                self._tear()
                break
            self._whole = place
            if not some:
                continue
            if start != first + len(events):
                if events:
                    self.reader.take(first, events)
                events, first = [], start
            events += some
            self._next = last + 1
            self.hole_stays = False
        if events:
            self.reader.take(first, events)

    def _assembled(self, values: Mapping[bytes, bytes], part: int) -> list[bytes] | None:
        """The events of which an entry is the last part, its number `part`; none where parts before it are missing for good.

        Returns: None where it is not the last part, or where what is missing may come yet (`torn`). Raises: NotOurs.
        """
        if part != len(self._parts):
            if not self.hole_stays:
                self._tear()
                return None
            whole = []
        elif b"m" in values:
            self._parts.append(values[b"m"])
            self._size += len(values[b"m"])
            if self._size > LARGEST_EVENT:
                raise NotOurs
            return None
        else:
            whole = chunks_in(b"".join((*self._parts, values[b"d"])))
        self._parts.clear()
        self._size = 0
        return whole

    def _tear(self) -> None:
        """Something is missing before what was just read: go back to where all was there."""
        self.torn = True
        self.place = self._whole
        self._parts.clear()
        self._size = 0

    def missing(self, oldest: Sequence[Entry]) -> bool:
        """Whether what is missing may come yet: the oldest entry that there is stands before it."""
        for place, values in oldest:
            return (
                int(place.partition(b"-")[0]) - len(chunks_in(values.get(b"d", b""))) < self._next
            )
        return True

    def end(self, sealed: Sealed) -> None:
        """Tell the end."""
        if not self.over:
            self.over = True
            self.reader.ended(sealed)

    def fail(self) -> None:
        """Tell the reader that the run cannot be read any more."""
        end, ending = self.reader.last_words()
        self.end(Sealed(end, ending, self.last, 0.0))

    @property
    def last(self) -> int:
        """The number of the last event that was told."""
        return self._next - 1


def chunks_in(data: bytes) -> list[bytes]:
    """The chunks (RFC 9112 §7.1) that stand one behind the other. What is none of ours ends it."""
    return chunks(data)[0]


class Group:
    """Streams that one connection waits for, and a stream that wakes it."""

    def __init__(
        self,
        wake: str,
        woken: Callable[[bytes, bytes], None],
        ended: Callable[[Tail], None],
        torn: Callable[[Tail], None],
    ) -> None:
        """
        Args:
            wake: the key of the stream that others write to.
            woken: told what came there.
            ended: told of a tail whose end has come.
            torn: told of one that is.
        """
        self.wake = wake
        self._tails: dict[bytes, Tail] = {}
        self._wake_key = wake.encode()
        self._wake_place = b"0-0"
        self._woken = woken
        self._ended = ended
        self._torn = torn
        self._asking = b""  # the command as far as it stays the same: up to the keys

    def __len__(self) -> int:
        return len(self._tails)

    def join(self, key: bytes, tail: Tail) -> None:
        """Read one stream more, from the next question on."""
        self._tails[key] = tail
        self._asking = b""

    def leave(self, key: bytes, tail: Tail) -> None:
        """Read one stream less."""
        if self._tails.get(key) is tail:
            del self._tails[key]
            self._asking = b""

    async def run(self, stream: Stream, replies: Replies) -> None:
        """Read, until the connection ends. Raises: OSError, trio.BrokenResourceError, ValueError, Refused."""
        while True:
            reply = (await self._asked(stream, replies, self._question(), 1))[0]
            if isinstance(reply, Refused) and str(reply).startswith(OTHER_KIND):
                await self._find_foreign(stream, replies)
                continue
            if isinstance(reply, Exception):
                raise reply
            for key, entries in reply or ():  # type: ignore[misc, union-attr]
                self._came(key, list(map(_entry, entries)))  # type: ignore[arg-type]

    async def _asked(
        self, stream: Stream, replies: Replies, question: bytes, answers: int
    ) -> list[Reply]:
        await stream.send_all(question)
        got: list[Reply] = []
        with trio.fail_after(_BLOCK / 1000 + _SILENT):  # noqa: ASYNC912 # it reads at least once
            while len(got) < answers:
                data = await stream.receive_some(256 * 1024)
                if not data:
                    raise trio.BrokenResourceError
                got += replies.feed(bytes(data))
        return got

    async def _find_foreign(self, stream: Stream, replies: Replies) -> None:
        """One of the keys is no stream, and refuses the question for all: end the reading of those that are refused alone.

        Raises: Refused: it is the key that wakes this process, or it changed meanwhile.
        """
        tails = list(self._tails.items())
        each = [command("XREAD", "COUNT", 1, "STREAMS", key, MAX_ID) for key, _ in tails]
        found = await self._asked(stream, replies, b"".join(each), len(each)) if each else []
        foreign = [
            pair for pair, reply in zip(tails, found, strict=True) if isinstance(reply, Refused)
        ]
        if not foreign:
            raise Refused(OTHER_KIND)
        for key, tail in foreign:
            self.leave(key, tail)
            tail.fail()

    def _question(self) -> bytes:
        if not self._asking:
            count = 2 * (len(self._tails) + 1)
            start = b"*%d\r\n" % (6 + count) + b"".join(
                map(bulk, (b"XREAD", b"COUNT", b"%d" % COUNT, b"BLOCK", b"%d" % _BLOCK, b"STREAMS"))
            )
            self._asking = start + b"".join(map(bulk, (self._wake_key, *self._tails)))
        places = [tail.place for tail in self._tails.values()]
        return self._asking + b"".join(map(bulk, (self._wake_place, *places)))

    def _came(self, key: bytes, entries: list[Entry]) -> None:
        if key == self._wake_key:
            self._wake_place = entries[-1][0]
            for _, values in entries:
                for what, run in values.items():
                    self._woken(what, run)
            return
        tail = self._tails.get(key)
        if tail is not None:
            try:
                tail.take(entries)
            except NotOurs:  # costs its readers this run, and those of others nothing
                self.leave(key, tail)
                tail.fail()
                return
            if tail.ended or tail.torn:
                self.leave(key, tail)
                (self._torn if tail.torn else self._ended)(tail)


async def load(tail: Tail, stream_of: Callable[[bytes], Awaitable[Sequence[Entry]]]) -> None:
    """All entries that there are, as far as they are whole; `stream_of` gives those from an id on."""
    while not tail.ended and not tail.torn:
        start = tail.place if tail.place == b"0-0" else b"(" + tail.place
        entries = await stream_of(start)
        if not entries:
            return
        tail.take(entries)


def _entry(entry: tuple[bytes, list[bytes]]) -> Entry:
    place, values = entry
    return place, dict(zip(values[::2], values[1::2], strict=True))
