"""The engine beside Trio: steps that follow each other without end keep no task waiting."""

from __future__ import annotations

import os
import select

import pytest
import trio

from tests.io.upstreams_ground import data_plane

CHECKPOINTS = 50


class Restless:
    """Ready again as soon as it was: as a flood of events would be."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.steps = 0

    def ready(self, mask: int) -> None:
        assert mask & select.EPOLLIN
        self.steps += 1
        self.disturb()

    def disturb(self) -> None:
        os.eventfd_write(self.fd, 1)

    def crash(self, error: Exception) -> None:
        raise error


async def test_a_task_that_is_scheduled_waits_for_one_round_of_steps() -> None:
    """A new stream passes a dozen checkpoints before its first byte: with every one of them behind the engine's
    whole stay among its steps (5 ms) it would take as long as a round trip across a continent."""
    async with data_plane() as plane:
        restless = Restless()
        plane.engine.add(restless, restless.fd)
        restless.disturb()
        await trio.sleep(0.02)
        assert restless.steps > CHECKPOINTS, "the engine stays among its steps while nobody waits"
        before = restless.steps
        for _ in range(CHECKPOINTS):
            await trio.lowlevel.checkpoint()
        assert restless.steps - before <= 2 * CHECKPOINTS
        plane.engine.discard(restless.fd)
        os.close(restless.fd)


@pytest.mark.parametrize("tasks", [1, 5])
async def test_tasks_that_are_started_by_tasks_do_not_wait_either(tasks: int) -> None:
    """A task that was started in a turn of Trio runs in the next one, together with the engine: the engine must know."""
    async with data_plane() as plane:
        restless = Restless()
        plane.engine.add(restless, restless.fd)
        restless.disturb()
        ran = 0

        async def child(depth: int) -> None:
            nonlocal ran
            ran += 1
            if depth:
                plane.nursery.start_soon(child, depth - 1)

        before = restless.steps
        for _ in range(tasks):
            plane.nursery.start_soon(child, CHECKPOINTS)
        while ran < tasks * (CHECKPOINTS + 1):
            await trio.lowlevel.checkpoint()
        assert restless.steps - before <= 3 * CHECKPOINTS
        plane.engine.discard(restless.fd)
        os.close(restless.fd)


async def test_deadlines_of_trio_are_kept_while_steps_follow_each_other() -> None:
    async with data_plane() as plane:
        restless = Restless()
        plane.engine.add(restless, restless.fd)
        restless.disturb()
        with trio.move_on_after(0.01) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        plane.engine.discard(restless.fd)
        os.close(restless.fd)
