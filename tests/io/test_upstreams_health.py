"""Active checks: rise and fall as a table, and every way a real url can fail a check."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from relay.config.values import FieldEdits, HealthCheck, Url
from relay.upstreams.group import Group, Groups
from relay.upstreams.health import Verdict, check, probe, states, watch
from relay.upstreams.origin import Origin
from tests.io.upstreams_setup import (
    Blackhole,
    Plane,
    config,
    data_plane,
    http,
    refusing_port,
    sockets,
    until,
    upstream,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\nsick"


@pytest.mark.parametrize(
    ("rise", "fall", "checks", "verdicts"),
    [
        (2, 3, "+++", "+++"),
        (2, 3, "--", "++"),
        (2, 3, "---", "++-"),
        (2, 3, "--+---", "+++++-"),
        (2, 3, "---+", "++--"),
        (2, 3, "---++", "++--+"),
        (2, 3, "---+-++", "++----+"),
        (1, 1, "-+-+", "-+-+"),
    ],
)
def test_rise_and_fall(rise: int, fall: int, checks: str, verdicts: str) -> None:
    verdict = Verdict(rise, fall)
    was = "+"
    for result, expected in zip(checks, verdicts, strict=True):
        changed = verdict.note(result == "+")
        assert ("+" if verdict.up else "-") == expected
        assert changed == (expected != was)
        was = expected


class Patient:
    """A server whose answer can be changed; it keeps what it was asked."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer  # None: it accepts and says nothing
        self.asked: list[bytes] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            self.asked.append(bytes(await stream.receive_some()))
            if self.answer is None:
                await trio.sleep_forever()
            elif self.answer:
                await stream.send_all(self.answer)


@asynccontextmanager
async def patient(plane: Plane, answer: bytes | None) -> AsyncIterator[tuple[Patient, Url]]:
    server = Patient(answer)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    plane.nursery.start_soon(trio.serve_listeners, server.serve, [listener])
    yield server, http(listener.socket.getsockname()[1])


def group_of(plane: Plane, *urls: Url, **settings: object) -> Group:
    health = HealthCheck(**{"interval": 0.01, "timeout": 0.2, **settings})  # type: ignore[arg-type]
    return Group(upstream(*urls, health=health), plane.engine, plane.alarms)


async def probed(plane: Plane, url: Url, **settings: object) -> str:
    group = group_of(plane, url, **settings)
    assert group.upstream.health is not None
    return await probe(group, group.origins[0], group.upstream.health)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (OK, ""),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK, ""),
        (b"HTTP/1.0 200 OK\r\n\r\nanything", ""),
        (BROKEN, "status 500"),
        (b"", "closed before it answered"),
        (b"HTTP/1.1 20", "closed before it answered"),
        (None, "no answer within 0.05 s"),
    ],
)
async def test_one_check(answer: bytes | None, reason: str) -> None:
    async with data_plane() as plane, patient(plane, answer) as (_, url):
        found = await probed(plane, url, timeout=0.05 if answer is None else 5.0)
        assert found == (f"{url}: {reason}" if reason else "")
        assert len(plane.engine) == 0


async def test_a_url_that_talks_nonsense_is_not_healthy() -> None:
    async with data_plane() as plane, patient(plane, b"SSH-2.0-OpenSSH_9.2\r\n\r\n") as (_, url):
        assert await probed(plane, url) != ""


async def test_a_url_that_refuses_or_does_not_connect() -> None:
    async with data_plane() as plane:
        assert "refused" in await probed(plane, http(refusing_port()))
        hole = Blackhole()
        before = sockets()
        assert "no answer within" in await probed(plane, http(hole.port), timeout=0.05)
        assert sockets() == before
        hole.close()


