"""The promise of test_steps, for the first request of a connection and for answers whose body is still to come: whether an
exchange began in steps of the engine, dialled there and sent its head there, or was its task's, nobody can see.

Each scenario runs both ways and the transcripts are compared.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

import pytest
import trio
import trio.lowlevel
import trio.testing

from tests.guarantees.test_steps import (
    ANSWERS,
    BODY,
    CLOSE,
    DIFFERENT,
    PLAIN,
    REQUESTS,
    RESET,
    ROUTES,
    WAYS,
    Player,
    Script,
    same,
)
from tests.harness import (
    EVENT_HEAD,
    RawPeer,
    Relay,
    Upstream,
    chunked,
    route_to,
    running,
    scene,
    settle,
)

GET = b"GET /first?q=1 HTTP/1.1\r\nHost: relay.test\r\nAccept: text/event-stream\r\n\r\n"
EVENT = chunked(b"data: 1\n\n")
END = b"0\r\n\r\n"
BODIES: dict[str, tuple[Script, ...]] = {
    "a stream, head first": ((EVENT_HEAD, EVENT, EVENT + END),),
    "a stream with its head": ((EVENT_HEAD + EVENT, EVENT, END),),
    "a whole stream": ((EVENT_HEAD + EVENT + END,),),
    "a stream that breaks": ((EVENT_HEAD + EVENT, CLOSE),),
    "a stream that breaks in an event": ((EVENT_HEAD + chunked(b"data: 1\n\nda"), CLOSE),),
    "a stream that is reset": ((EVENT_HEAD + EVENT, RESET),),
    "a stream of nonsense": ((EVENT_HEAD + EVENT, b"zz\r\n", CLOSE),),
    "a stream until the end": (
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n", CLOSE),
    ),
    "a stream of a length": (
        (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 18\r\n\r\ndata: 1\n\n",
            b"data: 2\n\n",
        ),
    ),
    "a stream in a coding": (
        (EVENT_HEAD[:-2] + b"Content-Encoding: br\r\n\r\n" + EVENT, EVENT + END),
    ),
    "bytes of a length": ((PLAIN[:-3], PLAIN[-3:]),),
    "bytes of a length that break": ((PLAIN[:-3], CLOSE),),
    "chunks": (
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-t\r\n\r\n"
            + chunked(BODY),
            chunked(BODY) + b"0\r\nX-T: 1\r\n\r\n",
        ),
    ),
    "more than there should be": ((PLAIN[:-3], PLAIN[-3:] + b"more", CLOSE),),
}


async def lines_until_the_end(relay: Relay) -> list[dict[str, object]]:
    lines = [await relay.line()]
    while lines[-1]["at"] != "end":
        lines.append(await relay.line())
    for line in lines:
        for key in DIFFERENT:
            line.pop(key, None)
    return lines


async def transcript(
    way: str, request: bytes, scripts: tuple[Script, ...], route: str
) -> tuple[object, ...]:
    up = await Upstream.open()
    player = Player(list(scripts))
    async with running(route_to(up, route, more=WAYS[way])) as relay, trio.open_nursery() as tasks:
        tasks.start_soon(player.run, up)
        client = await relay.client()
        await client.send(request)
        log = await lines_until_the_end(relay)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await client.send(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        got = same(await client.rest())
        client.close()
        await settle(lambda: relay.worker.counters.connections == 0)
        left = relay.inventory()
        assert (left.connections, left.streams, left.transfers) == (0, 0, 0)
        counted = {
            name: (
                {cause.value: count for cause, count in route.endings.items()},
                route.bytes_out,
                route.events,
                route.active,
            )
            for name, route in relay.worker.counters.routes.items()
        }
        tasks.cancel_scope.cancel()
    up.close()
    return [same(head) for head in player.seen], got, log, counted


async def both_ways(request: bytes, scripts: tuple[Script, ...], route: str = "") -> None:
    stepped = await transcript("steps", request, scripts, route)
    assert stepped == await transcript("task", request, scripts, route)


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_every_kind_of_request(request_: bytes) -> None:
    await both_ways(request_, ())


@pytest.mark.parametrize("scripts", (ANSWERS | BODIES).values(), ids=ANSWERS | BODIES)
async def test_every_kind_of_answer(scripts: tuple[Script, ...]) -> None:
    await both_ways(GET, scripts)


@pytest.mark.parametrize("kind", ["a stream with its head", "a stream that breaks", "chunks"])
@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
async def test_every_kind_of_route(route: str, kind: str) -> None:
    await both_ways(GET, BODIES[kind], route)


async def test_no_task_before_the_head_is_out() -> None:
    """What the steps are for: up to the first event the connection's task runs twice, to begin and to park."""

    class Watcher(trio.abc.Instrument):
        woken = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.woken += task.name.endswith("Server._serve")

    async with scene() as (relay, up):
        watcher = Watcher()
        trio.lowlevel.add_instrument(watcher)
        client = await relay.get()
        peer, _ = await up.request()
        await peer.send(EVENT_HEAD + EVENT)
        await client.until(EVENT)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(watcher)
        assert watcher.woken == 2


