"""Runs of other processes that this one reads from Redis.

    open: presence ─► XRANGE to the end ─► a Group's XREAD ─► the Reader ─► left: no presence

Rule: who has not seen its owner's lease for UNSEEN seconds, on one unbroken connection and without a refusal, seals a run as
lost. So a Redis that was away, is full, or has lost some of its keys in a fail-over, ends no run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from relay.flows.event_log import End
from relay.observing.ending import Ending
from relay.stores.redis_client import ASK, FAILURES, Client, why
from relay.stores.redis_link import Replies, connect, drop
from relay.stores.redis_scripts import (
    AWAY,
    END,
    LEFT,
    LIVES,
    READ,
    RING,
    SEALED,
    UNLEASED,
    WATCH,
)
from relay.stores.redis_tail import COUNT, MOST, Entry, Group, Tail, load
from relay.stores.store import Reader, Sealed
from relay.stores.written import NotOurs, sealed_in

if TYPE_CHECKING:
    from coredis import Redis

AGAIN: Final = 0.1  # seconds until what was missing is looked for again, or asked
UNSEEN: Final = 5.0  # seconds without a lease after which its process is taken for dead
AWAY_FOR: Final = 30.0  # seconds that a run may not be there, whose owner lives
PRESENCE: Final = 5000  # ms that a process counts as a reader without saying so again
AT_ONCE: Final = 200  # runs in one script

Seal = Callable[[bytes, End, Ending], Awaitable[Sealed | None]]


class Readers:
    """The runs that are read here."""

    def __init__(
        self, client: Client, process: str, woken: Callable[[bytes, bytes], None], seal: Seal
    ) -> None:
        """woken: told what other processes say to this one."""
        self._client = client
        self._process = process
        self._woken = woken
        self._seal = seal
        self._tails: dict[bytes, list[Tail]] = {}
        self._groups: list[Group] = []
        self._nursery: trio.Nursery | None = None
        self._group()

    @property
    def wakes(self) -> list[str]:
        """The keys of the streams that wake this process."""
        return [group.wake for group in self._groups]

    async def run(self) -> None:
        """Read, for ever."""
        async with trio.open_nursery() as self._nursery:
            for group in self._groups:
                self._nursery.start_soon(self._follow, group)
            await trio.sleep_forever()

    async def open(self, identity: bytes, reader: Reader) -> Tail | None:
        """See store.Store.read."""
        client, run = self._client, identity.hex()
        reply = await client.ask("read", READ, run, self._process, PRESENCE)
        if not isinstance(reply, list):
            return None
        tail = Tail(run, reply[0], reader, self._left)
        try:
            if reply[1]:
                tail.head(reply[1])
        except NotOurs as error:
            client.failed("read", why(error))
            return None
        self._tails.setdefault(identity, []).append(tail)
        redis = client.redis
        try:
            if redis is not None:
                with trio.fail_after(ASK * 5):
                    await self._load(tail, redis)
                if tail.ended:
                    await self._end(tail)
        except FAILURES as error:
            client.failed("read", why(error))  # the rest comes with the group
        except BaseException:
            self._left(tail)
            raise
        if tail.torn:
            self._soon(self._mend, tail)
        elif not tail.over:
            self._join(tail)
        return tail

    async def _load(self, tail: Tail, redis: Redis[bytes]) -> None:
        """All that there is behind what it has, where nothing is missing that may come yet."""
        entries = partial(_entries, redis, self._client.key("run", tail.run))
        await load(tail, entries)
        if tail.torn and not tail.missing(await entries(b"-", count=1)):
            tail.torn, tail.hole_stays = False, True
            await load(tail, entries)

    async def _mend(self, tail: Tail) -> None:
        """Read on once what was missing is there, or will not come: it was trimmed, or the run has ended without it."""
        while tail in self._tails.get(bytes.fromhex(tail.run), ()) and not tail.over:
            redis, tail.torn = self._client.redis, False
            try:
                if redis is not None:
                    sealed = await self._client.ask("read", END, tail.run)
                    tail.hole_stays = isinstance(sealed, list)
                    with trio.fail_after(ASK):
                        await self._load(tail, redis)
                    if tail.ended:
                        await self._end(tail)
                    elif not tail.torn:
                        self._join(tail)
                        return
            except NotOurs as error:
                self._client.failed("read", why(error))
                tail.fail()
            except FAILURES as error:
                self._client.failed("read", why(error))
            await trio.sleep(AGAIN)

    def _join(self, tail: Tail) -> None:
        """Have a group wait for what comes."""
        roomy = [each for each in self._groups if len(each) < MOST]
        group = roomy[0] if roomy else self._group()
        group.join(self._client.key("run", tail.run).encode(), tail)
        self._soon(self._client.ask, "wake", RING, group.wake)

    def _group(self) -> Group:
        number = len(self._groups)
        name = f"{self._process}.{number}" if number else self._process
        wake = self._client.key("wake", name)
        group = Group(
            wake,
            self._woken,
            lambda tail: self._soon(self._end, tail),
            lambda tail: self._soon(self._mend, tail),
        )
        self._groups.append(group)
        self._soon(self._follow, group)
        return group

    async def _follow(self, group: Group) -> None:
        """Read for a group, over connections of its own, for ever."""
        client, pause = self._client, 0.05
        while True:
            stream = None
            try:
                replies = Replies()
                stream = await connect(client.place, client.where, replies)
                pause = 0.05
                await group.run(stream, replies)
            except Exception as error:
                client.failed("read", why(error))
            finally:
                if stream is not None:
                    drop(stream)
            await trio.sleep(pause)
            pause = min(pause * 2, 2.0)

    async def _end(self, tail: Tail) -> None:
        """The end of a run, which its stream has announced."""
        reply = await self._client.ask("read", END, tail.run)
        try:
            if isinstance(reply, list):
                tail.end(sealed_in(reply))  # else `watch` finds out
        except NotOurs as error:
            self._client.failed("read", why(error))
            tail.fail()

    def _left(self, tail: Tail) -> None:
        identity = bytes.fromhex(tail.run)
        tails = self._tails.get(identity, [])
        if tail not in tails:
            return
        tails.remove(tail)
        for group in self._groups:
            group.leave(self._client.key("run", tail.run).encode(), tail)
        if not tails:
            del self._tails[identity]
            if not tail.over:
                self._soon(self._leave, tail.run)

    async def _leave(self, run: str) -> None:
        if bytes.fromhex(run) not in self._tails:
            await self._client.ask("leave", LEFT, run, self._process)

    async def watch(self) -> None:
        """Say that we read what we read, and see whether its owners live. Called each second."""
        runs = list(self._tails)
        for at in range(0, len(runs), AT_ONCE):
            some = [run for run in runs[at : at + AT_ONCE] if run in self._tails]
            names = [name for run in some for name in (run.hex(), self._tails[run][0].owner)]
            reply = await self._client.ask("watch", WATCH, self._process, PRESENCE, *names)
            if not isinstance(reply, list):
                return
            now = trio.current_time()
            for identity, state in zip(some, reply, strict=True):
                for tail in tuple(self._tails.get(identity, ())):
                    if state in (LIVES, SEALED):
                        tail.seen = now
                        if state == SEALED and tail.ended:  # it could not be asked what the end is
                            await self._end(tail)
                        continue
                    patience = AWAY_FOR if state == AWAY else UNSEEN
                    if now - max(tail.seen, self._client.since) >= patience:
                        await self._lost(tail, forgotten=state != UNLEASED)

    async def _lost(self, tail: Tail, *, forgotten: bool) -> None:
        if forgotten:
            tail.fail()
            return
        end, ending = tail.reader.last_words()
        await self._seal(bytes.fromhex(tail.run), end, ending)

    def _soon(self, call: Callable[..., Awaitable[object]], *args: object) -> None:
        if self._nursery is not None and not self._nursery.cancel_scope.cancel_called:
            self._nursery.start_soon(self._client.guarded, call, *args)


async def _entries(redis: Redis[bytes], key: str, start: bytes, count: int = COUNT) -> list[Entry]:
    got = await redis.xrange(key, start=start, end="+", count=count)
    return [(bytes(each.identifier), dict(each.field_values)) for each in got]  # type: ignore[arg-type]
