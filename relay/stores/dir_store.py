"""Runs in a directory that processes of one machine share: workers, restarts, reloads, an old process that drains.

    owner    Journal ── one write ─► segment      ─ n(identity) ─► who watches: Tail reads what came
    others   Tail ── w(identity, name), u ─► owner: presence
    anyone   seal: link(end) ── e(identity) ─► owner: ended elsewhere

Survives SIGKILL of any process at any byte, not the loss of power: nothing is synced. A process that is only stopped is
alive, and its runs wait with it.

Clocks: every WATCH seconds while something is read here, or elsewhere of ours, whether the other process lives; every AGAIN
while something could not be written; within SOON what could not be said. What could not be read is looked at again with the
first. Otherwise it sleeps.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from relay.flows.event_log import End
from relay.observing.counters import STORE_BOUNDS, Histogram
from relay.observing.ending import Ending
from relay.stores.dir_files import Files
from relay.stores.dir_janitor import sweep
from relay.stores.dir_journal import Journal
from relay.stores.dir_process import NAME, Process
from relay.stores.dir_segments import count
from relay.stores.dir_tail import Tail
from relay.stores.store import Card, Known, Look, Reader, Sealed, StoreUnusable
from relay.stores.written import NotOurs

WATCH: Final = 4.0  # seconds between two looks at whether others live: a death is noticed within 10
AGAIN: Final = 1.0  # seconds until what could not be written is written again
SOON: Final = 0.005  # seconds until what could not be said is said again
SWEEP: Final = 30.0  # seconds between two looks of the janitor
_IDENTITY: Final = 16  # bytes
_AT_ONCE: Final = 64  # datagrams that are taken before what they are about is read

logger = logging.getLogger("relay")


class DirStore:
    """See store.Store."""

    name = "dir"

    def __init__(self, root: str, space: Callable[[], int]) -> None:
        """space: bytes of the directory, as it is configured just now. Raises: StoreUnusable."""
        self.files = Files(root)
        self.pepper = self.files.pepper
        self.errors: dict[str, int] = {}
        self.seconds = Histogram(STORE_BOUNDS)
        self.swept = trio.Event()  # the janitor has been through it
        self._space = space
        self._journals: dict[bytes, Journal] = {}
        self._tails: dict[bytes, Tail] = {}
        self._failing: dict[Journal, None] = {}
        self._complained = False
        self._due: dict[Tail, None] = {}  # to be read
        self._read = trio.Event()  # there is something in `_due`
        self._unread: dict[Tail, None] = {}  # could not be read: looked at again
        self._busy = trio.Event()  # something is read, here or elsewhere
        self._missing = trio.Event()  # something could not be written
        self._missed = trio.Event()  # something could not be said
        try:
            self._process = Process(self.files, self._gone)
        except OSError as error:
            raise StoreUnusable(
                f"the streams' directory {root} cannot be used: {error.strerror}"
            ) from None
        self._process.again = self._say_again_soon

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                nursery.start_soon(self._read_on)
                nursery.start_soon(self._watch)
                nursery.start_soon(self._write_again)
                nursery.start_soon(self._tell_again)
                nursery.start_soon(self._sweep)
                await trio.sleep_forever()
        finally:
            for tail in tuple(self._tails.values()):
                tail.close()
            for journal in self._journals.values():
                journal.let_go()
            self._process.tell_again()
            self._process.close()

    # -- ours ----------------------------------------------------------------------------------------------------

    async def begin(self, card: Card) -> Journal | Known:
        await trio.lowlevel.checkpoint()
        journal = Journal(
            self.files,
            card,
            self._process.name,
            self._wake,
            self._failed,
            self._closed,
            self.seconds.observe,
        )
        repeated = journal.enter(self._process.alive)
        if repeated is not None:
            return repeated
        self._journals[card.identity] = journal
        return journal

    def _wake(self, journal: Journal) -> None:
        word = b"n" + journal.card.identity
        for name in tuple(journal.watchers):
            self._process.tell(name, word)

    def _closed(self, journal: Journal) -> None:
        self._journals.pop(journal.card.identity, None)
        self._failing.pop(journal, None)

    # -- everybody's ---------------------------------------------------------------------------------------------

    async def look(self, identity: bytes | None, key: str | None) -> Look:
        await trio.lowlevel.checkpoint()
        try:
            return self.files.look(identity, key, self._process.alive)
        except OSError as error:
            self._count("look", error)
            return Look(None, ())

    async def seal(self, identity: bytes, end: End, ending: Ending) -> Sealed | None:
        await trio.lowlevel.checkpoint()
        journal = self._journals.get(identity)
        if journal is not None:
            return journal.seal(end, ending)
        try:
            found = self.files.card(identity)
            if found is None:
                return None
            card, process = found
            stands = self.files.end(identity)
            if stands is None:
                last = count(self.files, identity)
                stands = self.files.seal(
                    identity, Sealed(end, ending, last, time.time() + card.keep)
                )
        except OSError as error:
            self._count("seal", error)
            return None
        self._process.tell(process, b"e" + identity)
        self._look_at(identity)
        return stands

    async def read(self, identity: bytes, reader: Reader) -> Tail | None:
        await trio.lowlevel.checkpoint()
        tail = None
        try:
            found = self.files.card(identity)
            if found is None:
                return None
            process = found[1]
            tail = self._tails[identity] = Tail(self.files, identity, process, reader, self._left)
            self._process.tell(process, b"w" + identity + self._process.name.encode())
            await tail.load()
        except OSError as error:
            self._count("read", error)
            if tail is not None:
                tail.close()
            return None
        except BaseException:
            if tail is not None:
                tail.close()
            raise
        self._busy.set()
        self._look_at(identity)  # what came since
        return tail

    def _left(self, tail: Tail) -> None:
        self._due.pop(tail, None)
        self._unread.pop(tail, None)
        if self._tails.get(tail.identity) is tail:
            del self._tails[tail.identity]
            self._process.tell(tail.process, b"u" + tail.identity + self._process.name.encode())

    # -- what others say -----------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        sock = self._process.sock
        while True:
            await trio.lowlevel.wait_readable(sock)
            for _ in range(_AT_ONCE):
                try:
                    word = sock.recv(256)
                except BlockingIOError:
                    break
                self._hear(word[:1], word[1 : 1 + _IDENTITY], word[1 + _IDENTITY :])

    def _hear(self, what: bytes, identity: bytes, rest: bytes) -> None:
        if what == b"n":
            self._look_at(identity)
            return
        journal = self._journals.get(identity)
        if what == b"e":
            if journal is not None:
                journal.look_at_end()
        elif what in (b"w", b"u") and len(rest) == NAME:
            name = rest.decode("latin-1")
            if journal is not None:
                journal.watched(name, what == b"w")
                self._busy.set()
            if what == b"w":  # what came before this word would be missed otherwise
                self._process.tell(name, b"n" + identity)

    def _look_at(self, identity: bytes) -> None:
        tail = self._tails.get(identity)
        if tail is not None:
            self._due[tail] = None
            self._read.set()

    async def _read_on(self) -> None:
        """Read what others have written, one slice of each run after the other."""
        while True:
            await self._read.wait()
            self._read = trio.Event()
            while self._due:
                for tail in tuple(self._due):
                    self._due.pop(tail, None)
                    if self._pulled(tail):
                        self._due[tail] = None
                await trio.lowlevel.checkpoint()

    def _pulled(self, tail: Tail) -> bool:
        try:
            return tail.pull()
        except OSError as error:
            self._count("read", error)
            if isinstance(error, NotOurs):
                tail.fail()
            else:
                self._unread[tail] = None  # perhaps nobody wakes it again
            return False

    # -- clocks --------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """See whether those live whose runs are read here, and those who read ours."""
        while True:
            await self._busy.wait()
            await trio.sleep(WATCH)
            try:
                self._look_after()
            except OSError as error:  # no descriptor is left: it cannot be told who lives
                self._count("watch", error)

    def _look_after(self) -> None:
        for tail in tuple(self._unread):
            self._look_at(tail.identity)
        self._unread.clear()
        tails = [tail for tail in self._tails.values() if not tail.over]
        dead = {name for name in {tail.process for tail in tails} if not self._process.alive(name)}
        for tail in tails:
            if tail.process in dead:
                self._bury(tail)
        watchers = {name for each in self._journals.values() for name in each.watchers}
        for name in watchers:
            if not self._process.alive(name):
                self._gone(name)
        if not self._tails and not watchers:
            self._busy = trio.Event()

    def _bury(self, tail: Tail) -> None:
        try:
            found = self.files.card(tail.identity)
            keep = found[0].keep if found is not None else 0.0
            tail.lost(self.files.seal, keep)
        except OSError as error:
            self._count("seal", error)
            if isinstance(error, NotOurs):
                tail.fail()

    def _gone(self, name: str) -> None:
        """A process is dead: it reads no run of ours any more."""
        for journal in tuple(self._journals.values()):
            journal.watched(name, False)

    def _say_again_soon(self) -> None:
        self._missed.set()

    async def _tell_again(self) -> None:
        while True:
            await self._missed.wait()
            self._missed = trio.Event()
            await trio.sleep(SOON)
            if not self._process.tell_again():
                self._missed.set()

    async def _write_again(self) -> None:
        while True:
            await self._missing.wait()
            await trio.sleep(AGAIN)
            for journal in tuple(self._failing):
                if journal.again():
                    self._failing.pop(journal, None)
            if not self._failing:
                self._missing = trio.Event()
                self._complained = False
                logger.info("the streams' directory takes what is written again")

    async def _sweep(self) -> None:
        """What is past its time, and what belongs to nobody."""
        while True:
            try:
                await trio.to_thread.run_sync(partial(sweep, self.files, self._space()))
            except OSError as error:
                self._count("sweep", error)
            self.swept.set()
            await trio.sleep(SWEEP)

    # -- errors --------------------------------------------------------------------------------------------------

    def _count(self, what: str, error: Exception) -> None:
        self.errors[what] = self.errors.get(what, 0) + 1
        if not self._complained:
            self._complained = True
            why = error.strerror if isinstance(error, OSError) else str(error)
            logger.error(
                "the streams' directory %s fails (%s: %s); who reads a run in its own process goes on from memory",
                self.files.root,
                what,
                why or os.strerror(5),
            )

    def _failed(self, what: str, error: OSError, journal: Journal) -> None:
        self._count(what, error)
        if what != "forget" and journal.failing:
            self._failing[journal] = None
            self._missing.set()
