"""Relays over one store, everything that may happen to them, and readers that come and go with their cursors.

    Source ─► runs ─► relays, which troubles befall ─► Visitors, each with a Witness of what it has seen

The oracle is the Witness: what a reader has seen over all its connections is what the source sent, from the first event on,
or has a gap or a terminal event exactly where something is missing; nothing twice, nothing out of order. Every wait has a
bound, so nothing runs for ever. All that is chosen comes from one seed.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import trio

from tests.guarantees.redis_server import Redis
from tests.guarantees.relay_processes import children_of, is_gone, stop, wait_gone
from tests.guarantees.resume_setup import LOGS, OURS, ROUTE, Reader
from tests.harness import EVENT_HEAD, RawPeer, Upstream, chunked
from tests.interop.processes import Server, free_port, start_relay

PATIENCE: Final = 60.0  # seconds after which a reader that has got nothing at all is one too many
PROCESSES: Final = ("kill", "kill worker", "stand still", "reload", "roll")
REDIS: Final = ("redis empty", "redis older", "redis full", "redis nearly full", "redis pause")
_AWAY = (trio.BrokenResourceError, trio.ClosedResourceError, OSError, AssertionError)


@dataclass(frozen=True)
class Size:
    """How much happens.

    Attributes:
        runs: at once.
        readers: of each, beside the one who begins it.
        events: of each run; pause: seconds between two of them.
        nodes: relays, of which the first has `workers`.
        keep: seconds that a run can be read after its end.
        patience: seconds for which a reader asks for a run that it has read of, and that nobody knows any more.
        troubles: at once.
    """

    seconds: float = 20.0
    runs: int = 12
    readers: int = 3
    events: int = 60
    pause: float = 0.03
    nodes: int = 3
    workers: int = 2
    keep: float = 300.0
    patience: float = 30.0
    troubles: int = 3


class Witness:
    """What one reader has seen of the run called `name`."""

    def __init__(self, name: str, events: int) -> None:
        self.name = name
        self.events = events
        self.run = ""
        self.seen = 0
        self.cursor = ""
        self.end = ""
        self.gaps = 0
        self._gap = False

    def event(self, data: str, id: str) -> None:
        """The next event. Raises: AssertionError: it must not be."""
        said = json.loads(data) if data.startswith("{") else {}
        if said.get("type") == "gap":
            assert not self._gap, "a gap is said once"
            self._gap = True
            self.gaps += 1
            return
        found = OURS.fullmatch(id)
        assert found is not None, (id, data)
        run, seq = found[1], found[2]
        if run != self.run:
            assert not self.run or self._gap, f"{self.run} became {run}"
            self.run, self.seen = run, 0
        elif seq != "end":
            assert int(seq) > self.seen, f"{self.name}: {seq} after {self.seen}"
            assert self._gap == (int(seq) > self.seen + 1), f"{self.name}: {self.seen} to {seq}"
        self.cursor = id
        if seq == "end":
            self.end = said.get("code", said.get("type", "?"))
            return
        if self.seen == 0:
            assert seq == "1" or self._gap, f"{self.name} begins with {seq}"
        self._gap = False
        self.seen = int(seq)
        assert data == f"{self.name}:{seq}", (data, seq)

    def nothing_more(self) -> None:
        """A 204: behind its cursor there is nothing; or the run was stopped before its head."""
        if self.cursor:
            self.over()
        else:
            self.end = "stopped"

    def over(self) -> None:
        """A clean end."""
        assert self.seen == self.events, f"{self.name} is whole with {self.seen}"
        self.end = "complete"


class Node:
    """One relay, on an address of its own, whichever process has it."""

    def __init__(self, text: str, workers: int, stack: ExitStack) -> None:
        self.port = free_port()
        self.lock = trio.Lock()  # one trouble at a time
        self.workers = workers
        self._text = text
        self._stack = stack
        self.server = self._start()
        self.servers = [self.server]

    def _start(self, *options: str) -> Server:
        listen = {"LISTEN": f"127.0.0.1:{self.port}"}
        return self._stack.enter_context(start_relay(self._text, listen, *options))

    @property
    def serving(self) -> list[int]:
        """The processes that serve."""
        return children_of(self.server.pid) if self.workers > 1 else [self.server.pid]

    async def kill(self) -> None:
        """All of it at once, and its successor."""
        await trio.to_thread.run_sync(self.server.kill)
        self.server = await trio.to_thread.run_sync(self._start)
        self.servers.append(self.server)

    async def kill_worker(self, which: float) -> None:
        """One process that serves; its supervisor has another one ready soon."""
        there = self.serving
        pid = there[int(which * len(there))]
        os.kill(pid, signal.SIGKILL)
        if self.workers == 1:
            await self.kill()
        else:
            await wait_gone(pid)

    async def stand_still(self, which: float, seconds: float) -> None:
        """One process that serves is stopped and continued."""
        there = self.serving
        if not there:
            return
        pid = there[int(which * len(there))]
        stop(pid)
        try:
            await trio.sleep(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def reload(self) -> None:
        os.kill(self.server.pid, signal.SIGHUP)
        await trio.sleep(0.2)

    async def roll(self) -> None:
        """Another one takes over, and this one drains."""
        before = self.server
        after = await trio.to_thread.run_sync(self._start, "--takeover")
        self.server = after
        self.servers.append(after)
        os.kill(before.pid, signal.SIGTERM)
        with trio.fail_after(PATIENCE):
            while before.process.poll() is None:  # noqa: ASYNC110 - it is a subprocess
                await trio.sleep(0.05)
        assert before.process.returncode == 0, before.stderr.text[-2000:]

    async def full(self, seconds: float) -> None:
        """It can write to no file, as where the disk is full. Those that it has begun are as long as they may be."""
        pids = self.serving
        for pid in pids:
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        await trio.sleep(seconds)
        for pid in pids:
            with suppress(ProcessLookupError):
                unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)


class Source:
    """The upstream of all runs: numbered events, each with the name of its run."""

    def __init__(self, up: Upstream, size: Size) -> None:
        self.up = up
        self.asked: Counter[str] = Counter()
        self.open = 0
        self._size = size

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                nursery.start_soon(self._feed, RawPeer(await self.up.next_stream()))

    async def _feed(self, peer: RawPeer) -> None:
        self.open += 1
        try:
            with suppress(*_AWAY, trio.TooSlowError):
                name = (await peer.head()).split()[1].decode().rpartition("/")[2]
                self.asked[name] += 1
                await peer.send(EVENT_HEAD)
                for number in range(1, self._size.events + 1):
                    await peer.send(chunked(b"data: %b:%d\n\n" % (name.encode(), number)))
                    await trio.sleep(self._size.pause)
                await peer.send(b"0\r\n\r\n")
                await peer.stream.receive_some(1)
        finally:
            self.open -= 1
            peer.close()


Trouble = Callable[[], Awaitable[object]]


class Chaos:
    """Relays over one store, and what readers have found."""

    def __init__(
        self, up: Upstream, place: Path, random: Random, size: Size, redis: Redis | None
    ) -> None:
        self.random = random
        self.size = size
        self.redis = redis
        self.source = Source(up, size)
        self.place = place / "kept"
        self.ends: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()
        self.gaps = 0
        self.readers = 0
        self.visits = 0
        self.kind = "redis" if redis is not None else "dir"
        store = redis.url if redis is not None else f"dir:{self.place}"
        resume = LOGS + f'stop = true\nkeep = "{size.keep:g}s"\n'
        route = ROUTE.format(
            url=up.url, path="/logs/{id}", method="GET", route="", resume=resume, more=""
        )
        self._text = (
            '[server]\nlisten = "${LISTEN}"\nworkers = WORKERS\n'
            f'[streams]\nstore = "{store}"\n[timeouts]\ndrain = "3s"\n{route}'
        )
        self.stack = ExitStack()
        self.nodes: list[Node] = []
        self._redis_lock = trio.Lock()

    def start(self) -> None:
        """All relays."""
        for number in range(self.size.nodes):
            workers = self.size.workers if not number else 1
            text = self._text.replace("WORKERS", str(workers))
            self.nodes.append(Node(text, workers, self.stack))

    # -- troubles ------------------------------------------------------------------------------------------------

    def troubles(self, wanted: tuple[str, ...]) -> dict[str, Trouble]:
        """Those called so."""
        dice = self.random
        every: dict[str, Trouble] = {
            "kill": partial(self._with_node, lambda node: node.kill()),
            "kill worker": partial(self._with_node, lambda node: node.kill_worker(dice.random())),
            "stand still": partial(
                self._with_node, lambda node: node.stand_still(dice.random(), dice.uniform(0.5, 8))
            ),
            "reload": partial(self._with_node, lambda node: node.reload()),
            "roll": partial(self._with_node, lambda node: node.roll()),
            "full disk": partial(self._with_node, lambda node: node.full(dice.uniform(0.5, 3))),
            "redis empty": partial(self._with_redis, self._redis_empty),
            "redis older": partial(self._with_redis, self._redis_older),
            "redis full": partial(self._with_redis, self._redis_full),
            "redis nearly full": partial(self._with_redis, self._redis_nearly_full),
            "redis pause": partial(self._with_redis, self._redis_pause),
        }
        return {name: every[name] for name in wanted}

    async def _with_node(self, what: Callable[[Node], Awaitable[None]]) -> None:
        node = self.random.choice(self.nodes)
        async with node.lock:
            await what(node)

    async def _with_redis(self, what: Callable[[Redis], Awaitable[None]]) -> None:
        assert self.redis is not None
        async with self._redis_lock:
            await what(self.redis)

    async def _redis_empty(self, redis: Redis) -> None:
        """It is restarted, and has forgotten everything."""
        await trio.to_thread.run_sync(redis.kill)
        with suppress(FileNotFoundError):
            (Path(redis.folder) / "dump.rdb").unlink()
        await trio.sleep(self.random.uniform(0, 1.5))
        await trio.to_thread.run_sync(redis.start)

    async def _redis_older(self, redis: Redis) -> None:
        """What a fail-over is to relays: the connections end, and it has lost what was written last."""
        await trio.to_thread.run_sync(redis.cli, "SAVE")
        await trio.sleep(self.random.uniform(0.1, 1.0))
        await trio.to_thread.run_sync(redis.kill)
        await trio.sleep(self.random.uniform(0, 1.5))
        await trio.to_thread.run_sync(redis.start)

    async def _redis_full(self, redis: Redis) -> None:
        await self._limit(redis, 1)
        await trio.sleep(self.random.uniform(0.3, 3))
        await self._limit(redis, 0)

    async def _redis_nearly_full(self, redis: Redis) -> None:
        """It takes some of what is written and refuses the rest."""
        for _ in range(self.random.randrange(5, 30)):
            await self._limit(redis, 1)
            await trio.sleep(self.random.uniform(0, 0.02))
            await self._limit(redis, 0)
            await trio.sleep(self.random.uniform(0, 0.02))

    async def _limit(self, redis: Redis, limit: int) -> None:
        await trio.to_thread.run_sync(redis.cli, "CONFIG", "SET", "maxmemory", str(limit))

    async def _redis_pause(self, redis: Redis) -> None:
        redis.pause()
        try:
            await trio.sleep(self.random.uniform(0.3, 8))
        finally:
            redis.go_on()

    async def trouble(self, wanted: tuple[str, ...], end: float) -> None:
        """One after the other, until the end."""
        troubles = self.troubles(wanted)
        while trio.current_time() < end:
            await trio.sleep(self.random.uniform(0.2, 1.5))
            name = self.random.choice(wanted)
            await troubles[name]()
            self.happened[name] += 1

    # -- readers -------------------------------------------------------------------------------------------------

    async def runs(self, worker: int, end: float, stops: float) -> None:
        """One run after the other, each with its readers. `stops`: how many of them are stopped."""
        number = 0
        while trio.current_time() < end:
            number += 1
            name = f"{worker}-{number}"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.visit, name, True)
                await trio.sleep(0.05)
                for _ in range(self.size.readers):
                    nursery.start_soon(self.visit, name, False)
                if self.random.random() < stops:
                    nursery.start_soon(self._stop, name)

    async def _stop(self, name: str) -> None:
        await trio.sleep(self.random.uniform(0, self.size.events * self.size.pause))
        reader = await self._ask("DELETE", f"/at/{name}", "")
        if reader is not None:
            self.happened[f"stop {reader.status}"] += 1
            reader.close()

    async def _ask(self, method: str, path: str, cursor: str) -> Reader | None:
        """None: nobody answers there just now."""
        node = self.random.choice(self.nodes)
        field = f"Last-Event-ID: {cursor}\r\n" if cursor else ""
        try:
            peer = await RawPeer.connect(node.port)
        except (OSError, trio.TooSlowError):
            return None
        reader = Reader(peer)
        try:
            await peer.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{field}\r\n".encode())
            await reader.head()
        except _AWAY:
            peer.close()
            return None
        self.visits += 1
        return reader

    async def visit(self, name: str, begins: bool) -> None:
        """Read one run to its end, with as many connections as it takes."""
        self.readers += 1
        witness = Witness(name, self.size.events)
        path = f"/logs/{name}" if begins else f"/at/{name}"
        refused = 0
        unknown_since = math.inf
        with trio.fail_after(PATIENCE + self.size.events * self.size.pause * 4):
            while not witness.end:
                reader = await self._ask("GET", path, witness.cursor)
                if reader is None:
                    await trio.sleep(0.05)
                    continue
                path = f"/at/{name}"
                if reader.status == 200:
                    unknown_since = math.inf
                    await self._read(reader, witness)
                elif reader.status == 204:
                    witness.nothing_more()
                else:  # nobody knows it just now
                    refused += 1
                    unknown_since = min(unknown_since, trio.current_time())
                    if not witness.seen and refused == 10:
                        witness.end = "nothing"
                    elif trio.current_time() - unknown_since > self.size.patience:
                        witness.end = "gone"
                    else:
                        await trio.sleep(0.3)
                reader.close()
        self.gaps += witness.gaps
        self.ends[witness.end] += 1

    async def _read(self, reader: Reader, witness: Witness) -> None:
        until = self.random.randrange(1, 2 * self.size.events)
        try:
            while reader.ended is None and len(reader.events) < until:
                await reader.some()
        except trio.BrokenResourceError:
            pass
        except trio.TooSlowError:
            port = reader.peer.stream.socket.getpeername()[1]
            where = f"{witness.name} stands still at {port}, behind {reader.ids[-1:]}"
            raise AssertionError(where) from None
        for event, id in zip(reader.events, reader.ids, strict=True):
            witness.event(event.data or "", id)
        if reader.ended == "clean" and not witness.end:
            witness.over()

    # -- all of it -----------------------------------------------------------------------------------------------

    async def run(self, wanted: tuple[str, ...], stops: float = 0.1) -> None:
        """Let it happen, and see that it ends."""
        size = self.size
        async with trio.open_nursery() as sources:
            await sources.start(self.source.run)
            end = trio.current_time() + size.seconds
            with trio.fail_after(size.seconds + 3 * PATIENCE):  # nothing runs for ever
                async with trio.open_nursery() as nursery:
                    for number in range(size.runs):
                        nursery.start_soon(self.runs, number, end, stops)
                    for _ in range(size.troubles if wanted else 0):
                        nursery.start_soon(self.trouble, wanted, end)
                while self.source.open:  # noqa: ASYNC110 - every upstream request is let go
                    await trio.sleep(0.05)
            sources.cancel_scope.cancel()

    def descriptors(self) -> list[int]:
        """How many each process has open that serves."""
        pids = [pid for node in self.nodes for pid in node.serving]
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids if not is_gone(pid)]

    def faults(self) -> list[str]:
        """What relays have said that is a bug of theirs."""
        said = [server.stderr.text for node in self.nodes for server in node.servers]
        signs = ("Traceback", "fault of relay")
        return [text[text.index(sign) :][:3000] for text in said for sign in signs if sign in text]

    def close(self) -> None:
        RawPeer.close_all()
        self.stack.close()
        shutil.rmtree(self.place, ignore_errors=True)
