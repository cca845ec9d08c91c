"""Every order of what two owners, a third and a fail-over do to one key in Redis: the real scripts, on a real server.

A script is one step there, so an order of steps is all there is to choose. After each step: one owner writes, a sealed log
never grows, a key never goes back to an earlier run, what was read stays, and a clean end has all events before it.
The files of a directory have the same in `core/test_stores_interleavings.py`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytest

from relay.stores.redis_link import Refused, Replies, Reply, command
from relay.stores.redis_scripts import BEGIN, FORGET, HEAD, LOOK, MAX_ID, RESTORE, SEAL
from tests.guarantees.redis_server import redis

KEEP = 60_000
Step = Callable[["World"], None]


class Seen(NamedTuple):
    """What somebody who looks sees of a run."""

    entries: tuple[tuple[bytes, bytes], ...]
    sealed: bytes
    last: bytes
    current: bool


class World:
    """One server, and one key in it with a prefix of its own."""

    def __init__(self, sock: socket.socket, prefix: bytes) -> None:
        self.prefix = prefix
        self.refused: set[str] = set()  # owners that Redis has refused something
        self.joined: set[str] = set()  # those that found their request under way
        self._sock = sock
        self._replies = Replies()

    def ask(self, *commands: bytes) -> list[Reply]:
        """Replies to commands that are sent together."""
        self._sock.sendall(b"".join(commands))
        got: list[Reply] = []
        while len(got) < len(commands):
            got += self._replies.feed(self._sock.recv(65536))
        return got

    def script(self, text: str, *args: bytes | str | int) -> Reply:
        [reply] = self.ask(command("EVAL", text, 0, self.prefix, *args))
        assert not isinstance(reply, Exception), reply
        return reply

    def seen(self, names: Sequence[str]) -> dict[str, Seen]:
        """All runs that are there."""
        streams = [
            command("XRANGE", self.prefix + f"run:{name}".encode(), "-", "+") for name in names
        ]
        look = command("EVAL", LOOK, 0, self.prefix, "", "k")
        looked, *ranges = self.ask(look, *streams)
        assert isinstance(looked, list) and isinstance(looked[1], list)
        out: dict[str, Seen] = {}
        for record in looked[1]:
            assert isinstance(record, list) and isinstance(record[0], bytes)
            at = names.index(record[0].decode())
            entries = tuple((each[0], each[1][1]) for each in ranges[at])  # type: ignore[union-attr, index]
            out[names[at]] = Seen(entries, record[3], record[4], record[8] == b"1")  # type: ignore[arg-type]
        return out


class Owner:
    """What the owner of a run does, one script or command each."""

    def __init__(self, name: str, number: int, request: str, events: int) -> None:
        self.name = name
        self._number = number
        self._request = request
        self._events = events
        self._process = f"p{name}"
        self._member = f"{number:020d}:{name}"

    def steps(self, *names: str) -> list[Step]:
        return [getattr(self, name) for name in names]

    def begin(self, world: World) -> None:
        world.ask(command("SET", world.prefix + f"live:{self._process}".encode(), "1", "PX", KEEP))
        reply = world.script(
            BEGIN, self.name, "k", self._request, "1", self.name, self._process, self._member, KEEP
        )
        if isinstance(reply, list):
            world.joined.add(self.name)

    def head(self, world: World) -> None:
        if self.name not in world.joined:
            world.script(HEAD, self.name, "fields", KEEP)

    def events(self, world: World) -> None:
        """One after the other, none behind one that was refused."""
        for seq in range(1, self._events + 1):
            if self.name in world.joined | world.refused:
                return
            key = world.prefix + f"run:{self.name}".encode()
            [reply] = world.ask(
                command("XADD", key, "NOMKSTREAM", f"{seq}-0", "d", f"{self.name}{seq}")
            )
            if isinstance(reply, Refused) or reply is None:
                world.refused.add(self.name)

    def seal(self, world: World) -> None:
        if self.name not in world.joined | world.refused:
            world.script(SEAL, self.name, "clean", KEEP, KEEP, self._process, self._events, "lost")

    def restore(self, world: World) -> None:
        if self.name not in world.joined:
            world.script(
                *(RESTORE, self.name, self.name, self._process, "k", self._request, self._member),
                *("1", "fields", KEEP, ""),
            )

    def forget(self, world: World) -> None:
        if self.name not in world.joined:
            world.script(FORGET, self.name)

    def is_sealed(self, world: World) -> None:
        """By somebody else."""
        world.script(SEAL, self.name, "lost", KEEP, KEEP, "px", "", "")

    def is_lost(self, world: World) -> None:
        """Its process is taken for dead."""
        world.ask(command("DEL", world.prefix + f"live:{self._process}".encode()))
        self.is_sealed(world)


def orders(actors: Sequence[Sequence[Step]]) -> Iterator[list[Step]]:
    """Every order in which each actor's own steps stay as they are."""
    if not any(actors):
        yield []
    for at, steps in enumerate(actors):
        if steps:
            rest = [*actors[:at], steps[1:], *actors[at + 1 :]]
            for order in orders(rest):
                yield [steps[0], *order]


def check(
    before: dict[str, Seen], after: dict[str, Seen], forgotten: bool, names: list[str]
) -> None:
    """What must hold from one step to the next."""
    for name, seen in after.items():
        events = [entry for entry in seen.entries if entry[0] not in (b"0-1", MAX_ID)]
        numbers = [int(place.partition(b"-")[0]) for place, _ in events]
        assert numbers == list(range(1, len(events) + 1))
        assert [data for _, data in events] == [f"{name}{n}".encode() for n in numbers]
        was = before.get(name)
        if was is not None and not forgotten:
            assert seen.entries[: len(was.entries)] == was.entries  # what was read stays
            if was.sealed:
                assert seen[:3] == was[:3]
        if seen.sealed == b"clean":
            assert int(seen.last) == len(events) == 2
    current = [names.index(name) for name, seen in after.items() if seen.current]
    was_current = [names.index(name) for name, seen in before.items() if seen.current]
    assert len(current) <= 1
    if was_current and current:
        assert current >= was_current


A, B = Owner("aa", 1, "r1", 2), Owner("bb", 2, "r2", 2)
SAME = Owner("bb", 2, "r1", 2)  # asks what A asks
SCENARIOS = {
    "a key that is taken over": (
        A.steps("begin", "head", "events", "seal"),
        B.steps("begin", "head", "events", "seal"),
        A.steps("is_lost"),
    ),
    "the same asked twice": (
        A.steps("begin", "head", "events", "seal"),
        SAME.steps("begin", "head", "events", "seal"),
        A.steps("is_lost"),
    ),
    "what is forgotten does not come back": (
        A.steps("begin", "head", "events", "seal", "forget"),
        B.steps("begin", "head", "seal", "forget"),
    ),
    "what was missing is put down again": (
        A.steps("begin", "head", "restore", "events", "seal"),
        B.steps("begin", "head", "restore"),
        A.steps("is_sealed"),
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_order(name: str) -> None:
    actors = SCENARIOS[name]
    names = ["aa", "bb"]
    with redis() as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        for number, order in enumerate(orders(actors)):
            world = World(sock, b"%d:" % number)
            before: dict[str, Seen] = {}
            top = -1
            for step in order:
                step(world)
                after = world.seen(names)
                check(before, after, step.__name__ == "forget", names)
                at = [names.index(each) for each, seen in after.items() if seen.current]
                assert not at or at[0] >= top, "a key never goes back"
                top = max([top, *at])
                before = after
        assert number > 100
