"""Runs in Redis or Valkey, for relays on several machines.

    owner:   Journal ─► Link (appends, ends: written at once) ─► Redis
    others:  look ─► Client · read ─► Readers: XRANGE, then a Group's blocking XREAD
    clocks:  each second the lease and who reads what; every 30 s the expiry of our runs

Rules
  * Connections do not depend on the number of viewers: one Link, one for questions, one for each 256 runs read here.
  * What Redis does not have of ours is asked for and said again, run by run, once the connection is up: for a while also of
    runs that are over, because a fail-over loses what was written last.
  * The lease is renewed whatever else takes its time.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import coredis
import trio

from relay.config.values.redis_place import Place
from relay.flows.event_log import End
from relay.observing.counters import STORE_BOUNDS, Histogram
from relay.observing.ending import Ending
from relay.stores.redis_client import ASK, Client, why
from relay.stores.redis_journal import LINGER, Journal, fields_or_nothing
from relay.stores.redis_link import Link
from relay.stores.redis_readers import AT_ONCE, UNSEEN, Readers
from relay.stores.redis_scripts import (
    BEGIN,
    FORGET,
    HEAD,
    LOOK,
    REFRESH,
    RESTORE,
    SEAL,
    STAY,
    WATCHERS,
)
from relay.stores.redis_tail import Tail
from relay.stores.store import Card, Known, Look, Reader, Sealed
from relay.stores.written import (
    NotOurs,
    as_json,
    read_card,
    read_fields,
    sealed_in,
    written_card,
    written_end,
)

if TYPE_CHECKING:
    from coredis import Redis

TICK: Final = 1.0  # seconds between two renewals
EXPIRY: Final = 30.0  # seconds between two refreshes of the expiry of our runs
LATER: Final = 30.0  # seconds in which a fail-over may lose what Redis has answered
_FORGOTTEN: Final = 4096  # runs of which is said again that they are (arbitrary: less than a MB)


class RedisStore:
    """See store.Store.

    Attributes:
        link: what is written and not waited for.
        swept: set when all connections have been there once.
    """

    name = "redis"

    def __init__(self, place: Place, prefix: str) -> None:
        # Of what all relays of one Redis have in common; who reads the keys without it cannot try names.
        secret = (place.password or "").encode()
        self.pepper = hashlib.blake2b(prefix.encode(), key=secret[:64], digest_size=16).digest()
        self.swept = trio.Event()
        self._process = secrets.token_hex(8)
        self._client = client = Client(place, prefix)
        self.errors = client.errors
        self.seconds = Histogram(STORE_BOUNDS)
        self._readers = Readers(client, self._process, self._woken, self.seal)
        self._journals: dict[bytes, Journal] = {}
        self._ended: dict[Journal, float] = {}  # their ends are there, and since when
        self._forgotten: dict[bytes, tuple[float, bytes]] = {}  # since when, and how that is said
        self._nursery: trio.Nursery | None = None
        self._repair = trio.Event()
        failed = lambda reason: client.failed("append", reason)  # noqa: E731
        self.link = Link(place, client.where, (SEAL, FORGET), self._came_up, failed)

    # -- its life ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """See store.Store."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self.link.run)
            self._nursery.start_soon(self._readers.run)
            self._nursery.start_soon(self._mend)
            await self._client.run(self._beat)

    async def _beat(self, redis: Redis[bytes], usable: Callable[[], None]) -> None:
        """While there is a connection."""
        await self._renew(redis)
        usable()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_after, redis)
            while True:
                await trio.sleep(TICK)
                await self._renew(redis)
                self.swept.set()

    async def _look_after(self, redis: Redis[bytes]) -> None:
        """Ask who reads our runs, see whether those live whose runs are read here, and refresh what is to stay."""
        refreshed = trio.current_time()
        while True:
            before = trio.current_time()
            await trio.sleep(TICK)
            now = trio.current_time()
            if now - before > 2 * TICK:
                self._client.since = now  # we stood still, and did not see the leases of others
            await self._readers.watch()
            watched = [each for each in self._journals.values() if each.watched and not each.sealed]
            if watched:
                await self._count(watched)
            if now - refreshed > EXPIRY:
                refreshed = now
                await self._refresh(redis)
            self._settle(now - LATER)

    def _settle(self, before: float) -> None:
        """Ends and forgettings that Redis has had since `before` are safe from a fail-over: say them no more."""
        for journal, when in tuple(self._ended.items()):
            if when < before and journal.stored:
                del self._ended[journal]
                journal.settle()
        for identity, (when, _) in tuple(self._forgotten.items()):
            if when < before:
                del self._forgotten[identity]

    async def _renew(self, redis: Redis[bytes]) -> None:
        """Renew the lease of this process."""
        key = self._client.key("live", self._process)
        with trio.fail_after(ASK):
            if not await redis.pexpire(key, STAY):
                try:
                    await redis.set(key, "1", px=STAY)
                except coredis.exceptions.ResponseError as error:
                    self._client.failed("lease", why(error))

    async def _refresh(self, redis: Redis[bytes]) -> None:
        for wake in self._readers.wakes:
            await redis.pexpire(wake, int(EXPIRY * 2000))
        by_life: dict[int, list[str]] = {}
        for identity, journal in self._journals.items():
            if journal.sealed is not None:
                continue
            by_life.setdefault(journal.life, []).append(identity.hex())
        for life, runs in by_life.items():
            for at in range(0, len(runs), AT_ONCE):
                await self._client.ask("refresh", REFRESH, life, *runs[at : at + AT_ONCE])

    # -- asked ---------------------------------------------------------------------------------------------------

    async def begin(self, card: Card) -> Journal | Known:
        """See store.Store."""
        journal = Journal(
            self.link,
            self._client.prefix.encode(),
            self._process.encode(),
            card,
            self._put_head,
            self._client.failed,
            self._over,
            self._closed,
            self.seconds.observe,
        )
        run, member = card.identity.hex(), journal.member
        keyed = "1" if card.keyed else "0"
        self._journals[card.identity] = journal
        try:
            reply = await self._client.ask(
                "begin", BEGIN, run, card.key, card.request.hex(), keyed, written_card(card, self._process),
                self._process, member, journal.life,
            )  # fmt: skip
        except BaseException:
            journal.forget()
            raise
        if isinstance(reply, list):
            repeated = self._known(reply)
            if repeated is not None:
                del self._journals[card.identity]
                return repeated
            reply = None
        if reply is None:
            journal.missed()
            self._repair.set()
        return journal

    async def look(self, identity: bytes | None, key: str | None) -> Look:
        """See store.Store."""
        run = identity.hex() if identity is not None else ""
        reply = await self._client.ask("look", LOOK, run, key or "")
        if not isinstance(reply, list):
            return Look(None, ())
        records = [self._known(record) for record in reply[1]]
        below = [known for known in records if known is not None and not _past(known)]
        found = self._known(reply[0]) if isinstance(reply[0], list) else None
        if found is not None and _past(found):
            found = None
        if found is not None:
            same = (known for known in below if known.card.identity == identity)
            found = next(same, found)
        return Look(found, below)

    async def seal(self, identity: bytes, end: End, ending: Ending) -> Sealed | None:
        """See store.Store."""
        known = await self.look(identity, None)
        if known.run is None:
            return None
        record = as_json(written_end(Sealed(end, ending, 0, 0.0)))
        keep, linger = int(known.run.card.keep * 1000), int(LINGER * 1000)
        reply = await self._client.ask(
            "seal", SEAL, identity.hex(), record, keep, linger, "", "", ""
        )
        try:
            return sealed_in(reply) if isinstance(reply, list) else None
        except NotOurs as error:
            self._client.failed("seal", why(error))
            return None

    async def read(self, identity: bytes, reader: Reader) -> Tail | None:
        """See store.Store."""
        return await self._readers.open(identity, reader)

    def _known(self, record: list[bytes]) -> Known | None:
        """A run as a script tells of it; None: what Redis has is not ours."""
        card, _, fields, sealed, last, until, alive, first, *current = record
        steady = trio.current_time() - self._client.since > UNSEEN
        try:
            end = sealed_in([sealed, last, until]) if sealed else None
            return Known(
                read_card(card)[0],
                read_fields(fields) if fields else None,
                min(int(first), 1 << 60) if len(first) < 19 else 1,
                end,
                current=bool(current) and current[0] == b"1",
                lost=end is None and alive == b"0" and steady,
            )
        except NotOurs as error:
            self._client.failed("look", why(error))
            return None

    # -- what others say -----------------------------------------------------------------------------------------

    def _woken(self, what: bytes, run: bytes) -> None:
        """Another process says: look at one of our runs."""
        if what == b"a":
            return
        journal = self._journals.get(bytes.fromhex(run.decode()))
        if journal is None:
            return
        if what == b"e":
            journal.missed()
            self._repair.set()
        elif what == b"w" and self._nursery is not None:
            self._nursery.start_soon(self._client.guarded, self._count, [journal])

    async def _count(self, journals: list[Journal]) -> None:
        """Tell owners how many other processes read their runs."""
        for at in range(0, len(journals), AT_ONCE):
            some = journals[at : at + AT_ONCE]
            names = [journal.card.identity.hex() for journal in some]
            reply = await self._client.ask("watch", WATCHERS, *names)
            if not isinstance(reply, list):
                return
            for journal, number in zip(some, reply, strict=True):
                if number != journal.watched and journal.owner is not None:
                    journal.watched = number
                    journal.owner.watched_elsewhere(number)

    # -- journals ------------------------------------------------------------------------------------------------

    async def _put_head(self, journal: Journal) -> None:
        run, fields = journal.card.identity.hex(), fields_or_nothing(journal)
        if await self._client.ask("head", HEAD, run, fields, journal.life) != 1:
            journal.missed()
            self._repair.set()

    def _over(self, journal: Journal) -> None:
        self._ended[journal] = trio.current_time()

    def _closed(self, journal: Journal) -> None:
        identity = journal.card.identity
        self._journals.pop(identity, None)
        self._ended.pop(journal, None)
        if journal.gone:
            self._forgotten[identity] = (trio.current_time(), journal.forgotten())
            if len(self._forgotten) > _FORGOTTEN:
                del self._forgotten[next(iter(self._forgotten))]

    def _came_up(self) -> None:
        """The link is there again: see what was missed."""
        for _, said in self._forgotten.values():
            self.link.say(said, lambda _: None)
        for journal in self._journals.values():
            if journal.owner is not None:
                journal.missed()
        self._repair.set()

    async def _mend(self) -> None:
        """Put down what is missing, whenever something was."""
        while True:
            with trio.move_on_after(TICK):
                await self._repair.wait()
            self._repair = trio.Event()
            missing = [each for each in self._journals.values() if each.missing]
            if missing and self.link.up and self._client.redis is not None:
                await self._client.guarded(self._restore_all, missing)
            await trio.sleep(0.05)

    async def _restore_all(self, missing: list[Journal]) -> None:
        await self.link.answered()  # what was said before is there, or refused
        for journal in missing:
            if not await self._restore(journal):
                return

    async def _restore(self, journal: Journal) -> bool:
        """Returns: whether Redis answered."""
        if journal.owner is None or journal.gone:
            return True
        run, fields = journal.card.identity.hex(), fields_or_nothing(journal)
        reply = await self._client.ask(
            "restore", RESTORE, run, *journal.begun(), fields, journal.life, journal.behind
        )
        if not isinstance(reply, list):
            return False
        if not journal.gone:
            try:
                journal.restored(reply)
            except NotOurs as error:  # the others are not kept waiting by it
                self._client.failed("append", why(error))
        return True


def _past(known: Known) -> bool:
    return known.sealed is not None and known.sealed.until < time.time()
