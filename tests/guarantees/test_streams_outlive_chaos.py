"""Relays over one store, to which everything happens that may, while readers come and go with their cursors. Seeded.

Every reader's union is what the upstream sent, from the first event on, or has a gap or a terminal event exactly where
something is missing; nothing twice, nothing out of order, nothing running for ever; afterwards no descriptor, no upstream
request, no connection more, and no key that stays for ever.

Longer, with 200 runs and 1,000 readers at once: python -m benchmarks.chaos
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import trio

from tests.guarantees.outlive_setup import PROCESSES, REDIS, Chaos, Size
from tests.guarantees.redis_server import redis
from tests.harness import RawPeer, Upstream, settle

SEED = int(os.environ.get("RELAY_CHAOS_SEED", "1"))
SIZE = Size(seconds=float(os.environ.get("RELAY_CHAOS_SECONDS", "10")))


@asynccontextmanager
async def chaos(kind: str, place: Path, size: Size = SIZE) -> AsyncIterator[Chaos]:
    up = await Upstream.open()
    with redis() if kind == "redis" else nullcontext() as server:
        made = Chaos(up, place, Random(SEED), size, server)
        try:
            await trio.to_thread.run_sync(made.start)
            yield made
            print(dict(made.ends), dict(made.happened), made.gaps, made.readers, made.visits)
        finally:
            made.close()
            up.close()


async def _nothing_is_left(made: Chaos) -> None:
    assert made.faults() == []
    assert sum(made.ends.values()) == made.readers
    RawPeer.close_all()
    await settle(lambda: max(made.descriptors()) < 30)
    if made.redis is None:
        locks = [each for each in os.listdir(made.place / "processes") if "lock" in each]
        dead = len([1 for node in made.nodes for _ in node.servers])
        assert len(locks) <= dead + made.happened["kill worker"] + made.size.nodes + 1
        return
    names = await trio.to_thread.run_sync(made.redis.cli, "KEYS", "*")
    for name in names.split():
        assert int(await trio.to_thread.run_sync(made.redis.cli, "PTTL", name)) != -1, name
    clients = await trio.to_thread.run_sync(made.redis.cli, "CLIENT", "LIST")
    processes = sum(len(node.serving) for node in made.nodes)
    assert clients.count("\n") <= 4 * processes + 1


@pytest.mark.parametrize("kind", ["dir", "redis"])
async def test_processes_that_are_killed_stopped_and_replaced(kind: str, tmp_path: Path) -> None:
    async with chaos(kind, tmp_path) as made:
        await made.run(PROCESSES)
        assert made.ends["complete"]
        assert not made.ends["gone"]
        await _nothing_is_left(made)


async def test_a_directory_that_is_full_now_and_then_costs_nobody_anything(tmp_path: Path) -> None:
    """What it does not take is read at its owner's process alone, and everywhere once it takes it again."""
    async with chaos("dir", tmp_path, replace(SIZE, seconds=SIZE.seconds / 2)) as made:
        await made.run(("full disk",), stops=0)
        assert set(made.ends) <= {"complete", "nothing"}
        assert not made.gaps
        await _nothing_is_left(made)


async def test_a_redis_that_fails_in_every_way_costs_nobody_anything(tmp_path: Path) -> None:
    """What is over and was in Redis alone may be gone with it; what is under way goes on, and is whole for everybody."""
    async with chaos("redis", tmp_path, replace(SIZE, patience=3.0)) as made:
        await made.run(REDIS, stops=0)
        assert set(made.ends) <= {"complete", "nothing", "gone"}
        assert not made.gaps
        await _nothing_is_left(made)
