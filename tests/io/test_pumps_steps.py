"""Both pumps, where one read is more work than one step: what is pending comes before anything else
is read, waits for a slow client, and lets others run.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from trio.testing import MockClock

from relay.flows.event_flow import EventFlow
from relay.flows.intake import TRANSLATED_AT_ONCE
from relay.http.framing import CHUNKED, UNTIL_CLOSE
from relay.observing.ending import Cause, Side
from relay.sse.event import Event
from relay.sse.translate import Translation, Translator
from tests.guarantees.event_setup import dechunked
from tests.harness import chunked
from tests.io.test_pumps import LAST, Stage, route, stage

__all__ = ["stage"]  # a fixture
COUNT = 7000
SHORT = b"data:%d\n\n"


def numbered(count: int) -> bytes:
    return b"".join(SHORT % number for number in range(count))


def translated(framing: int, seen: list[Event] | None = None) -> EventFlow:
    """A flow whose translation only notes what it sees."""

    def same(event: Event) -> Iterable[Event]:
        if seen is not None:
            seen.append(event)
        return [event]

    return EventFlow(framing, CHUNKED, 100, translator=Translator(Translation("t", (), same)))


def numbers(body: bytes) -> list[int]:
    return [int(line[6:]) for line in body.split(b"\n\n") if line]


@pytest.mark.parametrize("how", ["last chunk", "close"])
async def test_all_of_a_read_arrives_before_its_end(
    mock_clock: MockClock, stage: Stage, how: str
) -> None:
    """1. One read has 7,000 events and the end. 2. The events arrive first, and in order."""
    framing = CHUNKED if how == "last chunk" else UNTIL_CLOSE
    pumped = stage.pump(translated(framing))
    sent = numbered(COUNT)
    await pumped.upstream.send(chunked(sent) + LAST if framing == CHUNKED else sent)
    if framing == UNTIL_CLOSE:
        pumped.upstream.close()
    await pumped.ended(Cause.COMPLETE)
    body = dechunked((await pumped.rest()).removesuffix(LAST))
    assert numbers(body) == list(range(COUNT))


async def test_a_client_that_stops_stops_the_work(mock_clock: MockClock, stage: Stage) -> None:
    """1. The client takes nothing. 2. One step's output waits, the rest of the read stays as it came.
    3. The client goes on and gets all of it.
    """
    seen: list[Event] = []
    pumped = stage.pump(translated(CHUNKED, seen))
    pumped.fill()
    await pumped.upstream.send(chunked(numbered(COUNT)))
    await stage.quiet()
    assert 0 < len(seen) <= TRANSLATED_AT_ONCE // 8
    flow = pumped.transfer.flow
    assert flow.pending
    assert pumped.transfer.paused
    await pumped.drain_filling()
    await pumped.client.until(b"data: %d\n\n" % (COUNT - 1))
    assert len(seen) == COUNT
    assert not flow.pending
    await pumped.upstream.send(LAST)
    await pumped.ended(Cause.COMPLETE)


async def test_a_clock_runs_out_while_the_client_takes_nothing(
    mock_clock: MockClock, stage: Stage
) -> None:
    """The client is to blame, not the upstream, whose bytes wait here."""
    pumped = stage.pump(translated(CHUNKED), route(timeouts={"write": 5, "idle": 20}))
    pumped.fill()
    await pumped.upstream.send(chunked(numbered(COUNT)))
    await stage.later(5)
    await pumped.ended(Cause.STALLED, Side.CLIENT)


async def test_two_floods_take_turns(mock_clock: MockClock, stage: Stage) -> None:
    """1. Two streams have a read full of events each. 2. Neither is done before the other began."""
    order: list[str] = []

    def noted(name: str) -> EventFlow:
        def same(event: Event) -> Iterable[Event]:
            order.append(name)
            return [event]

        return EventFlow(CHUNKED, CHUNKED, 100, translator=Translator(Translation("t", (), same)))

    streams = [stage.pump(noted("a")), stage.pump(noted("b"))]
    for pumped in streams:
        await pumped.upstream.send(chunked(numbered(COUNT)) + LAST)
    for pumped in streams:
        await pumped.client.until(LAST)
        await pumped.ended(Cause.COMPLETE)
    first = order[0]
    assert order.index("b" if first == "a" else "a") < COUNT
