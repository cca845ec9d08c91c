"""The promise: the metrics are the sum over all workers, and no sum ever falls."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import Any, ClassVar

import trio

from relay.observing.counters import Counters, Histogram
from relay.observing.ending import Cause
from relay.observing.exposition import Snapshot, Totals, down, snapshot
from tests.guarantees.admin_setup import Admin, sample
from tests.guarantees.relay_processes import children_of, stream, upstream
from tests.harness import RawPeer, Upstream, chunked, route_to
from tests.interop.processes import Server, start_relay, wait_until

STREAMS = 16
SERVER = """
[server]
listen = "${LISTEN}"
admin = "127.0.0.1:0"
workers = 2
"""


class Worker:
    """What a snapshot looks at, without streams."""

    registry = ()
    draining = False
    lines_dropped = 0
    log_bytes = 0
    store_errors: ClassVar[dict[str, int]] = {"dir:append": 1}
    store_seconds: ClassVar[dict[str, Histogram]] = {}

    def __init__(self, pid: int, complete: int, urls: tuple[Any, ...] = ()) -> None:
        self.pid = pid
        self.counters = Counters()
        self.urls = urls
        route = self.counters.route("r")
        route.endings[Cause.COMPLETE] = complete
        route.events = complete * 10
        route.active = 1
        route.first_byte.observe(0.01)
        self.counters.connections = 2

    def runs(self) -> tuple[()]:
        return ()

    def url_states(self) -> tuple[Any, ...]:
        return self.urls


def figures(pid: int, complete: int) -> Snapshot:
    return {**snapshot(Worker(pid, complete)), "pid": pid}


def counted(totals: Snapshot) -> tuple[int, int, int]:
    route = totals["routes"]["r"]
    return route["endings"]["complete"], route["events"], sum(route["first_byte"][:-1])


def test_workers_are_added_up() -> None:
    totals = Totals().add({0: figures(10, 1), 1: figures(11, 2)})
    assert counted(totals) == (3, 30, 2)
    assert totals["routes"]["r"]["active"] == 2
    assert totals["connections"] == 4
    assert set(totals["workers"]) == {0, 1}


def test_what_a_worker_counted_stays_when_it_is_gone() -> None:
    """1. Two workers. 2. One does not answer: its counts stay, its gauges go. 3. Its successor has
    counted little: the sum goes on from there. 4. It dies too."""
    totals = Totals()
    assert counted(totals.add({0: figures(10, 5), 1: figures(11, 5)})) == (10, 100, 2)
    absent = totals.add({0: figures(10, 6)})
    assert counted(absent) == (11, 110, 2)
    assert absent["routes"]["r"]["active"] == 1
    assert counted(totals.add({0: figures(10, 6), 1: figures(12, 1)})) == (12, 120, 3)
    assert counted(totals.add({0: figures(10, 6), 1: figures(12, 2)})) == (13, 130, 3)
    assert counted(totals.add({0: figures(10, 6), 1: figures(13, 0)})) == (13, 130, 4)


def test_one_worker_that_leaves_a_url_alone_is_enough() -> None:
    """The others may just not have tried it."""

    class State:
        def __init__(self, up: bool) -> None:
            self.up = up

        def _asdict(self) -> dict[str, Any]:
            fixed = {"upstream": "u", "url": "http://a", "checks": None, "streams": 1, "idle": 2}
            broken = {"failures": 0 if self.up else 3, "retry_in": 1.0, "cause": "refused"}
            return {**fixed, **broken, "up": self.up}

    seen = [snapshot(Worker(pid, 0, (State(pid == 1),))) for pid in (1, 2)]
    [url] = Totals().add(dict(enumerate(seen)))["upstreams"]
    assert (url.up, url.streams, url.idle, url.failures) == (False, 2, 4, 3)
    assert down([url]) == ["u"]
    assert down([url, url._replace(url="http://b", up=True)]) == []


# -- real processes --------------------------------------------------------------------------------


def desk_of(server: Server) -> Admin:
    line = server.wait_for_line("relay: admin on ") or server.stderr.wait_for("relay: admin on ")
    return Admin(int(line.rpartition(":")[2]))


async def test_two_workers_agree_with_the_access_log() -> None:
    async with upstream() as up:
        with start_relay(route_to(up, 'name = "all"', more=SERVER)) as server:
            desk = desk_of(server)
            streams = [await stream(server, up) for _ in range(STREAMS)]
            live = await desk.metrics()
            assert live[sample("relay_streams_active", route="all")] == STREAMS
            assert live[sample("relay_events_total", route="all")] == STREAMS
            listed = await desk.streams()
            assert {one["worker"] for one in listed} == {0, 1}
            assert len(listed) == STREAMS
            for number, (client, peer) in enumerate(streams):
                if number % 2:
                    client.close()
                else:
                    await peer.send(chunked(b"data: 1\n\n", b""))
                    await client.until(b"0\r\n\r\n")
            lines = await _ended(server, STREAMS)
            got = await desk.metrics()
            endings = Counter(line["ending"] for line in lines)
            assert endings == {"complete": STREAMS / 2, "client_left": STREAMS / 2}
            for ending, number in endings.items():
                key = sample("relay_exchanges_total", route="all", ending=ending)
                assert got[key] == number
            assert got[sample("relay_events_total", route="all")] == sum(
                line["events"] for line in lines
            )
            out = sample("relay_bytes_total", route="all", direction="out")
            assert got[out] == sum(line["bytes_out"] for line in lines)
            assert got[sample("relay_cancel_delay_seconds_count")] == STREAMS / 2


async def test_a_stream_is_ended_in_whichever_worker_it_lives() -> None:
    async with upstream() as up:
        with start_relay(route_to(up, more=SERVER)) as server:
            desk = desk_of(server)
            streams = [await stream(server, up) for _ in range(STREAMS)]
            for one in await desk.streams():
                assert (await desk.ask(f"/streams/{one['id']}", "DELETE")).status == 200
            for client, peer in streams:
                assert b'"stopped"' in await client.rest()
                await peer.ended()
            assert await desk.streams() == []


async def test_a_killed_worker_takes_no_count_along() -> None:
    async with upstream() as up:
        with start_relay(route_to(up, 'name = "all"', more=SERVER)) as server:
            desk = desk_of(server)
            for client, peer in [await stream(server, up) for _ in range(STREAMS)]:
                await peer.send(chunked(b""))
                await client.until(b"0\r\n\r\n")
                client.close()
                peer.close()
            await _ended(server, STREAMS)
            events = sample("relay_events_total", route="all")
            assert (await desk.metrics())[events] == STREAMS
            serving = (await desk.ask("/status")).json["workers"]
            os.kill(serving[0]["pid"], signal.SIGKILL)
            server.stderr.wait_for("another starts now")
            assert (await desk.metrics())[events] == STREAMS
            with trio.fail_after(20):
                while (await _pid(desk, 0)) in (0, serving[0]["pid"]):  # noqa: ASYNC110
                    await trio.sleep(0.02)
            client, _ = await stream(server, up)
            assert (await desk.metrics())[events] == STREAMS + 1
            client.close()


async def test_not_ready_while_all_workers_drain() -> None:
    """The admin process outlives the streams, to tell."""
    async with upstream() as up:
        with start_relay(route_to(up, more=SERVER + '[timeouts]\ndrain = "20s"\n')) as server:
            desk = desk_of(server)
            client, peer = await _half(server, up)
            assert (await desk.ask("/readyz")).status == 200
            server.process.terminate()
            server.stderr.wait_for("draining")
            with trio.fail_after(10):
                while (got := await desk.ask("/readyz")).status == 200:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            assert got.json["reasons"] == ["draining"]
            await peer.send(b"b")
            assert await client.rest() == b"b"
            assert await trio.to_thread.run_sync(server.process.wait, 10) == 0


async def _half(server: Server, up: Upstream) -> tuple[RawPeer, RawPeer]:
    """A body of which one byte is still to come: nothing that a drain says farewell to."""
    client = await RawPeer.connect(server.port)
    await client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    peer, _ = await up.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na")
    await client.until(b"\r\n\r\na")
    return client, peer


async def _pid(desk: Admin, number: int) -> int:
    return int((await desk.ask("/status")).json["workers"][number]["pid"])


async def _ended(server: Server, count: int) -> list[dict[str, Any]]:
    """The lines of so many exchanges that ended."""

    def lines() -> list[dict[str, Any]]:
        found = [record for record in server.records if record["at"] == "end"]
        return found if len(found) >= count else []

    found: list[dict[str, Any]] = await trio.to_thread.run_sync(
        wait_until, f"{count} exchanges in the log", lines
    )
    return found


async def test_the_admin_process_is_one_of_its_own() -> None:
    """It ends with the relay, and takes no client of the public listener."""
    async with upstream() as up:
        with start_relay(route_to(up, more=SERVER)) as server:
            desk = desk_of(server)
            pids = {one["pid"] for one in (await desk.ask("/status")).json["workers"]}
            assert len(pids) == 2
            assert pids < set(children_of(server.pid))
            peer = await RawPeer.connect(server.port)
            await peer.send(b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            end, head = await up.request()
            assert head.startswith(b"GET /status ")
            end.close()
            assert server.stop() == 0
            peer.close()
