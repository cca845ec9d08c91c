"""Every interleaving of what several processes do to one directory at once, and every place at which one may be killed.

The functions under test are those that run (`relay.stores.dir_files`); only the file system below them is a model: a dict.
An actor is run anew from its beginning for each of its steps, with the answers it had before, and stopped at the next call:
so it can be put aside at every call, without threads. States that are alike are looked at once.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from relay.flows.event_log import End
from relay.observing.ending import COMPLETE, Cause, Ending, Phase, Side
from relay.stores import dir_files
from relay.stores.dir_files import Files
from relay.stores.store import Card, Known, Sealed

ROOT = "/kept"
UNTIL = time.time() + 1e6
STOPPED = Sealed(
    End(clean=False, over=True), Ending(Side.CLIENT, Phase.BODY, Cause.STOPPED), 3, UNTIL
)
LOST = Sealed(End(clean=False), Ending(Side.RELAY, Phase.BODY, Cause.LOST), 2, UNTIL)
DONE = Sealed(End(clean=True), COMPLETE, 5, UNTIL)


class Paused(BaseException):
    """The actor is at its next call. Whatever its `finally` calls on the way out waits for its turn too."""


Tree = dict[str, Any]  # path → the directory's None, or a list with the content: links share it


class Disk:
    """The calls of a file system that `dir_files` uses, each of them one step."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def mkdir(self, path: str) -> None:
        if path in self.tree:
            raise FileExistsError(path)
        self._inside(path)
        self.tree[path] = None

    def makedirs(self, path: str) -> None:
        parts = path.split("/")
        for end in range(2, len(parts) + 1):
            self.tree.setdefault("/".join(parts[:end]), None)

    def create(self, path: str) -> None:
        if path in self.tree:
            raise FileExistsError(path)
        self._inside(path)
        self.tree[path] = [b""]

    def write(self, path: str, data: bytes) -> int:
        if path in self.tree:  # it was unlinked since: nobody sees what is written
            self.tree[path][0] += data
        return len(data)

    def read(self, path: str) -> bytes:
        if self.tree.get(path) is None:
            raise FileNotFoundError(path)
        content: bytes = self.tree[path][0]
        return content

    def link(self, old: str, new: str) -> None:
        if old not in self.tree:
            raise FileNotFoundError(old)
        self._inside(new)
        if new in self.tree:
            raise FileExistsError(new)
        self.tree[new] = self.tree[old]

    def unlink(self, path: str) -> None:
        if self.tree.get(path) is None:
            raise FileNotFoundError(path)
        del self.tree[path]

    def rename(self, old: str, new: str) -> None:
        if old not in self.tree:
            raise FileNotFoundError(old)
        self.tree[new] = self.tree.pop(old)

    def listdir(self, path: str) -> list[str]:
        if path not in self.tree:
            raise FileNotFoundError(path)
        start = f"{path}/"
        return [each[len(start) :] for each in self.tree if each.startswith(start)]

    def rmdir(self, path: str) -> None:
        if self.listdir(path):
            raise OSError("not empty")
        del self.tree[path]

    def _inside(self, path: str) -> None:
        if path.rpartition("/")[0] not in self.tree:
            raise FileNotFoundError(path)


@dataclass
class Actor:
    """One process at one act.

    Attributes:
        answers: to its calls so far.
        result: of the act, once it is through.
    """

    act: Callable[[Files, Callable[[str], bool]], Any]
    process: str
    answers: list[Any] = field(default_factory=list)
    result: Any = None
    through: bool = False
    killed: bool = False


class Calls:
    """`os`, for one run of one actor: its old answers first, then one new call, then it is paused."""

    def __init__(self, disk: Disk, answers: list[Any], lives: Callable[[str], bool]) -> None:
        self._disk = disk
        self._lives = lives
        self._answers = answers
        self._at = 0
        self._new = False
        self._names: dict[int, str] = {}
        self.path = os.path

    def alive(self, process: str) -> bool:
        """Whether a process lives, as of this step."""
        answer: bool = self._call("alive", process)
        return answer

    def _call(self, name: str, *args: Any) -> Any:
        if self._at < len(self._answers):
            answer = self._answers[self._at]
        else:
            if self._new:
                raise Paused
            self._new = True
            try:
                what = self._lives if name == "alive" else getattr(self._disk, name)
                answer = what(*args)
            except OSError as error:
                answer = error
            self._answers.append(answer)
        self._at += 1
        if isinstance(answer, OSError):
            raise answer
        return answer

    def mkdir(self, path: str, mode: int) -> None:
        self._call("mkdir", path)

    def makedirs(self, path: str, mode: int, exist_ok: bool) -> None:
        self._call("makedirs", path)

    def open(self, path: str, flags: int, mode: int = 0) -> int:
        if flags & os.O_CREAT:
            self._call("create", path)
        self._names[len(self._names)] = path
        return len(self._names) - 1

    def write(self, fd: int, data: bytes) -> int:
        written: int = self._call("write", self._names[fd], data)
        return written

    def read(self, fd: int, size: int) -> bytes:
        data: bytes = self._call("read", self._names[fd])
        return data

    def fstat(self, fd: int) -> os.stat_result:
        """It was opened, so it is a file."""
        return os.stat_result((stat.S_IFREG, *[0] * 9))

    def close(self, fd: int) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("O_"):
            return getattr(os, name)
        return lambda *args: self._call(name, *args)


