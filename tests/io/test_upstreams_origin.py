"""The idle connections of one url, and its passive health, each law by itself."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from relay.upstreams import origin as origin_module
from relay.upstreams.origin import Origin
from relay.wires.alarms import Alarms
from relay.wires.socket_wire import SocketWire
from tests.io.upstreams_setup import (
    Plane,
    data_plane,
    descriptors,
    http,
    origin,
    until,
    upstream,
    wire_pair,
)

# -- the pool --------------------------------------------------------------------------------------


async def test_the_newest_wire_is_taken_first() -> None:
    async with data_plane() as plane:
        pool = origin(plane)
        first, _keep1 = wire_pair(plane)
        second, _keep2 = wire_pair(plane)
        pool.put(first)
        pool.put(second)
        assert pool.idle == (first, second)
        assert pool.take() is second
        assert pool.take() is first
        assert pool.take() is None
        close(first, second, _keep1, _keep2)


async def test_a_taken_wire_is_as_new() -> None:
    async with data_plane() as plane:
        pool = origin(plane)
        wire, peer = wire_pair(plane)
        wire.read_by = wire.write_within = 1.0
        wire.half_close_kept = True
        wire.on_writable = wire.on_gone = lambda: None
        pool.put(wire)
        assert pool.take() is wire
        assert wire.on_readable is None
        assert wire.on_gone is None
        assert wire.on_writable is None
        assert not wire.half_close_kept
        assert wire.read_by == wire.write_within == float("inf")
        peer.send(b"hello")
        assert await wire.receive() == b"hello"
        close(wire, peer)


@pytest.mark.parametrize("how", ["closed", "half closed", "speaks", "reset"])
async def test_an_idle_wire_that_stirs_is_closed_at_once(how: str) -> None:
    async with data_plane() as plane:
        pool = origin(plane)
        before = descriptors()
        wire, peer = await tcp_pair(plane)
        pool.put(wire)
        if how == "closed":
            peer.close()
        elif how == "half closed":
            peer.shutdown(socket.SHUT_WR)
        elif how == "reset":
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            peer.close()
        else:
            peer.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        await until(lambda: wire.closed)
        assert pool.idle == ()
        assert pool.take() is None
        assert len(plane.engine) == 0
        peer.close()
        assert descriptors() == before


@pytest.mark.parametrize("how", ["closed", "speaks"])
async def test_the_end_that_the_engine_has_not_seen_yet_is_seen_by_take(how: str) -> None:
    async with data_plane() as plane:
        pool = origin(plane)
        older, kept = wire_pair(plane)
        wire, peer = wire_pair(plane)
        pool.put(older)
        pool.put(wire)
        if how == "closed":
            peer.close()
        else:
            peer.send(b"x")
        assert pool.take() is older  # no checkpoint since: the engine had no turn
        assert wire.closed
        close(older, kept, peer)


async def test_put_refuses_what_cannot_be_used_again() -> None:
    async with data_plane() as plane:
        pool = origin(plane)

        unread, peer1 = wire_pair(plane)
        peer1.send(b"more than the answer")
        await until(lambda: unread.readable)
        pool.put(unread)
        assert unread.closed

        hung_up, peer2 = wire_pair(plane)
        peer2.shutdown(socket.SHUT_WR)
        await until(lambda: hung_up.hung_up)
        pool.put(hung_up)
        assert hung_up.closed

        pool.put(hung_up)  # closed already: nothing happens
        assert pool.idle == ()
        close(peer1, peer2)


async def test_no_more_than_keepalive_connections_are_kept() -> None:
    async with data_plane() as plane:
        pool = origin(plane, keepalive_connections=2)
        pairs = [wire_pair(plane) for _ in range(3)]
        for wire, _ in pairs:
            pool.put(wire)
        assert [wire.closed for wire, _ in pairs] == [False, False, True]
        assert len(pool.idle) == 2
        pool.close_idle()
        assert all(wire.closed for wire, _ in pairs)
        close(*(peer for _, peer in pairs))


async def test_a_retired_origin_keeps_nothing() -> None:
    async with data_plane() as plane:
        pool = origin(plane)
        pool.retired = True
        wire, peer = wire_pair(plane)
        pool.put(wire)
        assert wire.closed
        close(peer)


async def test_wires_idle_for_too_long_are_closed_by_the_alarm(autojump_clock: MockClock) -> None:
    async with data_plane() as plane:
        pool = origin(plane, keepalive_idle=4.0)
        old, peer1 = wire_pair(plane)
        young, peer2 = wire_pair(plane)
        pool.put(old)
        await trio.sleep(3.0)
        pool.put(young)
        await trio.sleep(1.5)
        await until(lambda: old.closed)
        assert list(pool.idle) == [young]
        await trio.sleep(3.0)
        await until(lambda: young.closed)
        assert pool.idle == ()
        close(peer1, peer2)


async def test_take_closes_what_expired_before_the_alarm_rang(mock_clock: MockClock) -> None:
    async with data_plane() as plane:
        pool = origin(plane, keepalive_idle=4.0)
        pairs = [wire_pair(plane) for _ in range(3)]
        for wire, _ in pairs:
            pool.put(wire)
        mock_clock.jump(4.5)
        assert pool.take() is None  # no checkpoint since the jump
        assert all(wire.closed for wire, _ in pairs)
        close(*(peer for _, peer in pairs))


async def test_a_wire_that_comes_back_often_costs_no_alarm_each_time() -> None:
    async with data_plane() as plane:
        pool = origin(plane)
        wire, peer = wire_pair(plane)
        for _ in range(100):
            pool.put(wire)
            assert pool.take() is wire
        assert len(plane.alarms) == 1
        close(wire, peer)


# -- passive health --------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off without jitter, to say the figures."""
    monkeypatch.setattr(origin_module, "JITTER", 0.0)


