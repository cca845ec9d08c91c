"""Three relays over one directory, killed and started again while readers come and go with their cursors. Seeded.

Every reader's union is what the upstream sent, from the first event on, or ends with a terminal event exactly where
something is missing; nothing twice, nothing out of order, nothing running for ever; afterwards no descriptor more.

Longer: RELAY_CHAOS=300 python -m pytest tests/guarantees/test_streams_outlive_chaos.py
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random

import pytest
import trio

from tests.guarantees.relay_processes import wait_gone
from tests.guarantees.resume_setup import OURS, Reader
from tests.guarantees.test_streams_outlive import Served, config
from tests.harness import EVENT_HEAD, RawPeer, Upstream, chunked, settle
from tests.interop.processes import free_port, start_relay

SECONDS = float(os.environ.get("RELAY_CHAOS", "20"))
RELAYS = 3
EVENTS = 150  # of a run
PAUSE = 0.01  # between two of them
READERS = 3  # of each run, beside the one who begins it
AT_ONCE = 8  # runs under way


class Chaos:
    """Relays that come and go, and what readers have found."""

    def __init__(self, up: Upstream, place: Path, random: Random, stack: ExitStack) -> None:
        self.up = up
        self.random = random
        self.ends: Counter[str] = Counter()
        self._text = config(up, 1, f"dir:{place}/kept")
        self._stack = stack
        self._ports = [free_port() for _ in range(RELAYS)]
        self.relays = [self._start(port) for port in self._ports]

    def _start(self, port: int) -> Served:
        server = start_relay(self._text, {"LISTEN": f"127.0.0.1:{port}"})
        return Served(self._stack.enter_context(server))

    async def kill(self) -> None:
        """One of them, and its successor."""
        which = self.random.randrange(RELAYS)
        os.kill(self.relays[which].server.pid, signal.SIGKILL)
        await wait_gone(self.relays[which].server.pid)
        self.relays[which] = await trio.to_thread.run_sync(self._start, self._ports[which])

    async def source(self, task_status: trio.TaskStatus[None]) -> None:
        """The upstream of all runs: numbered events, each with the name of its run."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                nursery.start_soon(self._feed, await self.up.accept())

    async def _feed(self, peer: RawPeer) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, AssertionError):
            name = (await peer.head()).split()[1].decode().rpartition("/")[2]
            await peer.send(EVENT_HEAD)
            for number in range(1, EVENTS + 1):
                await peer.send(chunked(b"data: %b:%d\n\n" % (name.encode(), number)))
                await trio.sleep(PAUSE)
            await peer.send(b"0\r\n\r\n")
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await peer.ended()
        peer.close()

    async def ask(self, path: str, cursor: str) -> Reader | None:
        """None: it has been killed."""
        relay = self.random.choice(self.relays)
        field = f"Last-Event-ID: {cursor}\r\n" if cursor else ""
        try:
            peer = await RawPeer.connect(relay.server.port)
        except OSError:
            return None
        reader = Reader(peer)
        try:
            await peer.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n{field}\r\n".encode())
            await reader.head()
        except (trio.BrokenResourceError, AssertionError):
            peer.close()
            return None
        return reader

    async def follow(self, name: str, begins: bool) -> None:
        """Read one run to its end, with as many connections as it takes."""
        seen, cursor, run = 0, "", ""
        path = f"/logs/{name}" if begins else f"/at/{name}"
        while True:
            reader = await self.ask(path, cursor)
            if reader is None:
                await trio.sleep(0.05)
                continue
            path = f"/at/{name}"
            if reader.status in (204, 404):
                self.ends["complete" if reader.status == 204 else "nothing"] += 1
                assert reader.status == 404 or seen == EVENTS
                assert reader.status == 204 or not seen
                reader.close()
                return
            assert reader.status == 200
            assert not run or reader.run == run
            run = reader.run
            until = self.random.randrange(1, 2 * EVENTS)
            while reader.ended is None and len(reader.events) < until:
                await reader.some()
            reader.close()
            for event, id in zip(reader.events, reader.ids, strict=True):
                found = OURS.fullmatch(id)
                assert found is not None
                assert found[1] == run
                cursor = id
                if found[2] == "end":
                    assert reader.codes[-1] == "lost"
                    self.ends["lost"] += 1
                    return
                seen += 1
                assert int(found[2]) == seen
                assert event.data == f"{name}:{seen}"
            if reader.ended == "clean":
                assert seen == EVENTS
                self.ends["complete"] += 1
                return


@pytest.mark.parametrize("seed", [1])
async def test_relays_that_are_killed_over_one_directory(seed: int, tmp_path: Path) -> None:
    random = Random(seed)
    up = await Upstream.open()
    with ExitStack() as stack:
        chaos = await trio.to_thread.run_sync(Chaos, up, tmp_path, random, stack)
        async with trio.open_nursery() as sources:
            await sources.start(chaos.source)
            end = trio.current_time() + SECONDS
            number = 0

            async def runs() -> None:
                nonlocal number
                while trio.current_time() < end:
                    number += 1
                    name = f"{seed}-{number}"
                    async with trio.open_nursery() as readers:
                        readers.start_soon(chaos.follow, name, True)
                        await trio.sleep(0.05)
                        for _ in range(READERS):
                            readers.start_soon(chaos.follow, name, False)

            async def kills() -> None:
                while trio.current_time() < end:
                    await trio.sleep(random.uniform(0.5, 2.0))
                    await chaos.kill()

            with trio.fail_after(SECONDS + 60):  # nothing runs for ever
                async with trio.open_nursery() as nursery:
                    for _ in range(AT_ONCE):
                        nursery.start_soon(runs)
                    nursery.start_soon(kills)
            sources.cancel_scope.cancel()
        assert chaos.ends["lost"]
        assert chaos.ends["complete"]
        assert sum(chaos.ends.values()) == number * (READERS + 1)
        RawPeer.close_all()
        for (
            relay
        ) in chaos.relays:  # its event loop, its sockets, its lock: what it has when it is idle
            files = Path(f"/proc/{relay.server.pid}/fd")
            await settle(lambda files=files: len(list(files.iterdir())) < 30)  # type: ignore[misc]
        locks = [each for each in os.listdir(f"{tmp_path}/kept/processes") if "lock" in each]
        assert len(locks) <= RELAYS + 3  # of the dead, those the janitor has not come to yet
    up.close()