def card(number: int, request: bytes = b"r") -> Card:
    identity = number.to_bytes(16, "big")
    return Card(identity, f"{number:022d}", "k", b"o", "/r", request, True, number, 1000, 60.0)


def files() -> Files:
    made = Files.__new__(Files)
    made.root = ROOT
    made.processes = f"{ROOT}/processes"
    return made


def copied(tree: Tree) -> Tree:
    """Links stay links."""
    same: dict[int, Any] = {}
    return {
        path: None if content is None else same.setdefault(id(content), list(content))
        for path, content in tree.items()
    }


def shape(tree: Tree) -> object:
    return tuple(sorted((path, None if one is None else one[0]) for path, one in tree.items()))


class World:
    """What is there, and how far everybody is."""

    def __init__(self, tree: Tree, actors: list[Actor], kills: int) -> None:
        self.tree = tree
        self.actors = actors
        self.kills = kills  # that may still happen

    def alive(self, process: str) -> bool:
        return not any(actor.killed and actor.process == process for actor in self.actors)

    def key(self) -> object:
        how = tuple((len(a.answers), repr(a.answers), a.through, a.killed) for a in self.actors)
        return shape(self.tree), how, self.kills

    def copy(self) -> World:
        actors = [
            Actor(a.act, a.process, list(a.answers), a.result, a.through, a.killed)
            for a in self.actors
        ]
        return World(copied(self.tree), actors, self.kills)

    def step(self, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        actor = self.actors[number]
        calls = Calls(Disk(self.tree), actor.answers, self._seen_by(actor))
        monkeypatch.setattr(dir_files, "os", calls)
        monkeypatch.setattr(
            dir_files, "secrets", SimpleNamespace(token_hex=lambda size: f"~{number}")
        )
        try:
            actor.result = actor.act(files(), calls.alive)
            actor.through = True
        except Paused:
            pass

    def _seen_by(self, actor: Actor) -> Callable[[str], bool]:
        return lambda process: process == actor.process or self.alive(process)


def worlds(
    start: Tree, acts: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch, kills: int = 0
) -> Iterator[World]:
    """Every world in which nobody has anything left to do."""
    stack = [World(copied(start), [Actor(act, process) for process, act in acts], kills)]
    seen: set[object] = set()
    while stack:
        world = stack.pop()
        key = world.key()
        if key in seen:
            continue
        seen.add(key)
        due = [n for n, actor in enumerate(world.actors) if not actor.through and not actor.killed]
        if not due:
            yield world
        for number in due:
            after = world.copy()
            after.step(number, monkeypatch)
            stack.append(after)
            if world.kills:
                after = world.copy()
                after.actors[number].killed = True
                after.kills -= 1
                stack.append(after)


def _enter(each: Card, process: str, files: Files, alive: Callable[[str], bool]) -> Known | None:
    return files.enter(each, process, alive)


def _forget(each: Card, files: Files, _: object) -> None:
    files.forget(each)


def start(*cards: Card, monkeypatch: pytest.MonkeyPatch, process: str = "p") -> Tree:
    """A directory with candidates in it."""
    tree: Tree = {}
    Disk(tree).makedirs(f"{ROOT}/runs")
    Disk(tree).makedirs(f"{ROOT}/keys/k")
    for each in cards:
        one = World(tree, [Actor(partial(_enter, each, process), process)], 0)
        while not one.actors[0].through:
            one.step(0, monkeypatch)
        assert one.actors[0].result is None
    return tree


def look(world: World, monkeypatch: pytest.MonkeyPatch) -> list[Known]:
    """What the next one who asks finds."""
    last = World(world.tree, [Actor(lambda f, alive: f.look(None, "k", alive), "x")], 0)
    while not last.actors[0].through:
        last.step(0, monkeypatch)
    return list(last.actors[0].result.below)


def current(world: World, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return [known.card.number for known in look(world, monkeypatch) if known.current]


def test_of_several_that_ask_the_same_at_once_one_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    tree = start(monkeypatch=monkeypatch)
    acts = [(f"p{n}", lambda f, alive, n=n: f.enter(card(n), f"p{n}", alive)) for n in (1, 2)]
    for world in worlds(tree, acts, monkeypatch):
        results = [actor.result for actor in world.actors]
        assert results.count(None) == 1
        [known] = [result for result in results if result is not None]
        winner = results.index(None) + 1
        assert (known.card.number, known.lost) == (winner, False)
        assert [each.card.number for each in look(world, monkeypatch)] == [winner]
        count += 1
    assert count


def test_a_begin_that_is_killed_anywhere_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes second begins, or finds a run that it can see to be lost; and then begins."""
    tree = start(monkeypatch=monkeypatch)
    acts = [(f"p{n}", lambda f, alive, n=n: f.enter(card(n), f"p{n}", alive)) for n in (1, 2)]

    def again(f: Files, alive: Callable[[str], bool]) -> Any:
        found = f.enter(card(3), "p3", alive)
        if found is not None and found.lost:
            f.seal(found.card.identity, LOST)
            found = f.enter(card(3), "p3", alive)
        return found

    for world in worlds(tree, acts, monkeypatch, kills=1):
        late = World(copied(world.tree), [*world.copy().actors, Actor(again, "p3")], 0)
        while not late.actors[-1].through:
            late.step(len(late.actors) - 1, monkeypatch)
        result = late.actors[-1].result
        holders = [n for n, a in enumerate(world.actors, 1) if a.through and a.result is None]
        assert result is None or result.card.number in holders


@pytest.mark.parametrize("forgotten", [(), (3,)])
def test_the_key_moves_forwards_whatever_the_order(
    forgotten: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heads of three runs come at once. Then the greatest is current, and no older one is when that is forgotten."""
    cards = [card(n, b"%d" % n) for n in (1, 2, 3)]
    tree = start(*cards, monkeypatch=monkeypatch)
    acts = [("p", lambda f, _, each=each: f.head(each, [])) for each in cards[1:]]
    for world in worlds(tree, acts, monkeypatch):
        assert current(world, monkeypatch) == [3]
        more = [("p", lambda f, _: f.head(cards[0], []))]
        more += [("p", partial(_forget, cards[n - 1])) for n in forgotten]
        for after in worlds(world.tree, more, monkeypatch):
            expected = [] if 3 in forgotten else [3]
            found = current(after, monkeypatch)
            assert found in (expected, [1]) if forgotten else found == [3]
            if found == [1]:  # it came when nothing was current any more
                assert 3 in forgotten


def test_a_head_that_is_killed_anywhere_leaves_the_key_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cards = [card(n, b"%d" % n) for n in (1, 2)]
    tree = start(*cards, monkeypatch=monkeypatch)
    acts = [(f"p{n}", lambda f, _, n=n: f.head(cards[n - 1], [])) for n in (1, 2)]
    for world in worlds(tree, acts, monkeypatch, kills=1):
        found = current(world, monkeypatch)
        if world.actors[1].through:
            assert found == [2]
        after = World(world.tree, [Actor(lambda f, _: f.forget(cards[1]), "p")], 0)
        while not after.actors[0].through:
            after.step(0, monkeypatch)
        if found == [2]:
            assert current(after, monkeypatch) in ([], [1])
            if world.actors[0].through and world.actors[1].through:
                assert current(after, monkeypatch) == []


def test_one_end_stands_whoever_puts_it_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner ends, another stops, a third finds it dead: all of them say the same, unless they were killed."""
    one = card(1)
    tree = start(one, monkeypatch=monkeypatch)
    acts = [
        (f"p{n}", lambda f, _, end=end: f.seal(one.identity, end))
        for n, end in enumerate((DONE, STOPPED, LOST))
    ]
    ends = set()
    for world in worlds(tree, acts, monkeypatch, kills=1):
        results = [actor.result for actor in world.actors if actor.through]
        assert all(result == results[0] for result in results)
        assert results[0] in (DONE, STOPPED, LOST)
        ends.add(results[0].ending.cause)
        [known] = look(world, monkeypatch)
        assert known.sealed == results[0]
    assert len(ends) == 3


def test_who_looks_while_others_write_sees_whole_things(monkeypatch: pytest.MonkeyPatch) -> None:
    """A begin, its head and its end in one process, and a look in another, at every place: a run is there or not, and what
    is said of it never contradicts itself."""
    one = card(1)
    tree = start(monkeypatch=monkeypatch)

    def life(f: Files, alive: Callable[[str], bool]) -> None:
        f.enter(one, "p1", alive)
        f.head(one, [(b"a", b"b")])
        f.seal(one.identity, DONE)

    acts = [("p1", life), ("p2", lambda f, alive: f.look(one.identity, "k", alive))]
    for world in worlds(tree, acts, monkeypatch):
        seen = world.actors[1].result
        for known in seen.below:
            assert known.card == one
            assert not known.lost
            assert known.fields in (None, [(b"a", b"b")])
            assert known.sealed in (None, DONE)
            assert known.current or known.candidate  # who asks for the key finds it at every moment