@pytest.mark.parametrize("way", WAYS)
async def test_what_came_behind_a_head_that_is_handed_over_is_not_lost(way: str) -> None:
    """1. A step reads an interim head, which is the task's to pass on. 2. Before the task runs, the final one comes."""
    async with scene(more=WAYS[way]) as (relay, up):
        for _ in range(20):  # the order of the turns is the scheduler's
            client = await relay.get()
            peer, _ = await up.request()
            await peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
            await peer.send(PLAIN)
            await client.until(BODY)
            client.close()
            peer.close()


async def test_a_reload_between_a_request_and_its_task() -> None:
    """1. A first request has gone out in the step that accepted its connection. 2. Before the connection's task has run, the
    configuration is a new one, by which the client is to say first who it is. 3. The request goes on by the old one.
    """

    class Reload(trio.abc.Instrument):
        def task_spawned(self, task: trio.lowlevel.Task) -> None:
            if task.name.endswith("Server._serve"):
                config = relay.worker.config
                config = config._replace(server=replace(config.server, proxy_protocol=True))
                relay.server.configure(config, None)

    async with scene("", more="[server]\ntrusted_proxies = ['127.0.0.1']\n") as (relay, up):
        # Before relay looks: in one step
        sock = socket.create_connection(("127.0.0.1", relay.port))
        sock.send(GET)
        reload = Reload()
        trio.lowlevel.add_instrument(reload)
        peer, _ = await up.request()
        trio.lowlevel.remove_instrument(reload)
        await peer.send(EVENT_HEAD + EVENT)
        client = RawPeer(trio.SocketStream(trio.socket.from_stdlib_socket(sock)))
        await client.until(EVENT)
        client.close()
        await peer.rest()
        await settle(lambda: not relay.worker.counters.connections)
        assert relay.inventory().streams == 0


@contextmanager
def full_queue() -> Iterator[str]:
    """The url of a listener where nobody accepts, and whose queue is full: a dial stays under way."""
    with ExitStack() as held:
        full = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield f"http://127.0.0.1:{full.getsockname()[1]}"


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_leaves_while_its_upstream_is_dialled(way: str) -> None:
    """1. Nobody accepts at the upstream, whose queue is full. 2. The client leaves. 3. Its exchange ends in the dial."""
    with full_queue() as url:
        async with running(route_to(url, more=WAYS[way])) as relay:
            client = await relay.get()
            await settle(lambda: relay.inventory().streams == 1)
            client.close()
            line = await relay.line()
            assert (line["ending"], line["phase"], line["status"]) == ("client_left", "dial", 499)
            await settle(lambda: not relay.worker.counters.connections)
            assert relay.inventory().streams == 0


@pytest.mark.parametrize("way", WAYS)
async def test_a_dial_that_takes_too_long(way: str) -> None:
    """The same, and the client stays: the url is blamed, after the time that the route gives it, and once."""
    with full_queue() as url:
        route = "[routes.timeouts]\nconnect = '100ms'\n"
        async with running(route_to(url, route, more=WAYS[way])) as relay:
            client: RawPeer = await relay.get()
            assert (await client.head()).startswith(b"HTTP/1.1 504 ")
            [origin] = [origin for group in relay.worker.groups for origin in group.origins]
            assert (origin.cause, origin.failures, origin.streams) == ("timeout", 1, 0)
            client.close()
