"""Counters of a worker: plain integers that the hot path adds to and a scrape reads (docs/reference/metrics.md).

A histogram here is a list of integers and one `bisect` per observation; exposition (labels, text,
sums over workers) is the business of `observing.exposition`, at scrape time only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from relay.observing.ending import Cause
from relay.observing.record import Record

# Seconds. First bytes: a proxy's own share up to a model that thinks for minutes.
TTFB_BOUNDS = (0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
DURATION_BOUNDS = (0.01, 0.1, 1.0, 5.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
GAP_BOUNDS = (0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0)
CANCEL_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25)
# From a write to a directory in memory up to a Redis that stands still.
STORE_BOUNDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0)


class Histogram:
    """Counts by bucket; the last one is +Inf."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class RouteCounters:
    """The counters of one route in this worker."""

    __slots__ = (
        "active",
        "bytes_in",
        "bytes_out",
        "cancel_delay",
        "captured",
        "duration",
        "endings",
        "event_gap",
        "events",
        "first_byte",
        "gaps",
        "joins",
        "name",
        "stops",
    )

    def __init__(self, name: str, cancel_delay: Histogram) -> None:
        self.name = name
        self.cancel_delay = cancel_delay  # the worker's: see Counters
        self.endings: dict[Cause, int] = {}
        self.active = 0  # event streams under way
        self.events = 0  # of streams that ended; live ones are added at scrape
        self.joins: dict[str, int] = {}  # viewers of runs, by how they came to read
        self.gaps = 0  # holes that viewers were told of; of those that have left
        self.stops = 0  # runs that were stopped by a DELETE
        self.captured: dict[str, float] = {}  # sums of the numbers that streams said, by name
        self.bytes_in = 0
        self.bytes_out = 0
        self.first_byte = Histogram(TTFB_BOUNDS)
        # Of streams only: they would poison request latency
        self.duration = Histogram(DURATION_BOUNDS)
        self.event_gap = Histogram(GAP_BOUNDS)

    def capture(self, record: Record) -> None:
        """Count the numbers that a stream said. Negative ones are left out: a counter never falls."""
        if record.capture is None:
            return
        for name, value in record.capture.values.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
                self.captured[name] = self.captured.get(name, 0) + value

    def ended(self, cause: Cause, bytes_in: int, bytes_out: int, first_byte: float) -> None:
        """An exchange is over. `first_byte`: seconds from its beginning; below 0: none was sent."""
        self.endings[cause] = self.endings.get(cause, 0) + 1
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        if first_byte >= 0:
            self.first_byte.observe(first_byte)


class Counters:
    """All counters of a worker. Routes keep theirs through a reload, by name."""

    __slots__ = ("cancel_delay", "connections", "connections_total", "routes")

    def __init__(self) -> None:
        self.routes: dict[str, RouteCounters] = {}
        self.cancel_delay = Histogram(CANCEL_BOUNDS)  # client gone → upstream closed
        self.connections = 0  # open now
        self.connections_total = 0

    def route(self, name: str) -> RouteCounters:
        found = self.routes.get(name)
        if found is None:
            found = self.routes[name] = RouteCounters(name, self.cancel_delay)
        return found
