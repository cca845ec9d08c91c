"""Ordering: first come, first served, for each key; nothing is kept for nobody."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relay.observing.ending import Cause, Side
from relay.sources.ordering import Ordering
from relay.sources.reply import Failure
from relay.wires.alarms import Alarms
from relay.wires.engine import Engine


class Line:
    """Tasks that want turns, and what happened, in order."""

    def __init__(self, nursery: trio.Nursery) -> None:
        engine = Engine()
        alarms = Alarms(engine)
        for each in (engine, alarms):
            nursery.start_soon(each.run)
        self.within = alarms.within
        self.ordering = Ordering()
        self.happened: list[str] = []
        self._nursery = nursery
        self._release: dict[str, trio.Event] = {}
        self._scopes: dict[str, trio.CancelScope] = {}

    async def wants(self, name: str, key: str = "key", within: float = 60) -> None:
        """Let a task ask for a turn, and wait until it has it or waits for it."""
        self._release[name] = trio.Event()
        self._scopes[name] = trio.CancelScope()
        self._nursery.start_soon(self._hold, name, key, within)
        await wait_all_tasks_blocked()

    async def ends(self, name: str) -> None:
        self._release[name].set()
        await wait_all_tasks_blocked()

    async def leaves(self, name: str) -> None:
        self._scopes[name].cancel()
        await wait_all_tasks_blocked()

    async def _hold(self, name: str, key: str, within: float) -> None:
        with self._scopes[name]:
            try:
                async with self.ordering.turn(key, self.within(within)):
                    self.happened.append(name)
                    await self._release[name].wait()
            except Failure as failure:
                self.happened.append(f"{name}: {failure.code}")


async def test_turns_come_in_the_order_of_asking(nursery: trio.Nursery) -> None:
    line = Line(nursery)
    for name in "abc":
        await line.wants(name)
    assert line.happened == ["a"]
    assert line.ordering.waiting == 2
    for name in "abc":
        await line.ends(name)
    assert line.happened == ["a", "b", "c"]
    assert len(line.ordering) == 0


async def test_other_keys_do_not_wait(nursery: trio.Nursery) -> None:
    line = Line(nursery)
    await line.wants("a", "one")
    await line.wants("b", "two")
    assert line.happened == ["a", "b"]
    await line.ends("a")
    assert len(line.ordering) == 1
    await line.ends("b")
    assert len(line.ordering) == 0


async def test_who_leaves_gives_its_place_up_and_the_others_keep_theirs(
    nursery: trio.Nursery,
) -> None:
    line = Line(nursery)
    for name in "abcd":
        await line.wants(name)
    await line.leaves("b")
    assert line.happened == ["a"], "nobody overtakes because somebody left"
    await line.leaves("a")
    assert line.happened == ["a", "c"]
    await line.ends("c")
    await line.ends("d")
    assert line.happened == ["a", "c", "d"]
    assert len(line.ordering) == 0


async def test_waiting_is_bounded(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    line = Line(nursery)
    await line.wants("a")
    await line.wants("b", within=5)
    await line.wants("c", within=60)
    await trio.sleep(6)
    assert line.happened == ["a", "b: order_timeout"]
    await line.ends("a")
    assert line.happened[-1] == "c"
    await line.ends("c")
    assert len(line.ordering) == 0


async def test_a_cancelled_task_leaves_no_key(nursery: trio.Nursery) -> None:
    line = Line(nursery)
    turns = line.ordering
    with trio.CancelScope() as scope:
        scope.cancel()
        async with turns.turn("key", line.within(1)):
            pytest.fail("it was cancelled before")
    assert len(turns) == 0


async def test_the_failure_says_who_is_to_blame(nursery: trio.Nursery) -> None:
    line = Line(nursery)
    async with line.ordering.turn("key", line.within(1)), trio.open_nursery() as waiting:
        waiting.start_soon(_too_late, line)


async def _too_late(line: Line) -> None:
    with pytest.raises(Failure) as caught:
        async with line.ordering.turn("key", line.within(0)):
            pytest.fail("somebody has it")
    assert (caught.value.status, caught.value.cause) == (503, Cause.SHED)
    assert caught.value.side is Side.RELAY
    assert caught.value.retryable
