"""The promise: no byte of one request ever reaches the upstream inside another, and no answer reaches another client,
whenever the upstream answers, whatever it does with the rest of the request.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, product
from pathlib import Path

import pytest
import trio

from tests.guarantees.recording_upstream import KINDS, Ground, Plan, Tape
from tests.harness import LIMIT, RawPeer, chunked

# What a parser in the wrong place would take for a request.
SMUGGLED = b"\r\nGET /internal HTTP/1.1\r\nHost: a\r\nX-Mark: smuggled\r\n\r\n"
SMALL = (1, 41)
LARGE = (5_000, 70_000, 300_000, 1_000_000, 4 * 1024 * 1024)
ENDLESS = 32 * 1024 * 1024
WAYS = tuple(product((True, False), (True, False)))  # the answer keeps the connection, reads on
marks = count(1)


def payload_of(size: int) -> bytes:
    return (SMUGGLED * (size // len(SMUGGLED) + 1))[:size]


def request_of(mark: bytes, size: int, in_chunks: bool, dice: random.Random) -> bytes:
    """A POST with a body of `size` bytes, as the client sends it."""
    head = b"POST /up HTTP/1.1\r\nHost: relay.test\r\nX-Mark: %b\r\n" % mark
    payload = payload_of(size)
    if not in_chunks:
        return head + b"Content-Length: %d\r\n\r\n%b" % (size, payload)
    at, pieces = 0, []
    while at < size:
        piece = payload[at : at + dice.choice((1, 700, 65536, 200_000))]
        pieces.append(piece)
        at += len(piece)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*pieces) + b"0\r\n\r\n"


async def send(client: RawPeer, data: bytes) -> None:
    """Send on, whatever is answered, as long as somebody takes it."""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await client.stream.send_all(data)


async def marked(client: RawPeer) -> bytes:
    """Ask something else: the mark that was sent, once its answer has come."""
    mark = b"marked-%d" % next(marks)
    await client.send(b"GET / HTTP/1.1\r\nHost: relay.test\r\nX-Mark: %b\r\n\r\n" % mark)
    head = await client.head()
    assert head.startswith(b"HTTP/1.1 200 "), head
    assert await client.exactly(len(mark)) == mark
    return mark


async def play(ground: Ground, plan: Plan, size: int, in_chunks: bool, dice: random.Random) -> int:
    """1. A client's request is answered at the plan's byte. 2. It gets that answer. 3. Another client asks something,
    and the first one too where its connection goes on. 4. Nothing was mixed.

    Returns: how much of the body relay had read when the answer was over."""
    relay, up = ground
    up.plan = plan
    mark = b"posted-%d" % next(marks)
    first, second = await relay.client(), await relay.client()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, first, request_of(mark, size, in_chunks, dice))
            head = await first.head()
            assert head.startswith(b"HTTP/1.1 401 "), head
            assert await first.exactly(5) == b"early"
            read = (await relay.line())["bytes_in"]
            if not up.early:
                assert ground.pooled == plan.keeps, "nothing stands against it"
            if ground.pooled:
                plan.go_on.set()  # it may serve again, so it will be read to the end
            asked = [await marked(second)]
            if b"\r\nconnection: close\r\n" not in head:
                asked.append(await marked(first))
            nursery.cancel_scope.cancel()
    finally:
        first.close()
        second.close()
        plan.go_on.set()
    sent = {mark: payload_of(size), **dict.fromkeys(asked, b"")}
    assert check(await ground.over(), sent) >= set(asked)
    assert isinstance(read, int)
    return read


def check(tapes: list[Tape], sent: dict[bytes, bytes]) -> set[bytes]:
    """Nothing came but what was sent, each in one piece, and once; only the last on a connection may be cut short.

    Returns: the marks of what came.
    """
    seen: set[bytes] = set()
    for tape in tapes:
        for request in tape.requests:
            assert request.mark not in seen
            seen.add(request.mark)
            payload, came = sent[request.mark], bytes(request.payload)
            assert came == payload if request.whole else payload.startswith(came)
            assert request.whole or request is tape.requests[-1]
    return seen


def every_byte(size: int) -> range:
    """Before the first byte, behind each one, and not before it is whole: relay's head and `size` are fewer."""
    return range(420 + size)


