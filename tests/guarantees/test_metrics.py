"""The promise: the metrics say what the access log says, while streams live and after they ended.

One worker in the test's own process; clients and the upstream are played by hand.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
import trio.testing

from relay.observing.counters import TTFB_BOUNDS
from relay.observing.ending import Cause
from tests.guarantees.admin_setup import Admin, Sample, admin, sample, samples
from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, route_to, running, scene

ROUTES = """
[[routes]]
name = "posts"
path = "/post/{id}"
methods = ["POST"]
upstream = "backend"
"""


async def answered(relay: Relay, upstream: Upstream, path: str, body: bytes = b"") -> None:
    """A small exchange, complete on both sides."""
    client = await relay.client()
    method = "POST" if body else "GET"
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    await client.send(head.encode() + body)
    peer, _ = await upstream.request()
    await peer.exactly(len(body))
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    peer.close()
    await client.until(b"hello")
    client.close()


async def streaming(relay: Relay, upstream: Upstream, events: int) -> tuple[RawPeer, RawPeer]:
    """An event stream that has brought `events` events."""
    client = await relay.get("/stream")
    peer, _ = await upstream.request()
    payload = b"".join(b"data: %d\n\n" % n for n in range(events))
    await peer.send(EVENT_HEAD + chunked(payload))
    await client.until(payload)
    return client, peer


async def scripted(relay: Relay, upstream: Upstream) -> list[dict[str, Any]]:
    """A run with endings of many kinds. Returns: its lines of the access log."""
    await answered(relay, upstream, "/one")
    await answered(relay, upstream, "/post/1", b"some body")
    client, peer = await streaming(relay, upstream, 3)
    await peer.send(chunked(b"data: last\n\n", b""))
    await client.until(b"0\r\n\r\n")
    peer.close()  # what comes next dials anew
    left, _ = await streaming(relay, upstream, 2)
    left.close()
    broken, peer = await streaming(relay, upstream, 1)
    peer.close()
    await broken.rest()
    early = await relay.get("/early")
    await upstream.request()
    early.close()
    refused = await relay.client()
    await refused.send(b"BREW /pot HTTP/1.1\r\nHost: x\r\nX Y: z\r\n\r\n")
    await refused.rest()
    return await relay.lines(7)


def logged(lines: list[dict[str, Any]]) -> dict[Sample, float]:
    """What the metrics must say after these lines."""
    said: Counter[Sample] = Counter()
    for line in lines:
        route = line["route"]
        said[sample("relay_exchanges_total", route=route, ending=line["ending"])] += 1
        said[sample("relay_events_total", route=route)] += line["events"]
        said[sample("relay_bytes_total", route=route, direction="in")] += line["bytes_in"]
        said[sample("relay_bytes_total", route=route, direction="out")] += line["bytes_out"]
        if line["ttfb_ms"] is not None:
            said[sample("relay_time_to_first_byte_seconds_count", route=route)] += 1
    return dict(said)


async def test_they_agree_with_the_access_log() -> None:
    async with scene('name = "all"', more=ROUTES) as (relay, upstream), admin(relay) as desk:
        lines = await scripted(relay, upstream)
        got = await desk.metrics()
        assert {ending for line in lines if (ending := line["ending"])} == {
            "complete",
            "client_left",
            "upstream_broke",
            "bad_request",
        }
        for key, value in logged(lines).items():
            assert got[key] == value, key
        names = {key[0] for key in logged(lines)}
        more = {k: v for k, v in got.items() if k[0] in names and v} - logged(lines).keys()
        assert not more, "nothing is counted that is not logged"
        assert got[sample("relay_stream_duration_seconds_count", route="all")] == 3
        assert got[sample("relay_event_gap_seconds_count", route="all")] >= 3
        assert got[sample("relay_cancel_delay_seconds_count")] == 2, "in the stream, and before it"
        assert got[sample("relay_streams_active", route="all")] == 0
        assert got[sample("relay_held_bytes")] == 0
        assert got[sample("relay_accepted_connections_total")] == 7


async def test_a_live_stream_counts_before_it_ends_and_once() -> None:
    async with scene('name = "all"') as (relay, upstream), admin(relay) as desk:
        client, peer = await streaming(relay, upstream, 5)
        events, out = sample("relay_events_total", route="all"), out_of("all")
        live = await desk.metrics()
        assert live[events] == 5
        assert live[out] == len(chunked(b"".join(b"data: %d\n\n" % n for n in range(5))))
        assert live[sample("relay_streams_active", route="all")] == 1
        await peer.send(chunked(b""))
        await client.until(b"0\r\n\r\n")
        await relay.line()
        ended = await desk.metrics()
        assert ended[events] == 5
        assert ended[out] == live[out] + 5
        assert ended[sample("relay_streams_active", route="all")] == 0


def out_of(route: str) -> Sample:
    return sample("relay_bytes_total", route=route, direction="out")


@pytest.mark.parametrize("size", [0, 3])
async def test_no_counter_falls_while_a_stream_ends(size: int) -> None:
    """Regression: 1. A stream leaves the registry when its pump ends. 2. Its exchange waits for a
    task beside it. 3. A scrape now finds its events neither live nor counted. Prometheus takes the
    fall for a counter that began again, and the next rate is the whole history."""
    async with scene('name = "all"') as (relay, upstream):
        client = await relay.client()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        peer, _ = await upstream.request()
        await client.send(bytes(size))  # behind the head: a task beside the response reads it
        await peer.exactly(size)
        await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
        await client.until(b"data: 1\n\n\r\n")
        seen: list[int] = []
        observer = _EveryTurn(relay, seen)
        trio.lowlevel.add_instrument(observer)
        await peer.send(chunked(b"data: 2\n\n", b""))
        await client.until(b"0\r\n\r\n")
        await relay.line()
        trio.lowlevel.remove_instrument(observer)
        assert seen[-1] == 2
        assert seen == sorted(seen)


class _EveryTurn(trio.abc.Instrument):
    """Looks at the events between any two steps of any tasks."""

    def __init__(self, relay: Relay, seen: list[int]) -> None:
        self._relay = relay
        self._seen = seen

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._seen.append(self._relay.server.snapshot()["routes"]["all"]["events"])


async def test_held_bytes_are_those_of_an_unfinished_event() -> None:
    async with scene() as (relay, upstream), admin(relay) as desk:
        client, peer = await streaming(relay, upstream, 1)
        await peer.send(chunked(b"data: half") + chunked(b"!\n\n"))
        await client.until(b"!\n\n")  # in one chunk or in two, as the reads fell
        assert (await desk.metrics())[sample("relay_held_bytes")] == 0
        await peer.send(chunked(b"data: an") + b"6\r\n")
        with trio.fail_after(5):
            while (await desk.metrics())[sample("relay_held_bytes")] != 8:  # noqa: ASYNC110
                await trio.sleep(0.001)


async def test_the_delay_of_a_cancellation_is_seen_in_every_phase() -> None:
    async with scene() as (relay, upstream):
        delay = relay.worker.counters.cancel_delay
        for phase in ("request", "stream", "bytes"):
            client = await relay.get()
            peer, _ = await upstream.request()
            if phase == "stream":
                await peer.send(EVENT_HEAD + chunked(b"data: 1\n\n"))
                await client.until(b"data: 1\n\n\r\n")
            elif phase == "bytes":
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
                await client.until(b"\r\n\r\nx")
            before = sum(delay.counts)
            client.close()
            await peer.ended()
            await relay.line(ending="client_left")
            assert sum(delay.counts) == before + 1, phase
        assert 0 < delay.total < 1.0
        client = await relay.get()
        peer, _ = await upstream.request()
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await client.head()
        client.close()
        assert sum(delay.counts) == 3, "a client that leaves between exchanges cancels nothing"


async def test_upstreams_and_their_pool() -> None:
    async with scene() as (relay, upstream), admin(relay) as desk:
        up = {"upstream": "backend", "url": upstream.url}
        client = await relay.get()
        peer, _ = await upstream.request()
        got = await desk.metrics()
        assert got[sample("relay_upstream_up", **up)] == 1
        assert got[sample("relay_upstream_streams", **up)] == 1
        await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        await client.head()
        got = await desk.metrics()
        assert got[sample("relay_upstream_streams", **up)] == 0
        assert got[sample("relay_upstream_idle_connections", **up)] == 1
        [group] = relay.worker.groups
        group.origins[0].failed("refused")
        got = await desk.metrics()
        assert got[sample("relay_upstream_up", **up)] == 0
        assert got[sample("relay_upstream_failures", **up)] == 1


async def test_histograms_are_cumulative_and_end_with_all() -> None:
    async with scene('name = "all"') as (relay, upstream), admin(relay) as desk:
        await answered(relay, upstream, "/one")
        await relay.line()
        counters = relay.worker.counters.route("all")
        counters.first_byte.observe(1e6)
        got = await desk.metrics()
        name = "relay_time_to_first_byte_seconds_bucket"
        counts = [got[sample(name, route="all", le=str(bound))] for bound in TTFB_BOUNDS]
        assert counts == sorted(counts)
        assert counts[-1] == 1
        assert got[sample(name, route="all", le="+Inf")] == 2
        assert got[sample("relay_time_to_first_byte_seconds_sum", route="all")] >= 1e6


async def test_a_scraper_that_asks_for_openmetrics_gets_it() -> None:
    async with running(route_to("http://127.0.0.1:9")) as relay, admin(relay) as desk:
        asked = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n"
        got = await desk.ask("/metrics", fields=asked)
        assert got.fields["content-type"].startswith("application/openmetrics-text")
        assert got.body.endswith(b"# EOF\n")
        plain = await desk.ask("/metrics")
        assert plain.fields["content-type"].startswith("text/plain")
        assert samples(plain.body.decode())


async def test_a_route_name_is_a_label_whatever_it_is() -> None:
    name = 'a "quoted" \\\\ name'
    async with scene(f"name = '{name}'") as (relay, upstream), admin(relay) as desk:
        await answered(relay, upstream, "/one")
        await relay.line()
        ending = Cause.COMPLETE.value
        key = sample("relay_exchanges_total", route=name, ending=ending)
        assert (await desk.metrics())[key] == 1


async def rates(desk: Admin) -> dict[str, Any]:
    status: dict[str, Any] = (await desk.ask("/status")).json
    return status


async def test_the_page_gets_the_same_figures() -> None:
    async with scene('name = "all"', more=ROUTES) as (relay, upstream), admin(relay) as desk:
        lines = await scripted(relay, upstream)
        routes = (await rates(desk))["routes"]
        endings = Counter((line["route"], line["ending"]) for line in lines)
        shown = {(r, e): n for r, route in routes.items() for e, n in route["endings"].items()}
        assert shown == endings