NO_ENGINE: Any = None  # nothing rings here


def url_with(clock: Clock, **settings: object) -> Origin:
    return Origin(http(1), upstream(**settings), Alarms(NO_ENGINE), clock)


@pytest.mark.usefixtures("steady")
def test_back_off_doubles_from_one_second_to_thirty(clock: Clock) -> None:
    url = url_with(clock)
    waits = []
    for _ in range(8):
        url.failed("refused")
        waits.append(url.retry_at - clock.now)
        assert not url.available(clock.now)
        clock.now = url.retry_at
        assert url.available(clock.now)
        url.begin_trial(clock.now)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    assert url.failures == 8
    assert url.cause == "refused"


def test_back_off_is_jittered_within_a_fifth(clock: Clock) -> None:
    waits = set()
    for _ in range(200):
        url = url_with(clock)
        url.failed("refused")
        waits.add(url.retry_at - clock.now)
    assert len(waits) > 100
    assert min(waits) >= 0.8 - 1e-9
    assert max(waits) <= 1.2 + 1e-9


@pytest.mark.usefixtures("steady")
def test_failures_that_come_together_count_once(clock: Clock) -> None:
    url = url_with(clock)
    for _ in range(50):
        url.failed("timeout")
    assert url.failures == 1
    assert url.retry_at == clock.now + 1


@pytest.mark.usefixtures("steady")
def test_one_trial_at_a_time_and_a_trial_nobody_finished_ends(clock: Clock) -> None:
    url = url_with(clock)
    url.failed("refused")
    clock.now += 1
    url.begin_trial(clock.now)
    assert not url.available(clock.now), "the others wait for the trial"
    clock.now += 1
    assert url.available(clock.now), "its client left: somebody else may try"


def test_working_ends_the_back_off_at_once(clock: Clock) -> None:
    url = url_with(clock)
    url.failed("refused")
    url.worked()
    assert url.available(clock.now)
    assert url.failures == 0
    assert url.cause == ""


def test_our_own_lack_of_descriptors_is_not_its_fault(clock: Clock) -> None:
    url = url_with(clock)
    url.failed("exhausted")
    assert url.available(clock.now)
    assert url.failures == 0


def test_slow_start_grows_from_a_tenth_to_all(clock: Clock) -> None:
    url = url_with(clock, slow_start=10.0)
    assert url.weight(clock.now) == 1.0, "a relay that starts does not warm its urls up"
    url.failed("refused")
    url.worked()
    weights = [url.weight(clock.now + seconds) for seconds in (0, 0.5, 2, 5, 9, 10, 100)]
    assert weights == [0.1, 0.1, 0.2, 0.5, 0.9, 1.0, 1.0]


def test_checks_and_passive_health_do_not_overrule_each_other(clock: Clock) -> None:
    url = url_with(clock)
    url.checked(False)
    url.worked()
    assert not url.available(clock.now), "the checks object"
    url.failed("timeout")
    url.checked(True)
    assert url.available(clock.now), "checks that pass again wipe the slate"
    url.failed("timeout")
    url.checked(True)
    assert not url.available(clock.now), "a check that passes as before says nothing new"


# -- ground ----------------------------------------------------------------------------------------


async def tcp_pair(plane: Plane) -> tuple[SocketWire, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    ours.setblocking(False)
    await trio.lowlevel.checkpoint()
    return SocketWire(ours, plane.engine, plane.alarms), theirs


def close(*ends: SocketWire | socket.socket) -> None:
    for end in ends:
        end.close()