async def test_what_a_check_asks() -> None:
    async with (
        data_plane() as plane,
        patient(plane, b"HTTP/1.1 204 Fine\r\n\r\n") as (server, root),
    ):
        url = Url("http", root.host, root.port, base_path="/base")
        settings = HealthCheck(path="/health?deep=1", status=(200, 204))
        secret = FieldEdits(set=((b"authorization", b"Bearer s3cret"),))
        group = Group(
            upstream(url, health=settings, request_headers=secret), plane.engine, plane.alarms
        )
        assert await probe(group, group.origins[0], settings) == ""
        head = server.asked[0]
        assert head.startswith(b"GET /base/health?deep=1 HTTP/1.1\r\n")
        assert f"host: 127.0.0.1:{url.port}\r\n".encode() in head
        assert b"authorization: Bearer s3cret\r\n" in head
        assert b"connection: close\r\n" in head


async def test_down_and_up_again_and_only_changes_are_told() -> None:
    """1. Healthy. 2. Sick: chosen no more. 3. Healthy: chosen again. The other url stays up."""
    async with (
        data_plane() as plane,
        patient(plane, OK) as (one, first),
        patient(plane, OK) as (_, second),
    ):
        group = group_of(plane, first, second, rise=2, fall=3)
        a, b = group.origins
        told: list[tuple[Origin, bool, str]] = []
        plane.nursery.start_soon(check, group, lambda *change: told.append(change))

        await until(lambda: len(one.asked) >= 2)
        assert told == []

        one.answer = BROKEN
        await until(lambda: told)
        assert told == [(a, False, f"{first}: status 500")]
        assert {group.choose() for _ in range(10)} == {b}
        known = list(states([group], trio.current_time()))
        assert [(s.up, s.checks) for s in known] == [(False, False), (True, True)]

        one.answer = OK
        await until(lambda: len(told) == 2)
        assert told[1] == (a, True, "")
        assert {group.choose() for _ in range(10)} == {a, b}
        group.close()


async def test_checks_end_with_their_group_in_the_middle_of_one() -> None:
    async with data_plane() as plane, patient(plane, None) as (server, url):
        group = group_of(plane, url, timeout=100.0)
        ended = trio.Event()

        async def checking() -> None:
            await check(group, lambda *_: None)
            ended.set()

        plane.nursery.start_soon(checking)
        await until(lambda: server.asked)
        group.close()
        await ended.wait()
        assert len(plane.engine) == 0


async def test_watching_follows_the_configuration() -> None:
    """1. One upstream is checked. 2. A reload replaces it by another. 3. Only that is checked."""
    async with (
        data_plane() as plane,
        patient(plane, OK) as (one, first),
        patient(plane, OK) as (two, second),
    ):
        health = HealthCheck(interval=0.01)
        groups = Groups(config(upstream(first, health=health)), plane.engine, plane.alarms)
        plane.nursery.start_soon(watch, groups, lambda *_: None)
        await until(lambda: one.asked)
        groups.update(config(upstream(second, health=health)))
        await until(lambda: len(two.asked) >= 3)  # what was on its way to the first has arrived
        asked = len(one.asked)
        await until(lambda: len(two.asked) >= 6)
        assert len(one.asked) == asked


async def test_without_settings_there_is_nothing_to_check() -> None:
    async with data_plane() as plane:
        await check(Group(upstream(http(1)), plane.engine, plane.alarms), lambda *_: None)


async def test_what_is_known_of_a_url() -> None:
    async with data_plane() as plane:
        group = Group(upstream(http(1), http(2)), plane.engine, plane.alarms)
        a, b = group.origins
        a.failed("refused")
        b.streams = 3
        now = trio.current_time()
        first, second = states([group], now)
        assert first.upstream == "backend"
        assert first.url == "http://127.0.0.1:1"
        assert (first.up, first.checks, first.failures, first.cause) == (False, None, 1, "refused")
        assert 0.7 < first.retry_in <= 1.2
        assert (second.up, second.streams, second.idle, second.retry_in) == (True, 3, 0, 0.0)
