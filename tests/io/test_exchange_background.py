"""Background tasks: beside the exchanges, bounded, and a fault in one costs nothing else."""

from __future__ import annotations

import logging

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relay.exchange.background import BackgroundTasks
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
async def background(nursery: trio.Nursery, alarms: Alarms) -> BackgroundTasks:
    background = BackgroundTasks(alarms)
    nursery.start_soon(background.run)
    await wait_all_tasks_blocked()
    return background


async def test_a_background_task_outlives_who_asked_for_it(background: BackgroundTasks) -> None:
    done = trio.Event()

    async def job() -> None:
        await wait_all_tasks_blocked()
        done.set()

    with trio.CancelScope() as asking:
        background.start(job, 5)
        asking.cancel()
        await trio.sleep_forever()
    await done.wait()
    await background.done()
    assert len(background) == 0


async def test_a_background_task_ends_at_its_deadline(
    background: BackgroundTasks, autojump_clock: MockClock
) -> None:
    background.start(trio.sleep_forever, 5)
    background.start(trio.sleep_forever, 7)
    assert len(background) == 2
    await background.done()
    assert len(background) == 0
    assert trio.current_time() >= 7


async def test_a_fault_is_logged_and_costs_nothing_else(
    background: BackgroundTasks, caplog: pytest.LogCaptureFixture
) -> None:
    async def job() -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("a bug")

    with caplog.at_level(logging.ERROR):
        background.start(job, 5)
        await background.done()
    assert "a bug" in caplog.text
    background.start(trio.lowlevel.checkpoint, 5)
    await background.done()


async def test_nothing_to_wait_for(background: BackgroundTasks) -> None:
    await background.done()


async def test_none_begins_when_the_worker_has_ended(alarms: Alarms) -> None:
    """A second signal ends the worker with its background; exchanges that end in the same moment may still ask for one."""
    background = BackgroundTasks(alarms)
    with trio.CancelScope() as running:
        running.cancel()
        await background.run()
    background.start(trio.sleep_forever, 5)
    assert len(background) == 0
