"""Errands: beside the exchanges, bounded, and a fault in one costs nothing else."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relay.exchange.errands import Errands
from relay.wires.alarms import Alarms
from relay.wires.engine import Engine


@pytest.fixture
async def alarms(nursery: trio.Nursery) -> Alarms:
    engine = Engine()
    alarms = Alarms(engine)
    for each in (engine, alarms):
        nursery.start_soon(each.run)
    return alarms


@pytest.fixture
async def errands(nursery: trio.Nursery, alarms: Alarms) -> Errands:
    errands = Errands(alarms)
    nursery.start_soon(errands.run)
    await wait_all_tasks_blocked()
    return errands


async def test_an_errand_outlives_who_asked_for_it(errands: Errands) -> None:
    done = trio.Event()

    async def job() -> None:
        await wait_all_tasks_blocked()
        done.set()

    with trio.CancelScope() as asking:
        errands.start(job, 5)
        asking.cancel()
        await trio.sleep_forever()
    await done.wait()
    await errands.done()
    assert len(errands) == 0


async def test_an_errand_ends_at_its_deadline(errands: Errands, autojump_clock: MockClock) -> None:
    errands.start(trio.sleep_forever, 5)
    errands.start(trio.sleep_forever, 7)
    assert len(errands) == 2
    await errands.done()
    assert len(errands) == 0
    assert trio.current_time() >= 7


async def test_a_fault_is_logged_and_costs_nothing_else(
    errands: Errands, caplog: pytest.LogCaptureFixture
) -> None:
    async def job() -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("a bug")

    with caplog.at_level(logging.ERROR):
        errands.start(job, 5)
        await errands.done()
    assert "a bug" in caplog.text
    errands.start(trio.lowlevel.checkpoint, 5)
    await errands.done()


async def test_nothing_to_wait_for(errands: Errands) -> None:
    await errands.done()


async def test_none_begins_when_the_worker_has_ended(alarms: Alarms) -> None:
    """A second signal ends the worker with its errands; exchanges that end in the same moment may still ask for one."""
    errands = Errands(alarms)
    with trio.CancelScope() as running:
        running.cancel()
        await errands.run()
    errands.start(trio.sleep_forever, 5)
    assert len(errands) == 0
