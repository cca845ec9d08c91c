"""Any bytes from either side: the running relay brings each exchange to a clear Ending, within its
deadline,
and never to a traceback.

Seeded and bounded. Inputs are mutations of honest messages, cut at random, so that most get past
the first
check. The sans-IO properties in tests/core see many more; here it is the wiring that is tried.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import trio
from trio.testing import memory_stream_pair

from relay.flows.bytes_flow import BytesFlow
from relay.flows.event_flow import EventFlow
from relay.http.bodies import body_reader
from relay.http.fault import Fault
from relay.http.framing import CHUNKED, UNTIL_CLOSE
from relay.observing.ending import Cause, Phase, Side
from tests.harness import EVENT_HEAD, RawPeer, Relay, Upstream, chunked, scene

INPUTS = 1000  # per test; some of them several messages
AT_ONCE = 16
PATIENCE = 60.0  # seconds for all of them
QUICK = """
[timeouts]
request_head = "150ms"
request_body_idle = "150ms"
response_head = "150ms"
idle = "150ms"
write = "150ms"
[limits]
request_head = "2KiB"
response_head = "2KiB"
request_body = "64KiB"
"""
ROUTES = {
    "honest": 'heartbeat = "20ms"\ncomplete_when = "[DONE]"\n[routes.limits]\nmax_event = "1KiB"',
    "patient": 'heartbeat = "5ms"\nretries = 1\nfirst_event = "20ms"\ncommit = "after 10ms"\n'
    'unavailable = "retry-event"\nhalf_close = "keep"\nafter_error = "close"\ndialect = "named"',
}

REQUESTS = [
    b"GET /a?b=c HTTP/1.1\r\nHost: relay.test\r\nAccept: text/event-stream\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: relay.test\r\nContent-Length: 11\r\n\r\nhello world",
    b"PUT /a HTTP/1.1\r\nHost: relay.test\r\nTransfer-Encoding: chunked\r\n\r\n"
    + chunked(b"hello", b" world")
    + b"0\r\nX-Trailer: 1\r\n\r\n",
    b"HEAD http://relay.test/ HTTP/1.1\r\nHost: relay.test\r\nConnection: keep-alive, X\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: relay.test\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
]
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + chunked(b"hello", b" world")
    + b"0\r\nX-Trailer: 1\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the close",
    EVENT_HEAD
    + chunked(b"data: 1\n\n", b"id: 7\r\n\r\n: c\r\r", b"data: [DONE]\n\n")
    + b"0\r\n\r\n",
    EVENT_HEAD + chunked(b"\xef\xbb\xbfdata: " + b"x" * 1500 + b"\n\n") + b"0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n\r\n",
]
_MARKS = [
    b"\r\n",
    b"\r",
    b"\n",
    b"\n\n",
    b":",
    b" ",
    b"\0",
    b"0",
    b"ffffffff",
    b"-1",
    b";",
    b"\x80",
]


def mutated(message: bytes, dice: random.Random) -> bytes:
    """The message with a few things wrong, or with none."""
    data = bytearray(message)
    for _ in range(dice.choice([0, 1, 1, 2, 5])):
        at = dice.randrange(len(data) + 1)
        way = dice.randrange(6)
        if way == 0:
            data[at:at] = dice.choice(_MARKS)
        elif way == 1:
            del data[at : at + dice.randrange(1, 8)]
        elif way == 2 and at < len(data):
            data[at] = dice.randrange(256)
        elif way == 3:
            data[at:at] = data[dice.randrange(len(data) + 1) :][: dice.randrange(40)]
        elif way == 4:
            data[at:at] = dice.randbytes(dice.randrange(1, 20))
        else:
            del data[at:]
    if dice.random() < 0.1:
        data += dice.choice([bytes(data), dice.randbytes(3000)])
    return bytes(data)


async def send(peer: RawPeer, data: bytes, dice: random.Random) -> None:
    """In one to four pieces, then perhaps an end."""
    cuts = sorted(dice.choices(range(len(data) + 1), k=dice.randrange(4)))
    for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True):
        if data[a:b]:
            await peer.stream.send_all(data[a:b])
            await trio.lowlevel.checkpoint()
    way: Callable[[], None] | None = dice.choice(
        [None, None, peer.half_close, peer.close, peer.reset]
    )
    if way is not None:
        way()


class Fuzz:
    """Clients and an upstream that send what the dice say, and the endings that come of it."""

    def __init__(self, relay: Relay, up: Upstream, seed: int, *, memory: bool) -> None:
        self.relay = relay
        self.up = up
        self.dice = random.Random(seed)
        self.left = INPUTS
        self.memory = memory

    async def run(self, request: Callable[[], bytes], response: Callable[[], bytes]) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._upstream, response)
            async with trio.open_nursery() as clients:
                for _ in range(AT_ONCE):
                    clients.start_soon(self._clients, request)
            nursery.cancel_scope.cancel()

    async def _clients(self, request: Callable[[], bytes]) -> None:
        while self.left > 0:
            self.left -= 1
            if self.memory:
                client: RawPeer = self.relay.attach(memory_stream_pair())
            else:
                client = await RawPeer.connect(self.relay.port)
            await self._talk(client, request())

    async def _upstream(self, response: Callable[[], bytes]) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self._answer, RawPeer(await self.up.next_stream()), response)

    async def _answer(self, peer: RawPeer, response: Callable[[], bytes]) -> None:
        """Closes the peer, wherever it is cancelled."""
        try:
            with trio.move_on_after(0.05):
                await peer.stream.receive_some(65536)
        except trio.BrokenResourceError:
            pass
        except BaseException:
            peer.close()
            raise
        await self._talk(peer, response())

    async def _talk(self, peer: RawPeer, data: bytes) -> None:
        """Say it, then hear the other end out for a moment."""
        try:
            await send(peer, data, self.dice)
            with trio.move_on_after(0.03):
                while await peer.stream.receive_some(65536):
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass
        finally:
            peer.close()


@pytest.mark.parametrize("side", ["client", "upstream", "both"])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("memory", [False, True], ids=["sockets", "in memory"])
async def test_any_bytes(side: str, route: str, memory: bool) -> None:
    """The harness fails the test for a fault that relay logs; the deadlines above bound every
    exchange."""
    async with scene(ROUTES[route], more=QUICK) as (relay, up):
        before = relay.inventory()
        fuzz = Fuzz(relay, up, len(route), memory=memory)
        dice = fuzz.dice

        def request() -> bytes:
            message = dice.choice(REQUESTS)
            return message if side == "upstream" else mutated(message, dice)

        def response() -> bytes:
            message = dice.choice(RESPONSES)
            return message if side == "client" else mutated(message, dice)

        endings: set[tuple[str, str, str]] = set()

        async def collect() -> None:
            while True:
                line = await relay.line()
                endings.add((str(line["side"]), str(line["phase"]), str(line["ending"])))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect)
            with trio.fail_after(PATIENCE):
                await fuzz.run(request, response)
            await relay.nothing_left(before._replace(tasks=before.tasks + 1))
            nursery.cancel_scope.cancel()
        for by, phase, cause in endings:
            assert Side(by)
            assert Phase(phase)
            assert Cause(cause) is not Cause.FAULT
        assert len(endings) >= 3  # on busy cores deadlines end what bytes would have


BODIES = [message.partition(b"\r\n\r\n")[2] for message in RESPONSES + REQUESTS]
BODY_INPUTS = 22_500  # per kind of body


def outcome(kind: str, data: bytes, cuts: list[int]) -> tuple[bytes, str]:
    """What a body becomes on its way: the payload that goes out, and how it stands."""
    framing = CHUNKED if kind.endswith("chunked") else UNTIL_CLOSE
    flow: BytesFlow | EventFlow = EventFlow(CHUNKED, framing, 200)
    if kind.startswith("bytes"):
        flow = BytesFlow(CHUNKED, framing, "upstream")
    reader = body_reader(framing, "upstream")
    out = b""
    try:
        for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True):
            if flow.done:
                break
            if data[a:b]:
                out += flow.feed(data[a:b])
    except Fault as fault:
        return reader.feed(out + fault.passed), fault.code
    if isinstance(flow, EventFlow) and flow.ending is not None and not flow.ending.clean:
        return reader.feed(out), flow.ending.cause.value
    return reader.feed(out), "done" if flow.done else "more"


@pytest.mark.parametrize("kind", ["bytes", "bytes chunked", "events", "events chunked"])
def test_any_body_in_any_split(kind: str) -> None:
    """No exception but a Fault, and whatever the split the same bytes and the same end."""
    dice = random.Random(kind)
    ways = set()
    for _ in range(BODY_INPUTS):
        data = mutated(dice.choice(BODIES) or b"0\r\n\r\n", dice)
        cuts = sorted(dice.choices(range(len(data) + 1), k=dice.randrange(1, 6)))
        whole = outcome(kind, data, [])
        assert outcome(kind, data, cuts) == whole, (data, cuts)
        ways.add(whole[1])
    bad = "bad_chunk" if kind.startswith("bytes") else "upstream_nonsense"
    assert ways == {"done", "more", bad}
