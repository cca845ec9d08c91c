"""The writing end of a run in Redis, its owner's alone.

    begun ─► head ─► grown … ─► sealed ─► forgotten
        └──── refused, or the connection lost: missing ── asks what is there, says the rest from the log ──► stored

Rules
  * An event is one entry, or parts of PART bytes: XREAD has no limit in bytes. Events of one engine step share an entry.
  * The id of an entry is the number of its last event: what was said twice is refused, and does no harm.
  * Nothing is said while something is missing: what is there is asked first.
  * What was on its way when Redis refused something may have been taken: that is taken away, and said again in order.
  * An end is put down when all before it was taken, and behind the last event only. Where the events before it are lost and
    gone from memory too, the end is that of a run that was lost: a truncation never looks whole.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio

from relay.flows.event_log import End
from relay.http.bodies import Fields
from relay.observing.ending import Ending
from relay.stores.redis_link import Refused, Reply, bulk, command
from relay.stores.redis_scripts import EXTRA, FORGET, SEAL
from relay.stores.store import Answer, Card, Owner, Sealed
from relay.stores.written import as_json, sealed_in, written_card, written_end, written_fields

if TYPE_CHECKING:
    from relay.stores.redis_link import Link

PART: Final = 64 * 1024  # bytes of an entry
LINGER: Final = 10.0  # seconds that the end of a candidate is kept, for those who wait elsewhere
_SETTLED: Final = 2.0  # seconds that somebody waits for it
_ALL: Final = 1 << 62


def sha(script: str) -> bytes:
    """The name by which Redis knows a script: its SHA-1."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest().encode()


_SEAL: Final = sha(SEAL)
_FORGET: Final = sha(FORGET)


