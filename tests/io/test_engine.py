"""The engine beside Trio: steps that follow each other without end keep no task waiting."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from math import inf

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relay.exchange.epoll_pump import EpollPump
from relay.exchange.transfer import Transfer
from relay.flows.bytes_flow import BytesFlow
from relay.http.framing import UNTIL_CLOSE
from relay.observing.counters import Counters
from relay.observing.record import Record
from relay.wires.acceptor import Acceptor
from relay.wires.alarms import Entry
from relay.wires.engine import BATCH
from relay.wires.socket_wire import SocketWire
from tests.harness import settle
from tests.io.test_pumps import SILENT_ROUTE
from tests.io.upstreams_setup import data_plane, until

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
        await settle(lambda: restless.steps > CHECKPOINTS)  # it stays while nobody waits
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


async def test_a_resting_wire_hears_at_the_end_of_its_rest_what_came_meanwhile() -> None:
    async with data_plane() as plane:
        ours, theirs = socket.socketpair()
        wire = SocketWire(ours, plane.engine, plane.alarms)
        wire.sock.setblocking(False)
        heard = trio.Event()
        wire.on_readable = heard.set
        await trio.sleep(0.01)
        plane.engine.rest(wire)
        theirs.send(b"x")
        await heard.wait()
        assert wire.recv_nowait() == b"x"
        wire.close()
        theirs.close()


async def test_a_resting_wire_hears_of_a_hang_up_and_of_nothing_else() -> None:
    """1. A wire rests. 2. Bytes come: the engine looks, and the wire does not hear of them. 3. The other end hangs up."""
    async with data_plane() as plane:
        ours, theirs = socket.socketpair()
        wire = SocketWire(ours, plane.engine, plane.alarms)
        wire.sock.setblocking(False)
        await trio.sleep(0.01)  # whatever was reported when it was registered is over
        heard, gone = trio.Event(), trio.Event()
        wire.on_readable, wire.on_gone = heard.set, gone.set
        # Without an await in between: the engine's own task has no turn, so the rest does not end.
        plane.engine.rest(wire)
        theirs.send(b"x")
        plane.engine.look()
        assert not heard.is_set()
        theirs.close()
        plane.engine.look()
        assert gone.is_set()
        wire.close()


async def test_a_wire_that_waits_to_write_does_so_behind_its_rest_too() -> None:
    """An upload goes up on the wire on which the response comes down."""
    async with data_plane() as plane:
        ours, theirs = socket.socketpair()
        wire = SocketWire(ours, plane.engine, plane.alarms)
        wire.sock.setblocking(False)
        theirs.setblocking(False)
        plane.engine.rest(wire)
        body = bytes(4_000_000)
        plane.nursery.start_soon(wire.send, body)
        await trio.sleep(0.01)
        got = 0
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        while got < len(body):
            got += len(await stream.receive_some(65536))
        wire.close()
        await stream.aclose()


async def test_a_wire_that_is_closed_while_it_rests() -> None:
    async with data_plane() as plane:
        ours, theirs = socket.socketpair()
        wire = SocketWire(ours, plane.engine, plane.alarms)
        plane.engine.rest(wire)
        wire.close()
        await settle(lambda: len(plane.engine) == 0)
        theirs.close()


async def test_a_wire_has_one_turn_asked_for_at_a_time() -> None:
    """A body that keeps coming reports itself again and again; each report must not be a turn more."""
    async with data_plane() as plane:
        (ours, theirs), (client, far) = socket.socketpair(), socket.socketpair()
        ends = []
        for sock in (ours, client):
            sock.setblocking(False)
            ends.append(SocketWire(sock, plane.engine, plane.alarms))
        flow = BytesFlow(UNTIL_CLOSE, UNTIL_CLOSE, "upstream")
        record = Record("1", "test", 0.0)
        now = trio.current_time()
        transfer = Transfer(flow, SILENT_ROUTE, record, Counters().route("r"), now)
        pump = EpollPump(transfer, ends[0], ends[1], plane.engine, plane.alarms)
        plane.nursery.start_soon(pump.run)
        await trio.sleep(0.01)
        for _ in range(5):
            theirs.send(b"x" * 1000)
            ends[0].ready(select.EPOLLIN)
        assert plane.engine.turns_asked == 1
        await settle(lambda: plane.engine.turns_asked == 0)
        assert len(far.recv(10_000)) == 5000
        for wire in ends:
            wire.close()
        theirs.close()
        far.close()


class Unlucky(socket.socket):
    """A listener whose first connections are lost before they can be accepted."""

    def __init__(self) -> None:
        super().__init__()
        self.losses = [errno.ECONNABORTED, errno.EPROTO, errno.EHOSTUNREACH]

    def accept(self) -> tuple[socket.socket, object]:
        if self.losses:
            code = self.losses.pop()
            raise OSError(code, os.strerror(code))
        return super().accept()


async def test_connections_that_are_lost_before_they_are_accepted() -> None:
    """accept(2): errors that are already pending on a new connection are reported there. They end nothing."""
    async with data_plane() as plane:
        with Unlucky() as sock:
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            acceptor = Acceptor(sock, plane.engine)
            with socket.create_connection(sock.getsockname()) as client:
                came: list[tuple[socket.socket, str | None]] = []

                def admit(accepted: socket.socket, peer: str | None) -> bool:
                    came.append((accepted, peer))
                    return False  # no room for another one: `accept` returns

                await acceptor.accept(admit)
                [(accepted, peer)] = came
                assert peer == "127.0.0.1"
                assert accepted.getpeername() == client.getsockname()
                accepted.close()
            acceptor.close()


async def test_a_socket_that_comes_when_the_engine_has_ended() -> None:
    """1. A dial has connected in the turn in which the worker is cancelled. 2. The engine ends first. 3. The wire can still
    be made, so that somebody closes it."""
    async with data_plane() as plane:
        plane.nursery.cancel_scope.cancel()
    ours, theirs = socket.socketpair()
    wire = SocketWire(ours, plane.engine, plane.alarms)
    wire.close()
    assert ours.fileno() == -1
    theirs.close()


class Ringing:
    """An alarm, and what it found when it rang."""

    def __init__(self, found: Callable[[], int]) -> None:
        self.entry: Entry | None = None
        self.found: int | None = None
        self._found = found

    def ring(self, now: float) -> float:
        self.found = self._found()
        return inf


async def test_nothing_rings_before_every_socket_was_looked_at(mock_clock: MockClock) -> None:
    """1. Many more sockets than are taken at a time become readable. 2. In the same moment an alarm is due."""
    many = 3 * BATCH
    async with data_plane() as plane:
        pairs = [socket.socketpair() for _ in range(many)]
        wires = [SocketWire(ours, plane.engine, plane.alarms) for ours, _ in pairs]
        await wait_all_tasks_blocked(0.002)
        for _ in range(20):  # Trio runs the engine and the alarms in any order
            ringing = Ringing(lambda: sum(wire.readable for wire in wires))
            plane.alarms.arm(ringing, trio.current_time() + 0.01)
            await wait_all_tasks_blocked()
            for wire, (_, theirs) in zip(wires, pairs, strict=True):
                wire.readable = False
                theirs.send(b"x")
            mock_clock.jump(0.01)
            await wait_all_tasks_blocked(0.002)
            assert ringing.found == many
        for wire, (_, theirs) in zip(wires, pairs, strict=True):
            wire.close()
            theirs.close()


async def test_a_flood_does_not_keep_alarms_from_ringing() -> None:
    async with data_plane() as plane:
        flood = [Restless() for _ in range(2 * BATCH)]
        for each in flood:
            plane.engine.add(each, each.fd)
            each.disturb()
        ringing = Ringing(lambda: 1)
        plane.alarms.arm(ringing, trio.current_time() + 0.01)
        await until(lambda: ringing.found == 1)
        for each in flood:
            plane.engine.discard(each.fd)
            os.close(each.fd)


async def test_a_look_takes_no_turn_from_anybody() -> None:
    """1. The engine sleeps, and a task asks for a turn. 2. Before it wakes an alarm looks at the sockets, and takes the ring
    for the turn off the epoll. 3. The turn comes all the same, and so does the next one."""
    async with data_plane() as plane:
        ours, theirs = socket.socketpair()
        wire = SocketWire(ours, plane.engine, plane.alarms)
        for _ in range(2):
            await wait_all_tasks_blocked(0.002)
            turn = trio.Event()
            plane.engine.again(wire, turn.set)
            plane.engine.look()
            await turn.wait()
        wire.close()
        theirs.close()
