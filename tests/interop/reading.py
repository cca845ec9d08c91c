"""What the tests of the examples read: the events of a response with the time of their arrival,
and what a backend tells of its calls."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from relay.sse.event import EventParser
from tests.interop.processes import Server


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event and when it was here (ms since 1970, the clock of the backends' `at`)."""

    event: str
    data: str | None
    id: str | None
    arrived: float

    def json(self) -> Any:

        return json.loads(self.data or "null")


def events_of(response: httpx.Response) -> Iterator[Arrival]:
    """The events of a streaming response, as they come."""
    parser = EventParser()
    for piece in response.iter_raw():
        arrived = time.time_ns() / 1e6
        for event in parser.feed(piece):
            yield Arrival(event.event, event.data, event.id, arrived)


def came_one_by_one(arrivals: Sequence[Arrival]) -> bool:
    """Whether events were here before the backend sent the next (`at` in their data).

    A machine that is busy may be late once or twice; a buffer is late for all of its events.
    """
    sent = [arrival.json()["at"] for arrival in arrivals]
    early = [arrival.arrived < later for arrival, later in zip(arrivals, sent[1:], strict=False)]
    return bool(early) and sum(early) >= 0.8 * len(early)


def calls(backend: Server, part: str = "") -> list[dict[str, Any]]:
    """What became of the calls whose path contains `part`, oldest first."""
    state = httpx.get(f"{backend.url}/state").json()
    return [call for call in state["calls"] if part in call["path"]]


def last_call(backend: Server, part: str = "") -> dict[str, Any]:
    return calls(backend, part)[-1]