class Journal:
    """See store.Journal.

    Attributes:
        missing: Redis does not have all that there is.
        fields: of the head, once it is there.
        sealed: its end, as far as is known here.
        behind: the id behind which something was refused; b"": nothing was.
        certain: its end has been in Redis for so long that no fail-over loses it.
        watched: other processes read it.
    """

    def __init__(
        self,
        link: Link,
        prefix: bytes,
        process: bytes,
        card: Card,
        put_head: Callable[[Journal], Awaitable[None]],
        failed: Callable[[str, str], None],
        ended: Callable[[Journal], None],
        closed: Callable[[Journal], None],
        took: Callable[[float], None],
    ) -> None:
        """ended: told that its end is there; closed: that nothing more comes of it; took: how long an append took."""
        self.card = card
        self.owner: Owner | None = None
        self.missing = False
        self.fields: Fields | None = None
        self.sealed: Sealed | None = None
        self.watched = 0
        self._link = link
        self._prefix = prefix
        self._process = process
        self._put_head = put_head
        self._failed = failed
        self._tell_end = ended
        self._closed = closed
        self._took = took
        self.behind = b""
        self.certain = False
        self._there = b"0-1"  # the id of the last entry that was taken
        self._said = 0  # the number of the last event that was said
        self._on_its_way = 0  # entries that were said and not answered
        self._began = 0.0  # when the first of them was said
        self._end_waits = False  # the end is said once the last of them is answered
        self._over = False  # its end is in Redis
        self.gone = False  # forgotten
        self._run = card.identity.hex().encode()
        key = prefix + b"run:" + self._run
        add = b"$4\r\nXADD\r\n$%d\r\n%b\r\n$10\r\nNOMKSTREAM\r\n" % (len(key), key)
        self._plain = b"*6\r\n" + add
        self._trimming = b"*9\r\n" + add + b"$5\r\nMINID\r\n$1\r\n~\r\n"

    @property
    def stored(self) -> bool:
        return not self.missing and (self.sealed is None or self._over)

    @property
    def member(self) -> str:
        """Its place below its key."""
        return f"{self.card.number:020d}:{self.card.identity.hex()}"

    @property
    def life(self) -> int:
        """Milliseconds that its keys stay without being refreshed."""
        return int(self.card.keep * 1000) + EXTRA

    def begun(self) -> list[bytes | str | int]:
        """What RESTORE and BEGIN put down of it."""
        card = self.card
        return [
            written_card(card, self._process.decode()),
            self._process,
            card.key,
            card.request.hex(),
            self.member,
            b"1" if card.keyed else b"0",
        ]

    # -- what the owner says -------------------------------------------------------------------------------------

    async def head(self, fields: Fields) -> None:
        self.fields = fields
        if self.missing:
            await trio.lowlevel.checkpoint()  # it is put down with the rest
        else:
            await self._put_head(self)

    def grown(self) -> None:
        if not self.missing and self.sealed is None:
            self._say_events()

    def seal(self, end: End, ending: Ending, answer: Answer | None = None) -> Sealed:
        if self.sealed is None:
            assert self.owner is not None
            keep = self.card.keep if self.fields is not None else LINGER
            self.sealed = Sealed(end, ending, self.owner.log.last, time.time() + keep, answer)
            if not self.missing:
                self._say_events()
                self._say_end()
        return self.sealed

    async def settled(self) -> None:
        with trio.move_on_after(_SETTLED):
            waited = self._end_waits
            await self._link.answered()
            if waited:
                await self._link.answered()

    def forget(self) -> None:
        self.gone = True
        self._closed(self)
        if not self._end_waits or self.missing:
            self._link.say(self.forgotten(), lambda _: None)

    def forgotten(self) -> bytes:
        """The command that has Redis forget this run."""
        return command("EVALSHA", _FORGET, 0, self._prefix, self._run)

    # -- saying it -----------------------------------------------------------------------------------------------

    def _say_events(self, part: int = -1) -> None:
        """Events behind the last that was said; `part`: so much of the first is there already."""
        assert self.owner is not None
        log = self.owner.log
        after = max(self._said, log.first - 1)
        if after >= log.last:
            return
        if not self._on_its_way:
            self._began = time.perf_counter()
        if after > self._said:
            part = -1
        start = self._trimming + bulk(b"%d" % log.first) if log.first > 1 else self._plain
        seq, size = after, 0
        together: list[bytes] = []
        for event in log.some(after, _ALL):
            if size + len(event) > PART and together:
                self._say_entry(start, seq, together)
                together, size = [], 0
            seq += 1
            if len(event) > PART or part >= 0:
                self._say_parts(start, seq, event, part + 1)
                part = -1
                continue
            together.append(event)
            size += len(event)
        if together:
            self._say_entry(start, seq, together)
        self._said = log.last

    def _say_entry(self, start: bytes, seq: int, events: list[bytes]) -> None:
        data = events[0] if len(events) == 1 else b"".join(events)
        # An id of two numbers, one pair: `d` the chunks.
        id = bulk(b"%d-0" % seq)
        self._on_its_way += 1
        self._link.say(b"%b%b$1\r\nd\r\n%b" % (start, id, bulk(data)), self._added)

    def _say_parts(self, start: bytes, seq: int, event: bytes, at: int) -> None:
        """A large event; `m`: more of it comes."""
        for part in range(at, -(-len(event) // PART)):
            data = event[part * PART : (part + 1) * PART]
            what = b"m" if (part + 1) * PART < len(event) else b"d"
            head = b"%b%b$1\r\n%b\r\n" % (start, bulk(b"%d-%d" % (seq, part)), what)
            self._on_its_way += 1
            self._link.say(head + bulk(data), self._added)

    def _say_end(self) -> None:
        sealed = self.sealed
        assert sealed is not None
        self._end_waits = self._on_its_way > 0
        if self._end_waits:
            self._link.hurry()
        else:
            record, keep, linger = written_end(sealed), self.card.keep * 1000, LINGER * 1000
            self._link.say(
                command(
                    *("EVALSHA", _SEAL, 0, self._prefix, self._run),
                    *(as_json(record), int(keep), int(linger)),
                    *(self._process, sealed.last, self._otherwise(sealed)),
                ),
                self._ended,
            )
            if self.gone:  # forgotten while its end waited: behind it, or who reads it elsewhere would wait for an end
                self._link.say(self.forgotten(), lambda _: None)

    def _otherwise(self, sealed: Sealed) -> bytes:
        """The end to put down where the last events are not there, and cannot be said again."""
        assert self.owner is not None
        if self.owner.log.first <= sealed.last:
            return b""
        end, ending = self.owner.last_words()
        return as_json(written_end(sealed._replace(end=end, ending=ending, answer=None)))

    # -- what Redis answers --------------------------------------------------------------------------------------

    def _added(self, reply: Reply) -> None:
        self._on_its_way -= 1
        if isinstance(reply, bytes):
            if not self.missing:
                self._there = reply
                if self._began:
                    self._took(time.perf_counter() - self._began)
                    self._began = 0.0
                if self._end_waits and not self._on_its_way:
                    self._say_end()
            return
        if isinstance(reply, Refused):
            text = str(reply)
            if "equal or smaller" not in text and "exhausted" not in text:
                self._failed("append", text.partition(" ")[0])
                self.behind = self.behind or self._there
        self.missed()  # refused, lost, or (None) there is no such stream any more

    def _ended(self, reply: Reply) -> None:
        if isinstance(reply, list):
            self._is_over()
            return
        if isinstance(reply, Refused):
            self._failed("seal", str(reply).partition(" ")[0])
        self.missed()

    def _is_over(self) -> None:
        """The end of the run is in Redis."""
        self._over = True
        if not self.gone:
            self._tell_end(self)

    def settle(self) -> None:
        """The end has been in Redis for so long that it is certain to stay there."""
        self.certain = True
        self._closed(self)
        if self.owner is not None:
            self.owner.kept_elsewhere()

    def missed(self) -> None:
        """Something of this run is missing in Redis."""
        if not self.gone:
            self.missing = True
        elif self._end_waits:  # nobody puts it right any more
            self._end_waits = False
            self._link.say(self.forgotten(), lambda _: None)

    def restored(self, reply: Reply) -> bool:
        """The answer of RESTORE: say what is missing. Returns: whether the run has ended elsewhere. Raises: NotOurs."""
        assert isinstance(reply, list) and self.owner is not None
        if reply[0]:
            stands = sealed_in(reply[:3])
            self.missing = False
            ours, self.sealed = self.sealed, stands
            self._is_over()
            if ours is None:
                self.owner.ended_elsewhere(stands)
            return True
        self._said = int(reply[1])  # type: ignore[arg-type]
        self._there = b"%d-%d" % (self._said, int(reply[2])) if self._said else b"0-1"  # type: ignore[arg-type]
        self.missing = False
        self.behind = b""
        if reply[3]:  # the last event is there in part
            self._said -= 1
            self._say_events(int(reply[2]))  # type: ignore[arg-type]
        else:
            self._say_events()
        if self.sealed is not None:
            self._say_end()
        return False


def fields_or_nothing(journal: Journal) -> bytes:
    """Of its head, as they are kept."""
    return written_fields(journal.fields) if journal.fields is not None else b""
