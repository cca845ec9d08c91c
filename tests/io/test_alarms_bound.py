"""The heap of deadlines does not grow with what has ended."""

from __future__ import annotations

from math import inf
from random import Random

import trio
import trio.testing

from relay.wires.alarms import FORGOTTEN, Alarms, Entry
from relay.wires.engine import Engine


class Alarm:
    def __init__(self, due: float = inf) -> None:
        self.entry: Entry | None = None
        self.due = due
        self.rung = 0.0

    def ring(self, now: float) -> float:
        if now < self.due:
            return self.due
        self.rung = now
        return inf


async def test_connections_that_come_and_go() -> None:
    """1. Some alarms stay. 2. A hundred thousand come and are forgotten before they are due, or are moved earlier again and
    again. 3. The heap holds little more than those that stay."""
    alarms = Alarms(Engine())
    staying = [Alarm() for _ in range(500)]
    for each in staying:
        alarms.arm(each, trio.current_time() + 10)
    moved = Alarm()
    for number in range(100_000):
        brief = Alarm()
        alarms.arm(brief, trio.current_time() + 12)
        alarms.forget(brief)
        if number % 2:
            alarms.arm(moved, trio.current_time() + 11 - number * 1e-5)
    assert len(alarms) <= 2 * (len(staying) + FORGOTTEN)
    for each in (*staying, moved):
        alarms.forget(each)
    for _ in range(2 * FORGOTTEN):
        brief = Alarm()
        alarms.arm(brief, trio.current_time() + 12)
        alarms.forget(brief)
    assert len(alarms) <= 2 * FORGOTTEN


async def test_every_alarm_rings_that_was_not_forgotten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Whatever order they come, move and go in."""
    random = Random(7)
    engine = Engine()
    alarms = Alarms(engine)
    living: list[Alarm] = []
    for _ in range(20_000):
        alarm = Alarm(trio.current_time() + random.uniform(1, 40))
        alarms.arm(alarm, alarm.due)
        if random.random() < 0.9:
            alarms.forget(alarm)
        else:
            living.append(alarm)
            if random.random() < 0.5:
                alarm.due -= random.uniform(0, 1)
                alarms.arm(alarm, alarm.due)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        nursery.start_soon(alarms.run)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert all(alarm.due <= alarm.rung for alarm in living)
    assert not len(alarms)