def some_bytes(size: int, dice: random.Random) -> Iterator[int]:
    yield from (0, 1, 300, 16_384, 65_536, size // 2)
    yield from (dice.randrange(size) for _ in range(3))
    yield from (size, size + 200)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_at_every_byte_of_a_small_request(kind: str, tmp_path: Path) -> None:
    dice = random.Random(kind)
    async with Ground.of(kind, tmp_path) as ground:
        for at in every_byte(max(SMALL)):
            keeps, reads_on = WAYS[dice.choice((0, 0, 1, 1, 2, 3))]
            plan = Plan(at, keeps, reads_on, False, trio.Event())
            with trio.fail_after(LIMIT):
                await play(ground, plan, dice.choice(SMALL), dice.random() < 0.5, dice)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", LARGE)
async def test_an_answer_somewhere_in_a_large_request(kind: str, size: int, tmp_path: Path) -> None:
    dice = random.Random(f"{kind} {size}")
    async with Ground.of(kind, tmp_path) as ground:
        for n, at in enumerate(some_bytes(size, dice)):
            for keeps, reads_on in WAYS:
                plan = Plan(at, keeps, reads_on, dice.random() < 0.5, trio.Event())
                with trio.fail_after(LIMIT):
                    await play(ground, plan, size, bool(n % 2), dice)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_while_the_tail_of_the_request_is_still_relays(
    kind: str, tmp_path: Path
) -> None:
    """The attack: 1. The upstream stops reading. 2. Relay has read the client's body to its end, the kernel has not
    taken all of it. 3. The upstream answers, and would take the next request for the rest of this one."""
    dice = random.Random(kind)
    async with Ground.of(kind, tmp_path) as ground:
        full = await play(ground, Plan(500, True, True, True, trio.Event()), ENDLESS, False, dice)
        assert full < ENDLESS, "no kernel takes that much"
        for size in range(full - 350_000, full, 25_000):
            for reads_on in (True, False):
                plan = Plan(500, True, reads_on, True, trio.Event())
                with trio.fail_after(LIMIT):
                    await play(ground, plan, max(size, 1000), False, dice)


@pytest.mark.parametrize("kind", KINDS)
async def test_many_clients_at_once(kind: str, tmp_path: Path) -> None:
    """Half of the new connections answer their first request at some byte of it; the others, and all that serve again,
    answer what they were asked. Everybody gets the one or the other."""
    dice = random.Random(kind)
    sent: dict[bytes, bytes] = {}
    async with Ground.of(kind, tmp_path) as ground:

        def plan() -> Plan | None:
            at = dice.choice((0, 100, 400, 5_000, 100_000, 400_000))
            keeps, reads_on = dice.choice(((True, True), (False, True), (False, False)))
            return dice.choice((None, Plan(at, keeps, reads_on, False, trio.Event())))

        async def ask(size: int) -> None:
            mark = b"%d-of-%d" % (next(marks), size)
            sent[mark] = payload_of(size)
            client = await ground.relay.client()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, client, request_of(mark, size, dice.random() < 0.5, dice))
                head = await client.head()
                said = b"early" if head.startswith(b"HTTP/1.1 401 ") else mark
                assert await client.exactly(len(said)) == said
                nursery.cancel_scope.cancel()
            client.close()

        async def client() -> None:
            for _ in range(25):
                ground.up.plan = plan()
                await ask(dice.choice((1, 300, 20_000, 300_000)))

        with trio.fail_after(6 * LIMIT):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(client)
            check(await ground.over(), sent)
