"""The runs of one process, by whom and what they are, and the bounds on all of them.

    begin ─► candidate ──head──► current of its key ──seal──► kept ──expired──► forgotten

Rules
  * Everything is found by hashes of (route, principal, …): what is foreign is not there, and nothing is compared.
  * A key has one current run: the one begun last whose head is a 200 event stream.
  * Bounded by arithmetic: `space` bytes of all logs and their overhead, of which finished runs go first, those of the
    principal that has most; then the oldest events of the longest log. `unwatched` runs of the process and
    `unwatched_runs` of a principal without a viewer; above it the one unwatched longest stops.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import defaultdict
from typing import Final

from relay.config.values import Route, Streams
from relay.feeds.cursors import new_run
from relay.feeds.run import OVERHEAD, Run, Stop
from relay.observing.ending import Cause
from relay.stores.store import Card, Journal
from relay.wires.alarms import Alarms
from relay.wires.engine import Engine

_ROOM: Final = 0.9  # of `space` that is left after making room: so it is not made for every event


class Book:
    """Every run of a process."""

    __slots__ = (
        "_alarms",
        "_by_key",
        "_current",
        "_engine",
        "_number",
        "_read_on",
        "_runs",
        "_unwatched",
        "_waiting",
        "bytes",
        "draining",
        "limits",
        "pepper",
    )

    def __init__(self, engine: Engine, alarms: Alarms, limits: Streams) -> None:
        self.limits = limits
        self.draining = False
        self.bytes = 0  # of all logs, with what a run itself takes
        self._engine = engine
        self._alarms = alarms
        self._number = 0
        # So that hashes of short names say nothing. Those who share a store share it.
        self.pepper = secrets.token_bytes(16)
        self._runs: dict[bytes, Run] = {}
        self._current: dict[str, Run] = {}
        self._by_key: dict[str, dict[Run, None]] = {}
        self._waiting: dict[
            str, dict[Run, None]
        ] = {}  # candidates, by key: each request looks at them
        self._unwatched: dict[Run, None] = {}  # in the order of being left
        self._read_on: dict[Run, None] = {}  # forgotten, but somebody reads them still

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def runs(self) -> list[Run]:
        """All that are kept."""
        return list(self._runs.values())

    def hashed(self, *parts: str | bytes) -> bytes:
        """One name for several parts, which it does not tell."""
        out = hashlib.blake2b(key=self.pepper, digest_size=16)
        for part in parts:
            raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            out.update(len(raw).to_bytes(4, "big"))
            out.update(raw)
        return out.digest()

    def shelf(self, route: Route, owner: bytes) -> Shelf:
        """The runs of one route and one principal."""
        return Shelf(self, route.name, owner)

    def key(self, route: Route, owner: bytes, key: str) -> str:
        """What a key is kept under."""
        assert route.resume is not None
        where = route.resume.at.text if route.resume.at is not None else route.pattern.text
        return self.hashed("key", where, owner, key).hex()

    def card(
        self, route: Route, owner: bytes, key: str | None, request: bytes, *, get: bool
    ) -> Card:
        """What a new run is, for a store. `key`: not hashed; None: its id is its key."""
        assert route.resume is not None
        self._number = max(self._number + 1, time.time_ns())
        run_id = new_run()
        return Card(
            identity=self.hashed("run", route.name, owner, run_id),
            id=run_id,
            key=self.key(route, owner, run_id if key is None else key),
            owner=owner,
            route=route.name,
            request=request,
            begun_by_get=get,
            number=self._number,
            limit=route.resume.log,
            keep=route.resume.keep,
            keyed=key is not None,
        )

    # -- the life of runs ------------------------------------------------------------------------------------------

    def begin(
        self,
        route: Route,
        owner: bytes,
        key: str | None,
        request: bytes,
        *,
        get: bool,
        whose: bytes,
        stop: Stop,
        journal: Journal | None = None,
    ) -> Run:
        """A new run, a candidate of its key. `key`: not hashed; None: its id is its key.

        Args:
            whose: what its unwatched time counts against: the principal, or a client's address.
            journal: where it was entered, with the card that says what it is.
        """
        card = (
            journal.card if journal is not None else self.card(route, owner, key, request, get=get)
        )
        run = Run(
            route,
            self._engine,
            self._alarms,
            self,
            stop,
            id=card.id,
            number=card.number,
            identity=card.identity,
            key=card.key,
            owner=owner,
            request=request,
            begun_by_get=get,
            whose=whose,
        )
        if journal is not None:
            run.journal = journal
            journal.owner = run
        self._runs[run.identity] = run
        self._by_key.setdefault(run.key, {})[run] = None
        self._waiting.setdefault(run.key, {})[run] = None
        self.bytes += OVERHEAD
        self._make_room()
        return run

    def head(self, run: Run) -> None:
        """Its head is a 200 event stream: the key moves to it, unless the current run was begun later."""
        assert run.identity in self._runs, "a forgotten run never takes its key"
        self._decided(run)
        current = self._current.get(run.key)
        if current is None or current.number < run.number:
            self._current[run.key] = run

    def grown(self, size: int) -> None:
        """A log has so many bytes more (or fewer)."""
        self.bytes += size
        if self.bytes > self.limits.space:
            self._make_room()

    def ended(self, run: Run) -> None:
        """A run was sealed."""
        self._unwatched.pop(run, None)
        if run.candidate:
            self.forget(run)
        elif not run.viewers:
            self.unread(run)

    def unread(self, run: Run) -> None:
        """It has ended and nobody reads it. Where the store has all of it, who asks for it reads what others do."""
        if run.journal is not None and run.journal.certain:
            run.journal = None
            self.forget(run)

    def forget(self, run: Run) -> None:
        """It is not found any more. Whoever reads it reads on."""
        if run.journal is not None and not (run.elsewhere and run.candidate):
            run.journal.forget()  # but not while others wait for a head: they are told what came instead
        run.journal = None
        if self._runs.pop(run.identity, None) is None:
            return
        self._unwatched.pop(run, None)
        below = self._by_key[run.key]
        del below[run]
        if not below:
            del self._by_key[run.key]
        self._decided(run)
        if self._current.get(run.key) is run:
            del self._current[run.key]
        self._read_on[run] = None
        run.forget()

    def _decided(self, run: Run) -> None:
        """It is no candidate any more."""
        waiting = self._waiting.get(run.key, {})
        waiting.pop(run, None)
        if not waiting:
            self._waiting.pop(run.key, None)

    def let_go(self, run: Run) -> None:
        """Nobody reads a forgotten run any more. Until then its events take room like those of any other."""
        del self._read_on[run]
        self.bytes -= OVERHEAD + run.log.size

    def below(self, key: str) -> list[Run]:
        """The runs of a key (hashed), in the order of their beginning."""
        return list(self._by_key.get(key, ()))

    def candidates(self, key: str) -> list[Run]:
        """Those of a key (hashed) whose head is not there yet, in the order of their beginning."""
        return list(self._waiting.get(key, ()))

    def run(self, identity: bytes) -> Run | None:
        """By (route, principal, id), hashed."""
        return self._runs.get(identity)

    def current(self, key: str) -> Run | None:
        """The current run of a key (hashed)."""
        return self._current.get(key)

    # -- bounds ----------------------------------------------------------------------------------------------------

    def unwatched(self, run: Run) -> None:
        """Nobody watches this run: it counts against its owner and the process."""
        self._unwatched[run] = None
        if self.draining:
            return  # its viewers were sent to who reads it elsewhere, and nothing begins here any more
        of_one = [each for each in self._unwatched if each.whose == run.whose]
        if len(of_one) > run.resume.unwatched_runs:
            of_one[0].stop(Cause.UNWATCHED)
        elif len(self._unwatched) > self.limits.unwatched:
            next(iter(self._unwatched)).stop(Cause.UNWATCHED)

    def watched(self, run: Run) -> None:
        """Somebody reads it again."""
        self._unwatched.pop(run, None)

    def _make_room(self) -> None:
        """Finished runs go first, of who has most; then the oldest events of the longest logs."""
        if self.bytes <= self.limits.space:
            return
        goal = int(self.limits.space * _ROOM)
        finished = [run for run in self._runs.values() if not run.under_way and not run.viewers]
        held: dict[bytes, int] = defaultdict(int)
        theirs: dict[bytes, list[Run]] = defaultdict(list)
        for run in finished:
            held[run.owner] += OVERHEAD + run.log.size
            theirs[run.owner].append(run)
        while self.bytes > goal and held:
            most = max(held, key=lambda owner: held[owner])
            run = theirs[most].pop(0)
            held[most] -= OVERHEAD + run.log.size
            if not theirs[most]:
                del held[most]
            if run.journal is not None and run.journal.stored:
                run.journal = None  # it is there for others
            self.forget(run)
        if self.bytes <= goal:
            return
        kept = [*self._runs.values(), *self._read_on]
        for run in sorted(kept, key=lambda each: each.log.size, reverse=True):
            self.bytes -= run.log.shrink(run.log.size // 2)
            if self.bytes <= goal:
                return


class Shelf:
    """The runs of one route and one principal. Implements feeds.decisions.Shelf."""

    __slots__ = ("_book", "_owner", "_route")

    def __init__(self, book: Book, route: str, owner: bytes) -> None:
        self._book = book
        self._route = route
        self._owner = owner

    def run(self, run_id: str) -> Run | None:
        return self._book.run(self._book.hashed("run", self._route, self._owner, run_id))

    def current(self, key: str) -> Run | None:
        return self._book.current(key)

    def candidate(self, key: str, request: bytes | None) -> Run | None:
        for run in self._book.candidates(key):
            if run.under_way and request in (None, run.request):
                return run
        return None
